//! Routes, and the kernel's choice for one destination.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};

use super::{Netlink, absent, address::family, errno, listed};
use crate::leaving::Leaving;

impl Netlink {
    /// Adds a route to the main table; the same route again is no error, but
    /// another one for that network and metric is (`AlreadyExists`).
    pub async fn add_route(&self, net: IpNet, via: Via) -> io::Result<()> {
        let result = self.new_route(message(net, via), NLM_F_EXCL).await;
        match result {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let same = |route: &Route| route.is(net, via);
                // The dump is long on some machines, and needed only here.
                if self.routes().await?.iter().any(same) {
                    return Ok(());
                }
                Err(error)
            }
            result => result,
        }
    }

    /// Adds a route in place of any other for that network and metric.
    pub async fn replace_route(&self, net: IpNet, via: Via) -> io::Result<()> {
        self.new_route(message(net, via), NLM_F_REPLACE).await
    }

    /// Removes a route that [`Self::add_route`] made; one that is gone is no
    /// error.
    pub async fn delete_route(&self, net: IpNet, via: Via) -> io::Result<()> {
        let mut message = message(net, via);
        message.header.scope = RouteScope::NoWhere;
        let result = self.handle.route().del(message).execute().await;

        absent(result.map_err(errno), &[libc::ESRCH, libc::ENODEV]).map(|_| ())
    }

    /// The routes of all tables, but those that the kernel keeps for its own
    /// addresses; one for each next hop.
    pub async fn routes(&self) -> io::Result<Vec<Route>> {
        self.routes_by(None).await
    }

    /// The same of one table, which is much less where others are long.
    pub async fn routes_of(&self, table: u32) -> io::Result<Vec<Route>> {
        let mut routes = self.routes_by(Some(table)).await?;
        // Before Linux 4.20 the kernel takes no wishes.
        routes.retain(|route| route.table == table);

        Ok(routes)
    }

    async fn routes_by(&self, table: Option<u32>) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let table = table.map(RouteAttribute::Table);
            request.attributes.extend(table);
            let ask = || {
                let found = self.handle.route().get(request.clone()).execute();
                found
                    .map_err(errno)
                    .map_ok(|message| stream::iter(Route::parse(&message)).map(io::Result::Ok))
                    .try_flatten()
                    .try_collect::<Vec<_>>()
            };
            let found = listed(ask)
                .await
                .or_else(|error| match error.raw_os_error() {
                    // The last: a table that is not there has no routes.
                    Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENOENT) => Ok(Vec::new()),
                    _ => Err(error),
                })?;
            routes.extend(found);
        }

        Ok(routes)
    }

    /// How the kernel would send a packet to `destination`, as `ip route get`;
    /// `None` where it would not.
    pub async fn route_to(&self, destination: IpAddr) -> io::Result<Option<Hop>> {
        self.route_to_by(destination, &Leaving::default()).await
    }

    /// The same for a packet that leaves so.
    pub async fn route_to_by(
        &self,
        destination: IpAddr,
        leaving: &Leaving,
    ) -> io::Result<Option<Hop>> {
        let mut how = Vec::new();
        how.extend(leaving.mark.map(|mark| RouteAttribute::Mark(mark.value())));
        how.extend(
            leaving
                .address()
                .map(|ip| RouteAttribute::Source(ip.into())),
        );
        if let Some(name) = leaving.device() {
            match self.link(name).await? {
                Some(link) => how.push(RouteAttribute::Oif(link.index)),
                None => return Ok(None),
            }
        }
        let found = self.lookup(destination, how).await?;
        let Some(mut hop) = found.as_ref().and_then(Hop::parse) else {
            return Ok(None);
        };
        if hop.mtu.is_none() {
            hop.mtu = self.link_by_index(hop.oif).await?.map(|link| link.mtu);
        }

        Ok(Some(hop))
    }

    /// The kernel's answer to `ip route get`.
    pub(super) async fn lookup(
        &self,
        destination: IpAddr,
        how: Vec<RouteAttribute>,
    ) -> io::Result<Option<RouteMessage>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(destination);
        request.header.destination_prefix_length = IpNet::from(destination).prefix_len();
        request
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        // The kernel wants a source's length said, though it is always whole.
        if how
            .iter()
            .any(|how| matches!(how, RouteAttribute::Source(_)))
        {
            request.header.source_prefix_length = request.header.destination_prefix_length;
        }
        request.attributes.extend(how);

        let found = self.handle.route().get(request).execute().try_next().await;

        absent(found.map_err(errno), UNREACHABLE).map(Option::flatten)
    }

    async fn new_route(&self, message: RouteMessage, mode: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | mode;

        self.acknowledged(request).await
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Out of the link of that index.
    Device(u32),
    /// To a gateway on the link of that index.
    Gateway(IpAddr, u32),
    /// Nowhere: packets are dropped. A high metric lets others go before it.
    Blackhole { metric: u32 },
}

/// One route, or one next hop of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub net: IpNet,
    pub gateway: Option<IpAddr>,
    pub oif: Option<u32>,
    pub kind: RouteKind,
    pub table: u32,
    /// As in /etc/iproute2/rt_protos: 2 is the kernel's, 4 static.
    pub protocol: u8,
    pub metric: u32,
}

/// What becomes of a packet that matches the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    Unicast,
    Blackhole,
    /// Refused with an answer, or looked up elsewhere.
    Refused,
}

/// The kernel's choice for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hop {
    pub oif: u32,
    /// `None` on a link where the destination itself is the next hop.
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    /// The route's own MTU, learnt or set, else the link's.
    pub mtu: Option<u32>,
}

impl Route {
    /// Whether this is what [`Netlink::add_route`] makes of the arguments.
    #[must_use]
    pub fn is(&self, net: IpNet, via: Via) -> bool {
        let leads = match via {
            Via::Device(index) => self.oif == Some(index) && self.gateway.is_none(),
            Via::Gateway(gateway, index) => {
                self.oif == Some(index) && self.gateway == Some(gateway)
            }
            Via::Blackhole { metric } => {
                self.kind == RouteKind::Blackhole && self.metric == kernel_metric(net, metric)
            }
        };

        leads && self.net == net.trunc() && self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
    }

    fn parse(message: &RouteMessage) -> Vec<Self> {
        let fields = Fields::parse(&message.attributes);
        let kind = match message.header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::BlackHole => RouteKind::Blackhole,
            RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => RouteKind::Refused,
            _ => return Vec::new(),
        };
        let any = match message.header.address_family {
            AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            _ => return Vec::new(),
        };
        let Ok(net) = IpNet::new(
            fields.destination.unwrap_or(any),
            message.header.destination_prefix_length,
        ) else {
            return Vec::new();
        };
        let route = Self {
            net,
            gateway: fields.gateway,
            oif: fields.oif,
            kind,
            table: fields
                .table
                .unwrap_or_else(|| u32::from(message.header.table)),
            protocol: message.header.protocol.into(),
            metric: fields.metric,
        };
        if fields.hops.is_empty() {
            return vec![route];
        }

        let each = |(gateway, oif)| Self {
            gateway,
            oif: Some(oif),
            ..route
        };
        fields.hops.into_iter().map(each).collect()
    }
}

impl Hop {
    fn parse(message: &RouteMessage) -> Option<Self> {
        if !matches!(
            message.header.kind,
            RouteType::Unicast | RouteType::Local | RouteType::Broadcast | RouteType::Multicast
        ) {
            return None;
        }
        let fields = Fields::parse(&message.attributes);
        let (gateway, oif) = match fields.hops.first() {
            Some((gateway, oif)) => (*gateway, *oif),
            None => (fields.gateway, fields.oif?),
        };

        Some(Self {
            oif,
            gateway,
            source: fields.source,
            mtu: fields.mtu,
        })
    }
}

/// The attributes that matter here.
#[derive(Default)]
struct Fields {
    destination: Option<IpAddr>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    oif: Option<u32>,
    table: Option<u32>,
    metric: u32,
    mtu: Option<u32>,
    hops: Vec<(Option<IpAddr>, u32)>,
}

impl Fields {
    fn parse(attributes: &[RouteAttribute]) -> Self {
        let mut fields = Self::default();
        for attribute in attributes {
            match attribute {
                RouteAttribute::Destination(address) => fields.destination = ip(address),
                RouteAttribute::Gateway(address) => fields.gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => {
                    fields.gateway = Some((*address).into());
                }
                RouteAttribute::Via(RouteVia::Inet6(address)) => {
                    fields.gateway = Some((*address).into());
                }
                RouteAttribute::PrefSource(address) => fields.source = ip(address),
                RouteAttribute::Oif(index) => fields.oif = Some(*index),
                RouteAttribute::Table(table) => fields.table = Some(*table),
                RouteAttribute::Priority(metric) => fields.metric = *metric,
                RouteAttribute::Metrics(metrics) => fields.mtu = metrics.iter().find_map(mtu),
                RouteAttribute::MultiPath(hops) => {
                    let each = |hop: &netlink_packet_route::route::RouteNextHop| {
                        (Self::parse(&hop.attributes).gateway, hop.interface_index)
                    };
                    fields.hops = hops.iter().map(each).collect();
                }
                _ => {}
            }
        }

        fields
    }
}

/// The route as a request.
fn message(net: IpNet, via: Via) -> RouteMessage {
    match via {
        Via::Device(index) => unicast(net, None, Some(index)),
        Via::Gateway(gateway, index) => unicast(net, Some(gateway), Some(index)),
        Via::Blackhole { metric } => {
            let mut message = unicast(net, None, None);
            message.header.kind = RouteType::BlackHole;
            message.header.scope = RouteScope::Universe;
            message.attributes.push(RouteAttribute::Priority(metric));
            message
        }
    }
}

/// A route of the main table, protocol static, as a request.
pub(super) fn unicast(net: IpNet, gateway: Option<IpAddr>, oif: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(net.addr());
    message.header.destination_prefix_length = net.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    // IPv4 wants to know that the destinations are neighbours.
    message.header.scope = if gateway.is_none() && net.addr().is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };

    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(net.network().into()));
    attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    attributes.extend(oif.map(RouteAttribute::Oif));

    message
}

/// IPv6 has no metric 0: the kernel writes 1024 for it.
fn kernel_metric(net: IpNet, metric: u32) -> u32 {
    if net.addr().is_ipv6() && metric == 0 {
        return 1024;
    }

    metric
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn mtu(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    }
}

/// What a lookup says that ends at no route, or at one that refuses.
const UNREACHABLE: &[libc::c_int] = &[
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EACCES,
    libc::EINVAL,
    libc::EAGAIN,
    libc::EAFNOSUPPORT,
    libc::EOPNOTSUPP,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::isolated;
    use crate::tun::Tun;

    #[test]
    fn routes_are_added_and_removed_any_number_of_times() {
        isolated(|netlink| async move {
            let tun = device(&netlink).await;
            let before = netlink.routes().await.unwrap();
            let wanted = [
                ("10.8.0.0/16", Via::Device(tun.index())),
                ("fd00:8::/48", Via::Device(tun.index())),
                ("10.0.0.0/24", Via::Blackhole { metric: 9_999 }),
                ("fc00::/120", Via::Blackhole { metric: 9_999 }),
                (
                    "10.9.0.0/16",
                    Via::Gateway([10, 0, 0, 2].into(), tun.index()),
                ),
            ]
            .map(|(net, via)| (net.parse::<IpNet>().unwrap(), via));

            for _ in 0..2 {
                for (net, via) in wanted {
                    netlink.add_route(net, via).await.unwrap();
                }
            }
            let after = netlink.routes().await.unwrap();
            assert_eq!(after.len(), before.len() + wanted.len());
            for (net, via) in wanted {
                let found = after.iter().filter(|route| route.is(net, via));
                assert_eq!(
                    found.map(|route| route.protocol).collect::<Vec<_>>(),
                    [4],
                    "{net}"
                );
            }

            for _ in 0..2 {
                for (net, via) in wanted {
                    netlink.delete_route(net, via).await.unwrap();
                }
            }
            assert_eq!(netlink.routes().await.unwrap(), before);
        });
    }

    #[test]
    fn a_route_of_somebody_else_is_not_taken_over() {
        isolated(|netlink| async move {
            let tun = device(&netlink).await;
            let lo = netlink.link("lo").await.unwrap().unwrap().index;
            for net in ["10.8.0.0/16", "fd00:8::/48"] {
                let net = net.parse().unwrap();
                netlink.add_route(net, Via::Device(lo)).await.unwrap();

                let taken = netlink.add_route(net, Via::Device(tun.index())).await;
                assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AlreadyExists);

                netlink
                    .replace_route(net, Via::Device(tun.index()))
                    .await
                    .unwrap();
                let hop = netlink.route_to(net.hosts().next().unwrap()).await;
                assert_eq!(hop.unwrap().unwrap().oif, tun.index());
            }
        });
    }

    #[test]
    fn deleting_leaves_the_same_network_on_another_device_alone() {
        isolated(|netlink| async move {
            let (tun, lo) = (device(&netlink).await, netlink.link("lo").await);
            let lo = lo.unwrap().unwrap().index;
            for net in ["10.8.0.0/16", "fd00:8::/48"] {
                let net = net.parse().unwrap();
                netlink.add_route(net, Via::Device(lo)).await.unwrap();

                netlink
                    .delete_route(net, Via::Device(tun.index()))
                    .await
                    .unwrap();
                netlink
                    .delete_route(net, Via::Blackhole { metric: 9_999 })
                    .await
                    .unwrap();

                let routes = netlink.routes().await.unwrap();
                assert!(routes.iter().any(|route| route.is(net, Via::Device(lo))));
            }
        });
    }

    #[test]
    fn the_way_to_a_destination_is_told_or_that_there_is_none() {
        isolated(|netlink| async move {
            let tun = device(&netlink).await;
            let index = tun.index();
            let net = |net: &str| net.parse::<IpNet>().unwrap();
            let gateway = IpAddr::from([10, 0, 0, 2]);
            let gateway6 = "fc00::2".parse().unwrap();
            for (net, via) in [
                (net("10.9.0.0/16"), Via::Gateway(gateway, index)),
                (net("fd00:9::/48"), Via::Gateway(gateway6, index)),
                (net("10.66.0.0/16"), Via::Blackhole { metric: 5 }),
                (net("fd00:66::/48"), Via::Blackhole { metric: 5 }),
            ] {
                netlink.add_route(net, via).await.unwrap();
            }
            let to = async |ip: &str| netlink.route_to(ip.parse().unwrap()).await.unwrap();
            let hop = |gateway, source: &str| Hop {
                oif: index,
                gateway,
                source: source.parse().ok(),
                mtu: Some(1400),
            };

            assert_eq!(to("10.0.0.2").await, Some(hop(None, "10.0.0.1")));
            assert_eq!(to("10.9.1.1").await, Some(hop(Some(gateway), "10.0.0.1")));
            assert_eq!(to("fc00::2").await, Some(hop(None, "fc00::1")));
            assert_eq!(to("fd00:9::1").await, Some(hop(Some(gateway6), "fc00::1")));
            for nowhere in ["10.66.0.1", "fd00:66::1", "203.0.113.1", "2001:db8::1"] {
                assert_eq!(to(nowhere).await, None, "{nowhere}");
            }
        });
    }

    async fn device(netlink: &Netlink) -> Tun {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        let index = tun.index();
        netlink.quiet(index, tun.name()).await.unwrap();
        netlink.set_up(index, 1400).await.unwrap();
        netlink
            .add_address_ptp4(index, [10, 0, 0, 1].into(), [10, 0, 0, 2].into())
            .await
            .unwrap();
        let (local, peer) = ("fc00::1".parse().unwrap(), "fc00::2".parse().unwrap());
        netlink
            .add_address6(index, local, Some(peer))
            .await
            .unwrap();
        netlink.settle(index).await.unwrap();

        tun
    }
}
