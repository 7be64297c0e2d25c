//! The spoke: dial, reconnect, routes, hooks.

mod admit;
mod backoff;
mod clash;
mod config;
pub mod dial;
mod hint;
mod liveness;
mod spoke;

pub use config::SpokeConfig;
pub use spoke::run;
