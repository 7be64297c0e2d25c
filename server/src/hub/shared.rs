//! What the hub's loop, the wire task and the data path share.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError, RwLock};

use dtun_shared::association::NotSent;
use dtun_shared::datapath::Lane;
use dtun_shared::dtls::alert::Alert;
use dtun_shared::dtls::header::ContentType;
use dtun_shared::udp::Path;
use ipnet::IpNet;
use tokio::sync::{Notify, mpsc};

use crate::hub::counters::{Counters, Dropped};
use crate::hub::wire::{Slow, Stray};
use crate::pool::{Addresses, Pools};
use crate::session::{Session, Sessions};

/// The data path's surroundings.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sessions: Sessions,
    pub(super) counters: Counters,
    /// Present when spokes must not reach each other.
    pub(super) fence: Option<Fence>,
    /// What sessions have for the wire task.
    pub(super) slow: mpsc::Sender<Slow>,
    /// What anyone may have sent is apart, so that it crowds out no session.
    pub(super) strays: mpsc::Sender<Stray>,
    /// The hub's loop is to look at every session: it may have missed news.
    pub(super) missed: Notify,
    /// Leases whose devices were deleted, by hint, for the hub's loop.
    pub(super) gone: Mutex<Vec<String>>,
}

impl Shared {
    /// Sends a datagram that is none of a session's.
    pub(super) fn send(&self, datagram: &[u8], path: &Path, lane: &Lane) {
        if let Err(error) = lane.socket().try_send(datagram, path) {
            self.count_unsent(&error);
        }
    }

    /// Seals one packet or message and sends it to the session's peer.
    pub(super) fn send_in(&self, session: &Session, content: &[u8]) {
        self.send_record(session, ContentType::ApplicationData, content);
    }

    pub(super) fn send_goodbye(&self, session: &Session) {
        self.send_record(session, ContentType::Alert, &Alert::CLOSE_NOTIFY.emit());
    }

    fn send_record(&self, session: &Session, content: ContentType, plain: &[u8]) {
        match session.association().send(content, &[plain]) {
            Ok(()) => {}
            Err(NotSent::NotSealed(_)) => self.counters.count(Dropped::Exhausted),
            Err(NotSent::Io(error)) => self.count_unsent(&error),
        }
    }

    /// A lease's device was deleted.
    pub(super) fn note_gone(&self, hint: String) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.push(hint);
        self.missed.notify_one();
    }

    /// What [`Self::note_gone`] was told since the last call.
    pub(super) fn take_gone(&self) -> Vec<String> {
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count_unsent(&self, error: &std::io::Error) {
        let is_full = error.kind() == std::io::ErrorKind::WouldBlock;
        self.counters.count(if is_full {
            Dropped::SocketFull
        } else {
            Dropped::Unsent
        });
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
