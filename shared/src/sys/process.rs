//! Signals to processes.

use std::io;

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
