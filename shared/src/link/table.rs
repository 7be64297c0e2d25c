//! Routing tables of our own, filled and emptied as a whole.
//!
//! Their routes have protocol `kernel`, which systemd-networkd leaves alone;
//! what somebody else has put into such a table stays as it is.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use tokio::task;

use super::batch::{self, Action};
use super::{Family, Netlink, absent, errno, listed, route};

impl Netlink {
    /// Adds routes to a table, many in one write; those it has already stay.
    /// Returns how many the kernel refused, with the first reason.
    pub async fn fill(
        &self,
        table: u32,
        entries: impl Iterator<Item = Entry>,
    ) -> io::Result<Option<(usize, io::Error)>> {
        let messages = entries.map(|entry| entry.message(table));
        let requests = messages
            .enumerate()
            .map(|(at, message)| (at, batch::request(Action::Add, message)))
            .collect();
        let refused = self.send_all(Action::Add, requests).await?;
        let mut refused = refused
            .into_iter()
            .map(|bad| bad.why)
            .filter(|why| why.raw_os_error() != Some(libc::EEXIST));

        Ok(refused.next().map(|first| (1 + refused.count(), first)))
    }

    /// Removes our routes from a table, also those that a [`Self::fill`] adds
    /// which was broken off.
    pub async fn empty(&self, table: u32) -> io::Result<()> {
        self.settle_load().await?;
        for family in Family::BOTH {
            let entries = self.entries(family, table).await?;
            let requests = entries
                .into_iter()
                .enumerate()
                .map(|(at, entry)| (at, batch::request(Action::Delete, entry.message(table))))
                .collect();
            let refused = self.send_all(Action::Delete, requests).await?;
            if let Some(bad) = refused.into_iter().next() {
                return Err(bad.why);
            }
        }

        Ok(())
    }

    /// Our routes in a table.
    pub async fn entries(&self, family: Family, table: u32) -> io::Result<Vec<Entry>> {
        self.entries_by(family, table, None).await
    }

    /// Our routes in a table, those out of one device if it is named.
    pub async fn entries_by(
        &self,
        family: Family,
        table: u32,
        device: Option<u32>,
    ) -> io::Result<Vec<Entry>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family.code();
        request.header.table = RouteHeader::RT_TABLE_UNSPEC;
        request.attributes.push(RouteAttribute::Table(table));
        request.attributes.extend(device.map(RouteAttribute::Oif));
        let ask = || {
            let found = self.handle.route().get(request.clone()).execute();
            found
                .map_err(errno)
                .try_filter_map(|message| async move { Ok(Entry::parse(family, table, &message)) })
                .try_collect::<Vec<_>>()
        };

        let mut entries = absent(listed(ask).await, NO_TABLE)?.unwrap_or_default();
        // Before Linux 4.20 the kernel takes no wishes.
        if let Some(index) = device {
            entries.retain(|entry| entry.lead == Lead::Device(index));
        }

        Ok(entries)
    }

    async fn send_all(
        &self,
        action: Action,
        requests: Vec<(usize, batch::Request)>,
    ) -> io::Result<Vec<batch::BadLine>> {
        // Opened here: a thread for blocking work may be in another namespace.
        let socket = batch::socket()?;
        let loading = Arc::clone(&self.loading);
        let wanted = Wanted::default();
        let is_wanted = wanted.0.clone();
        let work = move || {
            let _alone = loading.lock().unwrap_or_else(PoisonError::into_inner);
            batch::load(&socket, action, requests, &is_wanted)
        };
        let (_, refused) = task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)??;

        Ok(refused)
    }

    /// Waits for the end of a load that nobody waits for any longer.
    async fn settle_load(&self) -> io::Result<()> {
        let loading = Arc::clone(&self.loading);
        let work = move || drop(loading.lock().unwrap_or_else(PoisonError::into_inner));

        task::spawn_blocking(work).await.map_err(io::Error::other)
    }
}

/// Stops a load when the one who waits for it is dropped.
struct Wanted(Arc<AtomicBool>);

impl Default for Wanted {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A route of such a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub net: IpNet,
    pub lead: Lead,
}

/// What a table says of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lead {
    /// Out of the link of that index; gone with it.
    Device(u32),
    /// The next rule is to be asked.
    Throw,
}

impl Entry {
    fn message(self, table: u32) -> RouteMessage {
        let mut message = match self.lead {
            Lead::Device(index) => route::unicast(self.net, None, Some(index)),
            Lead::Throw => {
                let mut message = route::unicast(self.net, None, None);
                message.header.kind = RouteType::Throw;
                message.header.scope = RouteScope::Universe;
                message
            }
        };
        message.header.protocol = RouteProtocol::Kernel;
        message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        message.attributes.push(RouteAttribute::Table(table));

        message
    }

    fn parse(family: Family, table: u32, message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let (mut net, mut oif) = (family.everything().addr(), None);
        // The kernel's own, of networks that a device is in, have the one (IPv4)
        // or the other (IPv6).
        let (mut has_source, mut metric) = (false, None);
        let mut of = u32::from(header.table);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => net = route::ip(address)?,
                RouteAttribute::Oif(index) => oif = Some(*index),
                RouteAttribute::Table(table) => of = *table,
                RouteAttribute::PrefSource(_) => has_source = true,
                RouteAttribute::Priority(given) => metric = Some(*given),
                _ => {}
            }
        }
        let lead = match header.kind {
            RouteType::Throw => Lead::Throw,
            RouteType::Unicast => Lead::Device(oif?),
            _ => return None,
        };
        let is_connected = has_source || metric == Some(CONNECTED6);
        let is_ours = of == table && header.protocol == RouteProtocol::Kernel && !is_connected;

        is_ours.then_some(Self {
            net: IpNet::new(net, header.destination_prefix_length).ok()?,
            lead,
        })
    }
}

/// `IP6_RT_PRIO_ADDRCONF` (linux/ipv6_route.h); ours get `IP6_RT_PRIO_USER`.
const CONNECTED6: u32 = 256;

/// What the kernel says of a table without routes, or of IPv6 where there is
/// none.
const NO_TABLE: &[libc::c_int] = &[libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::process::Command;

    use super::*;
    use crate::netns::isolated;
    use crate::tun::Tun;

    fn entries(index: u32) -> Vec<Entry> {
        let entry = |net: &str, lead| Entry {
            net: net.parse().unwrap(),
            lead,
        };

        vec![
            entry("0.0.0.0/0", Lead::Device(index)),
            entry("10.0.0.0/8", Lead::Throw),
            entry("192.0.2.7/32", Lead::Device(index)),
            entry("::/0", Lead::Device(index)),
            entry("fc00::/7", Lead::Throw),
        ]
    }

    async fn all(netlink: &Netlink, table: u32) -> HashSet<Entry> {
        let mut found = HashSet::new();
        for family in Family::BOTH {
            found.extend(netlink.entries(family, table).await.unwrap());
        }
        found
    }

    #[test]
    fn a_table_is_filled_and_emptied_and_no_other_is_touched() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false, true).unwrap();
            netlink.set_up(tun.index(), 1400).await.unwrap();
            let wanted = entries(tun.index());
            let before = netlink.routes().await.unwrap();

            for table in [100, 11764] {
                for _ in 0..2 {
                    let refused = netlink.fill(table, wanted.iter().copied()).await.unwrap();
                    assert!(refused.is_none(), "{refused:?}");
                }
                assert_eq!(all(&netlink, table).await, wanted.iter().copied().collect());
                let out = netlink.entries_by(Family::Ip4, table, Some(tun.index()));
                assert_eq!(out.await.unwrap(), [wanted[0], wanted[2]]);
            }
            for table in [100, 11764] {
                for _ in 0..2 {
                    netlink.empty(table).await.unwrap();
                }
            }

            assert_eq!(netlink.routes().await.unwrap(), before);
        });
    }

    #[test]
    fn networks_that_a_device_of_the_table_is_in_are_not_ours() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false, true).unwrap();
            netlink.set_up(tun.index(), 1400).await.unwrap();
            // As the kernel makes them in the table of a VRF.
            for words in [
                "addr add 10.9.0.1/32 dev dtun0",
                "route add 10.9.0.0/24 dev dtun0 proto kernel scope link src 10.9.0.1 table 101",
                "-6 route add fd00:9::/64 dev dtun0 proto kernel metric 256 table 101",
            ] {
                let status = Command::new("ip").args(words.split(' ')).status();
                assert!(status.unwrap().success(), "{words}");
            }
            let theirs = netlink.routes().await.unwrap();

            netlink.empty(101).await.unwrap();

            assert_eq!(netlink.routes().await.unwrap(), theirs);
        });
    }

    #[test]
    fn what_leads_into_a_device_goes_with_it_and_the_rest_asks_the_next_rule() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false, true).unwrap();
            netlink.set_up(tun.index(), 1400).await.unwrap();
            netlink
                .fill(11764, entries(tun.index()).into_iter())
                .await
                .unwrap();

            drop(tun);

            let left = all(&netlink, 11764).await;
            assert_eq!(left.len(), 2);
            assert!(left.iter().all(|entry| entry.lead == Lead::Throw));
        });
    }

    #[test]
    fn what_is_refused_is_counted_and_stops_nothing() {
        isolated(|netlink| async move {
            let nowhere = Entry {
                net: "10.0.0.0/8".parse().unwrap(),
                lead: Lead::Device(4711),
            };
            let throw = Entry {
                net: "10.0.0.0/16".parse().unwrap(),
                lead: Lead::Throw,
            };

            let refused = netlink.fill(11764, [nowhere, throw, nowhere].into_iter());
            let (count, why) = refused.await.unwrap().unwrap();

            assert_eq!((count, why.raw_os_error()), (2, Some(libc::ENODEV)));
            assert_eq!(all(&netlink, 11764).await, HashSet::from([throw]));
        });
    }
}
