//! Signals to processes, and what a process is started with.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::check;

use tokio::process::Command;

/// Kills every process of the group that `leader` leads.
pub(crate) fn kill_group(leader: u32) -> io::Result<()> {
    let leader = libc::pid_t::try_from(leader)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    // SAFETY: `killpg` takes plain integers and touches no memory of ours.
    if unsafe { libc::killpg(leader, libc::SIGKILL) } == 0 {
        return Ok(());
    }

    Err(io::Error::last_os_error())
}

/// Lets the program that `command` starts ignore the signals that ask a process
/// to end.
pub(crate) fn ignoring_requests_to_end(command: &mut Command) {
    // SAFETY: between fork and exec only `signal` is called, which may be there
    // (signal-safety(7)), and `last_os_error`, which allocates nothing.
    unsafe { command.pre_exec(ignore_requests_to_end) };
}

/// Ignores the signals that ask a process to end.
pub(crate) fn ignore_requests_to_end() -> io::Result<()> {
    let signals = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
    ];
    for signal in signals {
        // SAFETY: `SIG_IGN` runs no code of ours.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }

    Ok(())
}

/// Takes the descriptors 3, 4.. that whoever started this process opened for it
/// (sd_listen_fds(3)), so many of them; none in the place of one that is not
/// open. From now on they are closed on exec. At a second call there are none.
pub(crate) fn inherited(count: usize) -> Vec<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if count == 0 || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }

    (FIRST_INHERITED..)
        .take(count)
        .map(|fd| adopt(fd).ok())
        .collect()
}

fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `F_SETFD` takes an int and touches no memory.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;

    // SAFETY: it is open, as the call above has found, and whoever started us
    // says that it is for us; `inherited` comes here once a process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes variables out of the environment that our children inherit.
///
/// # Errors
///
/// `ResourceBusy` where other threads run, which may be reading it.
pub(crate) fn forget_variables(names: &[&str]) -> io::Result<()> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    for name in names {
        // SAFETY: no other thread is there to read the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }

    Ok(())
}

/// `SD_LISTEN_FDS_START`.
const FIRST_INHERITED: RawFd = 3;
