//! How much a spoke, a network and the world may have open, and for how long.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::hub::{Hub, peer};
use crate::spoke::Spoke;

#[test]
fn the_oldest_of_an_address_without_a_key_exchange_gives_way() {
    crowd(&|n| SocketAddr::from(([192, 0, 2, 1], 1000 + n)), 64);
}

#[test]
fn the_oldest_of_a_64_without_a_key_exchange_gives_way() {
    crowd(
        &|n| SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, n, 0, 0, 1), 1000)),
        64,
    );
}

#[test]
fn the_oldest_of_all_without_a_key_exchange_gives_way() {
    crowd(
        &|n| SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1), 1000)),
        4096,
    );
}

/// Fills a limit, the oldest with a ClientKeyExchange, and opens one more.
fn crowd(address: &dyn Fn(u16) -> SocketAddr, limit: u16) {
    let mut hub = Hub::new();
    let mut spokes: Vec<_> = (0..=limit).map(|n| Spoke::new(n.into())).collect();
    for n in 0..limit {
        hub.greet(address(n), &mut spokes[usize::from(n)]);
    }
    let key_exchange = spokes[0].key_exchange();
    hub.deliver(address(0), &key_exchange);
    assert_eq!(hub.core.counters().half_open, usize::from(limit));
    assert_eq!(hub.core.counters().displaced, 0);

    hub.greet(address(limit), &mut spokes[usize::from(limit)]);

    assert_eq!(hub.core.counters().half_open, usize::from(limit));
    assert_eq!(hub.core.counters().displaced, 1);
    assert!(!hub.core.in_progress(address(1)));
    for n in [0, 2, limit] {
        hub.conclude(address(n), &mut spokes[usize::from(n)]);
    }
}

#[test]
fn a_half_open_handshake_lives_30_s_after_the_last_useful_datagram() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    hub.pass(Duration::from_secs(20));
    let key_exchange = spoke.key_exchange();
    hub.deliver(peer(1), &key_exchange);

    hub.pass(Duration::from_millis(29_999));
    assert_eq!(hub.core.counters().half_open, 1);
    hub.pass(Duration::from_millis(1));
    assert_eq!(hub.core.counters().half_open, 0);
    assert_eq!(hub.core.counters().expired, 1);
}

#[test]
fn a_half_open_handshake_lives_90_s_however_useful() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    for _ in 0..5 {
        hub.pass(Duration::from_secs(15));
        let key_exchange = spoke.key_exchange();
        hub.deliver(peer(1), &key_exchange);
    }

    hub.pass(Duration::from_millis(14_999));
    assert_eq!(hub.core.counters().half_open, 1);
    hub.pass(Duration::from_millis(1));
    assert_eq!(hub.core.counters().half_open, 0);
}

#[test]
fn nothing_is_left_of_a_handshake_after_its_time() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.shake(peer(1), &mut spoke);
    hub.core.confirmed(peer(1));
    hub.greet(peer(2), &mut Spoke::new(2));

    hub.pass(Duration::from_secs(121));

    let counters = hub.core.counters();
    assert_eq!((counters.half_open, counters.final_flights), (0, 0));
    assert_eq!(hub.core.poll_timeout(), None);
}
