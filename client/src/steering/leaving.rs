//! What is taken down at the end, and what stands over a restart.

use super::{Lease, Steering, sysctl};
use crate::firewall::Ending;
use crate::heritage::{self, LeftSteering};
use crate::routes::discard_routes;

impl Steering {
    /// Leaves nothing behind, but for a lock that is to stay.
    pub(crate) async fn remove(&mut self, ending: Ending) {
        let stood = self.forget_tunnel();
        self.remove_routes().await;
        // A lock that stays is to know of no tunnel; the rest goes at once.
        if let Some(firewall) = &self.firewall
            && stood
            && ending == Ending::Locked
        {
            firewall.withdraw().await;
        }
        self.resolvers.restore().await;
        if let Some(firewall) = self.firewall.take() {
            firewall.end(ending).await;
        }
    }

    /// What stands, for the next start; none while there is no tunnel.
    pub(crate) fn left(&self) -> Option<LeftSteering> {
        let lease = self.lease.as_ref()?;

        Some(LeftSteering {
            out6: lease.out6,
            routes: self.routes.as_ref().and_then(|routes| routes.left()),
        })
    }

    /// Leaves rules, tables and resolvers for the next start, and a lock. The
    /// rest of the firewall goes with its process.
    pub(crate) async fn leave(&mut self) {
        self.resolvers.leave().await;
        if let Some(firewall) = self.firewall.take() {
            firewall.end(Ending::Locked).await;
        }
        if let Some(lease) = &self.lease
            && self.routes.is_some()
        {
            sysctl::stay_without_carrier(&lease.device);
        }
    }

    /// Takes over what the last run left, and makes it what it is to be.
    pub(crate) async fn take_over(&mut self, left: &LeftSteering, lease: Lease) {
        if let Some(standing) = left.routes {
            let index = lease.index;
            let routes = self.routes.as_mut();
            let fits = routes.is_some_and(|routes| routes.take_over(standing, index));
            if !fits && let Err(error) = discard_routes(&self.netlink, standing).await {
                tracing::warn!(%error, "routes of the last run are not removed");
            }
        }
        self.stand(lease).await;
    }

    /// Removes what a run that was killed has left, before the first dial.
    pub(crate) async fn clean_up(&mut self) {
        let awaited = heritage::awaited().await;
        if let Some(routes) = &self.routes
            && let Err(error) = routes.clean_up(&awaited).await
        {
            tracing::warn!("{error}");
        }
        self.resolvers.clean_up(&awaited).await;
    }
}
