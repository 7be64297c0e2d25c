//! The program's own datagrams outside the tunnel: marks, uplinks, and the
//! question for the hub's name.

use crate::daemon::Daemon;
use crate::network::connect;
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, PATIENCE, Picture, WWW4, WWW6, seen};
use crate::resolver::Resolver;
use crate::traffic::Flow;
use crate::watch::Watch;

#[test]
fn four_rules_as_wg_quick_sets_them_make_no_loop() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-fwmark", "51820"]);
    spoke.line("tunnel up");

    for family in ["-4", "-6"] {
        for line in [
            "route add default dev dtun0 table 51820",
            "rule add not fwmark 51820 table 51820",
            "rule add table main suppress_prefixlength 0",
        ] {
            laptop.ip(&format!("{family} {line}"));
        }
    }

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    let flow = Flow::start(&laptop, &picture.www, WWW4);
    flow.moves_within(PATIENCE);
    flow.finish();
    assert_eq!(spoke.count("tunnel down"), 0, "{}", spoke.text());
    assert!(spoke.terminate().success());
    assert_eq!(spoke.count("looped"), 0, "{}", spoke.text());
}

#[test]
fn a_hub_marks_its_datagrams_too() {
    let picture = Picture::with(&["-fwmark", "0x640000/0xff0000"]);
    let laptop = picture.network.host(2);
    let watch = Watch::new(&picture.hub.host, "output");
    watch.count("marked", "udp sport 443 meta mark 0x640000", "");
    watch.count("bare", "udp sport 443 meta mark 0", "");

    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    assert!(watch.packets("marked") > 3);
    assert_eq!(watch.packets("bare"), 0);
}

#[test]
fn of_two_uplinks_the_one_that_was_asked_for_is_taken() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let router = &picture.network.router;
    connect(router, "radio", &laptop, "wlan0");
    router.ip("addr add 198.18.9.1/24 dev radio");
    laptop.ip("addr add 198.18.9.2/24 dev wlan0");
    laptop.ip("route add default via 198.18.9.1 metric 600");

    for (bind, has_rule) in [
        ("wlan0", false),
        ("198.18.9.2", false),
        ("198.18.9.2", true),
    ] {
        // Where the owner says what that address is for, that holds.
        if has_rule {
            laptop.ip("route add default via 198.18.9.1 table 9");
            laptop.ip("rule add pref 90 from 198.18.9.2 table 9");
        }
        let watch = Watch::new(&laptop, "output");
        watch.count("cable", "udp dport 443 oifname uplink", "");
        watch.count("radio", "udp dport 443 oifname wlan0", "");

        let mut spoke = picture.spoke(&laptop, &["-route", "default", "-bind", bind]);
        spoke.line("tunnel up");
        assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
        assert!(spoke.terminate().success());

        assert!(watch.packets("radio") > 3, "-bind {bind}");
        assert_eq!(watch.packets("cable"), 0, "-bind {bind}");
        laptop.run("nft delete table inet watch");
    }
}

#[test]
fn an_address_whose_way_the_owner_has_chosen_keeps_it() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let router = &picture.network.router;
    connect(router, "radio", &laptop, "wlan0");
    router.ip("addr add 198.18.9.1/24 dev radio");
    laptop.ip("addr add 198.18.9.2/24 dev wlan0");
    laptop.ip("route add default via 198.18.2.1 table 9");
    laptop.ip("rule add pref 90 from 198.18.9.2 table 9");
    let watch = Watch::new(&laptop, "output");
    watch.count(
        "cable",
        "ip saddr 198.18.9.2 udp dport 443 oifname uplink",
        "",
    );

    let mut spoke = picture.spoke(&laptop, &["-bind", "198.18.9.2"]);
    spoke.line("tunnel up");

    assert!(watch.packets("cable") > 3);
}

#[test]
fn an_uplink_that_is_not_there_or_answers_that_are_filtered_are_named() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let router = &picture.network.router;
    for bind in ["nosuch", "192.0.2.77"] {
        let mut spoke = picture.spoke(&laptop, &["-bind", bind]);
        spoke.line(&format!("-bind {bind}: this machine has no such"));
    }
    let mut spoke = picture.spoke(&laptop, &["-bind", "wlan0"]);
    spoke.line("-bind wlan0: this machine has no such device");

    connect(router, "radio", &laptop, "wlan0");
    router.ip("addr add 198.18.9.1/24 dev radio");
    laptop.ip("addr add 198.18.9.2/24 dev wlan0");
    laptop.ip("route add default via 198.18.9.1 metric 600");
    laptop.sysctl("ipv4/conf/all/rp_filter", "1");
    spoke.line_within("sysctl -w net.ipv4.conf.wlan0.rp_filter=2", PATIENCE);
    laptop.sysctl("ipv4/conf/wlan0/rp_filter", "2");
    spoke.line_within("tunnel up", PATIENCE);
}

#[test]
fn a_hub_that_moved_is_found_while_the_tunnel_is_dead() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let resolver = picture.network.host(4);
    let names = Resolver::start(&resolver, resolver.ip4(), [198, 18, 1, 2]);
    laptop.etc("resolv.conf", &format!("nameserver {}\n", resolver.ip4()));
    let mut spoke = Daemon::dtun(
        &laptop,
        &[
            "-key",
            "foo",
            "-connect",
            "hub.example:443",
            "-id",
            "laptop",
            "-keepalive",
            "1s",
            "-route",
            "default",
            "-fallback",
            "never",
        ],
    );
    spoke.line("tunnel up");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    names.set([198, 18, 1, 77]);
    picture.move_hub_silently();
    spoke.line("tunnel down");
    let line = spoke.line_within("tunnel up", PATIENCE);

    assert!(line.contains("hub=198.18.1.77:443"), "{line}");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert!(names.askers().contains(&laptop.ip4().into()));
}
