//! A spoke's meta: which of the networks behind it are routed, and the MTU.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dtun_shared::gauge::Gauge;
use dtun_shared::link::RouteKind;
use dtun_shared::meta::{Control, Refusal, SpokeMeta};
use ipnet::IpNet;

use crate::hub::Hub;
use crate::hub::admission::LEAST_MTU;
use crate::peernet::{Surroundings, would_take};
use crate::session::Session;

impl Hub {
    /// Takes the spoke's meta; a repeated one changes nothing.
    pub(super) async fn handle_meta(&mut self, session: &Arc<Session>, meta: SpokeMeta) {
        let current = self.shared.sessions.of_hint(&session.hint);
        if !current.is_some_and(|current| Arc::ptr_eq(&current, session)) {
            return;
        }
        let Some(kept) = self.kept.get_mut(&session.serial) else {
            return;
        };
        let repeated = kept.told.as_ref() == Some(&meta);
        kept.told = Some(meta.clone());
        // The Go program's device is of 1280 bytes.
        let mtu = kept.mtu.min(meta.mtu.unwrap_or(LEAST_MTU).max(LEAST_MTU));
        if let Some(port) = self.ports.get_mut(&session.hint) {
            port.set_mtu(&self.netlink, mtu).await;
        }
        let (now, association) = (Instant::now(), session.association());
        if meta.ext {
            association.widen();
        }
        if meta.parts {
            association.allow_parts();
        }
        match &mut kept.gauge {
            Some(_) if repeated => {}
            Some(gauge) => gauge.restart(now, association, mtu),
            None => kept.gauge = Some(Gauge::new(now, association, mtu, meta.ext)),
        }

        let (accepted, mut refused) = self.judge(session, &meta).await;
        refused.extend(self.route(session, accepted).await);
        if !repeated {
            for Refusal { net, why } in &refused {
                tracing::warn!(net, why, hint = %session.hint, "peernet refused");
            }
        }
        if meta.ext && !refused.is_empty() {
            for message in Control::refused(refused) {
                self.shared.send_in(session, &message.emit());
            }
        }
        self.tell_peernets();
    }

    /// Tells the fence and the way out, where there are any, what lies behind
    /// whom.
    pub(super) fn tell_peernets(&self) {
        if let Some(nat) = &self.nat {
            let routed = self.ports.values().flat_map(|port| port.routed.clone());
            nat.set_peernets(routed.collect());
        }
        let Some(fence) = &self.shared.fence else {
            return;
        };
        let peernets = self.ports.iter().flat_map(|(hint, port)| {
            let owned = move |net: &IpNet| (*net, hint.clone());
            port.routed.iter().map(owned)
        });
        fence.set_peernets(peernets.collect());
    }

    async fn judge(&mut self, session: &Session, meta: &SpokeMeta) -> (Vec<IpNet>, Vec<Refusal>) {
        let mut accepted = Vec::new();
        let mut refused: Vec<_> = meta
            .malformed
            .iter()
            .map(|text| refusal(text, "not a network, such as 192.168.1.0/24"))
            .collect();
        if meta.peernet.is_empty() {
            return (accepted, refused);
        }
        let hub = match self.networks().await {
            Ok(networks) => networks,
            Err(error) => {
                let why = format!("the hub could not look at its own networks: {error}");
                refused.extend(meta.peernet.iter().map(|net| refusal(net, &why)));
                return (accepted, refused);
            }
        };

        let pools: Vec<_> = self.leases.pools().networks().collect();
        let others: Vec<_> = self
            .ports
            .iter()
            .filter(|(hint, _)| **hint != session.hint)
            .flat_map(|(_, port)| port.routed.iter().copied())
            .collect();
        let outer = self.shared.sessions.outer();
        for net in meta.peernet.iter().map(IpNet::trunc) {
            let hub: Vec<_> = hub
                .iter()
                .copied()
                .filter(|(own, connected)| *connected || would_take(net, *own))
                .map(|(own, _)| own)
                .collect();
            let around = Surroundings {
                hub: &hub,
                pools: &pools,
                others: &others,
                outer: &outer,
            };
            match self.policy.judge(net, &around) {
                Ok(()) => accepted.push(net),
                Err(why) => refused.push(refusal(net, &why.to_string())),
            }
        }

        (accepted, refused)
    }

    /// Brings the device's routes to `accepted`; returns what could not be set.
    async fn route(&mut self, session: &Session, accepted: Vec<IpNet>) -> Vec<Refusal> {
        let Some(port) = self.ports.get_mut(&session.hint) else {
            return Vec::new();
        };
        let mut refused = Vec::new();
        port.withdraw(&self.netlink, |net| accepted.contains(net))
            .await;
        for net in accepted {
            if port.routed.contains(&net) {
                continue;
            }
            match port.route(&self.netlink, net).await {
                Ok(()) => {
                    let device = port.tun.name();
                    tracing::info!(%net, device, hint = %session.hint, "peernet routed");
                }
                Err(error) => {
                    let why = format!("the hub could not set the route: {error}");
                    refused.push(refusal(net, &why));
                }
            }
        }
        if let Some(inner) = session.inner() {
            inner.own.set_peernet(port.routed.clone());
        }

        refused
    }

    /// The machine's own networks, and whether each is on a link of its own or
    /// only routed; those of our devices are left out.
    async fn networks(&mut self) -> io::Result<Vec<(IpNet, bool)>> {
        if let Some((looked, networks)) = &self.networks
            && looked.elapsed() < FRESH
        {
            return Ok(networks.clone());
        }
        let ours: HashSet<_> = self.ports.values().map(|port| port.tun.index()).collect();
        let mut networks: Vec<_> = self
            .netlink
            .all_addresses()
            .await?
            .into_iter()
            .filter(|(index, _)| !ours.contains(index))
            .map(|(_, net)| (net, true))
            .collect();
        for route in self.netlink.routes().await? {
            let foreign = route.oif.is_some_and(|oif| !ours.contains(&oif));
            if foreign && route.kind == RouteKind::Unicast {
                networks.push((route.net, false));
            }
        }
        self.networks = Some((Instant::now(), networks.clone()));

        Ok(networks)
    }
}

fn refusal(net: impl ToString, why: &str) -> Refusal {
    Refusal {
        net: net.to_string(),
        why: why.to_owned(),
    }
}

/// A thousand spokes that come at once need one look, not a thousand.
const FRESH: Duration = Duration::from_secs(2);
