//! `inotify`, for files that a user may rewrite or replace.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// A descriptor that becomes readable with the first event; it does not block.
pub(crate) fn open() -> io::Result<OwnedFd> {
    // SAFETY: `inotify_init1` takes an integer and touches no memory.
    let raw = check(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;

    // SAFETY: the call above made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Tells from now on what is written to its end, made, moved into a directory,
/// and gone from it; of a file only that it is written to its end.
pub(crate) fn watch(inotify: impl AsFd, path: &CStr) -> io::Result<()> {
    let come = libc::IN_CLOSE_WRITE | libc::IN_CREATE | libc::IN_MOVED_TO;
    let mask = come | libc::IN_DELETE | libc::IN_MOVED_FROM;
    // SAFETY: the path ends with a zero byte and lives through the call.
    check(unsafe { libc::inotify_add_watch(inotify.as_fd().as_raw_fd(), path.as_ptr(), mask) })?;

    Ok(())
}

/// Reads whole events into `buf`; returns their length.
pub(crate) fn read(inotify: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable and as long as it is said to be.
    let read = unsafe {
        libc::read(
            inotify.as_fd().as_raw_fd(),
            buf.as_mut_ptr().cast(),
            buf.len(),
        )
    };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }

    Ok(read.cast_unsigned())
}
