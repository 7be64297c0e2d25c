//! The machine's sleep: how long it was, and when it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;
use crate::sys::clock::{boot_time, monotonic_time};

/// Time that the machine has spent asleep since it started.
///
/// Two readings that differ by more than the time between two clock readings
/// have a sleep between them.
pub fn slept() -> io::Result<Duration> {
    let monotonic = monotonic_time()?;

    Ok(boot_time()?.saturating_sub(monotonic))
}

/// The ends of the machine's sleeps, without a look at the clock in between.
///
/// The kernel's timers stand still with the machine, but it says when the wall
/// clock jumps against them: at the end of a sleep, and when somebody sets it.
#[derive(Debug)]
pub struct Wakes {
    timer: AsyncFd<OwnedFd>,
}

impl Wakes {
    /// To be called within a runtime.
    pub fn new() -> io::Result<Self> {
        let timer = sys::timer::clock_jumps()?;

        Ok(Self {
            timer: sys::readiness::register(timer)?,
        })
    }

    /// Waits until the wall clock jumps; [`slept`] tells whether that was a
    /// sleep. Cancelling the wait loses nothing.
    pub async fn recv(&self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.ready(Interest::READABLE).await?;
            match ready.try_io(|timer| sys::timer::has_jumped(timer.get_ref())) {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_runs_on_wakes_nobody() {
        let wakes = Wakes::new().unwrap();
        let moment = Duration::from_millis(50);

        let quiet = tokio::time::timeout(moment, wakes.recv()).await;

        assert!(quiet.is_err(), "{quiet:?}");
    }
}
