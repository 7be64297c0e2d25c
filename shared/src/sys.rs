//! One function for each system call that no safe crate offers: borrowed
//! descriptors and slices in, `io::Result` out, no policy.
//!
//! The only `unsafe` of the workspace.

#![expect(unsafe_code, reason = "this module is the border to libc")]

pub(crate) mod clock;
pub(crate) mod epoll;
pub(crate) mod inotify;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod mmsg;
#[cfg(test)]
pub(crate) mod netns;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod readiness;
#[cfg(test)]
pub(crate) mod seccomp;
pub(crate) mod socket;
pub(crate) mod timer;
pub(crate) mod tun;

use std::io;

/// Turns the usual return value of a system call into a result.
fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }

    Ok(returned)
}
