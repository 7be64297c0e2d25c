//! Dialling through a network that loses datagrams, drops seeded by their place.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::Netns;
use crate::network::{Host, Network};
use crate::relay::{Relay, Weather};
use crate::tunnel::{Hub, Spoke};

#[test]
fn at_5_percent_loss_50_of_50_dials_succeed() {
    let took = dials(5, 10);

    assert_eq!(took.len(), 50);
    let late: Vec<_> = took.iter().filter(|took| **took > IN_TIME).collect();
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn at_20_percent_loss_nine_of_ten_dials_are_in_time_and_the_rest_come() {
    let took = dials(20, 4);

    let late: Vec<_> = took.iter().filter(|took| **took > IN_TIME).collect();
    assert!(late.len() * 10 <= took.len(), "{late:?}");
}

/// Dials so many times on each of five hosts; how long each took.
fn dials(lost: u64, each: u64) -> Vec<Duration> {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let target = hub.host.at(443);
    let hosts: Vec<_> = (2..7).map(|number| network.host(number)).collect();
    let router = &network.router;

    thread::scope(|scope| {
        let workers: Vec<_> = hosts
            .into_iter()
            .map(|host| scope.spawn(move || dials_of(host, router, target, lost, each)))
            .collect();

        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    })
}

fn dials_of(host: Host, router: &Netns, target: SocketAddr, lost: u64, each: u64) -> Vec<Duration> {
    let weather = Weather {
        seed: u64::from(host.number()),
        lost,
        ..Weather::default()
    };
    let (_relay, at) = Relay::at_gateway(router, &host, target, weather);

    let mut start = Instant::now();
    let mut spoke = Spoke::start_on(host, &["-connect", &at]);
    (0..each)
        .map(|_| {
            spoke.line_within("tunnel up", IN_THE_END);
            let took = start.elapsed();
            spoke.kill();
            start = Instant::now();
            spoke.restart();
            took
        })
        .collect()
}

const IN_TIME: Duration = Duration::from_secs(25);

/// With the redials that this takes.
const IN_THE_END: Duration = Duration::from_secs(120);
