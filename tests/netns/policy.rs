//! The full tunnel by rules and a table of its own: the scripts by themselves,
//! and under a real spoke with strict reverse path filters.

use std::time::Instant;

use crate::daemon::Daemon;
use crate::laptop::{Laptop, TOOLS, Tools};
use crate::namespace::Netns;
use crate::network::Host;
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, ON_THE_RADIO, Picture, WWW4, WWW6, seen};
use crate::scratch::Scratch;

#[test]
fn what_has_no_mark_looks_in_main_for_networks_and_then_in_the_tunnels_table() {
    for tools in TOOLS {
        let laptop = Laptop::new("policy", tools);
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\nhello\n");
        let main = laptop.main();

        let said = laptop.up().unwrap();

        for family in ["-4", "-6"] {
            let rules = laptop.netns.ip(&format!("{family} rule"));
            let rules = rules.replace(" lookup main unreachable", " unreachable");
            assert!(rules.contains(RULES), "{rules}");
        }
        let routes = laptop.netns.ip("-4 route show table 764");
        assert!(routes.contains("default dev dtun0"), "{routes}");
        assert!(routes.contains("throw 1.0.1.0/24"), "{routes}");
        let routes = laptop.netns.ip("-6 route show table 764");
        assert!(routes.contains("default dev dtun0"), "{routes}");
        assert!(routes.contains("throw 2001:db8:77::/48"), "{routes}");
        assert_eq!(laptop.main(), main);
        for (to, by) in [
            ("8.8.8.8", "dtun0"),
            ("1.0.1.1", "uplink"),
            ("192.168.5.77", "uplink"),
            ("8.8.8.8 mark 0x640000", "uplink"),
            ("2001:4860::1", "dtun0"),
            ("2001:db8:77::1", "uplink"),
            ("2001:4860::1 mark 0x640000", "uplink"),
        ] {
            assert_eq!(laptop.way(to).as_deref(), Some(by), "{to}");
        }
        assert!(
            said.contains("2 networks: 1 lines are no networks, 0 refused"),
            "{said}"
        );
    }
}

#[test]
fn down_leaves_rules_tables_and_firewall_as_they_were() {
    for tools in TOOLS {
        for nft in [true, false] {
            let mut laptop = Laptop::new("policy", tools);
            laptop.nft = nft;
            laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");
            laptop.netns.ip("rule add pref 32480 fwmark 7 table 77");
            laptop
                .netns
                .ip("rule add pref 100 table main suppress_prefixlength 0");
            laptop.netns.ip("route add 9.9.9.0/24 dev uplink table 764");
            // What a firewall has set up that is there before.
            for tool in ["iptables", "ip6tables"] {
                laptop.netns.run(&format!(
                    "{tool} -t mangle -A PREROUTING -i uplink -j ACCEPT"
                ));
            }
            let before = laptop.everything();

            laptop.down().unwrap();
            assert_eq!(laptop.everything(), before);
            laptop.up().unwrap();
            let once = laptop.everything();
            assert_ne!(once, before);
            laptop.up().unwrap();
            assert_eq!(laptop.everything(), once);
            laptop.down().unwrap();
            laptop.down().unwrap();

            assert_eq!(laptop.everything(), before);
            assert_eq!(laptop.records(), 0);
        }
    }
}

#[test]
fn without_a_default_route_dtuns_own_packets_do_not_go_into_the_tunnel() {
    for tools in TOOLS {
        let laptop = Laptop::new("policy", tools);
        laptop.list("");
        laptop.up().unwrap();

        laptop.netns.ip("route del default");
        laptop.netns.ip("-6 route del default");

        for to in ["198.51.100.7", "2001:db8:9::7"] {
            assert_eq!(laptop.way(to).as_deref(), Some("dtun0"));
            assert_eq!(laptop.way(&format!("{to} mark 0x640000")), None);
        }
        let neighbour = laptop.way("192.168.5.9 mark 0x640000");
        assert_eq!(neighbour.as_deref(), Some("uplink"));
    }
}

#[test]
fn what_a_kill_leaves_blocks_nothing_and_goes_with_the_next_run() {
    for tools in TOOLS {
        for nft in [true, false] {
            let mut laptop = Laptop::new("policy", tools);
            laptop.nft = nft;
            laptop.netns.ip("link del dtun0");
            let before = laptop.everything();
            laptop.device("dtun0");
            laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");
            laptop.up().unwrap();

            laptop.netns.ip("link del dtun0");
            for to in ["8.8.8.8", "1.0.1.1", "2001:4860::1", "2001:db8:77::1"] {
                assert_eq!(laptop.way(to).as_deref(), Some("uplink"), "{to}");
            }
            laptop.device("dtun1");
            laptop.list("1.0.2.0/24\n");
            laptop.up().unwrap();
            assert_eq!(laptop.way("8.8.8.8").as_deref(), Some("dtun1"));
            assert_eq!(laptop.way("1.0.1.1").as_deref(), Some("dtun1"));
            assert_eq!(laptop.way("1.0.2.1").as_deref(), Some("uplink"));
            laptop.down().unwrap();
            laptop.netns.ip("link del dtun1");

            let after = laptop.everything();
            // iptables leaves the empty tables that it made.
            assert_eq!(
                after.split("table ip").next(),
                before.split("table ip").next()
            );
            assert!(!after.contains("dtun") && !after.contains("443"), "{after}");
            assert_eq!(laptop.records(), 0);
        }
    }
}

#[test]
fn another_mark_takes_the_place_of_the_first() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("policy", tools);
        laptop.list("");
        laptop.up().unwrap();

        laptop.fwmark = "0x1/0x1";
        laptop.up().unwrap();

        let rules = laptop.netns.ip("rule");
        assert!(!rules.contains("0x640000"), "{rules}");
        assert_eq!(laptop.way("8.8.8.8 mark 1").as_deref(), Some("uplink"));
    }
}

#[test]
fn without_a_mark_it_says_what_to_do_and_does_nothing() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("policy", tools);
        laptop.list("");
        laptop.fwmark = "";
        let before = laptop.everything();

        let said = laptop.up().unwrap_err();

        assert!(
            said.contains("give dtun -fwmark 0x640000/0xff0000"),
            "{said}"
        );
        assert_eq!(laptop.everything(), before);
    }
}

#[test]
fn a_table_or_a_tunnel_of_somebody_else_stays() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("policy", tools);
        laptop.list("");
        laptop.netns.ip("route add default dev other table 764");
        let before = laptop.everything();

        let said = laptop.up().unwrap_err();
        assert!(said.contains("table 764 cannot be had"), "{said}");
        laptop.down().unwrap();
        assert_eq!(laptop.everything(), before);

        laptop.netns.ip("route del default dev other table 764");
        laptop.up().unwrap();
        laptop.device("dtun1");
        let before = laptop.everything();
        let said = laptop.up().unwrap_err();
        assert!(
            said.contains("the full tunnel is another's already"),
            "{said}"
        );
        laptop.down().unwrap();
        assert_eq!(laptop.everything(), before);
    }
}

#[test]
fn a_tunnel_without_ipv6_leaves_ipv6_alone() {
    for tools in TOOLS {
        let mut laptop = Laptop::new("policy", tools);
        laptop.out6 = "0";
        laptop.list("2001:db8:77::/48\n1.0.1.0/24\n");
        let six = laptop.netns.ip("-6 rule");

        laptop.up().unwrap();

        assert_eq!(laptop.netns.ip("-6 rule"), six);
        assert_eq!(laptop.way("2001:4860::1").as_deref(), Some("uplink"));
    }
}

#[test]
fn ten_thousand_networks_are_thrown_in_one_load() {
    for tools in TOOLS {
        let laptop = Laptop::new("policy", tools);
        let networks: Vec<_> = (0..10_000)
            .map(|at| format!("100.{}.{}.0/24\n", at / 256, at % 256))
            .collect();
        laptop.list(&networks.concat());
        let before = laptop.everything();
        laptop.count_ip();

        let start = Instant::now();
        let said = laptop.up().unwrap();
        println!("{tools:?}: 10,000 networks in {:?}", start.elapsed());

        assert!(
            said.contains("10000 networks: 0 lines are no networks, 0 refused"),
            "{said}"
        );
        assert_eq!(laptop.way("100.39.15.1").as_deref(), Some("uplink"));
        let calls = laptop.scratch.read("calls").lines().count();
        assert!(calls < 40, "{calls} calls of ip");
        laptop.down().unwrap();
        assert_eq!(laptop.everything(), before);
    }
}

#[test]
fn www_sees_the_hub_and_a_bypassed_network_the_laptop_under_strict_filters() {
    for tools in TOOLS {
        let picture = Picture::new();
        let other = picture.network.host(4);
        let laptop = picture.network.host(2);
        strict(&[&laptop, &picture.network.router, &picture.hub.host]);
        let before = everything(&laptop);

        let (mut spoke, _scratch) = spoke(&picture, &laptop, tools, &[]);
        spoke.line("10001 networks");
        spoke.line("tunnel up");

        assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
        assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
        let direct = picture.direct.ip4();
        assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());
        assert_eq!(seen(&laptop, &other, other.ip4()), picture.hub.host.ip4());

        spoke.kill();
        assert_eq!(seen(&laptop, &other, other.ip4()), laptop.ip4());
        spoke.restart();
        spoke.line("tunnel up");
        assert_eq!(seen(&laptop, &other, other.ip4()), picture.hub.host.ip4());

        assert!(spoke.terminate().success());
        assert_eq!(everything(&laptop), before);
    }
}

#[test]
fn the_uplink_may_go_and_come_back_elsewhere() {
    for tools in TOOLS {
        let picture = Picture::new();
        let laptop = picture.network.host(2);
        let (mut spoke, _scratch) = spoke(&picture, &laptop, tools, &[]);
        spoke.line("tunnel up");

        laptop.ip("route del default via 198.18.2.1");
        let sent = packets(&laptop);
        laptop
            .try_run("ping -c 3 -i 0.2 -W 1 203.0.113.2")
            .unwrap_err();
        let looped = packets(&laptop) - sent;
        assert!(looped < 50, "{looped} packets went into the tunnel");

        picture.move_laptop(&laptop);
        assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
        let direct = picture.direct.ip4();
        assert_eq!(seen(&laptop, &picture.direct, direct), ON_THE_RADIO);
    }
}

#[test]
fn while_the_hub_is_away_the_machine_has_its_own_network() {
    for tools in TOOLS {
        let mut picture = Picture::new();
        let other = picture.network.host(4);
        let laptop = picture.network.host(2);
        let (mut spoke, _scratch) = spoke(&picture, &laptop, tools, &["-fallback", "1s"]);
        spoke.line("tunnel up");
        let hub = picture.hub.host.ip4();
        assert_eq!(seen(&laptop, &other, other.ip4()), hub);

        picture.hub.kill();
        spoke.line("the hub stays away");
        assert_eq!(seen(&laptop, &other, other.ip4()), laptop.ip4());

        picture.hub.restart();
        spoke.line("10001 networks");
        assert_eq!(seen(&laptop, &other, other.ip4()), hub);
    }
}

/// Starts a spoke whose hooks are the policy's, and waits for nothing.
fn spoke(picture: &Picture, host: &Host, tools: Tools, flags: &[&str]) -> (Daemon, Scratch) {
    let scratch = Scratch::new();
    let up = tools.hook(&scratch, "up-policy.sh");
    let down = tools.hook(&scratch, "down-policy.sh");
    let hooks = ["-up", &up, "-down", &down, "-fwmark", "0x640000/0xff0000"];

    (picture.spoke(host, &[&hooks, flags].concat()), scratch)
}

/// Turns on every reverse path filter.
pub(crate) fn strict(machines: &[&Netns]) {
    for machine in machines {
        for file in machine.run("ls /proc/sys/net/ipv4/conf").lines() {
            machine.sysctl(&format!("ipv4/conf/{file}/rp_filter"), "1");
        }
    }
}

/// What went into the tunnel so far.
fn packets(host: &Host) -> u64 {
    let file = "/sys/class/net/dtun0/statistics/tx_packets";
    host.run(&format!("cat {file}")).trim().parse().unwrap()
}

/// Routes, rules and firewall, without counters.
pub(crate) fn everything(netns: &Netns) -> String {
    let routes =
        |family| ["rule", "route show table all"].map(|what| netns.ip(&format!("{family} {what}")));

    [
        routes("-4").concat(),
        routes("-6").concat(),
        netns.run("nft -s list ruleset"),
    ]
    .concat()
}

impl Laptop {
    /// The device that the kernel would take; `None` where it would send nothing.
    fn way(&self, to: &str) -> Option<String> {
        let answer = self.netns.try_ip(&format!("route get {to}")).ok()?;
        let mut words = answer.split_whitespace();

        words.find(|word| *word == "dev")?;
        words.next().map(str::to_owned)
    }

    fn main(&self) -> String {
        ["-4", "-6"]
            .map(|family| self.netns.ip(&format!("{family} route show table main")))
            .concat()
    }
}

const RULES: &str = "32480:\tfrom all fwmark 0x640000/0xff0000 lookup main\n\
     32481:\tfrom all fwmark 0x640000/0xff0000 unreachable\n\
     32482:\tfrom all lookup main suppress_prefixlength 0\n\
     32483:\tfrom all lookup 764\n";
