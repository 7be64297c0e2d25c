//! What the hub's loop, the wire task and the devices' tasks share.

use std::io;
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use dtun_shared::udp::{Path, UdpSocket};
use ipnet::IpNet;

use crate::hub::counters::{Counters, Dropped};
use crate::pool::{Addresses, Pools};
use crate::session::{Session, Sessions};

/// The data path's surroundings.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) socket: UdpSocket,
    pub(super) sessions: Sessions,
    pub(super) counters: Counters,
    /// Present when spokes must not reach each other.
    pub(super) fence: Option<Fence>,
}

impl Shared {
    pub(super) fn send(&self, datagram: &[u8], path: &Path) {
        match self.socket.try_send(datagram, path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.counters.count(Dropped::SocketFull);
            }
            Err(_) => self.counters.count(Dropped::Unsent),
        }
    }

    /// Seals one packet or message and sends it to the session's peer.
    pub(super) fn send_in(&self, session: &Session, content: &[u8]) {
        let mut record = Vec::with_capacity(content.len() + session.suite.overhead());
        self.send_with(session, content, &mut record);
    }

    /// As [`Self::send_in`], with a buffer of the caller's.
    pub(super) fn send_with(&self, session: &Session, content: &[u8], record: &mut Vec<u8>) {
        record.clear();
        match session.seal(content, record) {
            Ok(()) => self.send(record, &session.heard().path),
            Err(not_sealed) => self.counters.count(not_sealed.into()),
        }
    }

    pub(super) fn send_goodbye(&self, session: &Session) {
        match session.goodbye() {
            Ok(record) => self.send(&record, &session.heard().path),
            Err(not_sealed) => self.counters.count(not_sealed.into()),
        }
    }
}

/// Keeps spokes apart: `-no-spoke-to-spoke`.
#[derive(Debug)]
pub(super) struct Fence {
    pools: Vec<IpNet>,
    hub: Addresses,
    /// Every routed peernet and its spoke's hint.
    peernets: RwLock<Vec<(IpNet, String)>>,
}

impl Fence {
    pub(super) fn new(pools: &Pools) -> Self {
        Self {
            pools: pools.networks().collect(),
            hub: pools.hub(),
            peernets: RwLock::default(),
        }
    }

    pub(super) fn set_peernets(&self, peernets: Vec<(IpNet, String)>) {
        *self
            .peernets
            .write()
            .unwrap_or_else(PoisonError::into_inner) = peernets;
    }

    /// Whether `destination` is another spoke's or lies behind one.
    pub(super) fn parts(&self, hint: &str, destination: IpAddr) -> bool {
        let hubs = match destination {
            IpAddr::V4(ip) => ip == self.hub.ip4.addr(),
            IpAddr::V6(ip) => self.hub.ip6.is_some_and(|net| net.addr() == ip),
        };
        if hubs {
            return false;
        }
        let peernets = self.peernets.read().unwrap_or_else(PoisonError::into_inner);

        self.pools.iter().any(|pool| pool.contains(&destination))
            || peernets
                .iter()
                .any(|(net, owner)| owner != hint && net.contains(&destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_parts_spokes_and_leaves_the_hub_and_the_world() {
        let pools = Pools::new(
            "10.0.0.0/24".parse().unwrap(),
            Some("fc00::/120".parse().unwrap()),
        );
        let fence = Fence::new(&pools);
        fence.set_peernets(vec![
            ("192.168.1.0/24".parse().unwrap(), "a".to_owned()),
            ("192.168.2.0/24".parse().unwrap(), "b".to_owned()),
        ]);
        let parts = |ip: &str| fence.parts("a", ip.parse().unwrap());

        assert!(parts("10.0.0.7"));
        assert!(parts("fc00::7"));
        assert!(parts("192.168.2.9"));
        assert!(!parts("192.168.1.9"));
        assert!(!parts("10.0.0.1"));
        assert!(!parts("fc00::1"));
        assert!(!parts("1.1.1.1"));
    }
}
