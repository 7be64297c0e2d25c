//! Waiting for a time that may not be set.

use std::time::Instant;

/// Waits until then, or for ever. Cancelling the wait loses nothing.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
