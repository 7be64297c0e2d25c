//! Address pools that are full, too small or in the way.

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Network, connect};
use crate::traffic::reaches;
use crate::tunnel::{HUB4, Hub, Spoke};

#[test]
fn a_full_pool_is_said_to_the_spokes_user() {
    let network = Network::new();
    let _hub = Hub::start(&network, &["-pool4", "10.9.0.0/30"]);
    let (first, lease) = Spoke::up(&network, 2, &[]);
    assert_eq!(lease.ip4.to_string(), "10.9.0.2");

    let mut second = Spoke::start(&network, 3, &["-once"]);
    second.line("address pool 10.9.0.0/30 is full");

    assert_eq!(second.wait().code(), Some(1));
    reaches(&first.host, [10, 9, 0, 1]);
}

#[test]
fn a_pool_that_cannot_serve_is_refused_at_start() {
    let network = Network::new();
    let host = network.host(1);

    for (pool, why) in [
        ("10.9.0.0/31", "10.9.0.0/31"),
        ("10.9.0.0/33", "10.9.0.0/33"),
        ("198.18.1.0/24", "198.18.1.2"),
        ("198.18.0.0/16", "198.18.1.2"),
    ] {
        let mut hub = Daemon::dtun(&host, &["-key", "foo", "-pool4", pool]);
        let status = hub.wait();

        assert!(matches!(status.code(), Some(1 | 2)), "{pool}: {status}");
        let text = hub.text();
        assert!(text.contains("pool4"), "{pool}: {text}");
        assert!(text.contains(why), "{pool}: {text}");
    }
}

#[test]
fn a_default_pool_that_clashes_gives_way_and_stays_so() {
    let network = Network::new();
    let host = network.host(1);
    host.ip("addr add 10.0.0.5/24 dev uplink");
    let mut hub = Hub::start_on(host, &[]);
    let (mut spoke, lease) = Spoke::up(&network, 2, &[]);
    assert_eq!(lease.ip4.to_string(), "10.77.0.2");
    assert!(hub.text().contains("10.0.0.0/24"), "the clash is said");

    // The state decides, even where the reason is gone.
    hub.terminate();
    hub.host.ip("addr del 10.0.0.5/24 dev uplink");
    hub.restart();

    assert_eq!(spoke.lease().ip4, lease.ip4);
    reaches(&spoke.host, [10, 77, 0, 1]);
}

#[test]
fn a_pool_in_the_spokes_own_network_is_said_with_the_way_out() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let pc = Netns::new("pc");
    connect(&host, "lan", &pc, "lan");
    host.ip("addr add 10.0.3.1/16 dev lan");

    let mut spoke = Spoke::start_on(host, &[]);
    let line = spoke.line("-pool4");

    for part in ["10.0.0.0/24", "10.0.0.0/16", "-pool4 10.77.0.0/24"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_pool_in_the_peernet_is_said_with_the_way_out() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);

    let mut spoke = Spoke::start(&network, 2, &["-peernet", "10.0.0.0/16"]);
    let line = spoke.line("-pool4");

    for part in ["10.0.0.0/24", "10.0.0.0/16", "-pool4 10.77.0.0/24"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn an_address_without_a_lease_does_not_leave_by_the_uplink() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (spoke, _) = Spoke::up(&network, 2, &[]);
    reaches(&spoke.host, HUB4);

    let refused = hub.host.try_run("ip route get 10.0.0.99");

    assert!(refused.is_err(), "{refused:?}");
}
