//! Several spokes at one hub, and what one may do to another.

use std::net::IpAddr;
use std::time::Duration;

use crate::namespace::Netns;
use crate::network::{Network, forward};
use crate::traffic::{ping, reaches, reaches_not, reaches_within, transfer};
use crate::tunnel::{HUB4, Hub, SOON, Spoke, devices};

#[test]
fn three_spokes_talk_to_the_hub_and_to_each_other() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    forward(&hub.host);

    let (one, first) = Spoke::up(&network, 2, &[]);
    let (two, second) = Spoke::up(&network, 3, &[]);
    let (three, third) = Spoke::up(&network, 4, &[]);

    for spoke in [&one, &two, &three] {
        reaches(&spoke.host, HUB4);
    }
    reaches(&one.host, second.ip4);
    reaches(&two.host, third.ip6.unwrap());
    transfer(&three.host, &one.host, first.ip4, 2_000_000);
    transfer(&one.host, &two.host, second.ip6.unwrap(), 2_000_000);
}

#[test]
fn no_spoke_to_spoke_keeps_spokes_apart() {
    let network = Network::new();
    let hub = Hub::start(&network, &["-no-spoke-to-spoke"]);
    forward(&hub.host);

    let (one, first) = Spoke::up(&network, 2, &[]);
    let (two, second) = Spoke::up(&network, 3, &[]);

    reaches(&one.host, HUB4);
    reaches(&two.host, HUB4);
    reaches_not(&one.host, second.ip4);
    reaches_not(&two.host, first.ip6.unwrap());
}

#[test]
fn a_source_that_is_not_the_spokes_never_leaves_the_hubs_device() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (one, first) = Spoke::up(&network, 2, &[]);
    let (_two, second) = Spoke::up(&network, 3, &[]);
    let stranger = IpAddr::from([10, 0, 0, 200]);
    for source in [first.ip4, second.ip4, stranger] {
        count(&hub.host, source);
    }
    for forged in [second.ip4, stranger] {
        one.host.ip(&format!("addr add {forged}/32 dev lo"));
        let line = format!("ping -n -q -i 0.2 -W 1 -c 3 -I {forged} {HUB4}");
        assert!(one.host.try_run(&line).is_err(), "{forged} had an answer");
    }

    assert_eq!(ping(&one.host, HUB4, 3).received, 3);

    assert_eq!(counted(&hub.host, first.ip4), 3);
    assert_eq!(counted(&hub.host, second.ip4), 0);
    assert_eq!(counted(&hub.host, stranger), 0);
    hub.terminate();
    hub.line_anywhere(&["dropped=", "foreign_source=6"]);
}

#[test]
fn the_newest_session_of_a_hint_wins_and_the_older_is_told() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (mut one, first) = Spoke::up(&network, 2, &["-id", "twin", "-once"]);

    let (two, second) = Spoke::up(&network, 3, &["-id", "twin"]);

    assert_eq!(second.ip4, first.ip4);
    one.line_within("tunnel down", Duration::from_secs(2));
    one.kill();
    reaches_within(&two.host, HUB4, SOON);
    assert_eq!(devices(&hub.host).len(), 1);
}

#[test]
fn two_machines_with_one_hint_are_told_apart_to_the_owner() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (one, _) = Spoke::up(&network, 2, &["-id", "twin"]);
    let (two, _) = Spoke::up(&network, 3, &["-id", "twin"]);

    let line = hub.line_within("two machines use one hint", Duration::from_secs(60));

    for part in [
        "WARN",
        "twin",
        "-id",
        &one.host.ip4().to_string(),
        &two.host.ip4().to_string(),
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(hub.count("two machines use one hint"), 1);
}

/// Counts the packets from a source that the kernel takes in.
fn count(netns: &Netns, source: IpAddr) {
    let name = counter(source);
    netns.run("nft add table inet seen");
    netns.run("nft add chain inet seen input { type filter hook input priority 0 ; }");
    netns.run(&format!("nft add counter inet seen {name}"));
    netns.run(&format!(
        "nft add rule inet seen input ip saddr {source} counter name {name}"
    ));
}

fn counted(netns: &Netns, source: IpAddr) -> u32 {
    let text = netns.run(&format!("nft list counter inet seen {}", counter(source)));
    let (_, rest) = text.split_once("packets ").unwrap();

    rest.split_whitespace().next().unwrap().parse().unwrap()
}

fn counter(source: IpAddr) -> String {
    format!("from{}", source.to_string().replace('.', "_"))
}
