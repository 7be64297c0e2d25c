//! The spoke: dial, reconnect, routes, hooks.

mod admit;
mod attempt;
mod backoff;
mod clash;
mod clean;
mod config;
pub mod dial;
mod dns;
mod firewall;
mod heritage;
mod hint;
mod hooks;
mod liveness;
mod report;
mod resolve;
mod routes;
mod session;
mod side;
mod spoke;
mod steering;
mod tunnel;
mod uplink;

pub use clean::clean;
pub use config::{CleanConfig, LockConfig, SpokeConfig};
pub use dns::guard;
pub use firewall::{lock, unlock};
pub use routes::{BypassSource, BypassWord, NotABypass, RouteFrom, RouteWhat};
pub use spoke::run;
