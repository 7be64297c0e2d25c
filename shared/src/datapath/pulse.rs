//! Whether the workers get on with their work.
//!
//! Each counts the turns it begins and ends, in a cache line of its own: one
//! that is at the same turn at two looks, seconds apart, hangs.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The pulses of all workers, by their numbers.
#[derive(Debug)]
pub(super) struct Pulses(Vec<Pulse>);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Pulse {
    /// Turns begun and ended: odd while one is being done.
    turns: AtomicUsize,
    /// What it was at the last look.
    seen: AtomicUsize,
}

impl Pulses {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Pulse::default()).collect())
    }

    pub(super) fn begin(&self, worker: usize) {
        self.0[worker].step();
    }

    pub(super) fn end(&self, worker: usize) {
        self.0[worker].step();
    }

    /// Whether no worker is at the turn that it was at when this was asked last.
    pub(super) fn all_move(&self) -> bool {
        let hanging = self.0.iter().filter(|pulse| pulse.look()).count();

        hanging == 0
    }
}

impl Pulse {
    /// Its worker alone writes.
    fn step(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether it hangs.
    fn look(&self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);

        self.seen.swap(turns, Ordering::Relaxed) == turns && turns % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stays_in_its_turn_hangs_and_one_that_waits_does_not() {
        let pulses = Pulses::new(2);
        assert!(pulses.all_move() && pulses.all_move(), "all wait");

        pulses.begin(1);
        assert!(pulses.all_move(), "it has just begun");
        assert!(!pulses.all_move(), "it is still there");

        pulses.end(1);
        pulses.begin(1);
        assert!(pulses.all_move(), "that is another turn");
    }
}
