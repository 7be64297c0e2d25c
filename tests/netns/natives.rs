//! `-nat` beside chains that the owner has written for nft.

use std::fs;
use std::time::{Duration, Instant};

use crate::firewalls::firewall;
use crate::nat::{clean, nat};
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, Picture, WWW4, WWW6, seen};
use crate::scratch::Scratch;
use crate::traffic::{reaches, reaches_not};
use crate::wait::until_true;

#[test]
fn www_sees_the_hub_beside_chains_that_drop_also_after_a_reload() {
    let (mut picture, before, conf) = beside(DROPS);
    picture.www.ip("addr add 203.0.113.66/24 dev uplink");
    picture.www.ip("route add 10.0.0.0/24 via 203.0.113.1");
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    for chain in [
        "nft inet filter forward",
        "nft inet filter input",
        "nft ip late f",
    ] {
        picture
            .hub
            .line_anywhere(&["is dropped there: accepted", chain]);
    }
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    reaches(&laptop, WWW4);
    reaches_not(&laptop, [203, 0, 113, 66]);
    reaches_not(&picture.www, [10, 0, 0, 2]);

    let during = firewall(&picture.hub.host);
    for _ in 0..3 {
        picture
            .hub
            .host
            .run(&format!("nft -f {}", conf.path("nftables.conf")));
        let start = Instant::now();
        until_true("the rules", Duration::from_secs(1), || {
            same(&firewall(&picture.hub.host), &during)
        });
        println!("back after {:?}", start.elapsed());
    }
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn what_a_kill_leaves_in_the_owners_chains_goes_with_dtun_clean() {
    let (mut picture, before, _conf) = beside(DROPS);
    picture.hub.kill();
    assert!(firewall(&picture.hub.host).contains("dtun-hub-443 udp 443"));

    clean(&picture.hub.host);
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn chains_that_let_it_pass_are_left_alone() {
    let (picture, _, _conf) = beside(PASSES);

    let rules = firewall(&picture.hub.host);
    assert!(!rules.contains("comment \"dtun-hub-443"), "{rules}");
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
}

/// A hub on a machine with this in its file, and the firewall before.
fn beside(rules: &str) -> (Picture, String, Scratch) {
    let scratch = Scratch::new();
    let conf = scratch.path("nftables.conf");
    fs::write(&conf, format!("flush ruleset\n{rules}")).unwrap();
    let mut before = String::new();
    let (picture, _) = nat(&[], |host| {
        host.run(&format!("nft -f {conf}"));
        before = firewall(host);
    });

    (picture, before, scratch)
}

/// The order of tables is that in which they were made.
fn same(one: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut tables: Vec<_> = text.split("\n}\n").map(str::to_owned).collect();
        tables.sort();
        tables
    };

    sorted(one) == sorted(other)
}

/// As in many a /etc/nftables.conf, and a table that rejects the rest.
const DROPS: &str = r#"
table inet filter {
    set blocked { type ipv4_addr; elements = { 203.0.113.66 }; }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iif lo accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 22, 80 } accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ip daddr @blocked counter drop
        iifname "br0" jump lan
    }
    chain lan {
        oifname "br0" drop
        accept
    }
}
table ip late {
    chain f {
        type filter hook forward priority filter + 5; policy accept;
        ct state established,related accept
        jump rest
    }
    chain rest {
        log prefix "no: " reject with icmp admin-prohibited
    }
}
"#;

const PASSES: &str = r#"
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        udp dport { 53, 443 } accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "dtun*" oifname "www" accept
    }
}
"#;
