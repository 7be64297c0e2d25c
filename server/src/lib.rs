//! The hub: listener, its side of the handshake, leases, pools, peernet policy.

mod config;
pub mod handshake;
mod hub;
mod lease;
mod peernet;
mod pool;
mod session;

use std::future::Future;

pub use config::{HubConfig, Pool6};

/// Serves until `stop` resolves or something fails for good.
pub async fn run(config: HubConfig, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    drop((config, stop));
    anyhow::bail!("not built yet")
}
