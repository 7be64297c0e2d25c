//! Interruptions of every kind, with what stays the same through them.

use std::time::Duration;

use crate::network::Network;
use crate::relay::{Relay, Weather};
use crate::traffic::{Flow, reaches, reaches_within};
use crate::tunnel::{HUB4, Hub, Spoke, devices};
use crate::wait::until_true;

#[test]
fn a_spoke_finds_its_device_and_addresses_the_tenth_time_too() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (mut spoke, first) = Spoke::up(&network, 2, &[]);
    let device = hub.device("spoke2").unwrap();

    for _ in 0..10 {
        assert_eq!(spoke.terminate().code(), Some(0));
        assert_eq!(devices(&spoke.host), []);
        spoke.restart();

        let again = spoke.lease();
        assert_eq!((again.ip4, again.ip6), (first.ip4, first.ip6));
    }

    assert_eq!(hub.device("spoke2"), Some(device));
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_spoke_killed_starts_again_without_cleaning_up() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (mut spoke, first) = Spoke::up(&network, 2, &[]);
    let device = hub.device("spoke2").unwrap();

    for _ in 0..3 {
        spoke.kill();
        spoke.restart();

        let again = spoke.lease();
        assert_eq!((again.ip4, again.ip6), (first.ip4, first.ip6));
        reaches(&spoke.host, HUB4);
    }

    assert_eq!(hub.device("spoke2"), Some(device));
    assert_eq!(devices(&spoke.host).len(), 1);
}

#[test]
fn a_stream_outlives_the_killing_of_the_hub() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, lease) = Spoke::up(&network, 2, &[]);
    let (at_hub, at_spoke) = (hub.device("spoke2").unwrap(), devices(&spoke.host));
    let up = Flow::start(&spoke.host, &hub.host, HUB4);
    let down = Flow::start(&hub.host, &spoke.host, lease.ip4);
    up.moves_within(Duration::from_secs(10));

    hub.kill();
    hub.restart();
    let again = spoke.lease();

    up.moves_within(Duration::from_secs(30));
    down.moves_within(Duration::from_secs(30));
    up.finish();
    down.finish();
    assert_eq!(again.ip4, lease.ip4);
    assert_eq!(hub.device("spoke2"), Some(at_hub));
    assert_eq!(devices(&spoke.host), at_spoke);
}

#[test]
fn a_stream_outlives_a_clean_restart_of_the_hub() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, lease) = Spoke::up(&network, 2, &[]);
    let flow = Flow::start(&spoke.host, &hub.host, HUB4);
    flow.moves_within(Duration::from_secs(10));

    assert_eq!(hub.terminate().code(), Some(0));
    assert_eq!(devices(&hub.host), []);
    hub.restart();
    let again = spoke.lease();

    flow.moves_within(Duration::from_secs(30));
    flow.finish();
    assert_eq!((again.ip4, again.ip6), (lease.ip4, lease.ip6));
}

#[test]
fn a_hub_away_for_longer_than_the_fallback_gives_the_routes_back() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let mut spoke = Spoke::start_on(host, &["-fallback", "2s", "-keepalive", "1s"]);
    let lease = spoke.lease();
    spoke.host.ip("route add 203.0.113.0/24 dev dtun0");
    let flow = Flow::start(&spoke.host, &hub.host, HUB4);
    flow.moves_within(Duration::from_secs(10));

    hub.kill();
    until_true("the device down", Duration::from_secs(30), || {
        devices(&spoke.host).iter().all(|device| !device.up)
    });
    assert_eq!(devices(&spoke.host).len(), 1);
    assert_eq!(spoke.host.ip("route show dev dtun0"), "");

    hub.restart();
    let again = spoke.lease();
    flow.moves_within(Duration::from_secs(40));
    flow.finish();
    assert_eq!((again.ip4, again.ip6), (lease.ip4, lease.ip6));
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_spoke_whose_address_and_port_change_under_it_comes_back() {
    let network = Network::new();
    network.router.ip("addr add 198.18.200.1/32 dev lo");
    let mut hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let (relay, at) =
        Relay::at_gateway(&network.router, &host, hub.host.at(443), Weather::default());
    let mut spoke = Spoke::start_on(host, &["-connect", &at]);
    let lease = spoke.lease();
    let device = hub.device("spoke2");
    let flow = Flow::start(&spoke.host, &hub.host, HUB4);
    flow.moves_within(Duration::from_secs(10));

    relay.rebind(Some([198, 18, 200, 1].into()));
    let again = spoke.lease();
    hub.line("session up peer=198.18.200.1:");

    flow.moves_within(Duration::from_secs(30));
    flow.finish();
    assert_eq!(again.ip4, lease.ip4);
    assert_eq!(hub.device("spoke2"), device);
}

#[test]
fn a_spoke_whose_address_goes_takes_the_next_one() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);
    let flow = Flow::start(&spoke.host, &hub.host, HUB4);
    flow.moves_within(Duration::from_secs(10));

    spoke.host.ip("addr flush dev uplink scope global");
    spoke.host.ip("addr add 198.18.2.77/24 dev uplink");
    spoke.host.ip("route add default via 198.18.2.1");
    spoke.lease();

    flow.moves_within(Duration::from_secs(30));
    flow.finish();
}

#[test]
fn one_change_of_the_uplink_after_another_is_dialled_upon_at_once() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);

    // The wait of a hub that ends one session after another would be 6 s by the last.
    for last in 3..9 {
        spoke.host.ip("addr flush dev uplink scope global");
        spoke
            .host
            .ip(&format!("addr add 198.18.2.{last}/24 dev uplink"));
        spoke.host.ip("route add default via 198.18.2.1");
        spoke.line_within("tunnel up", Duration::from_secs(5));
    }
}

#[test]
fn a_silent_way_is_noticed_and_left_when_it_is_back() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-keepalive", "1s"]);

    network.router.run("nft add table inet wall");
    network.router.run(
        "nft add chain inet wall forward { type filter hook forward priority 0 ; policy drop ; }",
    );
    spoke.line("tunnel down");
    network.router.run("nft delete table inet wall");

    reaches_within(&spoke.host, HUB4, Duration::from_secs(30));
}

#[test]
fn routes_stay_over_a_restart_of_the_hub_while_its_name_is_not_found() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.etc("hosts", "198.18.1.2 hub.example\n");
    host.etc("resolv.conf", "nameserver 127.0.0.1\n");
    let flags = ["-connect", "hub.example:443", "-keepalive", "1s"];
    let mut spoke = Spoke::start_on(host, &flags);
    spoke.lease();
    spoke.host.ip("route add 203.0.113.0/24 dev dtun0");

    spoke.host.etc("hosts", "");
    hub.kill();
    hub.restart();
    spoke.lease();

    let routes = spoke.host.ip("route show dev dtun0");
    assert!(routes.contains("203.0.113.0/24"), "{routes}");
}

#[test]
fn without_a_fallback_routes_stay_whatever_the_resolver_says() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.etc("hosts", "198.18.1.2 hub.example\n");
    host.etc("resolv.conf", "nameserver 127.0.0.1\n");
    let flags = ["-connect", "hub.example:443", "-fallback", "never", "-v"];
    let mut spoke = Spoke::start_on(host, &flags);
    spoke.lease();
    spoke.host.ip("route add 203.0.113.0/24 dev dtun0");

    spoke.host.etc("hosts", "");
    hub.terminate();
    spoke.line("tunnel down");
    spoke.line("next dial");

    let routes = spoke.host.ip("route show dev dtun0");
    assert!(routes.contains("203.0.113.0/24"), "{routes}");
}
