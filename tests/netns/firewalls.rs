//! `-nat` beside firewalls that drop what is forwarded, or the hub's port. Their
//! rulesets are written as the programs write them.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::nat::nat;
use crate::network::Network;
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, Picture, WWW4, WWW6, seen};
use crate::scratch::Scratch;
use crate::traffic::{reaches, reaches_not};
use crate::wait::until_true;

#[test]
fn www_sees_the_hub_beside_docker() {
    www_sees_the_hub("docker", "nft", &["iptables DOCKER-USER"]);
}

#[test]
fn www_sees_the_hub_beside_ufw() {
    let chains = ["iptables ufw-user-forward", "iptables ufw-user-input"];
    www_sees_the_hub("ufw", "nft", &chains);
}

#[test]
fn www_sees_the_hub_on_an_image_that_rejects_all() {
    www_sees_the_hub("cloud", "nft", &["iptables FORWARD", "ip6tables FORWARD"]);
}

#[test]
fn the_older_iptables_does_as_well() {
    www_sees_the_hub("cloud", "legacy", &["iptables FORWARD", "iptables INPUT"]);
    www_sees_the_hub("docker", "legacy", &["ip6tables DOCKER-USER"]);
}

#[test]
fn the_older_iptables_is_not_asked_for_tables_that_are_not_there() {
    for flags in [&[][..], &["-nat"]] {
        let network = Network::new();
        let host = network.host(1);
        // Not of iptables, but by the name that it gives its own.
        host.run("nft add table ip filter");
        host.run("nft add table ip6 filter");
        let scratch = Scratch::new();
        let mut folder = String::new();
        for family in ["ip", "ip6"] {
            for end in ["", "-save"] {
                let older = format!("exec /usr/sbin/{family}tables-legacy{end} \"$@\"");
                for name in [
                    format!("{family}tables{end}"),
                    format!("{family}tables-nft{end}"),
                ] {
                    let path = scratch.script(&name, &older);
                    folder = path.rsplit_once('/').unwrap().0.to_owned();
                }
            }
        }
        let tables = || host.run("cat /proc/net/ip_tables_names /proc/net/ip6_tables_names");
        assert_eq!(tables(), "");

        let mut command = host.command(env!("CARGO_BIN_EXE_dtun"));
        command
            .args(["-key", "foo", "-state", &scratch.path("state")])
            .args(flags)
            .env("PATH", format!("{folder}:/usr/sbin:/usr/bin:/bin"));
        let mut hub = Daemon::spawn(command);
        hub.line("on the laptop");
        assert_eq!(tables(), "", "{flags:?}");
        assert!(hub.terminate().success());
        assert_eq!(tables(), "", "{flags:?}");
    }
}

#[test]
fn what_a_reload_wipes_is_back_within_a_second() {
    let (mut picture, before) = beside("ufw", "nft");
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");
    let host = &picture.hub.host;

    for _ in 0..3 {
        restore(host, "ufw", "nft");
        let start = Instant::now();
        until_true("the accepts", Duration::from_secs(1), || {
            host.run("iptables -S").matches("dtun-hub-443").count() == 3
                && host.run("ip6tables -S").matches("dtun-hub-443").count() == 3
        });
        println!("back after {:?}", start.elapsed());
    }

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn a_firewall_that_comes_later_is_let_through_and_one_that_was_killed_for_is_cleaned() {
    let (mut picture, _) = nat(&[], |_| {});
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    restore(&picture.hub.host, "docker", "nft");
    picture.hub.line("DOCKER-USER");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    picture.hub.kill();
    let host = &picture.hub.host;
    assert!(firewall(host).contains("dtun-hub-443"));
    let output = host
        .command(env!("CARGO_BIN_EXE_dtun"))
        .arg("clean")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!firewall(host).contains("dtun"), "{}", firewall(host));
}

#[test]
fn what_iptables_does_not_let_go_keeps_nothing_else_and_goes_later() {
    for busy in ["-S", "-D"] {
        let network = Network::new();
        let host = network.host(1);
        restore(&host, "cloud", "legacy");
        let before = firewall(&host);
        let scratch = Scratch::new();
        let held = scratch.path("held");
        let body = format!(
            "if grep -qse \"$(cat {held})\" /proc/$$/cmdline; then
                echo 'Another app is currently holding the xtables lock.' >&2
                exit 4
            fi
            exec /usr/sbin/iptables-legacy \"$@\""
        );
        let tool = scratch.script("iptables-legacy", &body);
        let folder = tool.strip_suffix("/iptables-legacy").unwrap();
        std::fs::write(&held, "nothing").unwrap();
        let mut command = host.command(env!("CARGO_BIN_EXE_dtun"));
        command
            .args(["-key", "foo", "-nat", "-state", &scratch.path("state")])
            .env("PATH", format!("{folder}:/usr/sbin:/usr/bin:/bin"));
        let mut hub = Daemon::spawn(command);
        hub.line("listening");
        let accepts = || host.run("iptables-legacy -S").contains("dtun-hub-443");
        assert!(accepts());

        std::fs::write(&held, busy).unwrap();
        assert!(hub.terminate().success());
        hub.line("failed to remove the rules of -nat");
        assert!(accepts());
        let tables = host.run("nft list tables");
        assert!(!tables.contains("dtun"), "{tables}");

        host.run(&format!("{} clean", env!("CARGO_BIN_EXE_dtun")));
        assert_eq!(firewall(&host), before);
    }
}

#[test]
fn what_the_owner_blocks_stays_blocked_and_nobody_comes_in_from_outside() {
    let (picture, _) = nat(&[], |host| {
        restore(host, "docker", "nft");
        host.run("iptables -I DOCKER-USER -d 203.0.113.66 -j DROP");
    });
    picture.www.ip("addr add 203.0.113.66/24 dev uplink");
    picture.www.ip("route add 10.0.0.0/24 via 203.0.113.1");
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    reaches(&laptop, WWW4);
    reaches_not(&laptop, [203, 0, 113, 66]);
    reaches_not(&picture.www, [10, 0, 0, 2]);
}

#[test]
fn the_script_does_the_same_and_undoes_it_with_nft_or_without() {
    for (ruleset, kind, nft) in [
        ("docker", "nft", true),
        ("ufw", "nft", true),
        ("cloud", "legacy", false),
    ] {
        let mut before = String::new();
        let picture = Picture::prepared(&[], |host| {
            restore(host, ruleset, kind);
            // iptables makes the tables that are not there, and leaves them.
            for tool in ["iptables", "ip6tables"] {
                for table in ["mangle -A FORWARD", "nat -A POSTROUTING"] {
                    host.run(&format!("{tool}-{kind} -t {table} -p sctp -j ACCEPT"));
                }
            }
            before = firewall(host);
            script(host, "up", kind, nft);
            let once = firewall(host);
            script(host, "up", kind, nft);
            assert_eq!(firewall(host), once);
        });
        let laptop = picture.network.host(2);
        let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
        spoke.line("tunnel up");

        assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
        assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);

        for _ in 0..2 {
            script(&picture.hub.host, "down", kind, nft);
            assert_eq!(firewall(&picture.hub.host), before);
        }
    }
}

#[test]
fn the_script_lets_ipv4_out_where_neither_nft_nor_ip6tables_is_there() {
    let network = Network::new();
    let host = network.host(1);
    let hidden = ["nft", "ip6tables"];

    let said = script_without(&host, "up", "legacy", &hidden);
    assert!(said.contains("ip6tables is missing"), "{said}");
    let rules = host.run("iptables-legacy -t nat -S");
    assert!(rules.contains("-s 10.0.0.0/24"), "{rules}");

    assert_eq!(script_without(&host, "down", "legacy", &hidden), "");
    let rules = host.run("iptables-legacy -t nat -S");
    assert!(!rules.contains("-s 10.0.0.0/24"), "{rules}");
}

/// Runs hub-nat.sh where `iptables` is of that kind, with or without nft.
#[track_caller]
fn script(netns: &Netns, order: &str, kind: &str, nft: bool) {
    let hidden: &[&str] = if nft { &[] } else { &["nft"] };
    let said = script_without(netns, order, kind, hidden);
    assert_eq!(said, "");
}

/// The same without these programs of /usr/sbin; returns what it complains of.
#[track_caller]
fn script_without(netns: &Netns, order: &str, kind: &str, hidden: &[&str]) -> String {
    let scratch = Scratch::new();
    let bin = scratch.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for tool in ["iptables", "ip6tables"] {
        if hidden.contains(&tool) {
            continue;
        }
        symlink(format!("/usr/sbin/{tool}-{kind}"), format!("{bin}/{tool}")).unwrap();
    }
    let hide: String = hidden
        .iter()
        .map(|name| format!("mount --bind /dev/null $(readlink -f /usr/sbin/{name}); "))
        .collect();
    let output = netns
        .command("unshare")
        .args(["-m", "sh", "-c", &format!("{hide}exec \"$@\""), "sh"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/hub-nat.sh"))
        .arg(order)
        .env("PATH", format!("{bin}:/usr/bin:/bin"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");

    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// By IPv4 and IPv6; the log names these chains, and at the end all is as
/// before.
#[track_caller]
fn www_sees_the_hub(ruleset: &str, kind: &str, chains: &[&str]) {
    let (mut picture, before) = beside(ruleset, kind);
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    let mut texts = vec!["is dropped there: accepted"];
    texts.extend(chains);
    picture.hub.line_anywhere(&texts);

    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), before);
}

fn beside(ruleset: &str, kind: &str) -> (Picture, String) {
    let mut before = String::new();
    let (picture, _) = nat(&[], |host| {
        restore(host, ruleset, kind);
        before = firewall(host);
        assert!(before.contains("FORWARD"), "{before}");
    });

    (picture, before)
}

/// Loads a ruleset, as its program does at a reload.
fn restore(netns: &Netns, ruleset: &str, kind: &str) {
    for (tool, version) in [("iptables", "v4"), ("ip6tables", "v6")] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/rulesets");
        netns.run(&format!(
            "{tool}-{kind}-restore {folder}/{ruleset}.{version}"
        ));
    }
}

/// All rules, without counters and comments, which have the time.
pub(crate) fn firewall(netns: &Netns) -> String {
    let mut all = netns.run("nft -s list ruleset");
    for kind in ["nft", "legacy"] {
        // Asking the older one for tables that are not there would make them.
        for (tool, names) in [("iptables", "ip"), ("ip6tables", "ip6")] {
            let legacy = netns.run(&format!("cat /proc/net/{names}_tables_names"));
            if kind == "legacy" && legacy.is_empty() {
                continue;
            }
            let rules = netns.run(&format!("{tool}-{kind}-save"));
            for rule in rules.lines().filter(|line| !line.starts_with('#')) {
                all.push_str(rule.split(" [").next().unwrap());
                all.push('\n');
            }
        }
    }

    all
}
