//! `dtun clean`: undoes what spokes that were killed have left. Nothing of it
//! holds traffic up; those that run are not touched, nor is a lock.

use anyhow::Context as _;
use dtun_shared::link::Netlink;
use dtun_shared::status::needs_root;

use crate::config::CleanConfig;
use crate::firewall::lock_stands;
use crate::routes::{Place, remove_leftovers};
use crate::{dns, heritage, hooks};

/// Puts back the machine's resolvers, and removes rules, tables and devices.
/// What waits for a start that may still come stays, if it is the service manager
/// who asks.
///
/// # Errors
///
/// When this process may not, resolvers cannot be put back, or the kernel does
/// not let rules or tables go; the rest is done all the same.
pub async fn clean(config: CleanConfig) -> anyhow::Result<()> {
    needs_root("clean")?;
    let netlink = Netlink::new().context("failed to open netlink")?;
    let (awaited, taken_down) = heritage::clean(&netlink).await;
    let names = dns::clean(config.state.as_deref(), &awaited);
    hooks::undo_left(&netlink, |link| awaited.contains(&link.index)).await;

    let place = Place {
        table: config.table,
        pref: config.rule_pref,
    };
    let routes = remove_leftovers(&netlink, place, &awaited).await;
    if let Ok(true) = lock_stands().await {
        tracing::warn!("the lock of -strict stands, and is left: `dtun unlock` opens it");
    }

    taken_down.context("failed to take down what was left for a restart")?;
    routes.context("failed to remove the routes of a spoke that was killed")?;
    anyhow::ensure!(names, "resolvers of a spoke that was killed are still set");

    Ok(())
}
