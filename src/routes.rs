//! `dtun routes add|del FILE`, for the up-script where `ip` has no `-batch`.

use std::path::Path;

use anyhow::Context;
use dtun_shared::link::{Action, Netlink};

/// Carries the file out and prints what was refused as `ip -batch` does, for
/// the script to count.
pub(crate) async fn run(action: Action, file: &Path) -> anyhow::Result<()> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {name}"))?;
    let loaded = Netlink::new()?.batch(action, &text).await?;

    for bad in &loaded.bad {
        eprintln!("{}\nCommand failed {name}:{}", bad.why, bad.line);
    }
    anyhow::ensure!(
        loaded.bad.is_empty(),
        "{} of {} routes were refused",
        loaded.bad.len(),
        loaded.bad.len() + loaded.done
    );

    Ok(())
}
