//! Puts back what others take from the device while the tunnel stands: its name,
//! which the packet filter's rules go by, its state, its addresses, its pools.

use std::io;

use dtun_shared::link::Via;
use ipnet::IpNet;

use super::{Tunnel, TunnelError, setup};

impl Tunnel {
    /// Puts back what is missing and returns what that was, for people. Routes
    /// are looked for only if a `thorough` look is due: the dump may be long.
    pub(crate) async fn mend(&mut self, thorough: bool) -> Result<Vec<&'static str>, TunnelError> {
        let index = self.index();
        let link = self.netlink.link_by_index(index).await;
        let link = link.map_err(setup("look for the device"))?;
        let Some(link) = link.filter(|_| self.up) else {
            return Ok(Vec::new());
        };

        let mut missing = Vec::new();
        if link.name != self.name() {
            missing.push("name");
            let result = self.rename_back().await;
            self.allow(result, "give the device its name back")?;
        }
        if !link.up {
            missing.push("state");
        }
        let present = self.netlink.addresses(index).await;
        let present = present.map_err(setup("read the device's addresses"))?;
        let is_there = |net: &IpNet| present.iter().any(|there| there.addr() == net.addr());
        if !self.added.iter().all(is_there) {
            missing.push("addresses");
        }
        if thorough && missing.is_empty() && self.lacks_routes().await {
            missing.push("routes");
        }
        if missing.iter().any(|what| *what != "name") {
            self.added.retain(is_there);
            self.routed.clear();
            self.install().await?;
        }

        Ok(missing)
    }

    /// The kernel renames a device that is up since Linux 6.2 only.
    async fn rename_back(&self) -> io::Result<()> {
        let (index, name) = (self.index(), self.name());
        match self.netlink.set_name(index, name).await {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            result => return result,
        }
        self.netlink.set_down(index).await?;
        let renamed = self.netlink.set_name(index, name).await;
        self.netlink
            .set_up(index, u32::from(self.plan.mtu))
            .await
            .and(renamed)
    }

    /// Whether pools that were routed into the device are so no more.
    async fn lacks_routes(&self) -> bool {
        let index = self.index();
        let routes = self.netlink.routes().await.unwrap_or_default();
        let is_there = |net: &IpNet| {
            let leads = Via::Device(index);
            routes.iter().any(|route| route.is(*net, leads))
        };

        !routes.is_empty() && !self.routed.iter().all(is_there)
    }
}
