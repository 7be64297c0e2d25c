//! Handshakes over a network that loses, delays and doubles datagrams.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::hub::{Hub, peer};
use crate::random::Random;
use crate::spoke::Spoke;

#[test]
fn every_handshake_ends_within_5_s_at_20_percent_loss() {
    let mut slowest = Duration::ZERO;
    for seed in 0..200 {
        let took = shake(seed).unwrap_or_else(|| panic!("seed {seed} did not end within 5 s"));
        slowest = slowest.max(took);
    }
    println!("slowest of 200: {slowest:?}");
}

/// How long it took both sides to have a session.
fn shake(seed: u64) -> Option<Duration> {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(seed);
    let start = hub.now;
    let end = start + Duration::from_secs(5);
    let mut link = Link::new(seed);

    let first = spoke.flight(start);
    link.send(start, To::Hub, first);
    loop {
        let next = [
            link.next_arrival(),
            spoke.timeout(),
            hub.core.poll_timeout(),
        ];
        let now = next.into_iter().flatten().min()?;
        if now > end {
            return None;
        }
        hub.now = now;

        for (to, datagram) in link.arrivals(now) {
            match to {
                To::Hub => {
                    hub.verdict(peer(1), &datagram);
                }
                To::Spoke => {
                    if spoke.handle_datagram(&datagram) {
                        let flight = spoke.flight(now);
                        link.send(now, To::Hub, flight);
                    }
                }
            }
        }
        if spoke.timeout().is_some_and(|at| at <= now) {
            let flight = spoke.flight(now);
            link.send(now, To::Hub, flight);
        }
        hub.pass(Duration::ZERO)
            .into_iter()
            .for_each(|(_, datagram)| link.send(now, To::Spoke, datagram));
        for (_, datagram) in hub.sent.drain(..) {
            link.send(now, To::Spoke, datagram);
        }

        if spoke.session.is_some() && hub.established.len() == 1 {
            return Some(now - start);
        }
    }
}

#[derive(Clone, Copy)]
enum To {
    Hub,
    Spoke,
}

/// 20 % loss, 10 % late enough to be overtaken, 5 % twice; 10 ms one way.
struct Link {
    random: Random,
    in_flight: BTreeMap<(Instant, u64), (To, Vec<u8>)>,
    sent: u64,
}

impl Link {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            in_flight: BTreeMap::new(),
            sent: 0,
        }
    }

    fn send(&mut self, now: Instant, to: To, datagram: Vec<u8>) {
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

    fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.keys().next().map(|(at, _)| *at)
    }

    fn arrivals(&mut self, now: Instant) -> Vec<(To, Vec<u8>)> {
        let later = self.in_flight.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.in_flight, later)
            .into_values()
            .collect()
    }
}
