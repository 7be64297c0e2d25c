//! `timerfd`, for what no other timer tells.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::check;

/// A descriptor that becomes readable when the wall clock jumps, as it does
/// at the end of a sleep; it does not block.
pub(crate) fn clock_jumps() -> io::Result<OwnedFd> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    // SAFETY: `timerfd_create` takes integers and touches no memory.
    let raw = check(unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, flags) })?;
    // SAFETY: the call above made this descriptor, and nobody else has it.
    let timer = unsafe { OwnedFd::from_raw_fd(raw) };

    let never = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: libc::time_t::MAX,
            tv_nsec: 0,
        },
    };
    // SAFETY: `never` is a valid itimerspec, and the old value is not asked for.
    check(unsafe {
        libc::timerfd_settime(
            timer.as_raw_fd(),
            libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET,
            &raw const never,
            ptr::null_mut(),
        )
    })?;

    Ok(timer)
}

/// Whether the clock jumped since the last call; arms the timer again.
pub(crate) fn has_jumped(timer: impl AsFd) -> io::Result<bool> {
    let mut expirations = [0; 8];
    // SAFETY: the buffer is writable and as long as it is said to be.
    let read = unsafe {
        libc::read(
            timer.as_fd().as_raw_fd(),
            expirations.as_mut_ptr().cast(),
            expirations.len(),
        )
    };
    if read >= 0 {
        return Ok(false);
    }

    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ECANCELED) => Ok(true),
        _ => Err(error),
    }
}
