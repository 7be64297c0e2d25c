//! What the filter is to do, as the command line has it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::ops::RangeInclusive;

use anyhow::Context as _;
use dtun_shared::mark::Mark;

use super::plan::{Chosen, Lock, Plan};
use crate::config::{LockConfig, SpokeConfig};
use crate::routes::{Bypass, BypassSource, RouteFrom, RouteWhat};

/// What the filter is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Our own datagrams, and what the rules take to the main table.
    pub(crate) mark: Mark,
    /// Another mark, that the rules take into the tunnel, where only some
    /// traffic is to go there.
    pub(crate) chosen: Option<Mark>,
    /// Groups whose packets get that mark.
    pub(crate) groups: Vec<u32>,
    /// Whether questions for names leave by the tunnel only.
    pub(crate) names: bool,
    /// With a lock: networks that are reached beside the tunnel.
    pub(crate) lock: Option<Bypass>,
}

impl Settings {
    /// None where the filter has no part; an error for a file that cannot be
    /// read.
    pub(crate) fn for_spoke(config: &SpokeConfig) -> anyhow::Result<Option<Self>> {
        if config.route.is_none() {
            return Ok(None);
        }
        let lock = config.strict.then(|| networks(config.bypass.as_ref()));
        let mark = config.fwmark.unwrap_or(Mark::DEFAULT);
        let is_for_all = config.route_from.is_empty();
        let group = |from: &RouteFrom| match from {
            RouteFrom::Group(id) => Some(*id),
            RouteFrom::User(_)
            | RouteFrom::Device(_)
            | RouteFrom::Net(_)
            | RouteFrom::Forwarded => None,
        };

        Ok(Some(Self {
            mark,
            chosen: mark.second().filter(|_| !is_for_all),
            groups: config.route_from.iter().filter_map(group).collect(),
            names: config.route.as_ref().is_some_and(RouteWhat::is_everything)
                && !config.dns.is_empty()
                && is_for_all,
            lock: lock.transpose()?,
        }))
    }

    /// For a lock that waits for its spoke.
    pub(super) fn for_lock(config: &LockConfig) -> anyhow::Result<Self> {
        Ok(Self {
            mark: config.fwmark.unwrap_or(Mark::DEFAULT),
            chosen: None,
            groups: Vec::new(),
            names: config.names,
            lock: Some(networks(config.bypass.as_ref())?),
        })
    }

    /// What is to stand without a tunnel.
    pub(super) fn plan(&self, inside: BTreeSet<String>) -> Plan {
        let groups = self.groups.clone();

        Plan {
            mark: self.mark,
            end: None,
            chosen: self.chosen.map(|mark| Chosen { mark, groups }),
            names: self.names,
            inside,
            lock: self.lock.clone().map(|bypass| Lock {
                bypass,
                served: served(),
                ephemeral: ephemeral(),
            }),
        }
    }
}

fn networks(source: Option<&BypassSource>) -> anyhow::Result<Bypass> {
    source
        .map_or_else(|| Ok(Bypass::default()), BypassSource::read)
        .context("failed to read the networks of -bypass")
}

/// The ports of TCP that somebody listens at, on whatever address.
fn served() -> BTreeSet<u16> {
    let read = |file| {
        let file = File::open(format!("/proc/thread-self/net/{file}")).ok();
        let lines = file.into_iter().flat_map(|it| BufReader::new(it).lines());

        // They come first, and the others may be many.
        lines
            .skip(1)
            .map_while(|line| listened_at(&line.ok()?))
            .collect::<Vec<_>>()
    };

    ["tcp", "tcp6"].into_iter().flat_map(read).collect()
}

/// The port in a line of `/proc/net/tcp`, `sl local_address rem_address st ..`,
/// all of it hexadecimal; none of a socket that does not listen.
fn listened_at(line: &str) -> Option<u16> {
    let mut words = line.split_whitespace();
    let (_, port) = words.nth(1)?.rsplit_once(':')?;
    words.nth(1).filter(|state| *state == LISTENS)?;

    u16::from_str_radix(port, 16).ok()
}

/// TCP_LISTEN of net/tcp_states.h.
const LISTENS: &str = "0A";

/// The ports that the kernel gives to sockets that ask for none.
fn ephemeral() -> RangeInclusive<u16> {
    let parse = || {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut ports = text.split_whitespace().map(|port| port.parse().ok());
        Some(ports.next()??..=ports.next()??)
    };

    parse().unwrap_or(32_768..=60_999)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_port_is_served_while_somebody_listens_at_it() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let at = listener.local_addr().unwrap();
        let outward = TcpStream::connect(at).unwrap();
        let from = outward.local_addr().unwrap().port();

        let now = served();
        assert!(now.contains(&at.port()), "{now:?}");
        assert!(!now.contains(&from), "{now:?}");
    }

    #[test]
    fn only_a_line_of_a_socket_that_listens_names_a_port() {
        let line = "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert_eq!(listened_at(line), Some(22));
        assert_eq!(listened_at(&line.replace(" 0A ", " 01 ")), None);
        for odd in ["", "0:", "0: 1 2 0A", "0: 00000000:FFFFF 0:0 0A"] {
            assert_eq!(listened_at(odd), None);
        }
    }
}
