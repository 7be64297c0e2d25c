//! What the hooks know of the tunnel, and what the next run is told of that.

use std::net::{IpAddr, SocketAddr};

use dtun_shared::meta::Addresses;

use super::routing::HANDED_ON;
use crate::heritage::LeftHooked;

/// What the hooks know of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hooked {
    pub(super) addresses: Addresses,
    pub(super) hub: SocketAddr,
    /// The link and the gateway towards the hub.
    pub(super) uplink: Option<(u32, Option<IpAddr>)>,
    /// For the last hook, when there is no session to ask.
    pub(super) env: Vec<(&'static str, String)>,
    pub(super) stale: bool,
}

impl Hooked {
    /// The script's routes are gone: it must run again.
    pub(super) fn forget(&mut self) {
        self.stale = true;
    }

    /// The link and the gateway that the hub was reached by.
    pub(super) fn uplink(&self) -> Option<(u32, Option<IpAddr>)> {
        self.uplink
    }

    /// For the next start.
    pub(super) fn left(&self) -> LeftHooked {
        let env = self.env.iter();

        LeftHooked {
            addresses: self.addresses,
            hub: self.hub,
            uplink: self.uplink.filter(|_| !self.stale),
            env: env
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    }

    /// What the hook was told last.
    pub(super) fn env(&self) -> Vec<(&'static str, String)> {
        self.env.clone()
    }

    /// What the last run told the hooks.
    pub(super) fn from_left(left: LeftHooked) -> Self {
        let known = |(name, value): (String, String)| {
            let name = VARIABLES.into_iter().find(|known| *known == name)?;
            Some((name, value))
        };

        Self {
            addresses: left.addresses,
            hub: left.hub,
            stale: left.uplink.is_none(),
            uplink: left.uplink,
            env: left.env.into_iter().filter_map(known).collect(),
        }
    }

    pub(super) fn holds_for(&self, other: &Self) -> bool {
        !self.stale
            && self.addresses == other.addresses
            && self.hub == other.hub
            && self
                .uplink
                .is_none_or(|uplink| other.uplink == Some(uplink))
    }
}

/// What a hook's environment has beside the event.
const VARIABLES: [&str; 16] = [
    "TUN",
    "PEER_IP4",
    "LOCAL_IP4",
    "PEER_IP6",
    "LOCAL_IP6",
    "PEER_IP",
    "LOCAL_IP",
    "SERVER_IP",
    "SERVER_PORT",
    "HINT",
    "MTU",
    "OUT6",
    "FWMARK",
    "DTUN",
    HANDED_ON[0],
    HANDED_ON[1],
];
