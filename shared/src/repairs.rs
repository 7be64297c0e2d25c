//! How often to put back what others take away: at once, but not in a quarrel
//! with a program that does it again and again. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The repairs of the last minute.
#[derive(Debug)]
pub struct Repairs {
    /// Things of the tunnel's, for people.
    what: &'static str,
    made: VecDeque<Instant>,
    told: bool,
    not_before: Option<Instant>,
    /// How many within a window are no quarrel yet.
    at_once: usize,
    /// Between repairs in a quarrel.
    slow: Duration,
}

impl Repairs {
    pub fn of(what: &'static str) -> Self {
        Self {
            what,
            made: VecDeque::new(),
            told: false,
            not_before: None,
            at_once: AT_ONCE,
            slow: SLOW,
        }
    }

    /// With another pace in a quarrel.
    pub fn every(self, slow: Duration) -> Self {
        Self { slow, ..self }
    }

    /// With more repairs in a minute before it is a quarrel.
    pub fn after(self, at_once: usize) -> Self {
        Self { at_once, ..self }
    }

    /// Notes a repair; returns how long to wait with the next.
    pub fn made(&mut self, now: Instant) -> Duration {
        self.made.push_back(now);
        while self.made.front().is_some_and(|at| now - *at > WINDOW) {
            self.made.pop_front();
        }
        if self.made.len() <= self.at_once {
            self.told = false;
            self.not_before = None;
            return Duration::ZERO;
        }
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "another program changes the tunnel's {} again and again: \
                 they are put back every {:?}",
                self.what,
                self.slow
            );
        }
        self.not_before = Some(now + self.slow);

        self.slow
    }

    /// When the next one may be made.
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }
}

/// Repairs within a window that are no quarrel yet, unless told otherwise.
const AT_ONCE: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

const SLOW: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_repairs_are_made_at_once_and_a_quarrel_is_slow_until_it_ends() {
        let mut repairs = Repairs::of("routes");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);

        for second in 0..5 {
            assert_eq!(repairs.made(at(second)), Duration::ZERO);
        }
        for second in [5, 15, 25] {
            assert_eq!(repairs.made(at(second)), SLOW);
            assert_eq!(repairs.not_before(), Some(at(second + 10)));
        }
        assert_eq!(repairs.made(at(200)), Duration::ZERO);
        assert_eq!(repairs.not_before(), None);
    }

    #[test]
    fn what_takes_many_repairs_is_no_quarrel_for_longer() {
        let mut repairs = Repairs::of("routes").after(8);
        let now = Instant::now();

        for _ in 0..8 {
            assert_eq!(repairs.made(now), Duration::ZERO);
        }
        assert_eq!(repairs.made(now), SLOW);
    }
}
