//! The machine's resolvers for the time of the tunnel (`-dns`).
//!
//! They are set by what keeps them on this machine: systemd-resolved, else
//! resolvconf, else `/etc/resolv.conf` itself. What was there before is noted
//! on disk first, and comes back at the tunnel's end: by this process, or by
//! a guard that outlives it, or by the next start, or by `dtun clean`.
//! Somebody who rewrites resolv.conf meanwhile, as DHCP clients do, gets what
//! he wrote at the end.

mod change;
mod conf;
mod file;
mod guard;
mod mount;
mod places;
mod programs;
mod record;
#[cfg(test)]
mod scratch;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dtun_shared::files::Files;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use change::{Checked, ResolversError, Wish, check, set, undo_own};
use dtun_shared::repairs::Repairs;
use guard::Guard;
pub use guard::guard;
use places::Places;
use record::Record;
pub(crate) use record::boot;

/// The resolvers of a spoke's tunnel.
#[derive(Debug)]
pub(crate) struct Resolvers {
    places: Arc<Places>,
    standing: Option<Standing>,
    /// Whom the machine asked without the tunnel, the last time that it asked
    /// anybody.
    known: Vec<SocketAddr>,
}

/// What was set, or is about to be.
#[derive(Debug)]
struct Standing {
    wish: Wish,
    /// Whom the machine asked before.
    before: Vec<SocketAddr>,
    /// It is to be undone, and must not be set any more.
    revoked: Arc<AtomicBool>,
    guard: Option<Guard>,
    keeper: Option<JoinHandle<()>>,
}

impl Resolvers {
    /// Changes nothing yet; `state` is the folder for what must outlive the
    /// process, none for the default.
    pub(crate) fn new(state: Option<&Path>) -> Self {
        Self::at(Places::system(state))
    }

    fn at(places: Places) -> Self {
        Self {
            places: Arc::new(places),
            standing: None,
            known: Vec::new(),
        }
    }

    /// Undoes what a process left that was killed, but for the devices that are
    /// `awaited` by its next start.
    pub(crate) async fn clean_up(&self, awaited: &[u32]) {
        let (places, awaited) = (Arc::clone(&self.places), awaited.to_owned());
        blocking(move || change::clean_up(&places, &awaited)).await;
    }

    /// Has the machine ask `servers` by the device until [`Resolvers::restore`].
    /// What stands already is left standing, also what an earlier process has
    /// [left](Self::leave) for the device.
    pub(crate) async fn set(&mut self, device: &str, index: u32, servers: &[IpAddr]) {
        let wish = Wish {
            device: device.to_owned(),
            index,
            servers: servers.to_owned(),
        };
        if self.standing.as_ref().is_some_and(|old| old.wish == wish) {
            return;
        }
        self.restore().await;

        let before = match self.places.inherited(device, index) {
            Some((_, record)) => self.before_all(&record, servers),
            None => self.before(),
        };
        let revoked = Arc::new(AtomicBool::new(false));
        // First, for a `restore` that comes when this call was given up.
        let standing = self.standing.insert(Standing {
            before,
            revoked: Arc::clone(&revoked),
            wish: wish.clone(),
            guard: None,
            keeper: None,
        });
        let places = Arc::clone(&self.places);
        let work = {
            let (places, wish) = (Arc::clone(&places), wish.clone());
            move || set(&places, &wish, &revoked)
        };
        match blocking(work).await {
            Some(Ok(guard)) => {
                standing.guard = guard;
                standing.keeper = Some(tokio::spawn(keep(places, wish)));
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "failed to set the resolvers: names are asked as before");
                self.standing = None;
            }
            None => self.standing = None,
        }
    }

    /// Leaves what is set for the next start, which must come soon: it has the
    /// same device.
    pub(crate) async fn leave(&mut self) {
        let Some(standing) = self.standing.take() else {
            return;
        };
        if let Some(keeper) = standing.keeper {
            keeper.abort();
        }
        if let Some(guard) = standing.guard {
            blocking(move || guard.leave()).await;
        }
    }

    /// Puts back what was there before, or what others have put there since.
    pub(crate) async fn restore(&mut self) {
        let Some(standing) = self.standing.take() else {
            return;
        };
        standing.revoked.store(true, Ordering::Relaxed);
        if let Some(keeper) = standing.keeper {
            keeper.abort();
        }
        let places = Arc::clone(&self.places);
        let undone = blocking(move || {
            let undone = undo_own(&places, &standing.wish.device);
            if let Some(guard) = standing.guard {
                guard.dismiss();
            }
            undone
        });
        if let Some(Err(error)) = undone.await {
            tracing::warn!(%error, "failed to put back the resolvers");
        }
    }

    /// Whom the machine asks without the tunnel, as it is now: where a
    /// resolver on this machine says whom it asks itself, those. To be asked
    /// when the tunnel is dead. While the machine asks nobody, as between two
    /// networks, whom it asked last.
    pub(crate) fn before(&mut self) -> Vec<SocketAddr> {
        let servers = self.look();
        if !servers.is_empty() {
            self.known = servers;
        }

        self.known.clone()
    }

    /// Whom the machine asked before a process that has left its servers.
    fn before_all(&self, left: &Record, servers: &[IpAddr]) -> Vec<SocketAddr> {
        if let Some(replaced) = &left.replaced {
            let asked = replaced.asked_before(&self.place());
            return self.places.behind(&asked);
        }
        let mut asked = self.places.behind(&self.places.asked());
        asked.retain(|server| !servers.contains(&server.ip()));

        asked
    }

    /// Where a link that was there before leads from.
    fn place(&self) -> PathBuf {
        let place = self.places.place();

        place.map_or_else(
            |_| self.places.resolv_conf.clone(),
            |place| place.to_owned(),
        )
    }

    fn look(&self) -> Vec<SocketAddr> {
        let Some(standing) = &self.standing else {
            return self.places.behind(&self.places.asked());
        };
        let record = self.places.own_record(&standing.wish.device);
        let replaced = record.and_then(|path| Record::load(&path).ok()?.replaced);
        let asked = match replaced {
            Some(replaced) => replaced.asked_before(&self.place()),
            None => self.places.asked(),
        };

        // Systemd-resolved and resolvconf list ours among all.
        let mut servers = self.places.behind(&asked);
        servers.retain(|server| {
            !standing.wish.servers.contains(&server.ip()) || standing.before.contains(server)
        });

        servers
    }
}

/// Undoes what processes that were killed did to the machine's resolvers, but
/// for devices that are `awaited`; `state` as for [`Resolvers::new`]. True if
/// all of it is undone; what is not has been said.
pub(crate) fn clean(state: Option<&Path>, awaited: &[u32]) -> bool {
    change::clean_up(&Places::system(state), awaited)
}

/// Sees to it that what was set stands, for as long as this is polled.
async fn keep(places: Arc<Places>, wish: Wish) {
    let mut told = Told::default();
    let mut repairs = Repairs::of("resolvers");
    loop {
        // Before the look, so that nothing is missed; and anew each time, for
        // a file that was replaced is another.
        let files = watch(&places)
            .inspect_err(|error| tracing::debug!(%error, "changes of resolv.conf are not told"));
        let work = {
            let (places, wish) = (Arc::clone(&places), wish.clone());
            move || check(&places, &wish)
        };
        if let Some(checked) = blocking(work).await {
            if matches!(checked, Ok(Checked::Again)) {
                sleep(repairs.made(Instant::now())).await;
            }
            told.note(checked);
        }
        match files {
            Ok(files) if files.changed().await.is_ok() => sleep(REST).await,
            Ok(_) | Err(_) => sleep(BLIND).await,
        }
    }
}

fn watch(places: &Places) -> std::io::Result<Files> {
    let place = places.place().ok();
    let paths = [&*places.resolv_conf, &*places.resolved];
    let has_folder = |path: &&Path| path.parent().is_some_and(Path::is_dir);

    Files::watch(paths.into_iter().chain(place.as_deref()).filter(has_folder))
}

/// What was said already.
#[derive(Debug, Default)]
struct Told {
    again: bool,
    yielded: bool,
    failed: bool,
}

impl Told {
    /// Says what is new.
    fn note(&mut self, checked: Result<Checked, ResolversError>) {
        let is_new = |told: &mut bool| !std::mem::replace(told, true);
        match checked {
            Ok(Checked::Again) if is_new(&mut self.again) => tracing::info!(
                "somebody changed the resolvers: the tunnel's are set again, theirs come at its end"
            ),
            Ok(Checked::Yielded) if is_new(&mut self.yielded) => {
                tracing::info!("another tunnel has set its resolvers: they stand until its end")
            }
            Err(error) if is_new(&mut self.failed) => tracing::warn!(
                %error, "somebody changed the resolvers, and they cannot be set again"
            ),
            Ok(Checked::Stands | Checked::Again | Checked::Yielded) | Err(_) => {}
        }
    }
}

/// Runs what may block; none when it panicked, which is said elsewhere.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    spawn_blocking(work).await.ok()
}

/// A change is looked at when it is that old: they come in bursts.
const REST: Duration = Duration::from_millis(100);

/// How often to look without being told.
const BLIND: Duration = Duration::from_secs(10);
