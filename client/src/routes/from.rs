//! Whose packets go into the tunnel.

use dtun_shared::link::{Family, Rule};
use ipnet::IpNet;

/// One of those whose packets go in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteFrom {
    /// What a user's sockets send.
    User(u32),
    /// What a group's do; the firewall tells them, no rule can.
    Group(u32),
    /// What comes in by a device.
    Device(String),
    /// What bears a source of that network.
    Net(IpNet),
    /// What this machine passes on for others.
    Forwarded,
}

impl RouteFrom {
    /// `rule` for these packets alone; none where rules do not tell them, or the
    /// family has none.
    pub(super) fn select(&self, rule: &Rule) -> Option<Rule> {
        let rule = rule.clone();
        match self {
            Self::User(id) => Some(Rule {
                uids: Some(*id..=*id),
                ..rule
            }),
            Self::Device(name) => Some(Rule {
                iif: Some(name.clone()),
                ..rule
            }),
            Self::Net(net) => (Family::of(*net) == rule.family).then_some(Rule {
                from: Some(*net),
                ..rule
            }),
            Self::Group(_) | Self::Forwarded => None,
        }
    }
}
