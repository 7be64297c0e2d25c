//! A link that loses, delays and doubles datagrams.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::random::Random;

#[derive(Clone, Copy)]
pub(crate) enum To {
    Hub,
    Spoke,
}

/// 20 % loss, 10 % late enough to be overtaken, 5 % twice; 10 ms one way.
pub(crate) struct Link {
    random: Random,
    in_flight: BTreeMap<(Instant, u64), (To, Vec<u8>)>,
    sent: u64,
}

impl Link {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            in_flight: BTreeMap::new(),
            sent: 0,
        }
    }

    pub(crate) fn send(&mut self, now: Instant, to: To, datagram: Vec<u8>) {
        let copies = if self.random.percent(5) { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.percent(20) {
                continue;
            }
            let mut delay = Duration::from_millis(10);
            if self.random.percent(10) {
                delay += Duration::from_millis(20 + self.random.next() % 300);
            }
            self.sent += 1;
            self.in_flight
                .insert((now + delay, self.sent), (to, datagram.clone()));
        }
    }

    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn arrivals(&mut self, now: Instant) -> Vec<(To, Vec<u8>)> {
        let later = self.in_flight.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.in_flight, later)
            .into_values()
            .collect()
    }
}
