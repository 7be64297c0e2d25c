//! What this machine sends into the tunnel, and what keeps the rest out of it:
//! the rules and tables of `-route`, and whatever belongs to them.
//!
//! One owner, the spoke's loop, calls at each turn of the tunnel's life. What
//! counts is put up last and taken down first, so that a process that dies in
//! between leaves nothing that holds traffic up.

use std::time::Instant;

use dtun_shared::leaving::Leaving;
use dtun_shared::link::{Change, Netlink};
use dtun_shared::mark::Mark;
use dtun_shared::meta::Addresses;

use crate::config::SpokeConfig;

/// Rules, firewall and resolvers of the tunnel.
#[derive(Debug)]
pub(crate) struct Steering {
    leaving: Leaving,
}

/// The tunnel that traffic is steered into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) device: String,
    pub(crate) index: u32,
    pub(crate) addresses: Addresses,
    /// Whether the hub has IPv6 to the outside.
    pub(crate) out6: bool,
}

impl Steering {
    pub(crate) fn new(_netlink: &Netlink, config: &SpokeConfig) -> Self {
        let mark = config
            .fwmark
            .or(config.route.as_ref().map(|_| Mark::DEFAULT));

        Self {
            leaving: Leaving { mark, bind: None },
        }
    }

    /// How our own datagrams leave the machine.
    pub(crate) fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// Removes what a run that was killed has left, before the first dial.
    pub(crate) async fn clean_up(&mut self) {}

    /// Puts everything up for a session, or brings it up to date.
    pub(crate) async fn stand(&mut self, _lease: Lease) {}

    /// Takes everything down until there is a session again.
    pub(crate) async fn withdraw(&mut self) {}

    /// Notes that something changed in the machine's network.
    pub(crate) fn note(&mut self, _change: Change) {}

    /// When to [`Self::look`].
    pub(crate) fn due(&self) -> Option<Instant> {
        None
    }

    /// Puts back what others have taken away.
    pub(crate) async fn look(&mut self) {}

    /// Leaves nothing behind.
    pub(crate) async fn remove(&mut self) {
        self.withdraw().await;
    }
}
