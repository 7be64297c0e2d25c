//! `dtun clean`: undoes what spokes that were killed have left. Nothing of it
//! holds traffic up; those that run are not touched, nor is a lock.

use std::path::Path;

use anyhow::Context as _;
use dtun_shared::link::Netlink;

use crate::dns;
use crate::routes::remove_leftovers;

/// Puts back the machine's resolvers, and removes rules and tables. `state` is
/// the folder of the spokes' state, none for the default.
///
/// # Errors
///
/// When resolvers cannot be put back, or the kernel does not let rules or tables
/// go; the rest is done all the same.
pub async fn clean(state: Option<&Path>) -> anyhow::Result<()> {
    let names = dns::clean(state);

    let netlink = Netlink::new().context("failed to open netlink")?;
    remove_leftovers(&netlink)
        .await
        .context("failed to remove the routes of a spoke that was killed")?;
    anyhow::ensure!(names, "resolvers of a spoke that was killed are still set");

    Ok(())
}
