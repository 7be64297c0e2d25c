//! Wire compatibility with the Go program, by a peer of the same habits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use crate::go_peer;
use crate::network::{Host, Network};
use crate::relay::{Direction, Relay, Weather};
use crate::traffic::{Pinged, ping, reaches, reaches_within, transfer};
use crate::tunnel::{HUB4, HUB6, Hub, SOON, Spoke, no_route, route};
use crate::wait::until_true;

#[test]
fn the_go_peer_carries_data_to_its_like() {
    let network = Network::new();
    let (hub, spoke) = (network.host(1), network.host(2));
    let mut server = go_peer::start(&hub, &["-key", "foo"]);
    server.line("listening");

    let mut client = go_peer::start(&spoke, &["-key", "foo", "-connect", "198.18.1.2:443"]);
    client.line("tunnel up");
    server.line("session up");

    reaches(&spoke, HUB4);
    transfer(&hub, &spoke, [10, 0, 0, 2], 100_000);
}

#[test]
fn a_go_spoke_and_our_hub_carry_data_both_ways() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);

    let mut spoke = go_peer::start(
        &host,
        &[
            "-key",
            "foo",
            "-connect",
            "198.18.1.2:443",
            "-peernet",
            "192.168.10.0/24",
        ],
    );
    spoke.line("tunnel up");

    reaches(&host, HUB4);
    reaches(&host, HUB6);
    reaches(&hub.host, LEASE4);
    transfer(&host, &hub.host, HUB4, 2_000_000);
    transfer(&hub.host, &host, LEASE4, 2_000_000);
    let device = hub.device("dtun").unwrap().name;
    assert!(route(&hub.host, "192.168.10.0/24").contains(&device));

    assert_eq!(spoke.count("session over"), 0);
}

#[test]
fn a_silent_go_spoke_is_pinged_inside_the_tunnel() {
    let network = Network::new();
    let hub = Hub::start(&network, &["-keepalive", "1s"]);
    let host = network.host(2);
    host.run("nft add table inet seen");
    host.run("nft add chain inet seen in { type filter hook input priority 0 ; }");
    host.run("nft add counter inet seen echoes");
    let echo = "icmp type echo-request counter name echoes";
    host.run(&format!("nft add rule inet seen in iifname tun0 {echo}"));
    let mut spoke = go_peer::start(&host, &["-key", "foo", "-connect", "198.18.1.2:443"]);
    spoke.line("tunnel up");

    until_true("three echoes", SOON, || {
        let text = host.run("nft list counter inet seen echoes");
        let (_, rest) = text.split_once("packets ").unwrap();
        let packets: u32 = rest.split_whitespace().next().unwrap().parse().unwrap();
        packets >= 3
    });

    assert_eq!(hub.count("session down"), 0);
    reaches(&host, HUB4);
}

#[test]
fn a_go_spokes_peernet_goes_when_its_session_is_replaced_without() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let dial = ["-key", "foo", "-connect", "198.18.1.2:443"];
    let with = [&dial[..], &["-peernet", "192.168.10.0/24"]].concat();
    let mut spoke = go_peer::start(&host, &with);
    spoke.line("tunnel up");
    route(&hub.host, "192.168.10.0/24");
    spoke.kill();

    let mut spoke = go_peer::start(&host, &dial);
    spoke.line("tunnel up");

    no_route(&hub.host, "192.168.10.0/24");
    reaches(&host, HUB4);
}

#[test]
fn a_go_spoke_comes_back_after_a_quick_restart_of_our_hub() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let mut spoke = go_peer::start(&host, &["-key", "foo", "-connect", "198.18.1.2:443"]);
    spoke.line("tunnel up");
    reaches(&host, HUB4);

    hub.kill();
    hub.restart();

    // Its own traffic earns the alert that makes it dial, 5 s later.
    reaches_within(&host, HUB4, Duration::from_secs(30));
    assert_eq!(spoke.count("session over"), 1);
}

#[test]
fn our_spoke_and_a_go_hub_carry_data_both_ways() {
    let network = Network::new();
    let hub = network.host(1);
    let mut server = go_peer::start(&hub, &["-key", "foo"]);
    server.line("listening");

    let nets = "192.168.10.0/24,192.168.11.0/24";
    let (spoke, lease) = Spoke::up(&network, 2, &["-keepalive", "1s", "-peernet", nets]);

    reaches(&spoke.host, HUB4);
    reaches(&spoke.host, HUB6);
    reaches(&hub, lease.ip4);
    transfer(&spoke.host, &hub, HUB4, 2_000_000);
    transfer(&hub, &spoke.host, lease.ip4, 2_000_000);
    // It can take one network only.
    route(&hub, "192.168.10.0/24");
    spoke.line_anywhere(&["WARN", "one peernet only", "192.168.10.0/24"]);

    // The heartbeat is an echo of the same kind, and must not meet the user's.
    let pinged = ping(&spoke.host, HUB4, 25);
    assert_eq!(
        pinged,
        Pinged {
            sent: 25,
            received: 25
        }
    );
    assert_eq!(server.count("session over"), 0);
}

#[test]
fn our_spoke_notices_that_a_go_hub_is_gone_and_comes_back() {
    let network = Network::new();
    let hub = network.host(1);
    let mut server = go_peer::start(&hub, &["-key", "foo"]);
    server.line("listening");
    let (mut spoke, _) = Spoke::up(&network, 2, &["-keepalive", "1s"]);

    server.kill();
    server.restart();
    spoke.lease();

    reaches_within(&spoke.host, HUB4, SOON);
}

#[test]
fn a_go_spoke_is_served_through_the_loss_of_each_single_datagram() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);

    for_each_loss(|number, loss| {
        let host = network.host(number);
        let (_relay, at) = relay(&network, &host, hub.host.at(443), loss);
        let hint = format!("go{number}");

        let mut spoke = go_peer::start(&host, &["-key", "foo", "-id", &hint, "-connect", &at]);
        spoke.line_within("tunnel up", PATIENT);

        reaches_within(&host, HUB4, PATIENT);
        assert_eq!(spoke.count("dial"), 0, "it dialled twice");
    });
}

#[test]
fn our_spoke_is_served_by_our_hub_through_the_loss_of_each_single_datagram() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);

    for_each_loss(|number, loss| {
        let host = network.host(number);
        let (_relay, at) = relay(&network, &host, hub.host.at(443), loss);

        let mut spoke = Spoke::start_on(host, &["-connect", &at]);
        spoke.line_within("tunnel up", SOON);

        reaches_within(&spoke.host, HUB4, SOON);
    });
}

#[test]
fn our_spoke_is_served_by_a_go_hub_through_the_loss_of_each_single_datagram() {
    let network = Network::new();
    let hub = network.host(1);

    for_each_loss(|number, loss| {
        // It shakes hands with one at a time, so each spoke has one to itself.
        let port = 4400 + u16::from(number);
        let listen = format!("0.0.0.0:{port}");
        let pool4 = format!("10.9.{number}.0/24");
        let pool6 = format!("fc00:{number}::/120");
        let pools = ["-pool4", &pool4, "-pool6", &pool6];
        let args = [&["-key", "foo", "-listen", &listen], &pools[..]].concat();
        let mut server = go_peer::start(&hub, &args);
        server.line("listening");
        let host = network.host(number);
        let (_relay, at) = relay(&network, &host, hub.at(port), loss);

        let mut spoke = Spoke::start_on(host, &["-connect", &at]);
        spoke.line_within("tunnel up", 2 * SOON);

        let own = IpAddr::V4(Ipv4Addr::new(10, 9, number, 1));
        reaches_within(&spoke.host, own, PATIENT);
    });
}

/// Runs the claim beside itself for each datagram of the handshake and the metas,
/// with the number of a host for each.
fn for_each_loss(claim: impl Fn(u8, (Direction, usize)) + Sync) {
    let ways = [Direction::ToHub, Direction::ToSpoke];
    let losses = (0..DATAGRAMS).flat_map(|place| ways.map(|way| (way, place)));
    let losses: Vec<_> = (2..).zip(losses).collect();

    for some in losses.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let claim = &claim;
            let runs: Vec<_> = some
                .iter()
                .map(|&(number, loss)| (loss, scope.spawn(move || claim(number, loss))))
                .collect();
            for (loss, run) in runs {
                assert!(run.join().is_ok(), "without {loss:?}");
            }
        });
    }
}

/// A relay at the spoke's gateway that loses one datagram.
fn relay(
    network: &Network,
    spoke: &Host,
    hub: SocketAddr,
    loss: (Direction, usize),
) -> (Relay, String) {
    let weather = Weather {
        drop: Some(loss),
        ..Weather::default()
    };

    Relay::at_gateway(&network.router, spoke, hub, weather)
}

/// The first lease of the default pool.
const LEASE4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// More than the handshake and both metas need in one direction.
const DATAGRAMS: usize = 12;

const AT_ONCE: usize = 8;

/// A Go peer repeats a flight after a second, and dials after five.
const PATIENT: Duration = Duration::from_secs(40);
