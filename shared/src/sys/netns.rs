//! What tests do to the thread they run on.

use std::io;

use super::check;

/// Moves the calling thread into a network namespace of its own.
pub(crate) fn unshare() -> io::Result<()> {
    // SAFETY: `unshare` takes flags and touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;

    Ok(())
}

/// Makes the calling thread, and no other, that of a user without rights.
pub(crate) fn become_user(id: libc::uid_t) -> io::Result<()> {
    // SAFETY: the call takes integers; the C library's own would change every
    // thread.
    let returned = unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) };
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }

    Ok(())
}
