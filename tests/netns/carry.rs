//! The main job: packets and streams between a spoke and its hub.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::network::Network;
use crate::relay::{Direction, Relay, Weather};
use crate::traffic::{reaches, reaches_within, transfer};

#[test]
fn the_fixtures_carry_a_stream() {
    let network = Network::new();
    let (left, right) = (network.host(1), network.host(2));

    reaches(&left, right.ip4());
    reaches_within(&right, left.ip6(), Duration::from_secs(5));
    transfer(&left, &right, right.ip4(), 1_000_000);
    transfer(&right, &left, left.ip6(), 1_000_000);
}

#[test]
fn the_relay_loses_the_one_datagram_and_changes_the_port() {
    let network = Network::new();
    let (spoke, hub) = (network.host(1), network.host(2));
    let at = SocketAddr::new(IpAddr::V4(spoke.gateway4()), 443);
    let target = SocketAddr::new(IpAddr::V4(hub.ip4()), 443);
    let weather = Weather {
        drop: Some((Direction::ToHub, 1)),
        ..Weather::default()
    };
    let relay = Relay::start(&network.router, at, target, weather);
    let socket = spoke.enter(|| std::net::UdpSocket::bind((spoke.ip4(), 0)).unwrap());
    let listener = hub.enter(|| std::net::UdpSocket::bind(target).unwrap());
    let mut buffer = [0; 8];

    socket.send_to(b"a", at).unwrap();
    let (_, first) = listener.recv_from(&mut buffer).unwrap();
    socket.send_to(b"b", at).unwrap();
    socket.send_to(b"c", at).unwrap();
    listener.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[0], b'c');
    assert_eq!(relay.seen(Direction::ToHub), 3);

    relay.rebind();
    socket.send_to(b"d", at).unwrap();
    let (_, second) = listener.recv_from(&mut buffer).unwrap();
    assert_ne!(first, second);
    listener.send_to(b"e", second).unwrap();
    socket.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[0], b'e');
}
