//! Other settings for the task that keeps the filter.

use super::super::plan::End;
use super::super::{Settings, inside_now};
use super::Guard;
use crate::steering::Lease;

impl Guard {
    /// Makes the table what other settings ask for. Whether there is a lock stays
    /// as it is.
    pub(super) async fn change(&mut self, settings: Settings) {
        if settings == self.settings {
            return;
        }
        self.settings = settings;
        // Until now nobody may have asked for them.
        if self.wants_inside()
            && let Ok(inside) = inside_now(&self.netlink).await
        {
            self.inside = inside;
        }
        if let Err(error) = self.put_up().await {
            tracing::warn!("the firewall stays as it was: {error}");
            self.retry(&error);
        }
    }
}

impl From<&Lease> for End {
    fn from(lease: &Lease) -> Self {
        Self {
            ip4: lease.addresses.local4.addr(),
            ip6: lease.addresses.ip6.map(|(local, _)| local.addr()),
            device: lease.device.clone(),
        }
    }
}
