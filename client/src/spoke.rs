//! The spoke's loop.

use std::future::Future;

use crate::config::SpokeConfig;

/// Keeps a tunnel to the hub until `stop` is done.
pub async fn run(config: SpokeConfig, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    stop.await;
    anyhow::bail!("failed to dial {}", config.connect)
}
