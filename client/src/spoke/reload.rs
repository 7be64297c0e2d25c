//! Another configuration for a spoke that runs. What is not named here needs a
//! restart, and the command line's table says so.

use super::Spoke;
use crate::config::SpokeConfig;

impl Spoke {
    /// Takes over what can be without a break; none where nothing is to be. The
    /// service manager waits for the end of it in either case.
    pub(super) async fn reload(&mut self, new: Option<Box<SpokeConfig>>) {
        self.notify.reloading();
        if let Some(new) = new {
            self.take_over(*new).await;
        }
        self.notify.ready();
    }

    async fn take_over(&mut self, new: SpokeConfig) {
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
    }
}
