//! What a stranger sends, and our own datagrams where they must not be.

use std::time::Duration;

use crate::network::Network;
use crate::relay::{Direction, Relay, Weather};
use crate::traffic::{Flow, reaches_within};
use crate::tunnel::{HUB4, Hub, Spoke};

#[test]
fn forged_datagrams_do_nothing_to_a_live_session() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let weather = Weather::default();
    let (relay, at) = Relay::at_gateway(&network.router, &host, hub.host.at(443), weather);
    let mut spoke = Spoke::start_on(host, &["-connect", &at]);
    spoke.lease();
    let flow = Flow::start(&spoke.host, &hub.host, HUB4);
    flow.moves_within(Duration::from_secs(10));

    for way in [Direction::ToHub, Direction::ToSpoke] {
        for forged in forgeries() {
            relay.forge(way, &forged);
            flow.moves_within(Duration::from_secs(10));
        }
    }

    flow.finish();
    assert_eq!(spoke.count("tunnel down"), 0);
    assert_eq!(hub.count("session down"), 0);
    assert_eq!(hub.count("session up"), 1);
}

#[test]
fn our_own_datagrams_in_our_own_tunnel_are_dropped_and_the_missing_route_is_named() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-keepalive", "1s"]);

    spoke.host.ip("route add 0.0.0.0/1 dev dtun0");
    spoke.host.ip("route add 128.0.0.0/1 dev dtun0");
    let line = spoke.line("WARN");

    assert!(line.contains("198.18.1.2"), "{line}");
    spoke.host.ip("route add 198.18.1.2 via 198.18.2.1");
    reaches_within(&spoke.host, HUB4, Duration::from_secs(40));
}

/// Records that anyone on the way can make: none of them authenticates.
fn forgeries() -> Vec<Vec<u8>> {
    let record = |content: u8, epoch: u8, body: &[u8]| {
        let mut record = vec![
            content,
            0xfe,
            0xfd,
            0,
            epoch,
            0,
            0,
            0,
            9,
            0,
            0,
            0,
            body.len() as u8,
        ];
        record.extend(body);
        record
    };
    let (alert, change, handshake, packets) = (21, 20, 22, 23);

    vec![
        record(alert, 0, &[2, 40]), // Fatal handshake_failure.
        record(alert, 0, &[1, 0]),  // close_notify.
        record(alert, 1, &[1, 0]),
        record(alert, 1, &[0; 26]),
        record(change, 0, &[1]),
        record(handshake, 1, &[20; 40]), // Finished, says its first byte.
        record(handshake, 0, &[0; 12]),  // HelloRequest.
        record(packets, 0, b"E of an IPv4 packet in the clear"),
        record(packets, 1, &[0; 64]),
        b"{\"Error\":\"not even a record\"}".to_vec(),
        vec![0],
        Vec::new(),
    ]
}
