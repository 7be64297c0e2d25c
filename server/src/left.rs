//! What a hub leaves standing, and its signs: files in `/run/dtun`, one that it is
//! there and one that its next start is awaited. A unit's `ExecStopPost` runs within
//! a restart too, and is not to take away then what that start takes over.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use dtun_shared::claim::{self, Claim, claims};
use dtun_shared::hook::undo_left;
use dtun_shared::link::Netlink;
use dtun_shared::service::group;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::hub::{BLACKHOLE, delete_strays};
use crate::nat;
use crate::pool::Pools;

/// Undoes what hubs that were killed have left: their lines, `-nat`, devices and
/// blackhole routes. Those that run keep it.
///
/// # Errors
///
/// When the packet filter or the kernel refuses.
pub async fn clean() -> anyhow::Result<()> {
    let ending = Ending::of_unit();
    let keeps = |name: &str| ending.is_some_and(|ending| ending.keeps(name));
    let keeps_lines = |rest: &str| {
        let owner = rest.rsplit_once('-').map_or(rest, |(owner, _device)| owner);
        keeps(&format!("{HUB}{owner}"))
    };
    undo_left(HUB, keeps_lines).await;
    let nat = nat::clean(HUB, keeps).await;
    remove_devices(keeps)
        .await
        .context("failed to remove the devices and routes of a hub that was killed")?;

    nat
}

/// Removes devices that no process holds, and the signs of hubs that do not run,
/// with their blackhole routes.
async fn remove_devices(keeps: impl Fn(&str) -> bool) -> io::Result<()> {
    let netlink = Netlink::new()?;
    let (mut left, mut pools) = (Vec::new(), Vec::new());
    let (mut devices, mut keeps_all) = (HashSet::new(), false);
    for present in claims(PRESENT) {
        let name = &present[PRESENT.len()..];
        let noted = Note::of(&present).map_or_else(Vec::new, |note| note.pools);
        match Claim::try_take(&present)? {
            Some(claim) if !keeps(name) => left.push((name.to_owned(), noted, claim)),
            unclaimed => {
                pools.extend(noted);
                // One that was killed did not say which.
                keeps_all |= unclaimed.is_some() && !is_fresh(&sign(name));
            }
        }
    }
    for sign in claims(PREFIX) {
        let name = &sign[PREFIX.len()..];
        if keeps(name) {
            let note = fs::read_to_string(claim::path(&sign)).unwrap_or_default();
            devices.extend(note.lines().map(str::to_owned));
        } else {
            forget(name);
        }
    }

    delete_strays(&netlink, |name| keeps_all || devices.contains(name)).await?;
    for (name, noted, claim) in left {
        for pool in noted.iter().filter(|pool| !pools.contains(pool)) {
            netlink.delete_route(*pool, BLACKHOLE).await?;
        }
        claim.remove()?;
        tracing::info!(hub = name, "what a hub had left is removed");
    }

    Ok(())
}

/// How a process of the unit ended whose `ExecStopPost` this is
/// (systemd.exec(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It is started again in a second, and takes over what is there.
    Crash,
    /// It is not started again.
    Mistake,
    /// As it was told, or a start has failed that is tried again.
    Other,
}

impl Ending {
    /// None for whoever runs `dtun clean` by hand.
    fn of_unit() -> Option<Self> {
        let value = |name: &str| env::var(name).ok();
        let result = value("SERVICE_RESULT")?;

        Some(Self::of(
            &result,
            &value("EXIT_CODE").unwrap_or_default(),
            &value("EXIT_STATUS").unwrap_or_default(),
        ))
    }

    fn of(result: &str, code: &str, status: &str) -> Self {
        match (result, code, status) {
            ("signal" | "core-dump" | "watchdog" | "oom-kill", _, _) => Self::Crash,
            (_, "exited", MISTAKE) => Self::Mistake,
            _ => Self::Other,
        }
    }

    /// Whether all of this hub's stays: for a start that may still come, or
    /// because it is another unit's, which sees to it.
    fn keeps(self, name: &str) -> bool {
        if Note::of(&present(name)).is_some_and(|note| note.group != group()) {
            return true;
        }

        match self {
            Self::Crash => true,
            Self::Mistake => false,
            Self::Other => is_fresh(&sign(name)),
        }
    }
}

/// The sign of a hub, held while it runs: what `dtun clean` has to know of one
/// that was killed.
#[derive(Debug)]
pub(crate) struct Presence(Option<Claim>);

impl Presence {
    /// Of the hub of that name. Blackhole routes for other pools than these,
    /// which an earlier run has left, go.
    pub(crate) async fn begin(netlink: &Netlink, name: &str, pools: &Pools) -> Self {
        let pools: Vec<_> = pools.networks().collect();
        let present = present(name);
        let before = Note::of(&present).map_or_else(Vec::new, |note| note.pools);
        let others: Vec<_> = claims(PRESENT)
            .into_iter()
            .filter(|other| *other != present)
            .filter_map(|other| Some(Note::of(&other)?.pools))
            .flatten()
            .collect();
        let is_used = |pool: &&IpNet| pools.contains(pool) || others.contains(pool);
        for pool in before.iter().filter(|pool| !is_used(pool)) {
            if let Err(error) = netlink.delete_route(*pool, BLACKHOLE).await {
                tracing::warn!(%pool, %error, "blackhole route of an earlier run not removed");
            }
        }
        let claim = Claim::try_take(&present).and_then(|claim| {
            if let Some(claim) = &claim {
                claim.note(&Note::text(pools)?)?;
            }
            Ok(claim)
        });

        Self(claim.unwrap_or_else(|error| {
            tracing::warn!("after a kill `dtun clean` will not know of the pools: {error}");
            None
        }))
    }

    /// Nothing of ours is left.
    pub(crate) fn end(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Claim::remove) {
            tracing::debug!(%error, "the sign of this hub stays");
        }
    }
}

/// What stands there.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The hub's control groups: they tell its unit from others.
    group: String,
    /// They have blackhole routes.
    pools: Vec<IpNet>,
}

impl Note {
    fn of(present: &str) -> Option<Self> {
        let text = fs::read(claim::path(present)).ok()?;

        serde_json::from_slice(&text).ok()
    }

    fn text(pools: Vec<IpNet>) -> io::Result<String> {
        let group = group();

        Ok(serde_json::to_string(&Self { group, pools })?)
    }
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

/// Devices that wait for the start of a hub that is not `name`.
pub(crate) fn awaited_devices(name: &str) -> HashSet<String> {
    let signs = claims(PREFIX).into_iter();
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

fn present(name: &str) -> String {
    format!("{PRESENT}{name}")
}

const HUB: &str = "hub-";
const PREFIX: &str = "awaited-";
const PRESENT: &str = "present-";

/// The exit code of which the units say that no start follows.
const MISTAKE: &str = "2";

/// A start may take as long as service managers give it.
const FRESH: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_that_may_come_is_waited_for() {
        for (result, code, status, expected) in [
            ("success", "exited", "0", Ending::Other),
            ("exit-code", "exited", "1", Ending::Other),
            ("exit-code", "exited", "2", Ending::Mistake),
            ("signal", "killed", "KILL", Ending::Crash),
            ("watchdog", "dumped", "ABRT", Ending::Crash),
            // Killed while it was being stopped.
            ("timeout", "killed", "KILL", Ending::Other),
        ] {
            assert_eq!(Ending::of(result, code, status), expected, "{result}");
        }
    }

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
