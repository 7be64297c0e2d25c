//! `unshare`.

use std::io;

use super::check;

/// Moves the calling thread into a network namespace of its own.
pub(crate) fn unshare() -> io::Result<()> {
    // SAFETY: `unshare` takes flags and touches no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;

    Ok(())
}
