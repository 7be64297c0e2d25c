//! Other routes, lists and resolvers while the tunnel stands.

use dtun_shared::mark::Mark;

use super::Steering;
use crate::config::SpokeConfig;
use crate::firewall::Settings;
use crate::routes::{Bypass, Plan, Unmarked};

impl Steering {
    /// Takes over what is routed, from whom, what stays out, and the resolvers.
    /// Rules lead into the tunnel all the time, those of before until those of
    /// now do.
    pub(crate) async fn reload(&mut self, config: &SpokeConfig) {
        let (Some(routes), Some(plan)) = (&mut self.routes, plan(config, self.leaving.mark)) else {
            return self.reload_names(config).await;
        };
        self.what.clone_from(&config.route);
        routes.set_plan(plan);
        if self.source != config.bypass {
            self.source.clone_from(&config.bypass);
            self.files = None;
        }
        if self.source.is_none() {
            routes.set_bypass(Bypass::default());
        }
        if let Some(firewall) = &self.firewall {
            match Settings::for_spoke(config) {
                Ok(Some(settings)) => firewall.change(settings).await,
                Ok(None) => {}
                Err(error) => tracing::warn!("the firewall stays as it was: {error:#}"),
            }
        }
        self.reload_names(config).await;
    }

    async fn reload_names(&mut self, config: &SpokeConfig) {
        if self.dns != config.dns {
            self.dns.clone_from(&config.dns);
            if self.dns.is_empty() {
                self.resolvers.restore().await;
            }
        }
        if let Some(lease) = self.lease.clone() {
            self.stand(lease).await;
        }
    }
}

/// What is to be routed; none where scripts do that.
pub(super) fn plan(config: &SpokeConfig, mark: Option<Mark>) -> Option<Plan> {
    Some(Plan {
        what: config.route.clone()?,
        mark: mark?,
        dns: config.dns.clone(),
        from: config.route_from.clone(),
        unmarked: Unmarked::default(),
    })
}
