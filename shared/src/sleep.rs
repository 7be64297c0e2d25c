//! How long the machine has slept.

use std::io;
use std::time::Duration;

use crate::sys::clock::{boot_time, monotonic_time};

/// Time that the machine has spent asleep since it started.
///
/// Two readings that differ by more than the time between two clock readings
/// have a sleep between them.
pub fn slept() -> io::Result<Duration> {
    let monotonic = monotonic_time()?;

    Ok(boot_time()?.saturating_sub(monotonic))
}
