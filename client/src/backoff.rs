//! How long to wait before the next dial.
//!
//! After a session that stood for a while there is no wait, and none after the
//! first that did not. From the second in a row on there is one: two machines that
//! share a hint end each other's sessions, and a script may, but not as fast as
//! they can. A hub that is restarted a few times says goodbye as well; its spokes
//! are back in time all the same, as for [`RESTARTS`] sessions the wait stays short.
//!
//! The wait doubles from half a second to 15 s and is shortened by a random
//! part, so that the spokes of a hub that came back do not dial in step. Pure:
//! the caller brings the randomness.

use std::time::Duration;

/// Failed dials since the last session, as far as they matter.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    /// Sessions in a row that were short.
    short: u32,
}

impl Backoff {
    /// The wait after a session that stood for some time; `by_hub` if it was the hub
    /// who ended it, with a goodbye.
    pub(crate) fn ended(&mut self, stood: Duration, by_hub: bool, random: u32) -> Duration {
        if stood >= SETTLED {
            *self = Self::default();
            return Duration::ZERO;
        }
        self.short = self.short.saturating_add(1);
        if by_hub && self.short <= RESTARTS {
            self.failures = 0;
        }
        if self.short == 1 {
            return Duration::ZERO;
        }

        self.failed(random)
    }

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

    /// The network changed, or the machine slept: old failures say nothing.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Takes up to a quarter off.
fn shorten(wait: Duration, random: u32) -> Duration {
    wait - wait / 4 * (random >> 16) / (1 << 16)
}

/// A session that stood that long is followed by a dial at once.
const SETTLED: Duration = Duration::from_secs(10);

/// Short sessions in a row that a hub may end without the waits growing.
const RESTARTS: u32 = 8;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// Enough to pass [`LONGEST`].
const DOUBLINGS: u32 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn waits_double_from_half_a_second_to_15_seconds() {
        let mut backoff = Backoff::default();

        let waits: Vec<_> = (0..8).map(|_| backoff.failed(0).as_millis()).collect();

        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
    }

    #[test]
    fn a_session_that_stood_and_another_network_start_the_waits_anew() {
        let anew: [fn(&mut Backoff); 2] = [Backoff::reset, |backoff| {
            assert_eq!(backoff.ended(SETTLED, false, 0), Duration::ZERO);
        }];
        for start in anew {
            let mut backoff = Backoff::default();
            for _ in 0..100 {
                backoff.failed(0);
            }

            start(&mut backoff);

            assert_eq!(backoff.failed(0), FIRST);
        }
    }

    #[test]
    fn a_hub_that_is_restarted_a_few_times_is_dialled_soon_and_one_that_throws_out_is_not() {
        let mut backoff = Backoff::default();
        let goodbye = |backoff: &mut Backoff| backoff.ended(SHORT, true, 0).as_millis();

        assert_eq!(goodbye(&mut backoff), 0);
        for _ in 1..RESTARTS {
            assert_eq!(goodbye(&mut backoff), 500);
            // The hub did not listen yet.
            assert_eq!(backoff.failed(0), 2 * FIRST);
        }
        let waits: Vec<_> = (0..5).map(|_| goodbye(&mut backoff)).collect();
        assert_eq!(waits, [2000, 4000, 8000, 15000, 15000]);

        assert_eq!(backoff.ended(SETTLED, true, 0), Duration::ZERO);
        assert_eq!(goodbye(&mut backoff), 0);
    }

    #[test]
    fn short_sessions_that_end_otherwise_are_waited_after_ever_longer() {
        let mut backoff = Backoff::default();

        let waits: Vec<_> = (0..5)
            .map(|_| backoff.ended(SHORT, false, 0).as_millis())
            .collect();

        assert_eq!(waits, [0, 500, 1000, 2000, 4000]);
    }

    #[test]
    fn a_refused_key_is_tried_slowly_from_the_first_time() {
        assert_eq!(Backoff::default().refused(0), LONGEST);
    }

    proptest! {
        #[test]
        fn jitter_takes_a_quarter_at_most(failures in 0u32..100, random: u32) {
            let mut plain = Backoff { failures, short: 0 };
            let mut jittered = Backoff { failures, short: 0 };

            let whole = plain.failed(0);
            let wait = jittered.failed(random);

            prop_assert!(wait <= whole && wait >= whole * 3 / 4, "{wait:?} of {whole:?}");
        }
    }
}
