//! What a hub leaves standing beside its devices, and the sign that its next start
//! is awaited: a file in `/run/dtun`. A unit's `ExecStopPost` runs within a restart
//! too, and is not to take away then what that start takes over.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use dtun_shared::claim;
use dtun_shared::hook::undo_left;

use crate::nat;

/// Undoes what hubs that were killed have left, their lines and `-nat`; those that
/// run keep it.
///
/// # Errors
///
/// When the packet filter refuses.
pub async fn clean() -> anyhow::Result<()> {
    let is_kept = |rest: &str| {
        let owner = rest.rsplit_once('-').map_or(rest, |(owner, _device)| owner);
        is_awaited(&format!("{HUB}{owner}"))
    };
    undo_left(HUB, is_kept).await;

    nat::clean(HUB, is_awaited).await
}

/// What a hub's signs are called: one of its own for each of a machine.
pub(crate) fn name(listen: SocketAddr) -> String {
    let port = listen.port();
    if listen.ip().is_unspecified() {
        return format!("{HUB}{port}");
    }
    let ip = listen.ip().to_string().replace(':', "_");

    format!("{HUB}{ip}-{port}")
}

/// Puts the sign up; `name` is the hub's, and what it leaves are these devices.
pub(crate) fn announce(name: &str, devices: &[&str]) {
    let path = claim::path(&sign(name));
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    if let Err(error) = folder.and_then(|()| fs::write(&path, devices.join("\n"))) {
        tracing::debug!(%error, "no sign of the next start");
    }
}

/// The start has come, or nobody waits for it any more.
pub(crate) fn forget(name: &str) {
    let path = claim::path(&sign(name));
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "not removed");
    }
}

/// Whether `dtun clean` is to leave all of this hub's, because the service manager
/// asks for it within a restart.
fn is_awaited(name: &str) -> bool {
    let is_of_unit = std::env::var_os("SERVICE_RESULT").is_some();

    is_of_unit && is_fresh(&sign(name))
}

/// Devices that wait for the start of a hub that is not `name`.
pub(crate) fn awaited_devices(name: &str) -> HashSet<String> {
    let signs = claim::claims(PREFIX).into_iter();
    let others = signs.filter(|other| *other != sign(name) && is_fresh(other));
    let notes = others.filter_map(|other| fs::read_to_string(claim::path(&other)).ok());

    notes
        .flat_map(|note| note.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Whether the start that a sign is of may still come.
fn is_fresh(sign: &str) -> bool {
    let age = || {
        let metadata = fs::metadata(claim::path(sign)).ok()?;
        metadata.modified().ok()?.elapsed().ok()
    };

    age().is_some_and(|age| age < FRESH)
}

fn sign(name: &str) -> String {
    format!("{PREFIX}{name}")
}

const HUB: &str = "hub-";
const PREFIX: &str = "awaited-";

/// A start may take as long as service managers give it.
const FRESH: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_of_one_machine_have_names_of_their_own() {
        for (listen, expected) in [
            ("[::]:443", "hub-443"),
            ("0.0.0.0:4433", "hub-4433"),
            ("192.0.2.1:443", "hub-192.0.2.1-443"),
            ("[2001:db8::1]:443", "hub-2001_db8__1-443"),
        ] {
            assert_eq!(name(listen.parse().unwrap()), expected);
        }
    }
}
