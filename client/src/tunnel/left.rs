//! The device between two runs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dtun_shared::link::{GROUP_OF_SPOKES, Netlink};
use dtun_shared::tun::{DeviceError, Tun};

use super::{Plan, Tunnel, TunnelError, setup};
use crate::heritage::LeftTunnel;

impl Tunnel {
    /// Takes over the device that the last run left, by its descriptor or by its
    /// name, with all that is on it.
    pub(crate) async fn take_over(
        netlink: &Netlink,
        left: LeftTunnel,
        stored: Option<OwnedFd>,
        offload: bool,
    ) -> Result<Self, TunnelError> {
        let LeftTunnel { device, index, .. } = left;
        let link = netlink.link_by_index(index).await;
        let link = link.map_err(setup("look for the device"))?;
        let link = link
            .filter(|link| link.name == device && (left.attached || link.group == GROUP_OF_SPOKES));
        let Some(link) = link else {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(setup("find the device of the last run")(gone));
        };
        let tun = match stored {
            Some(fd) => Tun::take_over(fd, offload)?,
            None => Tun::create(&device, false, offload)?,
        };
        if tun.index() != index {
            return Err(DeviceError::Busy(device).into());
        }
        if !left.attached {
            // From now on it goes with us again.
            tun.set_persistent(false).map_err(DeviceError::Io)?;
        }

        Ok(Self {
            tun: Arc::new(tun),
            netlink: netlink.clone(),
            plan: Plan {
                addresses: left.addresses,
                mtu: left.mtu,
                pools: left.pools,
            },
            attached: left.attached,
            up: link.up,
            added: left.added,
            routed: left.routed,
        })
    }

    /// What the next start has to know of it.
    pub(crate) fn left(&self) -> LeftTunnel {
        LeftTunnel {
            device: self.name().to_owned(),
            index: self.index(),
            attached: self.attached,
            addresses: self.plan.addresses,
            mtu: self.plan.mtu,
            pools: self.plan.pools.clone(),
            added: self.added.clone(),
            routed: self.routed.clone(),
        }
    }

    /// Has the device outlive this process.
    pub(crate) fn outlive(&self) -> io::Result<()> {
        if self.attached {
            return Ok(()); // It does so by itself.
        }

        self.tun.set_persistent(true)
    }
}
