//! One session with the hub, in two halves: [`Session`] is what the data
//! path's threads share, [`Pulse`] what the loop alone keeps, the watch over
//! the hub and the messages between.
//!
//! To a hub that did not announce `Ext` nothing but the meta and IP packets is
//! ever sent: a control message would end it.

mod counters;
mod opening;
mod pulse;
mod refusals;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dtun_shared::association::Association;
use dtun_shared::dtls::CipherSuite;
use dtun_shared::meta::{Addresses, HubMeta};
use dtun_shared::packet::{Echo, Ends, is_udp_to, no_route};
use dtun_shared::tun::Tun;
use ipnet::Ipv6Net;
use portable_atomic::AtomicU64;

pub(crate) use counters::Counters;
pub(crate) use opening::{NotOpened, Terms, open, split_record};
pub(crate) use pulse::{Event, Pulse};
use refusals::Refusals;

/// A session that stands.
#[derive(Debug)]
pub(crate) struct Session {
    association: Association,
    hub: SocketAddr,
    meta: HubMeta,
    addresses: Addresses,
    /// The inner MTU that both ends agree on.
    mtu: u16,
    /// Our meta's bytes, sent for each copy of the hub's.
    answer: Vec<u8>,
    /// How a hub is asked that knows no control messages.
    echo: Option<Heartbeat>,
    since: Instant,
    /// Everything goes in, and of IPv6 nothing comes out at the hub but this.
    nets6: Option<Vec<Ipv6Net>>,
    refusals: Refusals,
    device: OnceLock<Arc<Tun>>,
    counters: Counters,
}

/// The echo whose answer is awaited.
#[derive(Debug)]
struct Heartbeat {
    id: u16,
    newest: AtomicU64,
}

/// What a packet of the device is to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outward {
    /// It goes to the hub.
    Admitted,
    /// It goes nowhere, and was counted.
    Dropped,
    /// The same, and it is a datagram of this very session.
    Looped,
    /// The same, and the hub has no way to where it was to go.
    NoRoute,
}

impl Session {
    /// The hub's address.
    pub(crate) fn hub(&self) -> SocketAddr {
        self.hub
    }

    /// Our end of the path.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.association.lane().socket().local_addr()
    }

    pub(crate) fn suite(&self) -> CipherSuite {
        self.association.suite()
    }

    pub(crate) fn meta(&self) -> &HubMeta {
        &self.meta
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Where the session's packets go, once there is a device.
    pub(crate) fn device(&self) -> Option<&Arc<Tun>> {
        self.device.get()
    }

    /// Gives the session its device, which it keeps.
    pub(crate) fn attach(&self, device: Arc<Tun>) {
        self.device.get_or_init(|| device);
    }

    /// Whether the keys have been used enough: a session of ours is replaced
    /// long before a limit of RFC 8446, section 5.5.
    pub(crate) fn is_worn(&self, now: Instant) -> bool {
        self.meta.ext
            && (self.association.used() >= KEY_RECORDS || now.duration_since(self.since) >= KEY_AGE)
    }

    /// Whether a packet of the device goes to the hub.
    pub(crate) fn admits_out(&self, packet: &[u8]) -> Outward {
        let Some(ends) = Ends::of(packet) else {
            self.counters.unknown.add(1);
            return Outward::Dropped;
        };
        if ends.link_scope() {
            self.counters.link_scope.add(1);
            return Outward::Dropped;
        }
        if ends.destination == self.hub.ip() && is_udp_to(packet, self.hub) {
            self.counters.looped.add(1);
            return Outward::Looped;
        }
        if self.is_nowhere(ends.destination) {
            self.counters.no_route.add(1);
            return Outward::NoRoute;
        }

        Outward::Admitted
    }

    /// Whether a destination is beyond the hub and it has no way there. Other
    /// private networks may be behind other spokes.
    fn is_nowhere(&self, destination: IpAddr) -> bool {
        let IpAddr::V6(ip) = destination else {
            return false;
        };
        let Some(nets) = &self.nets6 else {
            return false;
        };
        let pool = self.addresses.ip6.map(|(local, _)| local);
        let mut reached = nets.iter().chain(&pool);

        !ip.is_unique_local() && !reached.any(|net| net.contains(&ip))
    }

    /// What to tell the sender of a packet that goes nowhere, unless many are
    /// being told already.
    pub(crate) fn refusal(&self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let from = self.addresses.ip6.map(|(_, peer)| peer.addr());

        no_route::answer(packet, from).filter(|_| self.refusals.may_tell(self.since, now))
    }

    /// The number of our probe that `packet` answers; a user's own ping has
    /// another identifier.
    pub(crate) fn echo_answered(&self, packet: &[u8]) -> Option<u64> {
        let heartbeat = self.echo.as_ref()?;
        let (echo, ends) = Echo::reply(packet)?;
        let newest = heartbeat.newest.load(Ordering::Relaxed);
        let ours = echo.id == heartbeat.id
            && ends.source == IpAddr::V4(self.addresses.peer4.addr())
            && ends.destination == IpAddr::V4(self.addresses.local4.addr())
            && echo.seq == newest as u16;

        ours.then_some(newest)
    }

    /// The packet of a probe.
    fn echo_request(&self, heartbeat: &Heartbeat, id: u64) -> Option<Vec<u8>> {
        heartbeat.newest.store(id, Ordering::Relaxed);
        let echo = Echo {
            id: heartbeat.id,
            seq: id as u16,
        };

        echo.request(Ends {
            source: self.addresses.local4.addr().into(),
            destination: self.addresses.peer4.addr().into(),
        })
    }
}

impl AsRef<Association> for Session {
    fn as_ref(&self) -> &Association {
        &self.association
    }
}

const KEY_RECORDS: u64 = 1 << 28;
const KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
