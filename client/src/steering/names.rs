//! Resolvers that a lock keeps the machine from.

use std::net::IpAddr;

use super::Steering;
use crate::routes::RouteWhat;

impl Steering {
    /// Says, once, that no names can be asked for: the resolver is on the LAN, or
    /// another place that the tunnel does not lead to, and not on the list.
    pub(super) async fn tell_names(&mut self) {
        let is_locked = self.firewall.as_ref().is_some_and(|it| it.is_locked());
        if !is_locked || !self.dns.is_empty() || self.told_no_names {
            return;
        }
        let mut beside = Vec::new();
        for server in self.name_servers() {
            if self.is_beside(server.ip()).await {
                beside.push(server.ip());
            }
        }
        if beside.is_empty() {
            return; // The list may be long.
        }
        if let Some(Ok(list)) = self.source.as_ref().map(|source| source.read()) {
            beside.retain(|ip| !list.covers((*ip).into()));
        }
        if let Some(resolver) = beside.first() {
            self.told_no_names = true;
            tracing::warn!(
                %resolver,
                "-strict: this machine's resolver is not reached by the tunnel, and names cannot \
                 be asked for: give -dns ADDR for one that is, or open the way to it with -bypass"
            );
        }
    }

    /// Whether what is sent there would leave beside the tunnel.
    async fn is_beside(&self, ip: IpAddr) -> bool {
        match &self.what {
            _ if ip.is_loopback() => false, // Nobody knows whom that one asks.
            Some(RouteWhat::Nets(nets)) => !nets.iter().any(|net| net.contains(&ip)),
            Some(RouteWhat::Everything(nets)) if nets.iter().any(|net| net.contains(&ip)) => false,
            Some(RouteWhat::Everything(_)) => match ip {
                IpAddr::V6(ip) if ip.is_unicast_link_local() => true,
                IpAddr::V4(_) | IpAddr::V6(_) => matches!(
                    self.netlink.route_to_by(ip, &self.leaving).await,
                    Ok(Some(hop)) if hop.gateway.is_none() && hop.oif != LOOPBACK
                ),
            },
            None => false,
        }
    }
}

/// `lo`, of every network namespace.
const LOOPBACK: u32 = 1;
