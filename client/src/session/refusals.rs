//! How often senders are told that their packets go nowhere: each of a
//! browser's attempts, but not each packet of a flood (RFC 4443, section 2.4
//! (f)).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;

/// A bucket of messages that fills at a steady rate; any thread takes.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// When the bucket is full again, in nanoseconds since `zero`.
    full: AtomicU64,
}

impl Refusals {
    /// Takes one message out, if one is there.
    pub(super) fn may_tell(&self, zero: Instant, now: Instant) -> bool {
        let now = now.saturating_duration_since(zero).as_nanos() as u64;
        let take = |full: u64| {
            let after = full.max(now) + EACH.as_nanos() as u64;
            (after <= now + BURST.as_nanos() as u64).then_some(after)
        };

        self.full
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

/// A thousand in a second.
const EACH: Duration = Duration::from_millis(1);

/// A hundred at once.
const BURST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_at_once_are_told_and_then_a_thousand_in_a_second() {
        let refusals = Refusals::default();
        let zero = Instant::now();
        let told = |at: Duration| {
            (0..1000)
                .filter(|_| refusals.may_tell(zero, zero + at))
                .count()
        };

        assert_eq!(told(Duration::from_secs(1)), 100);
        assert_eq!(told(Duration::from_millis(1010)), 10);
        assert_eq!(told(Duration::from_secs(60)), 100);
    }
}
