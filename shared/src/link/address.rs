//! Addresses of links.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};

use super::{Netlink, absent, errno};

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
    pub async fn add_address6(
        &self,
        index: u32,
        local: Ipv6Addr,
        peer: Option<Ipv6Addr>,
    ) -> io::Result<()> {
        self.add_address(index, local.into(), peer.map(IpAddr::from), 128)
            .await
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
        let all = self.address_list().await?;

        Ok(all
            .into_iter()
            .filter(|address| address.index == index)
            .map(|address| address.net)
            .collect())
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
        self.handle
            .address()
            .get()
            .execute()
            .map_err(errno)
            .try_filter_map(|message| async move { Ok(Address::parse(&message)) })
            .try_collect()
            .await
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
