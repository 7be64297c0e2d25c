//! What the filter is to do, as the command line has it.

use std::collections::BTreeSet;
use std::fs;
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

/// The ports that the kernel gives to sockets that ask for none.
fn ephemeral() -> RangeInclusive<u16> {
    let parse = || {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut ports = text.split_whitespace().map(|port| port.parse().ok());
        Some(ports.next()??..=ports.next()??)
    };

    parse().unwrap_or(32_768..=60_999)
}
