//! Another configuration for a spoke that runs. What is not named here needs a
//! restart, and the command line's table says so.

use super::Spoke;
use crate::config::SpokeConfig;

impl Spoke {
    /// Takes over what can be without a break.
    pub(super) async fn reload(&mut self, new: SpokeConfig) {
        self.notify.reloading();
        let config = &mut self.config;
        config.once = new.once;
        config.keepalive = new.keepalive;
        config.dns = new.dns;
        // Switched on or off, these two need a restart, and what hangs on them.
        if config.strict == new.strict {
            config.fallback = new.fallback;
        }
        if config.route.is_some() == new.route.is_some() {
            config.route = new.route;
            config.route_from = new.route_from;
            config.bypass = new.bypass;
        }

        if let Some(pulse) = &mut self.session {
            pulse.set_keepalive(self.config.keepalive);
        }
        self.steering.reload(&self.config).await;
        self.notify.ready();
    }
}
