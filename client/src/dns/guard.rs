//! A process of our own that waits for the end of this one, whatever it is,
//! and then undoes what a record says.
//!
//! It is this program, started anew, so that it has nothing of ours but one
//! end of a pipe: the kernel closes the other with the last breath of this
//! process. It leads a process group of its own and does not hear what asks a
//! service to end. What kills a whole control group kills it, too: then the
//! next start undoes it, or `dtun clean`.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use dtun_shared::signal::ignore_requests_to_end;

use super::change::undo;
use super::mount::Mounted;
use super::places::Places;
use super::programs::wait_for;

/// The process; it undoes the record when this is dropped.
#[derive(Debug)]
pub(super) struct Guard(Child);

impl Guard {
    /// Starts it. None where that fails: then a crash is mended later.
    pub(super) fn post(record: &Path, mounted: Option<&Mounted>) -> Option<Self> {
        start(record, mounted)
            .map(Self)
            .inspect_err(|error| {
                tracing::warn!(%error, "after a crash the resolvers come back only with the next start");
            })
            .ok()
    }

    /// Lets it go without a thing done: another process sees to that.
    pub(super) fn leave(mut self) {
        if let Some(stdin) = &mut self.0.stdin
            && let Err(error) = stdin.write_all(STAYS)
        {
            tracing::debug!(%error, "the guard of the resolvers is gone already");
        }
        self.dismiss();
    }

    /// Lets it go and waits until it has.
    pub(super) fn dismiss(mut self) {
        drop(self.0.stdin.take());
        match wait_for(&mut self.0, PATIENCE) {
            Ok(Some(_)) => {}
            Ok(None) => tracing::debug!("the guard of the resolvers is slow to leave"),
            Err(error) => tracing::debug!(%error, "the guard of the resolvers is not waited for"),
        }
    }
}

/// What the guard does: waits for the end of its input, which is that of the
/// process that started it. Where that says that the next start takes over it
/// does nothing.
///
/// # Errors
///
/// When what the record says cannot be undone.
pub fn guard(record: &Path) -> anyhow::Result<()> {
    ignore_requests_to_end().context("failed to ignore signals")?;
    let mut places = Places::system(None);
    // What was mounted may be so no more.
    if let Some(text) = std::env::var_os(MOUNTED) {
        places.mounted = Mounted::parse(&text).map(Arc::new);
    }
    // Whatever ends it, the other end is closed.
    let said = io::copy(&mut io::stdin().lock(), &mut io::sink());
    if said.is_ok_and(|said| said > 0) {
        return Ok(());
    }

    undo(&places, record).context("failed to put back the resolvers")
}

fn start(record: &Path, mounted: Option<&Mounted>) -> io::Result<Child> {
    // The file that this process runs, even where another has its name by now.
    let child = Command::new("/proc/self/exe")
        .arg0("dtun")
        .args([ORDER, FLAG])
        .arg(std::path::absolute(record)?)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| KEPT.iter().any(|kept| name == kept)))
        .envs(mounted.map(|mounted| (MOUNTED, mounted.emit())))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;

    Ok(child)
}

/// How it is told of a resolv.conf that is a mount.
const MOUNTED: &str = "DTUN_RESOLV_CONF";

/// What the guard is told when it has nothing to undo.
const STAYS: &[u8] = b"stays";

/// How the guard is told on its command line what it is.
const ORDER: &str = "clean";
const FLAG: &str = "-when-over";

/// What it needs of the environment: not the key.
const KEPT: [&str; 4] = ["PATH", "RUST_LOG", "NO_COLOR", "JOURNAL_STREAM"];

/// It has nothing to do then but to see that.
const PATIENCE: Duration = Duration::from_secs(2);
