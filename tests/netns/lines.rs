//! `-post-up` and `-post-down`: lines as users of wg-quick have them.

use nix::sys::signal::Signal;

use crate::firewalls::firewall;
use crate::namespace::Netns;
use crate::nat::{clean, clean_within_a_restart};
use crate::network::{Network, forward};
use crate::picture::{HUB_AT_WWW4, Picture, WWW4, seen};
use crate::tunnel::{Hub, SOON, Spoke};
use crate::wait::until_true;

const UP: &str = "iptables -A FORWARD -i %i -j ACCEPT; \
                  iptables -t nat -A POSTROUTING -o www -j MASQUERADE";
const DOWN: &str = "iptables -D FORWARD -i %i -j ACCEPT; \
                    iptables -t nat -D POSTROUTING -o www -j MASQUERADE";

#[test]
fn lines_of_wg_quick_let_each_lease_out_and_are_undone() {
    let mut before = String::new();
    let answers = "iptables -A FORWARD -o $TUN -m state --state ESTABLISHED -j ACCEPT";
    let undo = answers.replace("-A", "-D");
    let flags = ["-post-up", UP, "-post-up", answers, "-post-down", &undo];
    let mut picture = Picture::prepared(&[&flags[..], &["-post-down", DOWN]].concat(), |host| {
        forward(host);
        host.run("iptables -P FORWARD DROP");
        host.run("iptables -t nat -A POSTROUTING -p sctp -j ACCEPT");
        before = firewall(host);
    });
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");
    let (_other, _) = Spoke::up(&picture.network, 4, &[]);

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    until_true("both leases' lines", SOON, || {
        rules(&picture.hub.host) == ["-i dtun0", "-o dtun0", "-i dtun1", "-o dtun1"]
    });

    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn what_stands_after_a_kill_or_a_restart_of_the_hub_is_not_made_twice_and_clean_undoes_it() {
    let network = Network::new();
    let host = network.host(1);
    host.run("iptables -A FORWARD -p sctp -j ACCEPT");
    let before = firewall(&host);
    let flags = ["-post-up", ONE, "-post-down", UNDO_ONE];
    let mut hub = Hub::start_on(host, &flags);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-keepalive", "1s"]);
    until_true("the line", SOON, || rules(&hub.host) == ["-i dtun0"]);

    hub.kill();
    hub.restart();
    spoke.lease();
    // Whatever the next session may run has been asked for before the spoke's is up.
    let (_other, _) = Spoke::up(&network, 3, &[]);
    until_true("the other's", SOON, || rules(&hub.host).len() > 1);
    assert_eq!(rules(&hub.host), ["-i dtun0", "-i dtun1"]);
    hub.signal(Signal::SIGUSR1);
    hub.wait();
    clean_within_a_restart(&hub.host);
    assert_eq!(rules(&hub.host), ["-i dtun0", "-i dtun1"]);
    hub.restart();
    assert_eq!(rules(&hub.host), ["-i dtun0", "-i dtun1"]);

    hub.kill();
    clean(&hub.host);
    assert_eq!(firewall(&hub.host), before);
}

#[test]
fn a_start_without_the_lines_undoes_what_a_killed_hub_has_left() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &["-post-up", ONE, "-post-down", UNDO_ONE]);
    let (_spoke, _) = Spoke::up(&network, 2, &[]);
    until_true("the line", SOON, || rules(&hub.host) == ["-i dtun0"]);

    hub.kill();
    let state = hub.state();
    let flags = ["-key", "foo", "-state", &state];
    let mut other = crate::daemon::Daemon::dtun(&hub.host, &flags);
    other.line("listening");

    assert_eq!(rules(&hub.host), [""; 0]);
}

#[test]
fn a_spokes_lines_are_undone_after_a_kill_and_at_its_end_and_one_that_fails_is_said() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let failing = "echo first; echo no such thing >&2; exit 4";
    let flags = ["-post-up", failing, "-post-up", ONE, "-post-down", UNDO_ONE];
    let (mut spoke, _) = Spoke::up(&network, 2, &flags);
    until_true("the line", SOON, || rules(&spoke.host) == ["-i dtun0"]);
    spoke.line_anywhere(&["ERROR", "exited with code 4", "no such thing"]);

    spoke.kill();
    assert_eq!(rules(&spoke.host), ["-i dtun0"]);
    spoke.restart();
    spoke.line("-post-down after a kill");
    spoke.lease();
    until_true("the line again", SOON, || {
        rules(&spoke.host) == ["-i dtun0"]
    });
    spoke.kill();
    clean(&spoke.host);
    assert_eq!(rules(&spoke.host), [""; 0]);

    spoke.restart();
    spoke.lease();
    until_true("the line again", SOON, || {
        rules(&spoke.host) == ["-i dtun0"]
    });
    assert!(spoke.terminate().success());
    assert_eq!(rules(&spoke.host), [""; 0]);
}

#[test]
fn a_restart_of_a_spoke_keeps_its_lines_and_makes_none_twice() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-post-up", ONE, "-post-down", UNDO_ONE]);
    until_true("the line", SOON, || rules(&spoke.host) == ["-i dtun0"]);

    spoke.signal(Signal::SIGUSR1);
    spoke.restart();
    spoke.lease();

    assert_eq!(rules(&spoke.host), ["-i dtun0"]);
    assert!(spoke.terminate().success());
    assert_eq!(rules(&spoke.host), [""; 0]);
}

#[test]
fn clean_undoes_the_rest_where_a_device_does_not_go() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-post-up", ONE, "-post-down", UNDO_ONE]);
    until_true("the line", SOON, || rules(&spoke.host) == ["-i dtun0"]);
    spoke.signal(Signal::SIGUSR1);
    assert!(spoke.wait().success());
    // One that no kernel deletes.
    spoke.host.ip("link set lo group 25717");
    let forge = "sed -i 's/\"device\":\"dtun0\",\"index\":[0-9]*/\"device\":\"lo\",\"index\":1/' \
                 /run/dtun/left-dtun0-$(stat -Lc %i /proc/self/ns/net)";
    let mut shell = spoke.host.command("sh");
    assert!(shell.args(["-c", forge]).status().unwrap().success());

    let mut dtun = spoke.host.command(env!("CARGO_BIN_EXE_dtun"));
    let output = dtun.arg("clean").output().unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("left for a restart"), "{said}");
    assert!(!output.status.success(), "{said}");
    assert_eq!(rules(&spoke.host), [""; 0]);
    spoke.host.ip("link set lo group 0");
    clean(&spoke.host);
}

/// The accepts in FORWARD by their device.
fn rules(netns: &Netns) -> Vec<String> {
    let rules = netns.run("iptables -S FORWARD");
    let rules = rules.lines().filter(|rule| rule.contains("dtun"));

    let words = |rule: &str| {
        rule.split(' ')
            .skip(2)
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    rules.map(words).collect()
}

const ONE: &str = "iptables -A FORWARD -i %i -j ACCEPT";
const UNDO_ONE: &str = "iptables -D FORWARD -i %i -j ACCEPT";
