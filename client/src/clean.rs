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
/// When the kernel does not let rules or tables go.
pub async fn clean(state: Option<&Path>) -> anyhow::Result<()> {
    dns::clean(state);

    let netlink = Netlink::new().context("failed to open netlink")?;
    remove_leftovers(&netlink)
        .await
        .context("failed to remove the routes of a spoke that was killed")
}
