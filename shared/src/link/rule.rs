//! Policy rules: which table is asked for which packets (`ip rule`).

use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{
    RuleAction, RuleAttribute, RuleFlags, RuleMessage, RulePortRange, RuleUidRange,
};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use rtnetlink::IpVersion;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, Nla,
};

use super::{KERNEL, Netlink, absent, errno, listed};
use crate::mark::Mark;

impl Netlink {
    /// Adds a rule of protocol `kernel`, which systemd-networkd leaves alone;
    /// the same rule again is no error.
    pub async fn add_rule(&self, rule: &Rule) -> io::Result<()> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRule(rule.message()));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

        absent(self.acknowledged(request).await, &[libc::EEXIST]).map(|_| ())
    }

    /// Removes one rule like that; one that is gone is no error.
    pub async fn delete_rule(&self, rule: &Rule) -> io::Result<()> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelRule(rule.message()));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;

        absent(self.acknowledged(request).await, GONE).map(|_| ())
    }

    /// Every rule of a family, in the order in which the kernel asks them.
    pub async fn rules(&self, family: Family) -> io::Result<Vec<Rule>> {
        let version = match family {
            Family::Ip4 => IpVersion::V4,
            Family::Ip6 => IpVersion::V6,
        };
        let ask = || {
            let found = self.handle.rule().get(version.clone()).execute();
            found.map_err(errno).try_collect::<Vec<_>>()
        };
        let messages = absent(listed(ask).await, NO_FAMILY)?.unwrap_or_default();

        Ok(messages
            .iter()
            .map(|message| Rule::parse(family, message))
            .collect())
    }
}

/// IPv4 and IPv6 have rules and tables of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ip4,
    Ip6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::Ip4, Self::Ip6];

    #[must_use]
    pub fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::Ip4,
            IpNet::V6(_) => Self::Ip6,
        }
    }

    /// The network that all addresses are in.
    #[must_use]
    pub fn everything(self) -> IpNet {
        match self {
            Self::Ip4 => IpNet::V4(ipnet::Ipv4Net::default()),
            Self::Ip6 => IpNet::V6(ipnet::Ipv6Net::default()),
        }
    }

    pub(super) fn code(self) -> AddressFamily {
        match self {
            Self::Ip4 => AddressFamily::Inet,
            Self::Ip6 => AddressFamily::Inet6,
        }
    }
}

/// A rule: packets that all of its selectors match, or with `invert` that not
/// all of them match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    pub family: Family,
    /// Rules are asked from the lowest on; among equals in the order of making.
    pub pref: u32,
    pub then: Then,
    pub invert: bool,
    pub mark: Option<Mark>,
    pub from: Option<IpNet>,
    pub to: Option<IpNet>,
    /// The device that packets came in by; `lo` means those of this machine.
    pub iif: Option<String>,
    /// Whose socket sent them.
    pub uids: Option<RangeInclusive<u32>>,
    pub port: Option<(Transport, u16)>,
    /// Routes of the table are not taken whose prefix is that short.
    pub suppress: Option<u32>,
    /// As in /etc/iproute2/rt_protos; [`Netlink::add_rule`] makes all of them 2.
    pub protocol: u8,
    /// Says something that this type has no word for.
    pub other: bool,
}

/// What becomes of a packet that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Then {
    /// That table is asked; without a route in it the next rule is.
    Lookup(u32),
    /// The rules go on at that preference.
    Goto(u32),
    Unreachable,
    /// Something else.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Rule {
    /// A rule for every packet of the family.
    #[must_use]
    pub fn new(family: Family, pref: u32, then: Then) -> Self {
        Self {
            family,
            pref,
            then,
            invert: false,
            mark: None,
            from: None,
            to: None,
            iif: None,
            uids: None,
            port: None,
            suppress: None,
            protocol: KERNEL,
            other: false,
        }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.code();
        message.header.action = match self.then {
            Then::Lookup(_) => RuleAction::ToTable,
            Then::Goto(_) => RuleAction::Goto,
            Then::Unreachable => RuleAction::Unreachable,
            Then::Other => RuleAction::Unspec,
        };
        if self.invert {
            message.header.flags |= RuleFlags::Invert;
        }

        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Priority(self.pref));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::Kernel));
        match self.then {
            Then::Lookup(table) => attributes.push(RuleAttribute::Table(table)),
            Then::Goto(pref) => attributes.push(RuleAttribute::Goto(pref)),
            Then::Unreachable | Then::Other => {}
        }
        if let Some(mark) = self.mark {
            attributes.push(RuleAttribute::FwMark(mark.value()));
            attributes.push(RuleAttribute::FwMask(mark.mask()));
        }
        if let Some(net) = self.from {
            message.header.src_len = net.prefix_len();
            attributes.push(RuleAttribute::Source(net.network()));
        }
        if let Some(net) = self.to {
            message.header.dst_len = net.prefix_len();
            attributes.push(RuleAttribute::Destination(net.network()));
        }
        attributes.extend(self.iif.clone().map(RuleAttribute::Iifname));
        attributes.extend(self.uids.as_ref().map(|uids| {
            RuleAttribute::UidRange(RuleUidRange {
                start: *uids.start(),
                end: *uids.end(),
            })
        }));
        if let Some((transport, port)) = self.port {
            attributes.push(RuleAttribute::IpProtocol(match transport {
                Transport::Tcp => IpProtocol::Tcp,
                Transport::Udp => IpProtocol::Udp,
            }));
            attributes.push(RuleAttribute::DestinationPortRange(RulePortRange {
                start: port,
                end: port,
            }));
        }
        attributes.extend(self.suppress.map(RuleAttribute::SuppressPrefixLen));

        message
    }

    fn parse(family: Family, message: &RuleMessage) -> Self {
        let header = &message.header;
        let mut rule = Self::new(family, 0, Then::Other);
        rule.invert = header.flags.contains(RuleFlags::Invert);
        rule.protocol = 0;
        rule.other = header.tos != 0;

        let (mut table, mut target) = (u32::from(header.table), None);
        let (mut mark, mut mask) = (0, 0);
        let (mut transport, mut port) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(pref) => rule.pref = *pref,
                RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
                RuleAttribute::Table(of) => table = *of,
                RuleAttribute::Goto(pref) => target = Some(*pref),
                RuleAttribute::FwMark(value) => mark = *value,
                RuleAttribute::FwMask(value) => mask = *value,
                RuleAttribute::Source(ip) => rule.from = net(*ip, header.src_len),
                RuleAttribute::Destination(ip) => rule.to = net(*ip, header.dst_len),
                RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
                RuleAttribute::UidRange(uids) => rule.uids = Some(uids.start..=uids.end),
                RuleAttribute::IpProtocol(IpProtocol::Tcp) => transport = Some(Transport::Tcp),
                RuleAttribute::IpProtocol(IpProtocol::Udp) => transport = Some(Transport::Udp),
                RuleAttribute::DestinationPortRange(range) if range.start == range.end => {
                    port = Some(range.start);
                }
                // The kernel writes -1 for none.
                RuleAttribute::SuppressPrefixLen(u32::MAX)
                | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
                RuleAttribute::SuppressPrefixLen(len) => rule.suppress = Some(*len),
                // So does it for the whole of a port.
                RuleAttribute::Other(nla)
                    if matches!(nla.kind(), FRA_SPORT_MASK | FRA_DPORT_MASK)
                        && value(nla) == [0xff, 0xff] => {}
                _ => rule.other = true,
            }
        }
        rule.then = match (header.action, target) {
            (RuleAction::ToTable, _) => Then::Lookup(table),
            (RuleAction::Goto, Some(pref)) => Then::Goto(pref),
            (RuleAction::Unreachable, _) => Then::Unreachable,
            _ => Then::Other,
        };
        if (mark, mask) != (0, 0) {
            rule.mark = Mark::new(mark, mask).ok();
            rule.other |= rule.mark.is_none();
        }
        rule.port = transport.zip(port);
        rule.other |= transport.is_some() != port.is_some();

        rule
    }
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);

    value
}

fn net(ip: IpAddr, prefix: u8) -> Option<IpNet> {
    IpNet::new(ip, prefix).ok()
}

/// Since Linux 6.15.
const FRA_SPORT_MASK: u16 = 28;
const FRA_DPORT_MASK: u16 = 29;

/// What the kernel says of a rule that is not there; without IPv6 none is.
const GONE: &[libc::c_int] = &[libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];

const NO_FAMILY: &[libc::c_int] = &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::isolated;

    fn every_kind(family: Family, net: &str) -> Vec<Rule> {
        let rule = |pref, then| Rule::new(family, pref, then);
        let net = net.parse().ok();

        vec![
            Rule {
                mark: Some(Mark::DEFAULT),
                ..rule(32500, Then::Goto(32509))
            },
            Rule {
                port: Some((Transport::Udp, 53)),
                ..rule(32501, Then::Lookup(11765))
            },
            Rule {
                port: Some((Transport::Tcp, 53)),
                ..rule(32501, Then::Lookup(11765))
            },
            Rule {
                suppress: Some(0),
                to: net,
                ..rule(32503, Then::Lookup(254))
            },
            Rule {
                uids: Some(1000..=1001),
                ..rule(32504, Then::Lookup(11764))
            },
            Rule {
                from: net,
                ..rule(32504, Then::Lookup(11764))
            },
            Rule {
                iif: Some("lo".to_owned()),
                invert: true,
                ..rule(32505, Then::Lookup(11764))
            },
            rule(32506, Then::Unreachable),
            Rule {
                mark: Some(Mark::DEFAULT),
                ..rule(32509, Then::Lookup(254))
            },
        ]
    }

    #[test]
    fn a_rule_is_read_back_as_it_was_made_and_can_be_made_and_removed_twice() {
        isolated(|netlink| async move {
            for (family, net) in [(Family::Ip4, "10.8.0.0/16"), (Family::Ip6, "fd00:8::/32")] {
                let before = netlink.rules(family).await.unwrap();
                let wanted = every_kind(family, net);
                for _ in 0..2 {
                    for rule in &wanted {
                        netlink.add_rule(rule).await.unwrap();
                    }
                }

                let mut after = netlink.rules(family).await.unwrap();
                after.retain(|rule| !before.contains(rule));
                assert_eq!(after, wanted);

                for _ in 0..2 {
                    for rule in &wanted {
                        netlink.delete_rule(rule).await.unwrap();
                    }
                }
                assert_eq!(netlink.rules(family).await.unwrap(), before);
            }
        });
    }
}
