//! Telling two machines that use one hint from one that reconnects. Pure.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use std::time::{Duration, Instant};

/// When the live session of one hint was replaced.
#[derive(Debug, Default)]
pub(super) struct Fight {
    replaced: Vec<Instant>,
    told: bool,
}

impl Fight {
    /// A live session was replaced; true when the owner should be told, which
    /// is once in a fight.
    pub(super) fn handle_replaced(&mut self, now: Instant) -> bool {
        self.replaced
            .retain(|replaced| now.duration_since(*replaced) < WINDOW);
        if self.replaced.is_empty() {
            self.told = false;
        }
        self.replaced.push(now);
        if self.told || self.replaced.len() < ROUNDS {
            return false;
        }
        self.told = true;

        true
    }
}

const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
mod tests {
    use super::*;

    fn told(seconds: &[u64]) -> Vec<u64> {
        let start = Instant::now();
        let mut fight = Fight::default();

        seconds
            .iter()
            .copied()
            .filter(|second| fight.handle_replaced(start + Duration::from_secs(*second)))
            .collect()
    }

    #[test]
    fn the_third_replacement_within_a_minute_is_told_once() {
        assert_eq!(told(&[0, 20, 40, 60, 80, 100]), [40]);
    }

    #[test]
    fn a_machine_that_reconnects_now_and_then_is_no_fight() {
        assert_eq!(told(&[0, 31, 62, 93, 124]), Vec::<u64>::new());
    }

    #[test]
    fn a_fight_that_rested_is_told_again() {
        assert_eq!(told(&[0, 1, 2, 200, 201, 202]), [2, 202]);
    }
}
