//! Signals to processes.

use std::io;

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
