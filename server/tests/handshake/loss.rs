//! Handshakes over a network that loses, delays and doubles datagrams.

use std::time::Duration;

use crate::hub::{Hub, peer};
use crate::link::{Link, To};
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
