//! The device of a lease, on the machine: made or attached to, addressed,
//! carried, deleted.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use dtun_shared::datapath::{Datapath, Key};
use dtun_shared::hook::Posted;
use dtun_shared::link::{GROUP_OF_HUBS, Netlink, Via};
use dtun_shared::tun::{DeviceError, Tun};
use ipnet::IpNet;
use tokio::task::JoinHandle;

use crate::hub::fight::Fight;
use crate::hub::shared::Shared;
use crate::pool::Addresses;

/// A lease's device while the hub holds it.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) tun: Arc<Tun>,
    key: Key,
    mtu: u32,
    /// Peernets routed to the device.
    pub(super) routed: Vec<IpNet>,
    pub(super) fight: Fight,
    /// The hub's address that the first session was made with.
    pub(super) asked: Option<IpAddr>,
    /// The up hook, running or over; none before the first session.
    pub(super) hook: Option<JoinHandle<Option<Posted>>>,
    /// Lines that an earlier run has left, until there is a session.
    pub(super) posted: Option<Posted>,
}

/// What a device is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) hint: &'a str,
    pub(super) lease: Addresses,
    pub(super) hub: Addresses,
    pub(super) mtu: u32,
    pub(super) offload: bool,
}

impl Port {
    /// Makes the device, or attaches to the one an earlier run left behind.
    pub(super) async fn open(
        netlink: &Netlink,
        datapath: &Datapath<Shared>,
        plan: Plan<'_>,
    ) -> Result<Self, DeviceError> {
        let tun = Arc::new(attach(netlink, plan.name, plan.offload).await?);
        let carry = || datapath.add_device(Arc::clone(&tun), plan.hint.to_owned());
        let key = match configure(netlink, &tun, plan).await.and_then(|()| carry()) {
            Ok(key) => key,
            Err(error) => {
                netlink.delete_link(tun.index()).await?;
                return Err(error.into());
            }
        };

        Ok(Self {
            tun,
            key,
            mtu: plan.mtu,
            routed: Vec::new(),
            fight: Fight::default(),
            asked: None,
            hook: None,
            posted: None,
        })
    }

    pub(super) async fn set_mtu(&mut self, netlink: &Netlink, mtu: u16) {
        let mtu = u32::from(mtu);
        if mtu == self.mtu {
            return;
        }
        match netlink.set_mtu(self.tun.index(), mtu).await {
            Ok(()) => self.mtu = mtu,
            Err(error) => tracing::warn!(device = self.tun.name(), %error, "MTU not set"),
        }
    }

    pub(super) fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Routes `net` to the device.
    pub(super) async fn route(&mut self, netlink: &Netlink, net: IpNet) -> io::Result<()> {
        netlink
            .add_route(net, Via::Device(self.tun.index()))
            .await?;
        self.routed.push(net);

        Ok(())
    }

    /// Withdraws every route for which `keep` says no.
    pub(super) async fn withdraw(&mut self, netlink: &Netlink, keep: impl Fn(&IpNet) -> bool) {
        for net in self.routed.extract_if(.., |net| !keep(net)) {
            let via = Via::Device(self.tun.index());
            if let Err(error) = netlink.delete_route(net, via).await {
                tracing::warn!(%net, device = self.tun.name(), %error, "route not removed");
            }
        }
    }

    /// Deletes every device at once, if no other hub has one in the group.
    pub(super) async fn delete_all(
        ports: Vec<Self>,
        netlink: &Netlink,
        datapath: &Datapath<Shared>,
    ) -> io::Result<()> {
        let ours: HashSet<_> = ports.iter().map(|port| port.tun.index()).collect();
        let group = netlink.links_in_group(GROUP).await?;
        if group.iter().all(|link| ours.contains(&link.index)) {
            for port in &ports {
                datapath.remove(port.key);
            }
            return netlink.delete_group(GROUP).await;
        }
        for port in ports {
            port.delete(netlink, datapath).await;
        }

        Ok(())
    }

    /// Deletes the device and with it its addresses and routes.
    pub(super) async fn delete(self, netlink: &Netlink, datapath: &Datapath<Shared>) {
        datapath.remove(self.key);
        if let Err(error) = netlink.delete_link(self.tun.index()).await {
            tracing::warn!(device = self.tun.name(), %error, "device not deleted");
        }
    }
}

/// Takes the addresses off a device, and with them the routes to the spoke.
pub(super) async fn strip(netlink: &Netlink, index: u32) -> io::Result<()> {
    for net in netlink.addresses(index).await? {
        netlink.remove_address(index, net).await?;
    }

    Ok(())
}

/// Takes from the devices of an earlier run what it left on them: addresses of
/// another pool, routes of sessions that died with it. A route that the owner
/// has set by hand is not `proto static` and stays.
pub(super) async fn clean(
    netlink: &Netlink,
    ports: &HashSet<u32>,
    hub: Addresses,
) -> io::Result<()> {
    for (index, net) in netlink.all_addresses().await? {
        let ours = match net.addr() {
            IpAddr::V4(ip) => ip == hub.ip4.addr(),
            IpAddr::V6(ip) => hub.ip6.is_some_and(|hub| hub.addr() == ip),
        };
        if ports.contains(&index) && !ours {
            netlink.remove_address(index, net).await?;
        }
    }
    for route in netlink.routes().await? {
        let Some(index) = route.oif.filter(|index| ports.contains(index)) else {
            continue;
        };
        if route.protocol == PROTO_STATIC && route.gateway.is_none() {
            netlink.delete_route(route.net, Via::Device(index)).await?;
        }
    }

    Ok(())
}

/// Deletes devices of earlier runs but for those that `named` says and those
/// that another hub on this machine holds.
pub(crate) async fn delete_strays(
    netlink: &Netlink,
    named: impl Fn(&str) -> bool,
) -> io::Result<()> {
    let mut group = netlink.links_in_group(GROUP).await?;
    let all = group.len();
    group.retain(|link| {
        !named(&link.name)
            && !matches!(
                Tun::create(&link.name, false, false),
                // Or nobody knows.
                Err(DeviceError::Busy(_) | DeviceError::NotPermitted | DeviceError::NoTunModule)
            )
    });
    tracing::debug!(devices = group.len(), "stray devices");
    if group.is_empty() {
        return Ok(());
    }

    if group.len() == all {
        return netlink.delete_group(GROUP).await;
    }
    for link in group {
        netlink.delete_link(link.index).await?;
    }

    Ok(())
}

async fn attach(netlink: &Netlink, name: &str, offload: bool) -> Result<Tun, DeviceError> {
    if let Some(link) = netlink.link(name).await?
        && link.group != GROUP
    {
        return Err(DeviceError::Busy(name.to_owned()));
    }

    match Tun::create(name, true, offload) {
        // Ours by its group, but with flags of another version of this program.
        Err(DeviceError::Mismatch(_)) => {
            if let Some(link) = netlink.link(name).await? {
                netlink.delete_link(link.index).await?;
            }
            Tun::create(name, true, offload)
        }
        result => result,
    }
}

async fn configure(netlink: &Netlink, tun: &Tun, plan: Plan<'_>) -> io::Result<()> {
    let index = tun.index();
    // The group first: a kill in between leaves a stray that the next start finds.
    netlink.set_group(index, GROUP).await?;
    netlink.set_alias(index, plan.hint).await?;
    netlink.quiet(index, plan.name).await?;

    give_addresses(netlink, index, plan).await
}

/// Sets the device up, and gives it its addresses; those it has stay.
pub(super) async fn give_addresses(
    netlink: &Netlink,
    index: u32,
    plan: Plan<'_>,
) -> io::Result<()> {
    netlink.set_up(index, plan.mtu).await?;

    netlink
        .add_address_ptp4(index, plan.hub.ip4.addr(), plan.lease.ip4.addr())
        .await?;
    // On a device that is down the kernel may leave out the route to the peer.
    if let (Some(hub), Some(lease)) = (plan.hub.ip6, plan.lease.ip6) {
        netlink
            .add_address6(index, hub.addr(), Some(lease.addr()))
            .await?;
    }

    Ok(())
}

/// The link group of every hub's devices: `ip link show group 25716`.
pub(crate) const GROUP: u32 = GROUP_OF_HUBS;

/// As in /etc/iproute2/rt_protos.
const PROTO_STATIC: u8 = 4;
