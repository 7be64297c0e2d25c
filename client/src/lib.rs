//! The spoke: dial, reconnect, routes, hooks.

mod admit;
mod attempt;
mod backoff;
mod clash;
mod config;
pub mod dial;
mod hint;
mod hooks;
mod liveness;
mod report;
mod resolve;
mod session;
mod side;
mod spoke;
mod tunnel;
mod uplink;

pub use config::SpokeConfig;
pub use spoke::run;
