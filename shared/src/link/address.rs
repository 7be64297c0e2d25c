//! Addresses of links.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::AddressGetRequest;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use tokio::time;

use super::{Netlink, absent, errno, listed};

impl Netlink {
    /// `ip addr replace LOCAL peer PEER dev INDEX`.
    pub async fn add_address_ptp4(
        &self,
        index: u32,
        local: Ipv4Addr,
        peer: Ipv4Addr,
    ) -> io::Result<()> {
        self.add_address(index, local.into(), Some(peer.into()), 32)
            .await
    }

    /// `ip addr replace LOCAL [peer PEER] dev INDEX nodad`, with prefix 128.
    ///
    /// The link must be up: the kernel may lose the route to the peer of an
    /// address that is added just before the link is set up.
    pub async fn add_address6(
        &self,
        index: u32,
        local: Ipv6Addr,
        peer: Option<Ipv6Addr>,
    ) -> io::Result<()> {
        self.add_address(index, local.into(), peer.map(IpAddr::from), 128)
            .await
    }

    /// Waits until every IPv6 address of a link that is up is in use; one that
    /// is not within a second is `TimedOut`.
    ///
    /// The kernel inserts their routes a moment after the address is there, or
    /// the link is up; until then a route via the peer is refused.
    pub async fn settle(&self, index: u32) -> io::Result<()> {
        if self.link_by_index(index).await?.is_none_or(|link| !link.up) {
            return Ok(());
        }
        let mut addresses = self.addresses_on(index).await?;
        addresses.retain(|address| address.net.addr().is_ipv6());

        let settled = async {
            for address in addresses {
                while !self.is_used(address).await? {
                    time::sleep(POLL).await;
                }
            }
            Ok(())
        };
        time::timeout(PATIENCE, settled).await?
    }

    /// Removes an address; one that is gone already, or on a link that is
    /// gone, is no error.
    pub async fn remove_address(&self, index: u32, net: IpNet) -> io::Result<()> {
        let message = address(index, net.addr(), None, net.prefix_len());
        let result = self.handle.address().del(message).execute().await;

        absent(
            result.map_err(errno),
            &[libc::EADDRNOTAVAIL, libc::ENODEV, libc::ENXIO],
        )
        .map(|_| ())
    }

    /// The addresses of one link, each with its prefix length.
    pub async fn addresses(&self, index: u32) -> io::Result<Vec<IpNet>> {
        let found = self.addresses_on(index).await?;

        Ok(found.into_iter().map(|address| address.net).collect())
    }

    /// The addresses of every link, by index.
    pub async fn all_addresses(&self) -> io::Result<Vec<(u32, IpNet)>> {
        let all = self.address_list().await?;

        Ok(all
            .into_iter()
            .map(|address| (address.index, address.net))
            .collect())
    }

    /// The addresses of every link, with the other end of those that have one.
    pub async fn address_list(&self) -> io::Result<Vec<Address>> {
        self.dump(|| self.handle.address().get()).await
    }

    /// The addresses of one link, with the other end of those that have one.
    pub async fn addresses_on(&self, index: u32) -> io::Result<Vec<Address>> {
        let request = || {
            let mut request = self.handle.address().get().set_link_index_filter(index);
            request.message_mut().header.index = index;
            request
        };
        let found = self.dump(request).await;

        absent(found, &[libc::ENODEV]).map(Option::unwrap_or_default)
    }

    async fn dump(&self, request: impl Fn() -> AddressGetRequest) -> io::Result<Vec<Address>> {
        listed(|| {
            let found = request().execute().map_err(errno);
            found
                .try_filter_map(|message| async move { Ok(Address::parse(&message)) })
                .try_collect()
        })
        .await
    }

    /// Whether the kernel has the routes that belong to an address.
    async fn is_used(&self, address: Address) -> io::Result<bool> {
        // A link-local address means something on its link only.
        let on_link = match address.net.addr() {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                vec![RouteAttribute::Oif(address.index)]
            }
            IpAddr::V4(_) | IpAddr::V6(_) => Vec::new(),
        };
        let local = self.lookup(address.net.addr(), on_link).await?;
        if local.is_none_or(|route| route.header.kind != RouteType::Local) {
            return Ok(false);
        }
        let Some(peer) = address.peer else {
            return Ok(true);
        };
        let hop = self.route_to(peer).await?;

        Ok(hop.is_some_and(|hop| hop.oif == address.index))
    }

    async fn add_address(
        &self,
        index: u32,
        local: IpAddr,
        peer: Option<IpAddr>,
        prefix: u8,
    ) -> io::Result<()> {
        let message = address(index, local, peer, prefix);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewAddress(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;

        self.acknowledged(request).await
    }

    /// Sends a request whose only answer is that it was carried out.
    pub(super) async fn acknowledged(
        &self,
        request: NetlinkMessage<RouteNetlinkMessage>,
    ) -> io::Result<()> {
        let mut answers = self.handle.clone().request(request).map_err(errno)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(message) = answer.payload
                && message.code.is_some()
            {
                return Err(message.to_io());
            }
        }

        Ok(())
    }
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub index: u32,
    /// The address itself, with the prefix length of its network.
    pub net: IpNet,
    /// The other end of a point-to-point address.
    pub peer: Option<IpAddr>,
}

impl Address {
    pub(super) fn parse(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                _ => {}
            }
        }
        let ip = local.or(address)?;

        Some(Self {
            index: message.header.index,
            net: IpNet::new(ip, message.header.prefix_len).ok()?,
            peer: address.filter(|address| *address != ip),
        })
    }
}

fn address(index: u32, local: IpAddr, peer: Option<IpAddr>, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.header.family = family(local);
    message.attributes.push(AddressAttribute::Local(local));
    if let Some(peer) = peer {
        message.attributes.push(AddressAttribute::Address(peer));
    }
    if local.is_ipv6() {
        // A TUN has nobody to ask whether the address is taken.
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }

    message
}

pub(super) fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The kernel's own work takes less than one of these.
const POLL: Duration = Duration::from_millis(1);

/// Longer means that the addresses will never be in use.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::isolated;
    use crate::tun::Tun;

    #[test]
    fn addresses_are_added_and_removed_any_number_of_times() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false, true).unwrap();
            netlink.quiet(tun.index(), tun.name()).await.unwrap();
            let index = tun.index();
            let (local4, peer4) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            let local6 = "fc00::1".parse::<Ipv6Addr>().unwrap();
            let peer6 = "fc00::2".parse::<Ipv6Addr>().unwrap();

            for _ in 0..2 {
                netlink
                    .add_address_ptp4(index, local4, peer4)
                    .await
                    .unwrap();
                netlink
                    .add_address6(index, local6, Some(peer6))
                    .await
                    .unwrap();
            }

            let net4 = "10.0.0.1/32".parse().unwrap();
            let net6 = "fc00::1/128".parse().unwrap();
            let expected =
                [(net4, peer4.into()), (net6, peer6.into())].map(|(net, peer)| Address {
                    index,
                    net,
                    peer: Some(peer),
                });
            let mut found = netlink.address_list().await.unwrap();
            found.retain(|address| address.index == index);
            assert_eq!(found, expected);
            assert_eq!(netlink.addresses(index).await.unwrap(), [net4, net6]);

            for _ in 0..2 {
                netlink.remove_address(index, net4).await.unwrap();
                netlink.remove_address(index, net6).await.unwrap();
            }
            assert_eq!(netlink.addresses(index).await.unwrap(), []);
        });
    }

    #[test]
    fn an_ipv6_address_is_in_use_once_it_has_settled() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false, true).unwrap();
            let index = tun.index();
            netlink.quiet(index, tun.name()).await.unwrap();
            let peer = "fc00::2".parse().unwrap();
            netlink.set_up(index, 1400).await.unwrap();
            netlink
                .add_address6(index, "fc00::1".parse().unwrap(), Some(peer))
                .await
                .unwrap();

            for _ in 0..5 {
                netlink.settle(index).await.unwrap();
                let hop = netlink.route_to(peer.into()).await.unwrap();
                assert_eq!(hop.map(|hop| hop.oif), Some(index));

                netlink.set_down(index).await.unwrap();
                netlink.settle(index).await.unwrap();
                assert_eq!(netlink.route_to(peer.into()).await.unwrap(), None);
                netlink.set_up(index, 1400).await.unwrap();
            }
        });
    }

    #[test]
    fn many_devices_share_one_address_of_the_hub() {
        isolated(|netlink| async move {
            let mut devices = Vec::new();
            for last in 2..6 {
                let tun = Tun::create("dtun%d", false, true).unwrap();
                netlink.quiet(tun.index(), tun.name()).await.unwrap();
                netlink.set_up(tun.index(), 1400).await.unwrap();
                let peer = Ipv4Addr::new(10, 0, 0, last);
                netlink
                    .add_address_ptp4(tun.index(), [10, 0, 0, 1].into(), peer)
                    .await
                    .unwrap();
                devices.push((tun, peer));
            }

            for (tun, peer) in devices {
                let hop = netlink.route_to(peer.into()).await.unwrap().unwrap();
                assert_eq!(hop.oif, tun.index());
                assert_eq!(hop.source, Some([10, 0, 0, 1].into()));
            }
        });
    }
}
