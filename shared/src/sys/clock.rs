//! Clocks that the standard library does not read.

use std::io;
use std::time::Duration;

/// Time since the machine started, counted while it slept too.
pub(crate) fn boot_time() -> io::Result<Duration> {
    read(libc::CLOCK_BOOTTIME)
}

/// Time since the machine started, stopped while it slept.
pub(crate) fn monotonic_time() -> io::Result<Duration> {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }

    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanoseconds = u32::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(Duration::new(seconds, nanoseconds))
}
