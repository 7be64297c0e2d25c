//! How long to wait before the next dial.
//!
//! The wait doubles from half a second to 15 s and is shortened by a random
//! part, so that the spokes of a hub that came back do not dial in step. Pure:
//! the caller brings the randomness.

use std::time::Duration;

/// Failed dials since the last session, as far as they matter.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after another failed dial; `random` is spread over all of `u32`.
    pub(crate) fn failed(&mut self, random: u32) -> Duration {
        let whole = FIRST * 2u32.saturating_pow(self.failures.min(DOUBLINGS));
        self.failures = self.failures.saturating_add(1);

        shorten(whole.min(LONGEST), random)
    }

    /// The wait after a dial that the hub answered and did not accept: trying
    /// sooner mends nothing, and each try costs the hub a handshake.
    pub(crate) fn refused(&mut self, random: u32) -> Duration {
        self.failures = self.failures.saturating_add(1);

        shorten(LONGEST, random)
    }

    /// A session stands, or the network changed: old failures say nothing.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Takes up to a quarter off.
fn shorten(wait: Duration, random: u32) -> Duration {
    wait - wait / 4 * (random >> 16) / (1 << 16)
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// Enough to pass [`LONGEST`].
const DOUBLINGS: u32 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_from_half_a_second_to_15_seconds() {
        let mut backoff = Backoff::default();

        let waits: Vec<_> = (0..8).map(|_| backoff.failed(0).as_millis()).collect();

        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
    }

    #[test]
    fn a_session_starts_the_waits_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            backoff.failed(0);
        }

        backoff.reset();

        assert_eq!(backoff.failed(0), FIRST);
    }

    #[test]
    fn a_refused_key_is_tried_slowly_from_the_first_time() {
        assert_eq!(Backoff::default().refused(0), LONGEST);
    }

    proptest! {
        #[test]
        fn jitter_takes_a_quarter_at_most(failures in 0u32..100, random: u32) {
            let mut plain = Backoff { failures };
            let mut jittered = Backoff { failures };

            let whole = plain.failed(0);
            let wait = jittered.failed(random);

            prop_assert!(wait <= whole && wait >= whole * 3 / 4, "{wait:?} of {whole:?}");
        }
    }
}
