//! Descriptors under the eyes of the runtime.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Registers `io` with the runtime; its descriptor must not block.
pub(crate) fn register<T: Steady>(io: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `Steady` promises what this asks for, to the letter.
    let registered = unsafe { AsyncFd::register(io) };

    Ok(registered?)
}

/// The owner of one descriptor.
///
/// # Safety
///
/// From construction to drop the value keeps one descriptor open, and
/// `as_raw_fd` returns no other.
pub(crate) unsafe trait Steady: AsRawFd {}

// SAFETY: a `File` owns its descriptor and gives it up only by value.
unsafe impl Steady for File {}

// SAFETY: an `OwnedFd` gives its descriptor up only by value.
unsafe impl Steady for OwnedFd {}

// SAFETY: a `Socket` owns its descriptor and gives it up only by value.
unsafe impl Steady for socket2::Socket {}

// SAFETY: a `Socket` owns its descriptor and gives it up only by value.
unsafe impl Steady for rtnetlink::sys::Socket {}
