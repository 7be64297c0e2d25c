//! `-nat` beside firewalld itself, on a bus of its own.

use std::fs;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::firewalls::firewall;
use crate::namespace::Netns;
use crate::nat::{clean, nat};
use crate::network::Host;
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, Picture, WWW4, WWW6, seen};
use crate::scratch::Scratch;
use crate::traffic::reaches_not;
use crate::wait::until_true;

#[test]
fn www_sees_the_hub_beside_firewalld_also_after_a_reload() {
    let (mut picture, before, _firewalld) = beside(&["zone.addInterface public uplink"]);
    picture.www.ip("route add 10.0.0.0/24 via 203.0.113.1");
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    let entries = ["firewalld 443/udp in public", "firewalld dtun+ in trusted"];
    picture.hub.line_anywhere(&entries);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    reaches_not(&picture.www, [10, 0, 0, 2]);

    for _ in 0..2 {
        ask(&picture.hub.host, "reload");
        let start = Instant::now();
        until_true("the entries", Duration::from_secs(1), || has_both(&picture));
        println!("back after {:?}", start.elapsed());
    }
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    assert!(picture.hub.terminate().success());
    ask(&picture.hub.host, "reload");
    ask(
        &picture.hub.host,
        "zone.changeZoneOfInterface public uplink",
    );
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn at_the_end_firewalld_has_what_it_had() {
    let (mut picture, before, _firewalld) = beside(&[]);
    let during = firewall(&picture.hub.host);
    assert_ne!(during, before);

    assert!(picture.hub.terminate().success());
    assert_eq!(in_use(&picture.hub.host), before);

    picture.hub.restart();
    assert_eq!(firewall(&picture.hub.host), during);
    picture.hub.kill();
    assert_eq!(firewall(&picture.hub.host), during);
    clean(&picture.hub.host);
    assert_eq!(in_use(&picture.hub.host), before);
}

#[test]
fn one_that_works_by_iptables_is_told_in_the_same_way() {
    let (mut picture, before, _firewalld) = beside_one_with("iptables", &[]);
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    let rules = firewall(&picture.hub.host);
    assert!(!rules.contains("--comment dtun"), "{rules}");

    // It makes its chains in another order each time.
    let sorted = |rules: &str| {
        let mut lines: Vec<_> = rules.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert!(picture.hub.terminate().success());
    ask(&picture.hub.host, "reload");
    assert_eq!(sorted(&firewall(&picture.hub.host)), sorted(&before));
}

#[test]
fn one_that_is_started_again_is_told_again() {
    let (picture, _, mut firewalld) = beside(&[]);
    let host = &picture.hub.host;

    for kill in [false, true] {
        if kill {
            firewalld.daemon.kill();
        } else {
            firewalld.daemon.terminate();
        }
        firewalld.daemon.restart();
        until_true("firewalld", PATIENCE, || {
            try_ask(host, "getDefaultZone").is_ok()
        });
        let start = Instant::now();
        until_true("the entries", Duration::from_secs(1), || has_both(&picture));
        println!("back after {:?}", start.elapsed());
    }
}

#[test]
fn what_the_owner_has_told_firewalld_stays() {
    let owners = [
        "zone.addPort public 443 udp",
        "zone.addInterface internal dtun+",
    ];
    let (mut picture, before, _firewalld) = beside(&owners);
    let without_ours = |text: String| text.replace(&own_table(&picture.hub.host), "");
    assert_eq!(without_ours(firewall(&picture.hub.host)), before);

    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn a_firewalld_that_does_not_answer_is_said_with_what_to_run() {
    let (picture, _) = nat(&["-listen", ":4433"], |host| {
        host.set_bus(BUS);
        host.run("nft add table inet firewalld");
    });

    picture.hub.line_anywhere(&[
        "WARN",
        "firewall-cmd --add-port=4433/udp; firewall-cmd --zone=trusted --add-interface=dtun+",
    ]);
}

/// firewalld and its bus, in the hub's namespace.
struct Firewalld {
    daemon: Daemon,
    _bus: Daemon,
    _scratch: Scratch,
}

impl Firewalld {
    fn start(host: &Host, backend: &str) -> Self {
        let scratch = Scratch::new();
        let config = scratch.path("bus.conf");
        fs::write(&config, BUS_CONFIG).unwrap();
        let config = format!("--config-file={config}");
        host.set_bus(BUS);
        let bus = Daemon::start(host, "dbus-daemon", &["--nofork", "--nopidfile", &config]);
        until_true("the bus", PATIENCE, || {
            host.try_run("busctl --system list").is_ok()
        });
        let folder = scratch.path("firewalld");
        fs::create_dir(&folder).unwrap();
        let config = format!("FirewallBackend={backend}\nCleanupModulesOnExit=no\n");
        fs::write(format!("{folder}/firewalld.conf"), config).unwrap();
        let flags = ["--nofork", "--nopid", "--log-target=console"];
        let flags = [&flags[..], &["--system-config", &folder]].concat();
        let daemon = Daemon::start(host, "firewalld", &flags);
        until_true("firewalld", PATIENCE, || {
            try_ask(host, "getDefaultZone").is_ok()
        });

        Self {
            daemon,
            _bus: bus,
            _scratch: scratch,
        }
    }
}

/// A hub beside firewalld, which its owner has told this; and the firewall before.
fn beside(told: &[&str]) -> (Picture, String, Firewalld) {
    beside_one_with("nftables", told)
}

fn beside_one_with(backend: &str, told: &[&str]) -> (Picture, String, Firewalld) {
    let mut firewalld = None;
    let mut before = String::new();
    let (picture, _) = nat(&[], |host| {
        firewalld = Some(Firewalld::start(host, backend));
        for line in told {
            ask(host, line);
        }
        before = firewall(host);
        assert!(before.contains("FORWARD_"), "{before}");
    });

    (picture, before, firewalld.unwrap())
}

fn has_both(picture: &Picture) -> bool {
    let host = &picture.hub.host;
    let questions = [
        "zone.queryPort public 443 udp",
        "zone.queryInterface trusted dtun+",
    ];

    questions
        .iter()
        .all(|question| ask(host, question) == "b true\n")
}

#[track_caller]
fn ask(netns: &Netns, line: &str) -> String {
    try_ask(netns, line).unwrap()
}

/// Calls a method of firewalld's with texts.
fn try_ask(netns: &Netns, line: &str) -> Result<String, String> {
    let mut words = line.split(' ');
    let method = words.next().unwrap();
    let (interface, method) = method.split_once('.').map_or_else(
        || (String::new(), method),
        |(interface, method)| (format!(".{interface}"), method),
    );
    let words: Vec<_> = words.collect();
    // A port is added for a time, or for ever.
    let (more, time) = match method {
        "addPort" => ("i", "0"),
        _ => ("", ""),
    };
    let signature = "s".repeat(words.len()) + more;
    let words = words.join(" ");

    netns.try_run(&format!(
        "busctl --system call {SERVICE} {PATH} {SERVICE}{interface} {method} {signature} {words} {time}"
    ))
}

/// All rules but the chains of a zone that has no devices any more: firewalld lets
/// them stand until its next reload, with nothing that leads there.
fn in_use(netns: &Netns) -> String {
    let rules = firewall(netns);
    let chains = rules.split_inclusive("\n\t}\n");
    let in_use =
        chains.filter(|chain| !chain.trim_start().starts_with("chain") || !is_of_zone(chain));

    in_use.collect()
}

fn is_of_zone(chain: &str) -> bool {
    let name = chain.split_whitespace().nth(1).unwrap_or_default();

    name.contains("_trusted")
}

/// The hub's own table, as nft lists it.
fn own_table(netns: &Netns) -> String {
    netns.run("nft -s list table inet dtun-hub-443")
}

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const PATH: &str = "/org/fedoraproject/FirewallD1";

/// Each network namespace has its own such names.
const BUS: &str = "unix:abstract=dtun-test-bus";

const BUS_CONFIG: &str = r#"<busconfig>
  <type>system</type>
  <listen>unix:abstract=dtun-test-bus</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

const PATIENCE: Duration = Duration::from_secs(30);
