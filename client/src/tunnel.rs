//! The spoke's device, with its addresses and the routes of the hub's pools.
//!
//! The device is not persistent, so that whatever hangs on it goes with the
//! process, but for the time of a restart that was announced. Setting it down
//! withdraws every route on it, a script's too, and keeps its addresses. A device
//! that existed before us belongs to its owner: what may not be changed on it
//! stays as it is.

mod left;
mod mend;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use dtun_shared::dtls::CipherSuite;
use dtun_shared::link::{GROUP_OF_SPOKES, KERNEL, Netlink, RouteKind, Via};
use dtun_shared::meta::Addresses;
use dtun_shared::pmtu::carried;
use dtun_shared::tun::{DeviceError, Tun};
use ipnet::IpNet;

/// A tunnel's end on this machine.
#[derive(Debug)]
pub(crate) struct Tunnel {
    tun: Arc<Tun>,
    netlink: Netlink,
    plan: Plan,
    /// Whether the device was there before us.
    attached: bool,
    up: bool,
    /// Addresses that we put on it.
    added: Vec<IpNet>,
    /// Networks that we routed into it.
    routed: Vec<IpNet>,
}

/// What the device is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) addresses: Addresses,
    pub(crate) mtu: u16,
    /// Pools that are routed into the device.
    pub(crate) pools: Vec<IpNet>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("cannot {what}: {source}")]
    Setup {
        what: &'static str,
        source: io::Error,
    },
}

impl Tunnel {
    /// Makes the device, or attaches to the persistent one of that name, and
    /// sets it up.
    pub(crate) async fn create(
        netlink: &Netlink,
        name: Option<&str>,
        offload: bool,
        plan: Plan,
    ) -> Result<Self, TunnelError> {
        let attached = match name {
            Some(name) => netlink
                .link(name)
                .await
                .map_err(setup("look for the device"))?
                .is_some(),
            None => false,
        };
        let tun = Arc::new(Tun::create(name.unwrap_or(ANY_NAME), false, offload)?);
        let mut tunnel = Self {
            tun,
            netlink: netlink.clone(),
            plan,
            attached,
            up: false,
            added: Vec::new(),
            routed: Vec::new(),
        };
        if !attached {
            // Filters of other spokes know it by that.
            netlink
                .set_group(tunnel.index(), GROUP_OF_SPOKES)
                .await
                .map_err(setup("set the device's group"))?;
            netlink
                .quiet(tunnel.index(), tunnel.tun.name())
                .await
                .map_err(setup("silence the device"))?;
        }
        tunnel.install().await?;

        Ok(tunnel)
    }

    pub(crate) fn name(&self) -> &str {
        self.tun.name()
    }

    pub(crate) fn index(&self) -> u32 {
        self.tun.index()
    }

    /// The device, for the data path.
    pub(crate) fn device(&self) -> Arc<Tun> {
        Arc::clone(&self.tun)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether packets can be routed into the device.
    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// Sets the device up with all that it is to have; what is there stays.
    pub(crate) async fn install(&mut self) -> Result<(), TunnelError> {
        let index = self.index();
        let mtu = u32::from(self.plan.mtu);
        if !self.is_set_up(mtu).await {
            let result = self.netlink.set_up(index, mtu).await;
            self.allow(result, "set the device up")?;
        }
        self.up = true;

        let ip6 = self.install_addresses().await?;
        let present = self.present_routes().await;
        for pool in self.plan.pools.clone() {
            let is_moot = !ip6 && matches!(pool, IpNet::V6(_));
            if is_moot || present.contains(&pool) {
                continue;
            }
            let result = self.netlink.add_route(pool, Via::Device(index)).await;
            match result {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    tracing::warn!(%pool, "the hub's pool is routed elsewhere on this machine already");
                }
                result => {
                    self.allow(result, "route the hub's pool into the device")?;
                    self.routed.push(pool);
                }
            }
        }

        Ok(())
    }

    /// Gives the device other addresses, another MTU, other pools.
    pub(crate) async fn change(&mut self, plan: Plan) -> Result<(), TunnelError> {
        if plan.addresses != self.plan.addresses {
            self.take_back().await?;
        }
        self.plan = plan;

        self.install().await
    }

    /// Sets the device down, which takes every route on it away.
    pub(crate) async fn withdraw(&mut self) -> Result<(), TunnelError> {
        let result = self.netlink.set_down(self.index()).await;
        self.allow(result, "set the device down")?;
        self.up = false;

        Ok(())
    }

    /// Takes the device for down, though it could not be set so.
    pub(crate) fn give_up(&mut self) {
        self.up = false;
    }

    /// Takes every route on the device away but those of the pools.
    pub(crate) async fn withdraw_others(&mut self) -> Result<(), TunnelError> {
        self.withdraw().await?;

        self.install().await
    }

    /// Networks that go into the device beside the pools.
    pub(crate) async fn routed(&self) -> io::Result<Vec<IpNet>> {
        let mut nets: Vec<_> = self
            .netlink
            .routes()
            .await?
            .into_iter()
            .filter(|route| {
                route.oif == Some(self.index())
                    && route.kind == RouteKind::Unicast
                    && route.protocol != KERNEL
                    && !self.plan.pools.contains(&route.net)
            })
            .map(|route| route.net)
            .collect();
        nets.sort_unstable();
        nets.dedup();

        Ok(nets)
    }

    /// Takes away what we put on a device that stays.
    pub(crate) async fn remove(mut self) -> Result<(), TunnelError> {
        if !self.attached {
            return Ok(()); // It goes with its descriptor.
        }

        self.take_back().await
    }

    /// Removes what we added to the device.
    async fn take_back(&mut self) -> Result<(), TunnelError> {
        let index = self.index();
        for pool in std::mem::take(&mut self.routed) {
            let result = self.netlink.delete_route(pool, Via::Device(index)).await;
            self.allow(result, "remove the route of the hub's pool")?;
        }
        for net in std::mem::take(&mut self.added) {
            let result = self.netlink.remove_address(index, net).await;
            self.allow(result, "remove an address")?;
        }

        Ok(())
    }

    /// Whether the owner of an attached device has set it up already.
    async fn is_set_up(&self, mtu: u32) -> bool {
        self.attached
            && match self.netlink.link_by_index(self.index()).await {
                Ok(Some(link)) => link.up && link.mtu == mtu,
                Ok(None) | Err(_) => false,
            }
    }

    /// What the owner of an attached device has routed into it already.
    async fn present_routes(&self) -> Vec<IpNet> {
        if !self.attached {
            return Vec::new();
        }
        let routes = self.netlink.routes().await.unwrap_or_default();

        routes
            .into_iter()
            .filter(|route| route.oif == Some(self.index()))
            .map(|route| route.net)
            .collect()
    }

    /// Whether the device has an IPv6 address then.
    async fn install_addresses(&mut self) -> Result<bool, TunnelError> {
        let index = self.index();
        let addresses = self.plan.addresses;
        let present = self
            .netlink
            .addresses(index)
            .await
            .map_err(setup("read the device's addresses"))?;
        let is_present = |ip: IpAddr| present.iter().any(|net| net.addr() == ip);

        let (local, peer) = (addresses.local4.addr(), addresses.peer4.addr());
        if !is_present(local.into()) {
            let result = self.netlink.add_address_ptp4(index, local, peer).await;
            self.allow(result, "give the device its IPv4 address")?;
            self.added.push(IpAddr::V4(local).into());
        }
        let Some((local, peer)) = addresses.ip6 else {
            return Ok(false);
        };
        if !is_present(local.addr().into()) {
            let result = self
                .netlink
                .add_address6(index, local.addr(), Some(peer.addr()))
                .await;
            match result {
                Ok(()) => self.added.push(IpAddr::V6(local.addr()).into()),
                Err(error) if self.attached => {
                    self.allow(Err(error), "give the device its IPv6 address")?;
                    return Ok(false);
                }
                // A sysctl may forbid it for this device alone.
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "this machine takes no IPv6 address: the tunnel carries IPv4 only",
                    );
                    return Ok(false);
                }
            }
        }

        Ok(true)
    }

    /// Passes errors on, but for rights that an attached device does not give.
    fn allow(&self, result: io::Result<()>, what: &'static str) -> Result<(), TunnelError> {
        match result {
            Err(error) if self.attached && error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(device = self.name(), "not allowed to {what}: left as it is");
                Ok(())
            }
            result => result.map_err(setup(what)),
        }
    }
}

/// The inner MTU: what the user said, else what a route whose MTU is `outer`
/// carries to the hub in one piece; never less than IPv6 needs.
pub(crate) fn own_mtu(
    told: Option<u16>,
    outer: Option<u32>,
    hub: IpAddr,
    suite: CipherSuite,
) -> u16 {
    let fits = outer.map(|outer| carried(outer, hub, suite));

    told.or(fits).unwrap_or(UNKNOWN_MTU).max(LEAST_MTU)
}

/// The lower of both ends' MTUs; a hub that says none is the Go program.
pub(crate) fn common_mtu(own: u16, hub: Option<u16>) -> u16 {
    own.min(hub.unwrap_or(GO_BUFFER)).max(LEAST_MTU)
}

fn setup(what: &'static str) -> impl FnOnce(io::Error) -> TunnelError {
    move |source| TunnelError::Setup { what, source }
}

const ANY_NAME: &str = "dtun%d";

/// Where the route is not known: leaves room for any suite on a path of 1500
/// with PPPoE and the like on it.
const UNKNOWN_MTU: u16 = 1400;

/// A device below it loses its IPv6 addresses.
const LEAST_MTU: u16 = 1280;

/// The Go program's buffer for a record: a longer one ends its session.
const GO_BUFFER: u16 = 1500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mtu_is_what_the_user_said_or_the_route_carries_and_never_under_1280() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let (gcm, ccm8) = (CipherSuite::Gcm, CipherSuite::Ccm8);

        assert_eq!(own_mtu(None, None, v4, gcm), 1400);
        assert_eq!(own_mtu(None, Some(1500), v4, gcm), 1435);
        assert_eq!(own_mtu(None, Some(1500), v6, gcm), 1415);
        assert_eq!(own_mtu(None, Some(1500), v4, ccm8), 1443);
        assert_eq!(own_mtu(None, Some(9000), v4, gcm), 8935);
        assert_eq!(own_mtu(None, Some(1280), v6, gcm), 1280);
        assert_eq!(own_mtu(Some(1500), Some(1400), v4, gcm), 1500);
        assert_eq!(common_mtu(1435, Some(1300)), 1300);
        assert_eq!(common_mtu(1435, Some(576)), 1280);
        assert_eq!(common_mtu(1435, None), 1435);
        assert_eq!(common_mtu(9000, None), 1500);
    }
}
