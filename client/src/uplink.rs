//! The machine's way to the hub, outside the tunnel.

use std::cmp::Reverse;
use std::io;
use std::net::IpAddr;

use dtun_shared::leaving::Leaving;
use dtun_shared::link::{Hop, MAIN, Netlink, Route, RouteKind};
use ipnet::IpNet;

use crate::clash::Surroundings;

/// How the kernel sends a datagram to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a link that is not ours.
    Out(Hop),
    /// Into our own device.
    IntoTunnel,
    None,
}

/// What would make a new dial worth while when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// Link, gateway and source towards each address of the hub that was asked for.
    ways: Vec<(IpAddr, Option<Towards>)>,
    addresses: Vec<IpNet>,
}

type Towards = (u32, Option<IpAddr>, Option<IpAddr>);

/// The way to `ip` of a datagram that leaves so; `tun` is our device.
pub(crate) async fn way_to(
    netlink: &Netlink,
    ip: IpAddr,
    tun: Option<u32>,
    leaving: &Leaving,
) -> io::Result<Way> {
    Ok(match netlink.route_to_by(ip, leaving).await? {
        Some(hop) if Some(hop.oif) == tun => Way::IntoTunnel,
        Some(hop) => Way::Out(hop),
        None => Way::None,
    })
}

/// The link and the gateway that lead to `ip` where no host route does, and
/// none of our up-script's. A script sets them by the gateway of its day, and
/// until it runs again they hide that the machine has another.
pub(crate) fn uplink_to(
    routes: &[Route],
    ip: IpAddr,
    tun: Option<u32>,
) -> Option<(u32, Option<IpAddr>)> {
    let route = routes
        .iter()
        .filter(|route| route.table == MAIN && route.kind == RouteKind::Unicast)
        .filter(|route| route.oif != tun && route.net.contains(&ip))
        .filter(|route| route.net.prefix_len() < route.net.max_prefix_len())
        .filter(|route| route.protocol != SPLIT)
        .min_by_key(|route| (Reverse(route.net.prefix_len()), route.metric))?;

    Some((route.oif?, route.gateway))
}

impl Network {
    /// Takes the network's picture as far as it matters for reaching `hubs`.
    pub(crate) async fn look(
        netlink: &Netlink,
        hubs: impl Iterator<Item = IpAddr>,
        tun: Option<u32>,
        leaving: &Leaving,
    ) -> io::Result<Self> {
        let mut ways = Vec::new();
        for ip in hubs {
            let way = match way_to(netlink, ip, tun, leaving).await? {
                Way::Out(hop) => Some((hop.oif, hop.gateway, hop.source)),
                Way::IntoTunnel | Way::None => None,
            };
            ways.push((ip, way));
        }
        let mut addresses: Vec<_> = netlink
            .all_addresses()
            .await?
            .into_iter()
            .filter(|(index, net)| Some(*index) != tun && is_global(net.addr()))
            .map(|(_, net)| net)
            .collect();
        addresses.sort_unstable();

        Ok(Self { ways, addresses })
    }

    /// Whether what came after `before` gives reason to dial at once. An address
    /// that nobody had asked for yet is no change: it would cut off the very dial
    /// that made it known.
    pub(crate) fn is_better_than(&self, before: &Self) -> bool {
        let more = |now: &IpNet| !before.addresses.contains(now);
        let other = |(hub, way): &(IpAddr, Option<Towards>)| {
            let differs = |(asked, old): &(IpAddr, Option<Towards>)| asked == hub && old != way;
            way.is_some() && before.ways.iter().any(differs)
        };

        self.ways.iter().any(other) || self.addresses.iter().any(more)
    }
}

/// What this machine has beside the tunnel, for comparing with the hub's pools.
pub(crate) async fn surroundings(
    netlink: &Netlink,
    tun: Option<u32>,
    peernet: &[IpNet],
) -> io::Result<Surroundings> {
    let links = netlink.links().await?;
    let name = |index| {
        links
            .iter()
            .find(|link| link.index == index)
            .map_or_else(|| format!("link {index}"), |link| link.name.clone())
    };
    let own = netlink
        .all_addresses()
        .await?
        .into_iter()
        .filter(|(index, net)| Some(*index) != tun && is_global(net.addr()))
        .map(|(index, net)| (net, name(index)))
        .collect();
    let mut gateways: Vec<_> = netlink
        .routes()
        .await?
        .into_iter()
        .filter(|route| route.oif != tun)
        .filter_map(|route| route.gateway)
        .collect();
    gateways.sort_unstable();
    gateways.dedup();

    Ok(Surroundings {
        own,
        gateways,
        peernet: peernet.to_vec(),
    })
}

/// Whether an address has a meaning beyond its host and link.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

/// The protocol number of what `scripts/up-split.sh` puts on the uplink.
const SPLIT: u8 = 117;

#[cfg(test)]
mod tests {
    use super::*;

    fn route(net: &str, gateway: &str, oif: u32, metric: u32) -> Route {
        Route {
            net: net.parse().unwrap(),
            gateway: gateway.parse().ok(),
            oif: Some(oif),
            kind: RouteKind::Unicast,
            table: MAIN,
            protocol: 3,
            metric,
        }
    }

    #[test]
    fn a_scripts_host_route_and_halves_do_not_hide_the_gateway() {
        let hub = "192.0.2.1".parse().unwrap();
        let mut routes = vec![
            route("192.0.2.1/32", "10.0.0.1", 2, 0),
            route("128.0.0.0/1", "", 9, 0),
            route("0.0.0.0/0", "10.9.0.1", 3, 600),
            route("0.0.0.0/0", "10.0.0.254", 2, 100),
            route("::/0", "fe80::1", 2, 0),
        ];
        let gateway = |text: &str| Some(text.parse().unwrap());

        assert_eq!(
            uplink_to(&routes, hub, Some(9)),
            Some((2, gateway("10.0.0.254")))
        );
        routes.push(Route {
            protocol: SPLIT,
            ..route("192.0.2.0/25", "10.0.0.1", 2, 0)
        });
        assert_eq!(
            uplink_to(&routes, hub, Some(9)),
            Some((2, gateway("10.0.0.254"))),
            "the hub is on the bypass list"
        );
        routes.push(route("192.0.2.0/24", "10.0.0.7", 2, 700));
        assert_eq!(
            uplink_to(&routes, hub, Some(9)),
            Some((2, gateway("10.0.0.7")))
        );
        assert_eq!(uplink_to(&routes[..2], hub, Some(9)), None);
    }

    const HUB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

    fn network(gateway: &str, addresses: &[&str]) -> Network {
        Network {
            ways: vec![(HUB, Some((2, Some(gateway.parse().unwrap()), None)))],
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_new_gateway_or_address_is_reason_to_dial_and_a_loss_is_not() {
        let before = network("192.0.2.1", &["192.0.2.7/24", "2001:db8::7/64"]);

        assert!(network("192.0.2.2", &["192.0.2.7/24"]).is_better_than(&before));
        assert!(network("192.0.2.1", &["192.0.2.8/24"]).is_better_than(&before));
        assert!(!network("192.0.2.1", &["192.0.2.7/24"]).is_better_than(&before));
        assert!(!Network::default().is_better_than(&before));
    }
    #[test]
    fn a_way_that_comes_back_is_reason_to_dial_and_a_hub_just_resolved_is_not() {
        let now = network("192.0.2.1", &["192.0.2.7/24"]);
        let mut before = now.clone();

        before.ways = vec![(HUB, None)];
        assert!(now.is_better_than(&before));

        before.ways.clear();
        assert!(!now.is_better_than(&before));
    }
}
