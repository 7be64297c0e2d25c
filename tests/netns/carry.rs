//! The main job: packets and streams between a spoke and its hub.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::network::Network;
use crate::relay::{Direction, Relay, Weather};
use crate::traffic::{Pinged, ping, reaches, transfer};
use crate::tunnel::{HUB4, HUB6, Hub, Spoke};
use crate::wait::until_true;

#[test]
fn ipv4_and_ipv6_flow_both_ways() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (spoke, lease) = Spoke::up(&network, 2, &[]);
    let ip6 = lease.ip6.unwrap();

    for (from, to, at) in [
        (&spoke.host, &hub.host, HUB4),
        (&spoke.host, &hub.host, HUB6),
        (&hub.host, &spoke.host, lease.ip4),
        (&hub.host, &spoke.host, ip6),
    ] {
        reaches(from, at);
        transfer(from, to, at, 5_000_000);
    }
}

#[test]
fn the_tunnel_stands_over_ipv6() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let at = format!("[{}]:443", hub.host.ip6());

    let (spoke, lease) = Spoke::up(&network, 2, &["-connect", &at]);

    reaches(&spoke.host, HUB4);
    transfer(&hub.host, &spoke.host, lease.ip4, 1_000_000);
}

#[test]
fn an_idle_spoke_sleeps_until_the_keepalive() {
    let network = Network::new();
    let _hub = Hub::start(&network, &["-keepalive", "5m"]);
    let (spoke, _) = Spoke::up(&network, 2, &["-keepalive", "5m"]);
    reaches(&spoke.host, HUB4);

    // The watch for an answer ends 3 s after the ping, and the links' own
    // packets end too.
    let (mut last, mut since) = (spoke.switches(), Instant::now());
    until_true("six seconds asleep", Duration::from_secs(60), || {
        let switches = spoke.switches();
        if switches != last {
            (last, since) = (switches, Instant::now());
        }
        since.elapsed() >= Duration::from_secs(6)
    });
}

#[test]
fn every_address_of_a_name_is_tried() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    // The first two lead nowhere: no such host, and a host without a hub.
    let dead = network.host(3);
    host.etc(
        "hosts",
        &format!(
            "2001:db8:63::2 hub.test\n{} hub.test\n{} hub.test\n",
            dead.ip4(),
            hub.host.ip4()
        ),
    );

    let mut spoke = Spoke::start_on(host, &["-connect", "hub.test:443"]);
    spoke.line("tunnel up");

    reaches(&spoke.host, HUB4);
}

#[test]
fn the_hub_answers_from_the_address_it_was_asked_at() {
    let network = Network::new();
    let host = network.host(1);
    host.ip("addr add 203.0.113.7/32 dev lo");
    host.ip("addr add 2001:db8:ff::7/128 dev lo");
    network.router.ip("route add 203.0.113.7 via 198.18.1.2");
    network
        .router
        .ip("route add 2001:db8:ff::7 via 2001:db8:1::2");
    let _hub = Hub::start_on(host, &[]);

    let (four, _) = Spoke::up(&network, 2, &["-connect", "203.0.113.7:443"]);
    let (six, _) = Spoke::up(&network, 3, &["-connect", "[2001:db8:ff::7]:443"]);

    reaches(&four.host, HUB4);
    reaches(&six.host, HUB4);
}

#[test]
fn a_hub_without_ipv6_serves_ipv4() {
    let network = Network::new();
    let host = network.host(1);
    host.sysctl("ipv6/conf/all/disable_ipv6", "1");
    host.sysctl("ipv6/conf/default/disable_ipv6", "1");
    let hub = Hub::start_on(host, &[]);

    let (spoke, lease) = Spoke::up(&network, 2, &[]);

    reaches(&spoke.host, HUB4);
    transfer(&hub.host, &spoke.host, lease.ip4, 1_000_000);
}

#[test]
fn a_spoke_without_ipv6_gets_ipv4() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.sysctl("ipv6/conf/all/disable_ipv6", "1");

    let mut spoke = Spoke::start_on(host, &[]);

    let lease = spoke.lease();
    assert_eq!(lease.ip6, None, "{}", lease.line);
    reaches(&spoke.host, HUB4);
}

#[test]
fn pool6_none_gives_ipv4_only() {
    let network = Network::new();
    let _hub = Hub::start(&network, &["-pool6", "none"]);

    let (spoke, lease) = Spoke::up(&network, 2, &[]);

    assert_eq!(lease.ip6, None, "{}", lease.line);
    reaches(&spoke.host, HUB4);
    assert_eq!(spoke.host.ip("-6 addr show dev dtun0 scope global"), "");
}

#[test]
fn a_users_ping_loses_nothing_beside_the_heartbeat() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (spoke, _) = Spoke::up(&network, 2, &["-keepalive", "1s"]);

    let pinged = ping(&spoke.host, HUB4, 25);

    assert_eq!(
        pinged,
        Pinged {
            sent: 25,
            received: 25
        }
    );
}

#[test]
fn a_stream_survives_reordering_and_copies() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let weather = Weather {
        seed: 7,
        doubled: 5,
        late: 5,
        ..Weather::default()
    };
    let (_relay, at) = Relay::at_gateway(&network.router, &host, hub.host.at(443), weather);

    let mut spoke = Spoke::start_on(host, &["-connect", &at]);
    let lease = spoke.lease();

    transfer(&spoke.host, &hub.host, HUB4, 2_000_000);
    transfer(&hub.host, &spoke.host, lease.ip4, 2_000_000);
}

#[test]
fn no_log_holds_the_key() {
    let network = Network::new();
    let key = "vErY-sEcReT";
    let mut hub = Hub::start(&network, &["-key", key, "-v"]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-key", key, "-v"]);
    reaches(&spoke.host, HUB4);

    spoke.terminate();
    hub.terminate();

    for text in [spoke.text(), hub.text()] {
        assert!(!text.contains(key));
        assert!(!text.contains("vErY"));
    }
}

#[test]
fn the_relay_loses_the_one_datagram_and_changes_the_port() {
    let network = Network::new();
    let (spoke, hub) = (network.host(1), network.host(2));
    let at = SocketAddr::new(IpAddr::V4(spoke.gateway4()), 443);
    let target = hub.at(443);
    let weather = Weather {
        drop: Some((Direction::ToHub, 1)),
        ..Weather::default()
    };
    let relay = Relay::start(&network.router, at, target, weather);
    let socket = spoke.enter(|| UdpSocket::bind((spoke.ip4(), 0)).unwrap());
    let listener = hub.enter(|| UdpSocket::bind(target).unwrap());
    for socket in [&socket, &listener] {
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
    }
    let mut buffer = [0; 8];

    socket.send_to(b"a", at).unwrap();
    let (_, first) = listener.recv_from(&mut buffer).unwrap();
    socket.send_to(b"b", at).unwrap();
    socket.send_to(b"c", at).unwrap();
    listener.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[0], b'c');
    assert_eq!(relay.seen(Direction::ToHub), 3);

    relay.rebind(None);
    socket.send_to(b"d", at).unwrap();
    let (_, second) = listener.recv_from(&mut buffer).unwrap();
    assert_ne!(first, second);
    listener.send_to(b"e", second).unwrap();
    socket.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[0], b'e');
}
