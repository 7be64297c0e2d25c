//! A pause after what fails.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What keeps a loop over something that fails at once, and for good, from
/// turning as fast as it can.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    until: Option<Instant>,
}

impl Rest {
    /// Does it, but not sooner than a while after it failed.
    pub(crate) async fn after_errors<T>(
        &mut self,
        work: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        if let Some(until) = self.until {
            sleep_until(until).await;
            self.until = None;
        }
        let result = work.await;
        if result.is_err() {
            self.until = Some(Instant::now() + DEAF);
        }

        result
    }
}

/// Between tries of what fails.
const DEAF: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_good_is_tried_every_two_seconds_and_what_works_at_once() {
        let mut rest = Rest::default();
        let begin = Instant::now();

        for tries in 0..3 {
            let broken = async { Err::<(), _>(io::ErrorKind::NotConnected.into()) };
            rest.after_errors(broken).await.unwrap_err();
            assert_eq!(begin.elapsed(), tries * DEAF);
        }
        for _ in 0..3 {
            rest.after_errors(async { Ok(()) }).await.unwrap();
            assert_eq!(begin.elapsed(), 3 * DEAF);
        }
    }
}
