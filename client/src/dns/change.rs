//! Sets, checks and undoes the machine's resolvers: each of it by the record
//! on disk, so that it does not matter which process does it.
//!
//! Nothing here waits for anything but the disk, the lock and the programs of
//! others: to be called where blocking does no harm.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::conf::{compose, record_in};
use super::file::{Held, remove};
use super::guard::Guard;
use super::mount::Place;
use super::places::{Places, is_stub};
use super::programs::{self, ProgramError};
use super::record::{self, Owner, Record, Replaced};

/// What is to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) device: String,
    /// Of the device.
    pub(super) index: u32,
    /// In the order in which they are to be asked.
    pub(super) servers: Vec<IpAddr>,
}

/// Why the resolvers are not as they should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolversError {
    #[error("cannot note what was there before: {0}")]
    Record(io::Error),
    /// Its reason is in the text alone: a chain would say it twice.
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// What a look at the resolvers found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Stands,
    /// Somebody had changed them; they stand again.
    Again,
    /// Another tunnel of ours has set its own.
    Yielded,
}

/// Sets the resolvers by what the machine has for that, unless `revoked`; the
/// guard undoes it when this process is gone.
pub(super) fn set(
    places: &Places,
    wish: &Wish,
    revoked: &AtomicBool,
) -> Result<Option<Guard>, ResolversError> {
    let lock = places.lock();
    if revoked.load(Ordering::Relaxed) {
        return Ok(None);
    }

    let inherited = places.inherited(&wish.device, wish.index);
    let mut record = Record {
        owner: Owner::own(),
        device: wish.device.clone(),
        index: wish.index,
        resolved: false,
        resolvconf: None,
        replaced: None,
    };
    let path = keep(places, &record)?;
    let guard = places
        .guarded
        .then(|| Guard::post(&path, places.mounted.as_deref()))
        .flatten();

    let left = inherited
        .as_ref()
        .and_then(|(_, left)| left.replaced.as_ref());
    match stand(places, wish, &path, &mut record, left) {
        Ok(by) => {
            if let Some((old, _)) = &inherited {
                remove(old).map_err(ResolversError::Record)?;
            }
            let servers: Vec<_> = wish.servers.iter().map(ToString::to_string).collect();
            tracing::info!(servers = servers.join(","), by, "resolvers set");
            Ok(guard)
        }
        Err(error) => {
            let undone = undo_locked(places, &path);
            drop(lock); // The guard takes it before it leaves.
            if let Some(guard) = guard {
                guard.dismiss();
            }
            undone.and(Err(error))
        }
    }
}

/// Looks whether what was set for this device still stands, and sets it again
/// where it does not.
pub(super) fn check(places: &Places, wish: &Wish) -> Result<Checked, ResolversError> {
    let _lock = places.lock();
    let Some(path) = places.own_record(&wish.device) else {
        return Ok(Checked::Stands); // It is undone already.
    };
    let record = Record::load(&path).map_err(ResolversError::Record)?;

    let mut checked = Checked::Stands;
    if record.resolved && programs::is_missing_from_resolved(places, &wish.servers) {
        programs::set_resolved(places, &wish.device, &wish.servers)?;
        checked = Checked::Again;
    }
    if let Some(name) = &record.resolvconf
        && !programs::is_asked_by_resolvconf(places, &wish.servers)
    {
        programs::set_resolvconf(places, name, &wish.servers)?;
        checked = Checked::Again;
    }
    if record.replaced.is_some() {
        let file = check_file(places, wish, &path, record)?;
        if file != Checked::Stands {
            checked = file;
        }
    }

    Ok(checked)
}

/// Undoes what this process set for a device.
pub(super) fn undo_own(places: &Places, device: &str) -> Result<(), ResolversError> {
    let _lock = places.lock();

    match places.own_record(device) {
        Some(path) => undo_locked(places, &path),
        None => Ok(()),
    }
}

/// Undoes what a record says; nothing when there is none any more.
pub(super) fn undo(places: &Places, path: &Path) -> Result<(), ResolversError> {
    let _lock = places.lock();

    undo_locked(places, path)
}

/// Undoes what processes have left that are no more, but for devices that are
/// `awaited`; true if it was all undone.
pub(super) fn clean_up(places: &Places, awaited: &[u32]) -> bool {
    let _lock = places.lock();
    let mut undone = true;
    for path in record::all(&places.records) {
        let record = match Record::load(&path) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "left alone");
                undone = false;
                continue;
            }
        };
        let is_awaited = awaited.contains(&record.index);
        if record.owner.is_alive() || record.owner.is_foreign() || is_awaited {
            continue;
        }
        if let Err(error) = undo_locked(places, &path) {
            tracing::warn!(%error, "failed to put back the resolvers that a crash left");
            undone = false;
        }
    }
    for path in record::abandoned(&places.records) {
        if let Err(error) = remove(&path) {
            tracing::debug!(path = %path.display(), %error, "left there");
        }
    }

    undone
}

/// By which means the resolvers stand; `left` is what an earlier process of ours
/// replaced and stands in its place still.
fn stand(
    places: &Places,
    wish: &Wish,
    path: &Path,
    record: &mut Record,
    left: Option<&Replaced>,
) -> Result<&'static str, ResolversError> {
    let resolv_conf = place(places)?;
    if let Some(left) = left {
        let now = Held::read(&resolv_conf).map_err(|source| write_error(&resolv_conf, source))?;
        let stands = left.stands(&now, &resolv_conf);
        let before = if stands { left.before.clone() } else { now };
        replace(places, wish, path, record, before)?;
        return Ok("resolv.conf");
    }
    let is_stub_asked = places.asked().iter().any(is_stub);
    if programs::has_resolvectl(places) && (is_stub_asked || places.asks_resolved_by_nss()) {
        record.resolved = true;
        keep(places, record)?;
        match programs::set_resolved(places, &wish.device, &wish.servers) {
            Ok(()) if is_stub_asked => return Ok("systemd-resolved"),
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "systemd-resolved is left out");
                revert_resolved(places, &wish.device);
                record.resolved = false;
            }
        }
    }
    if programs::has_resolvconf(places) {
        let name = programs::resolvconf_name(places, &wish.device);
        record.resolvconf = Some(name.clone());
        keep(places, record)?;
        match programs::set_resolvconf(places, &name, &wish.servers) {
            Ok(()) if programs::is_asked_by_resolvconf(places, &wish.servers) => {
                return Ok("resolvconf");
            }
            Ok(()) => tracing::debug!("resolvconf is not in charge of resolv.conf"),
            Err(error) => tracing::debug!(%error, "resolvconf is left out"),
        }
        clear_resolvconf(places, &name);
        record.resolvconf = None;
    }

    let before = Held::read(&resolv_conf).map_err(|source| write_error(&resolv_conf, source))?;
    replace(places, wish, path, record, before)?;
    Ok("resolv.conf")
}

/// Puts our resolv.conf in the place of `before`.
fn replace(
    places: &Places,
    wish: &Wish,
    path: &Path,
    record: &mut Record,
    before: Held,
) -> Result<(), ResolversError> {
    let place = place(places)?;
    let ours = compose(path, &wish.servers, &before.content(&place));
    let file = before.with(ours.clone());
    record.replaced = Some(Replaced { before, ours });
    keep(places, record)?;

    put(&file, &place, path)
}

fn check_file(
    places: &Places,
    wish: &Wish,
    path: &Path,
    mut record: Record,
) -> Result<Checked, ResolversError> {
    let place = place(places)?;
    let Some(replaced) = record.replaced.take() else {
        return Ok(Checked::Stands);
    };
    let now = settled(&place, |now| replaced.stands(now, &place))
        .map_err(|source| write_error(&place, source))?;
    if replaced.stands(&now, &place) {
        return Ok(Checked::Stands);
    }

    let before = match record_in(&now.content(&place)) {
        Some(other) if other != path && other.exists() => return Ok(Checked::Yielded),
        // Of a tunnel that is no more, or ours with other servers.
        Some(_) => replaced.before,
        None => now,
    };
    replace(places, wish, path, &mut record, before)?;

    Ok(Checked::Again)
}

/// What stands at a path when nobody is amid writing it, unless it is `enough`.
fn settled(path: &Path, enough: impl Fn(&Held) -> bool) -> io::Result<Held> {
    let mut now = Held::read(path)?;
    for _ in 0..LOOKS {
        if enough(&now) {
            break;
        }
        thread::sleep(PAUSE);
        let before = std::mem::replace(&mut now, Held::read(path)?);
        if now == before {
            break;
        }
    }

    Ok(now)
}

fn undo_locked(places: &Places, path: &Path) -> Result<(), ResolversError> {
    let record = match Record::load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        record => record.map_err(ResolversError::Record)?,
    };

    if let Some(replaced) = &record.replaced {
        put_back(places, path, replaced)?;
    }
    if let Some(name) = &record.resolvconf {
        clear_resolvconf(places, name);
    }
    if record.resolved {
        revert_resolved(places, &record.device);
    }
    if record.resolved || record.resolvconf.is_some() || record.replaced.is_some() {
        tracing::info!("resolvers are as they were before the tunnel");
    }

    remove(path).map_err(ResolversError::Record)
}

/// Puts back what ours replaced, if it is ours that stands there.
fn put_back(places: &Places, path: &Path, replaced: &Replaced) -> Result<(), ResolversError> {
    let place = place(places)?;
    let now = Held::read(&place).map_err(|source| write_error(&place, source))?;
    if replaced.stands(&now, &place) {
        return put(&replaced.before, &place, path);
    }

    // What was written aside and never got its place.
    remove(&aside(&place, path)).map_err(|source| write_error(&place, source))?;
    if now == replaced.before {
        return Ok(());
    }
    match record_in(&now.content(&place)) {
        Some(other) => bequeath(&other, replaced, &place),
        None => {
            tracing::info!(path = %place.display(), "somebody else has rewritten it: left as it is");
            Ok(())
        }
    }
}

/// Another tunnel of ours stands in the place of this one, and would put this
/// one's servers back at its end: it gets what was there before both.
fn bequeath(other: &Path, replaced: &Replaced, place: &Path) -> Result<(), ResolversError> {
    let Ok(mut record) = Record::load(other) else {
        return Ok(());
    };
    let Some(heir) = &mut record.replaced else {
        return Ok(());
    };
    if !replaced.stands(&heir.before, place) {
        return Ok(());
    }
    heir.before = replaced.before.clone();

    record.save(other).map_err(ResolversError::Record)
}

fn put(file: &Held, place: &Place, record: &Path) -> Result<(), ResolversError> {
    file.put_at(place, &aside(place, record))
        .map_err(|source| write_error(place, source))
}

/// A name beside resolv.conf that only the owner of a record uses.
fn aside(place: &Path, record: &Path) -> PathBuf {
    let name = record.file_name().unwrap_or_default().to_string_lossy();

    place.with_file_name(format!(".resolv.conf.{name}"))
}

fn place(places: &Places) -> Result<Place, ResolversError> {
    places
        .place()
        .map_err(|source| write_error(&places.resolv_conf, source))
}

fn keep(places: &Places, record: &Record) -> Result<PathBuf, ResolversError> {
    places.keep(record).map_err(ResolversError::Record)
}

/// It forgets a device that is gone by itself.
fn revert_resolved(places: &Places, device: &str) {
    if let Err(error) = programs::revert_resolved(places, device) {
        tracing::debug!(%error, "systemd-resolved has nothing to forget");
    }
}

fn clear_resolvconf(places: &Places, name: &str) {
    if let Err(error) = programs::clear_resolvconf(places, name) {
        tracing::debug!(%error, "resolvconf has nothing to forget");
    }
}

fn write_error(path: &Path, error: io::Error) -> ResolversError {
    ResolversError::Write {
        path: path.to_owned(),
        error,
    }
}

/// Somebody who writes a few lines is done within.
const PAUSE: Duration = Duration::from_millis(20);

/// Whoever goes on writing is not waited for any longer.
const LOOKS: usize = 20;
