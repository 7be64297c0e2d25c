//! From one run to the next: what a restart leaves standing, and what a start
//! takes over.

use std::os::fd::{AsFd as _, OwnedFd};

use dtun_shared::link::Netlink;
use dtun_shared::service::Notify;

use super::{Hooked, Spoke};
use crate::firewall::Ending;
use crate::heritage::{Found, Heritage};
use crate::hooks;
use crate::steering::Lease;
use crate::tunnel::Tunnel;

impl Spoke {
    /// The first steps: a lock, what the last run left for this one, and what
    /// runs that were killed have left.
    pub(super) async fn begin(&mut self) -> anyhow::Result<()> {
        let Found { ours, unfit } = Heritage::find(&self.config, &self.hint).await;
        for heritage in unfit {
            discard(&self.netlink, &heritage).await;
        }
        let stored = self.stored();
        let lease = match &ours {
            Some(heritage) => self.take_over_tunnel(heritage, stored).await,
            None => None,
        };
        self.steering.begin(&self.config, lease.as_ref()).await?;
        if let (Some(heritage), Some(lease)) = (ours, lease) {
            self.take_over_rest(heritage, lease).await;
        }
        self.steering.clean_up().await;
        // A device that is there may be that of another that starts again.
        hooks::undo_left(&self.netlink, |_| true).await;

        Ok(())
    }

    /// The descriptor that the service manager kept, which is to close its own:
    /// the device goes with us alone.
    fn stored(&mut self) -> Option<OwnedFd> {
        let stored = self.notify.stored();
        if !stored.is_empty() {
            self.notify.forget(STORED);
        }

        stored
            .into_iter()
            .find_map(|(name, fd)| (name == STORED).then_some(fd))
    }

    /// Takes the device over; the data path gets it with the first session, so
    /// that what waits in it has somewhere to go.
    async fn take_over_tunnel(
        &mut self,
        heritage: &Heritage,
        stored: Option<OwnedFd>,
    ) -> Option<Lease> {
        let left = heritage.tunnel.clone();
        let addresses = left.addresses;
        match Tunnel::take_over(&self.netlink, left, stored, self.config.offload).await {
            Ok(tunnel) => {
                let lease = Lease {
                    device: tunnel.name().to_owned(),
                    index: tunnel.index(),
                    addresses,
                    out6: heritage.steering.as_ref().is_some_and(|it| it.out6),
                };
                tracing::info!(
                    device = lease.device,
                    "the tunnel of the last run is taken over"
                );
                self.tunnel = Some(tunnel);
                Some(lease)
            }
            Err(error) => {
                tracing::warn!(
                    device = heritage.tunnel.device,
                    "the tunnel of the last run is made anew: {error}"
                );
                discard(&self.netlink, heritage).await;
                None
            }
        }
    }

    async fn take_over_rest(&mut self, heritage: Heritage, lease: Lease) {
        if let Some(left) = &heritage.steering {
            self.steering.take_over(left, lease).await;
        }
        self.hooked = heritage.hooked.clone().map(Hooked::from_left);
        if let Some(env) = self.hooked.as_ref().map(Hooked::env) {
            self.hooks.take_over(env).await;
        }
        self.known.clone_from(&heritage.known);
        heritage.forget();
    }

    /// Leaves the tunnel for the next start. The hub is not told: its routes
    /// stay, and the next session takes the place of this one.
    pub(super) async fn leave(mut self, notify: &mut Notify) {
        let Some(heritage) = self.put_by(notify) else {
            return notify.extending(self.goodbye(Ending::Locked)).await;
        };
        notify.extending(self.hooks.finish()).await;
        self.steering.leave().await;
        tracing::info!(
            device = heritage.tunnel.device,
            "the tunnel is left for the next start"
        );
        drop(self.datapath); // Its threads end, and let go of the device.
    }

    /// Has the device outlive us, with a sign of it; none where there is nothing
    /// to leave, or no way to.
    ///
    /// The service manager's store is the better place: it keeps what is on its
    /// way in the device, and closes it when the service stops for good. But
    /// before systemd 254 nothing tells whether there is one.
    fn put_by(&self, notify: &mut Notify) -> Option<Heritage> {
        let tunnel = self.tunnel.as_ref().filter(|tunnel| tunnel.is_up())?;
        let left = tunnel.left();
        let mut heritage = Heritage::new(&self.config, &self.hint, left);
        heritage.steering = self.steering.left();
        heritage.hooked = self.hooked.as_ref().map(Hooked::left);
        heritage.known.clone_from(&self.known);
        if let Err(error) = heritage.leave() {
            tracing::warn!(%error, "nothing can be left for the next start");
            return None;
        }
        let stored = notify.store(STORED, tunnel.device().as_fd());
        if stored.is_ok() && has_store() {
            return Some(heritage);
        }
        if let Err(error) = tunnel.outlive() {
            tracing::warn!(%error, "the device cannot be left for the next start");
            heritage.forget();
            return None;
        }

        Some(heritage)
    }
}

/// Whether the service manager says that it keeps descriptors (systemd.exec(5)).
fn has_store() -> bool {
    std::env::var("FDSTORE").is_ok_and(|most| most.parse().is_ok_and(|most: u32| most > 0))
}

async fn discard(netlink: &Netlink, heritage: &Heritage) {
    if let Err(error) = heritage.discard(netlink).await {
        tracing::warn!(
            device = heritage.tunnel.device,
            %error,
            "what the last run left is not taken down"
        );
    }
}

/// What the service manager keeps the device under.
const STORED: &str = "tun";
