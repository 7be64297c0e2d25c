//! Another configuration for a hub that serves. What is not named here needs a
//! restart, and the command line's table says so.

use std::sync::Arc;

use super::Hub;
use crate::HubConfig;
use crate::peernet::Policy;

impl Hub {
    /// Takes over what can be without a break.
    pub(super) async fn reload(&mut self, config: HubConfig) {
        self.keepalive = config.keepalive;
        self.leases.set_lasting(config.lease);
        self.memory.touch();
        if let (Some(nat), Some(wanted)) = (&self.nat, config.nat) {
            nat.set_except(wanted.except);
        }

        self.policy = Policy::new(config.allow_peernet);
        // Each spoke's networks are judged anew, as if it had told of them now.
        let told: Vec<_> = self
            .kept
            .values_mut()
            .filter(|kept| kept.up)
            .filter_map(|kept| Some((Arc::clone(&kept.session), kept.told.take()?)))
            .collect();
        for (session, meta) in told {
            self.handle_meta(&session, meta).await;
        }
    }
}
