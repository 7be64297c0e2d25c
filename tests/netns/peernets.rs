//! Networks behind spokes.

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Network, connect, forward, lan};
use crate::traffic::{reaches, transfer};
use crate::tunnel::{HUB4, Hub, SOON, Spoke, no_route, route};
use crate::wait::until_true;

#[test]
fn two_lans_reach_each_other_over_one_hub() {
    // pc 192.168.10.2 ── 192.168.10.1 spoke ═══ hub ═══ spoke 192.168.20.1 ── 192.168.20.2 pc
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    forward(&hub.host);
    let (left_router, right_router) = (network.host(2), network.host(3));
    let left = lan(&left_router, 10);
    let right = lan(&right_router, 20);

    let mut one = Spoke::start_on(left_router, &["-peernet", "192.168.10.0/24"]);
    let mut two = Spoke::start_on(right_router, &["-peernet", "192.168.20.0/24"]);
    one.lease();
    two.lease();
    one.host.ip("route add 192.168.20.0/24 dev dtun0");
    two.host.ip("route add 192.168.10.0/24 dev dtun0");
    route(&hub.host, "192.168.10.0/24");
    route(&hub.host, "192.168.20.0/24");

    reaches(&left, [192, 168, 20, 2]);
    reaches(&hub.host, [192, 168, 10, 2]);
    transfer(&right, &left, [192, 168, 10, 2], 2_000_000);
}

#[test]
fn a_peernet_is_routed_to_its_device_for_as_long_as_its_session() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let nets = "192.168.10.0/24,fd00:10::/64";

    let (mut spoke, _) = Spoke::up(&network, 2, &["-peernet", nets]);

    let device = hub.device("spoke2").unwrap().name;
    for net in nets.split(',') {
        let line = route(&hub.host, net);
        assert!(line.contains(&format!("dev {device} ")), "{line}");
    }
    spoke.terminate();
    for net in nets.split(',') {
        no_route(&hub.host, net);
    }
}

#[test]
fn a_session_that_replaces_another_leaves_the_same_peernet_alone() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-peernet", "192.168.10.0/24"]);
    let before = route(&hub.host, "192.168.10.0/24");
    let monitor = Daemon::start(&hub.host, "ip", &["monitor", "route"]);
    // It tells when it has begun to listen only by what it hears.
    until_true("the monitor", SOON, || {
        hub.host.ip("route add 203.0.113.1 dev uplink");
        hub.host.ip("route del 203.0.113.1 dev uplink");
        monitor.count("203.0.113.1") > 0
    });

    spoke.kill();
    spoke.restart();
    spoke.lease();
    hub.line("session down");
    reaches(&spoke.host, HUB4);

    assert_eq!(route(&hub.host, "192.168.10.0/24"), before);
    assert_eq!(monitor.count("192.168.10.0/24"), 0, "{}", monitor.text());
}

#[test]
fn a_peernet_comes_again_with_the_next_session() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let flags = ["-peernet", "192.168.10.0/24", "-keepalive", "1s"];
    let (mut spoke, _) = Spoke::up(&network, 2, &flags);
    route(&hub.host, "192.168.10.0/24");

    spoke.kill();
    spoke.restart();
    spoke.lease();
    route(&hub.host, "192.168.10.0/24");
    hub.kill();
    hub.restart();
    spoke.lease();

    route(&hub.host, "192.168.10.0/24");
}

#[test]
fn what_the_owner_does_not_accept_is_refused_to_both() {
    let network = Network::new();
    let host = network.host(1);
    let pc = Netns::new("pc");
    connect(&host, "lan", &pc, "lan");
    host.ip("addr add 192.168.30.1/24 dev lan");
    let hub = Hub::start_on(host, &["-allow-peernet", "203.0.113.0/24"]);
    let (_first, _) = Spoke::up(&network, 2, &["-peernet", "192.168.10.0/24"]);
    route(&hub.host, "192.168.10.0/24");

    let refused = [
        "0.0.0.0/0",         // Everything.
        "192.0.2.0/24",      // Public.
        "192.168.30.128/25", // The hub's own.
        "10.0.0.128/25",     // The pool.
        "192.168.10.128/25", // Another spoke's.
    ];
    let accepted = ["203.0.113.128/25", "172.16.0.0/12"];
    let all = [&refused[..], &accepted[..]].concat().join(",");
    let (second, _) = Spoke::up(&network, 3, &["-peernet", &all]);

    for net in refused {
        hub.line_anywhere(&["peernet refused", net, "spoke3"]);
        second.line_anywhere(&["WARN", net]);
    }
    for net in accepted {
        route(&hub.host, net);
    }
    assert_eq!(hub.host.ip("route show 0.0.0.0/0").lines().count(), 1);
    no_route(&hub.host, "192.0.2.0/24");
    no_route(&hub.host, "192.168.30.128/25");
    reaches(&second.host, HUB4);
}
