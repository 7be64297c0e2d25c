//! From a finished handshake to a session that speaks for its hint.

use std::collections::HashSet;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Instant;

use dtun_shared::leaving::Leaving;
use dtun_shared::link;
use dtun_shared::meta::{Addresses, HubMeta};
use dtun_shared::pmtu::carried;
use dtun_shared::tun::DeviceError;
use ipnet::Ipv6Net;

use crate::hub::port::{self, Plan, Port};
use crate::hub::{Hub, Kept, now};
use crate::pool::Full;
use crate::session::{Ended, Inner, Own, Session, Upkeep};

impl Hub {
    /// Gives a new session its lease, or the reason why there is none, and
    /// sends the meta. The session does not speak for its hint yet: an older
    /// one that works goes on until this one is confirmed.
    pub(super) async fn establish(&mut self, session: Arc<Session>) {
        let mtu = self.mtu_towards(&session).await;
        let (meta, rejected) = match self.admit(&session, mtu).await {
            Ok(meta) => (meta, false),
            Err(refused) => {
                let (hint, peer) = (&session.hint, session.peer);
                tracing::warn!(%hint, %peer, reason = %refused, "spoke refused");
                (rejection(&refused), true)
            }
        };

        let meta = meta.emit();
        self.shared.send_in(&session, &meta);
        let kept = Kept {
            upkeep: Upkeep::new(Instant::now(), rejected),
            meta,
            mtu,
            told: None,
            probes: 0,
            gauge: None,
            watched: None,
            up: false,
            session,
        };
        self.kept.insert(kept.session.serial, kept);
    }

    /// The spoke has answered: its session speaks for the hint from here on.
    pub(super) async fn confirm(&mut self, session: &Arc<Session>) {
        let Some(kept) = self.kept.get_mut(&session.serial).filter(|kept| !kept.up) else {
            return;
        };
        kept.up = true;
        if kept.upkeep.is_rejected() {
            self.shared.send_goodbye(session);
            self.end(session, Ended::Rejected).await;
            return;
        }
        let current = self.shared.sessions.of_hint(&session.hint);
        if current.is_some_and(|current| current.serial > session.serial) {
            self.shared.send_goodbye(session);
            self.end(session, Ended::Replaced).await;
            return;
        }

        if let (Some(inner), Some(port)) = (session.inner(), self.ports.get(&session.hint)) {
            // Until its meta says otherwise: the LAN behind it goes on.
            inner.own.set_peernet(port.routed.clone());
        }
        let replaced = self.shared.sessions.make_current(session);
        let device = session.inner().map_or("", |inner| inner.tun.name());
        tracing::info!(peer = %session.peer, hint = %session.hint, device, suite = %session.association().suite(), "session up");

        if let Some(old) = replaced {
            self.watch_fight(session, &old);
        }
        self.end_older(session).await;
        let (ports, leaving) = (&mut self.ports, &mut self.leaving);
        self.hooks.run_up(session, &self.leases, ports, leaving);
    }

    /// The inner MTU towards this peer: what was asked for, or what fits the
    /// route in one datagram.
    async fn mtu_towards(&self, session: &Session) -> u16 {
        let hop = match self
            .netlink
            .route_to_by(session.peer.ip(), &self.leaving())
            .await
        {
            Ok(hop) => hop,
            Err(error) => {
                tracing::debug!(peer = %session.peer, %error, "route unknown");
                None
            }
        };
        let outer = hop.and_then(|hop| hop.mtu);
        let fits =
            outer.map(|outer| carried(outer, session.peer.ip(), session.association().suite()));

        match (self.mtu, fits) {
            (Some(told), Some(fits)) => told.min(fits),
            (told, fits) => told.or(fits).unwrap_or(UNKNOWN_MTU),
        }
        .max(LEAST_MTU)
    }

    async fn admit(&mut self, session: &Session, mtu: u16) -> Result<HubMeta, Refusal> {
        let hint = &session.hint;
        let lease = match self.leases.acquire(hint, now()) {
            Ok(lease) => lease.addresses,
            Err(Full { .. }) => {
                // A lease may have run out since the last tick.
                self.retire().await;
                self.leases.acquire(hint, now())?.addresses
            }
        };
        self.memory.touch();
        if let Err(error) = self.open_port(hint).await {
            if !self.is_leased(hint) {
                self.leases.release(hint, now());
            }
            return Err(error.into());
        }
        let port = &self.ports[hint];
        let hub = self.leases.pools().hub();
        session.admit(Inner {
            tun: Arc::clone(&port.tun),
            own: Own::new(lease, hub),
        });

        let ip6 = match (lease.ip6, hub.ip6) {
            (Some(local), Some(peer)) => Some((local, peer)),
            _ if session.only_ccm8 => Some(no_ip6()),
            _ => None,
        };
        Ok(HubMeta {
            addresses: Some(Addresses {
                local4: lease.ip4,
                peer4: hub.ip4,
                ip6,
            }),
            ext: true,
            parts: true,
            mtu: Some(mtu),
            out6: lease.ip6.is_some() && self.reaches_ip6().await,
            error: None,
        })
    }

    /// Makes the device of a lease, unless it is there.
    pub(super) async fn open_port(&mut self, hint: &str) -> Result<(), DeviceError> {
        if let Some(port) = self.ports.get(hint) {
            if self
                .netlink
                .link_by_index(port.tun.index())
                .await?
                .is_some()
            {
                return Ok(());
            }
            tracing::warn!(
                hint,
                device = port.tun.name(),
                "device was deleted: made anew"
            );
            if let Some(gone) = self.ports.remove(hint) {
                gone.delete(&self.netlink, &self.datapath).await;
            }
        }
        let Some(lease) = self.leases.get(hint).cloned() else {
            return Ok(());
        };
        // Packets are to come and go by the new device, not by one that its down
        // hook still holds: the kernel may ask that of them (rp_filter).
        if let Some(leaving) = self.leaving.get(hint) {
            port::strip(&self.netlink, leaving.index).await?;
        }
        let name = match lease.device {
            Some(name) => name,
            None => self.free_device().await?,
        };
        let plan = |name| Plan {
            name,
            hint,
            lease: lease.addresses,
            hub: self.leases.pools().hub(),
            mtu: self.mtu.unwrap_or(UNKNOWN_MTU).into(),
            offload: self.offload,
        };
        let port = match Port::open(&self.netlink, &self.datapath, plan(&name)).await {
            // Somebody else has taken the name since the state was written.
            Err(DeviceError::Busy(_)) => {
                let other = self.free_device().await?;
                Port::open(&self.netlink, &self.datapath, plan(&other)).await?
            }
            result => result?,
        };

        let device = port.tun.name().to_owned();
        let ip4 = lease.addresses.ip4.addr();
        let ip6 = lease.addresses.ip6.map(|net| net.addr().to_string());
        tracing::info!(hint, device, %ip4, ip6, "lease");
        self.leases.set_device(hint, Some(device));
        self.ports.insert(hint.to_owned(), port);
        self.memory.touch();

        Ok(())
    }

    async fn free_device(&self) -> std::io::Result<String> {
        let mut links = HashSet::new();
        loop {
            let name = self.leases.free_device(&links);
            if self.netlink.link(&name).await?.is_none() {
                return Ok(name);
            }
            links.insert(name);
        }
    }

    /// How the hub's datagrams leave.
    fn leaving(&self) -> Leaving {
        Leaving {
            mark: self.hooks.mark,
            bind: None,
        }
    }

    async fn reaches_ip6(&self) -> bool {
        if !link::forwarding6() {
            return false;
        }
        let tunnel = |oif| self.ports.values().any(|port| port.tun.index() == oif);

        self.netlink
            .route_to(FAR6.into())
            .await
            .is_ok_and(|hop| hop.is_some_and(|hop| !tunnel(hop.oif)))
    }

    fn watch_fight(&mut self, session: &Session, old: &Session) {
        let Some(port) = self.ports.get_mut(&session.hint) else {
            return;
        };
        if port.fight.handle_replaced(Instant::now()) {
            let peers = format!("{}, {}", old.peer, session.peer);
            tracing::warn!(
                hint = %session.hint,
                peers,
                fix = "give each machine its own -id",
                "two machines use one hint"
            );
        }
    }

    async fn end_older(&mut self, session: &Session) {
        let older: Vec<_> = self
            .kept
            .values()
            .filter(|kept| kept.session.hint == session.hint)
            .filter(|kept| kept.session.serial < session.serial)
            .map(|kept| Arc::clone(&kept.session))
            .collect();
        for old in older {
            // Nothing but the meta goes to a spoke that has not answered it.
            if old.is_confirmed() {
                self.shared.send_goodbye(&old);
            }
            self.end(&old, Ended::Replaced).await;
        }
    }
}

/// Why a spoke gets no lease; its user reads the text.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Full(#[from] Full),
    #[error("the hub failed to make a device: {0}")]
    Device(#[from] DeviceError),
}

fn rejection(refused: &Refusal) -> HubMeta {
    HubMeta {
        addresses: None,
        ext: true,
        parts: true,
        mtu: None,
        out6: false,
        error: Some(refused.to_string()),
    }
}

/// The spoke's and the hub's addresses for a Go program on a hub without IPv6.
fn no_ip6() -> (Ipv6Net, Ipv6Net) {
    let host = |last| Ipv6Net::from(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, last));

    (host(2), host(1))
}

/// Of a device that has no session yet, or whose path is not known: leaves room
/// for any suite on a path of 1500 with PPPoE and the like on it.
const UNKNOWN_MTU: u16 = 1400;

/// IPv6 works on no link below it (RFC 8200, section 5).
pub(super) const LEAST_MTU: u16 = 1280;

/// An address of the public internet: one of the root name servers.
pub(super) const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x500, 0x2f, 0, 0, 0, 0, 0xf);
