//! The tunnel's own routes, without a script: all of it but a list, or some
//! networks alone.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, lan};
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, ON_THE_RADIO, PATIENCE, Picture, WWW4, WWW6, seen};
use crate::resolver::Resolver;
use crate::scratch::Scratch;
use crate::traffic::{Flow, reaches};
use crate::tunnel::HUB6;
use crate::wait::until_true;

#[test]
fn www_sees_the_hub_and_a_kept_out_network_the_laptop_and_main_is_not_touched() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    picture.filter_reverse_paths(&[&laptop]);
    owners_rules(&laptop);
    let before = rules_and_tables(&laptop);
    let main = main(&laptop);

    let mut spoke = full(&picture, &laptop, &[]);
    let line = spoke.line("tunnel up");

    assert!(line.contains("routed=default"), "{line}");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());
    assert_eq!(without_tunnel(&self::main(&laptop)), main);

    assert!(spoke.terminate().success());
    assert_eq!(rules_and_tables(&laptop), before);
}

#[test]
fn some_networks_alone_go_in_and_what_main_knows_more_closely_stays_out() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = rules_and_tables(&laptop);
    laptop.ip("route add 203.0.113.128/25 via 198.18.2.1");

    let mut spoke = picture.spoke(
        &laptop,
        &["-route", "203.0.113.0/24,2001:db8:99::/48,198.18.0.0/16"],
    );
    picture.filter_reverse_paths(&[&laptop]);
    let line = spoke.line("tunnel up");

    assert!(
        line.contains("routed=203.0.113.0/24,2001:db8:99::/48"),
        "{line}"
    );
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    assert_eq!(way(&laptop, "203.0.113.200"), "uplink");
    assert_eq!(way(&laptop, "198.18.2.77"), "uplink");
    assert_eq!(way(&laptop, "198.18.3.2"), "dtun0");
    assert_eq!(way(&laptop, "192.0.2.1"), "uplink");

    laptop.ip("route del 203.0.113.128/25");
    spoke.terminate();
    assert_eq!(rules_and_tables(&laptop), before);
}

#[test]
fn a_list_that_changed_is_taken_over_and_no_packet_is_lost_by_it() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = full(&picture, &laptop, &["-v"]);
    spoke.line("tunnel up");
    let flow = Flow::start(&laptop, &picture.www, WWW4);
    let direct = picture.direct.ip4();

    // As a program does that renews the list: a new file over the old one.
    let list = picture.list();
    let text = fs::read_to_string(&list).unwrap();
    let without = text.replace(&format!("{direct}/32"), "192.0.2.0/24");
    fs::write(format!("{list}.new"), without).unwrap();
    fs::rename(format!("{list}.new"), &list).unwrap();
    until_true("the new list", PATIENCE, || {
        way(&laptop, "192.0.2.1") == "uplink"
    });
    assert_eq!(way(&laptop, &direct.to_string()), "dtun0");

    // As an editor may do it: the same file written anew.
    fs::write(&list, text).unwrap();
    until_true("the old list", PATIENCE, || {
        way(&laptop, &direct.to_string()) == "uplink"
    });
    assert_eq!(way(&laptop, "192.0.2.1"), "dtun0");

    flow.moves_within(PATIENCE);
    flow.finish();
    let tables = rules_and_tables(&laptop);
    assert_eq!(tables.matches("throw 100.0.0.0/11").count(), 1, "{tables}");
}

#[test]
fn a_list_that_goes_away_stays_in_force_and_is_missed_once() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");
    let direct = picture.direct.ip4().to_string();
    let list = picture.list();
    let text = fs::read_to_string(&list).unwrap();

    fs::remove_file(&list).unwrap();
    spoke.line("the bypass list stays as it was");
    fs::create_dir(&list).unwrap();
    assert_eq!(way(&laptop, &direct), "uplink");
    fs::remove_dir(&list).unwrap();
    fs::write(&list, text.replace(&format!("{direct}/32"), "192.0.2.0/24")).unwrap();
    until_true("the new list", PATIENCE, || {
        way(&laptop, &direct) == "dtun0"
    });

    assert_eq!(spoke.count("the bypass list stays as it was"), 1);
    assert_eq!(spoke.count("is not watched"), 0, "{}", spoke.text());
}

#[test]
fn killed_at_any_step_it_leaves_nothing_that_holds_traffic_up() {
    let mut picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = rules_and_tables(&laptop);
    let main = main(&laptop);
    let direct = picture.direct.ip4();

    // Each round the process dies at the next change that the kernel tells of.
    let mut steps = 0;
    loop {
        let changes = Changes::watch(&laptop);
        let mut spoke = full(&picture, &laptop, &[]);
        let mut is_up = false;
        while !is_up && changes.seen() < steps {
            is_up = spoke.count("tunnel up") > 0;
            thread::yield_now();
        }
        spoke.kill();

        assert_eq!(self::main(&laptop), main, "after {steps} steps");
        assert_eq!(way(&laptop, "192.0.2.1"), "uplink", "after {steps} steps");
        assert_eq!(way(&laptop, &direct.to_string()), "uplink");
        assert_eq!(way(&laptop, "2001:db8:77::1"), "uplink");
        assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());
        if is_up {
            break;
        }
        steps += STRIDE;
    }
    assert!(steps > 10, "only {steps} steps were seen");

    // The next start takes away what is left, before it has a session.
    picture.hub.kill();
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("dialling");
    assert_eq!(rules_and_tables(&laptop), before);
    picture.hub.restart();
    spoke.line("tunnel up");
    spoke.terminate();
    assert_eq!(rules_and_tables(&laptop), before);
}

#[test]
fn rules_that_others_flush_come_back_within_a_second_and_without_a_quarrel() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");
    let flow = Flow::start(&laptop, &picture.www, WWW4);

    for _ in 0..2 {
        laptop.ip("rule flush");
        until_true("rules", Duration::from_secs(1), || {
            way(&laptop, "192.0.2.1") == "dtun0"
        });
    }
    laptop.ip("route flush table 11764");
    until_true("routes", Duration::from_secs(1), || {
        let table = laptop.ip("route show table 11764");
        table.contains("default") && table.matches("throw").count() > 1
    });
    flow.moves_within(PATIENCE);
    flow.finish();

    for _ in 0..10 {
        laptop.ip("-6 rule flush");
        until_true("a while", Duration::from_secs(1), || {
            way(&laptop, "2001:db8:77::1") == "dtun0" || spoke.count("again and again") > 0
        });
    }
    assert_eq!(spoke.count("again and again"), 1);
    assert_eq!(spoke.count("tunnel down"), 0, "{}", spoke.text());
}

#[test]
fn systemd_networkd_leaves_rules_and_routes_alone() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let flags = ["-route", "default", "-bypass", "@private"];
    let mut spoke = picture.spoke(&laptop, &flags);
    spoke.line("tunnel up");
    let before = both(&laptop, "rule") + &both(&laptop, "route show table 11764");

    // It takes every device in hand, and removes what it does not know of.
    let files = Scratch::new();
    let uplink = format!(
        "[Match]\nName=uplink\n[Address]\nAddress={}/24\nBroadcast=no\n\
         [Network]\nGateway={}\n[RoutingPolicyRule]\nFrom=10.99.0.0/16\nTable=77\nPriority=500\n",
        laptop.ip4(),
        laptop.gateway4(),
    );
    fs::write(files.path("10-uplink.network"), uplink).unwrap();
    let others = "[Match]\nName=*\n[Network]\nDHCP=no\n";
    fs::write(files.path("90-others.network"), others).unwrap();
    // Without udev it believes in devices where /sys cannot be written.
    let start = "mount --bind \"$0\" /etc/systemd/network && mkdir -p /run/systemd && \
                 mount -t tmpfs none /run/systemd && mkdir -p /run/systemd/netif/links && \
                 chown -R systemd-network /run/systemd/netif && \
                 umount -l /sys && mount -t sysfs -o ro sysfs /sys && exec \"$@\"";
    let mut command = laptop.command("sh");
    command
        .args(["-c", start, &files.path(".")])
        .arg("/usr/lib/systemd/systemd-networkd")
        .env("SYSTEMD_LOG_LEVEL", "debug");
    let mut networkd = Daemon::spawn(command);
    networkd.line("uplink: State changed: configuring -> configured");
    networkd.line_anywhere(&["dtun0: State changed: configuring -> configured"]);

    let theirs = "500:\tfrom 10.99.0.0/16 lookup 77 proto static\n";
    let after = both(&laptop, "rule") + &both(&laptop, "route show table 11764");
    assert!(after.contains(theirs), "{after}");
    assert_eq!(after.replace(theirs, ""), before);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(spoke.count("tunnel down"), 0, "{}", spoke.text());
}

#[test]
fn without_a_default_route_our_own_datagrams_do_not_go_into_the_tunnel() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = full(&picture, &laptop, &["-fallback", "never"]);
    spoke.line("tunnel up");

    laptop.ip("route del default");
    spoke.line("tunnel down");
    let sent = packets_into(&laptop, "dtun0");
    assert_eq!(way(&laptop, "192.0.2.1"), "dtun0");
    let marked = laptop.try_ip("route get 198.18.1.2 mark 0x640000");
    assert!(marked.is_err(), "{marked:?}");
    assert_eq!(packets_into(&laptop, "dtun0"), sent);

    laptop.ip("route add default via 198.18.2.1");
    spoke.line("tunnel up");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
}

#[test]
fn a_transfer_goes_on_over_another_uplink_and_another_address_of_the_hub() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    picture.filter_reverse_paths(&[&laptop]);
    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");
    let flow = Flow::start(&laptop, &picture.www, WWW4);

    picture.move_laptop(&laptop);
    spoke.line("tunnel up");
    flow.moves_within(PATIENCE);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), ON_THE_RADIO);

    picture.move_hub(&laptop);
    spoke.line_within("tunnel up", PATIENCE);
    flow.moves_within(PATIENCE);
    flow.finish();

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
}

/// pc ──── router ════ hub ──── www, with one translation, at the hub.
#[test]
fn a_router_carries_its_lan_and_lets_the_list_out_by_its_own_uplink() {
    let picture = Picture::new();
    let router = picture.network.host(2);
    let pc = lan(&router, 10);
    // The far end of the uplink knows the way back, so nothing is translated.
    let gateway = &picture.network.router;
    gateway.ip("route add 192.168.10.0/24 via 198.18.2.2");
    picture.filter_reverse_paths(&[&router, &pc]);

    let mut spoke = full(&picture, &router, &["-peernet", "192.168.10.0/24"]);
    spoke.line("tunnel up");

    let own: IpAddr = [192, 168, 10, 2].into();
    assert_eq!(seen(&pc, &picture.hub.host, [10, 0, 0, 1]), own);
    assert_eq!(
        seen(&picture.hub.host, &pc, own),
        Ipv4Addr::new(10, 0, 0, 1)
    );
    assert_eq!(seen(&pc, &picture.www, WWW4), HUB_AT_WWW4);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&pc, &picture.direct, direct), own);
}

#[test]
fn a_second_tunnel_finds_room_beside_the_first_and_both_leave_nothing() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = rules_and_tables(&laptop);
    let mut first = full(&picture, &laptop, &[]);
    first.line("tunnel up");

    let mut second = picture.spoke(&laptop, &["-id", "second", "-route", "192.0.2.0/24"]);
    second.line("tunnel up");
    // By that the filter of each knows the other's device, whatever its name.
    let ours = laptop.ip("-o link show group 25717");
    assert!(ours.contains("dtun0") && ours.contains("dtun1"), "{ours}");
    assert_eq!(way(&laptop, "192.0.2.1"), "dtun1");
    assert_eq!(way(&laptop, "192.0.3.1"), "dtun0");

    first.terminate();
    assert_eq!(way(&laptop, "192.0.2.1"), "dtun1");
    assert_eq!(way(&laptop, "192.0.3.1"), "uplink");
    second.terminate();
    assert_eq!(rules_and_tables(&laptop), before);
}

#[test]
fn when_the_hub_stays_away_the_machine_has_its_own_network_back() {
    let mut picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = rules(&laptop);
    let mut spoke = full(&picture, &laptop, &["-fallback", "1s"]);
    spoke.line("tunnel up");

    picture.hub.kill();
    spoke.line("own network back");
    until_true("its own rules", PATIENCE, || rules(&laptop) == before);
    assert_eq!(way(&laptop, "192.0.2.1"), "uplink");

    picture.hub.restart();
    spoke.line("tunnel up");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
}

#[test]
fn a_device_of_the_owners_does_not_hold_traffic_up_when_nobody_holds_it() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.ip("tuntap add dev tun7 mode tun vnet_hdr");
    let mut spoke = full(&picture, &laptop, &["-tun", "tun7"]);
    spoke.line("tunnel up");
    assert_eq!(way(&laptop, "192.0.2.1"), "tun7");

    spoke.kill();
    until_true("the way out", PATIENCE, || {
        way(&laptop, "192.0.2.1") == "uplink"
    });
    assert_eq!(way(&laptop, "2001:db8:77::1"), "uplink");
}

#[test]
fn ipv6_without_a_way_at_the_hub_is_refused_at_once_and_works_inside() {
    for hub in [&[][..], &["-pool6", "none"]] {
        let picture = Picture::with(hub);
        picture.hub.host.ip("-6 route del default");
        let laptop = picture.network.host(2);
        let mut spoke = full(&picture, &laptop, &[]);
        spoke.line("tunnel up");

        let nowhere = "[2001:db8:77::1]:80".parse().unwrap();
        for _ in 0..20 {
            let asked = Instant::now();
            let refused = laptop.enter(|| TcpStream::connect_timeout(&nowhere, PATIENCE));
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::NetworkUnreachable);
            assert!(asked.elapsed() < Duration::from_millis(500));
        }
        assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
        if hub.is_empty() {
            reaches(&laptop, HUB6);
        }
        spoke.terminate();
        assert!(spoke.text().contains("no_route="), "{}", spoke.text());
    }
}

#[test]
fn without_ipv6_on_the_machine_nothing_is_warned_of() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    for conf in ["all", "default"] {
        laptop.sysctl(&format!("ipv6/conf/{conf}/disable_ipv6"), "1");
    }

    let mut spoke = full(&picture, &laptop, &["-bypass", "@private"]);
    spoke.line("tunnel up");

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(spoke.count("refused"), 0, "{}", spoke.text());
}

#[test]
fn what_is_named_beside_everything_goes_in_though_the_hub_has_no_way_out_for_it() {
    let picture = Picture::with(&["-allow-peernet", "2001:db8:5::/48"]);
    picture.hub.host.ip("-6 route del default");
    let laptop = picture.network.host(2);
    let far = picture.network.host(4);
    far.ip("addr add 2001:db8:5::1/128 dev lo");
    let state = picture.scratch.path("far");
    let flags = [
        "-id",
        "far",
        "-state",
        &state,
        "-peernet",
        "2001:db8:5::/64",
    ];
    let mut other = picture.spoke(&far, &flags);
    other.line("tunnel up");

    let route = "default,2001:db8:5::/48,198.18.4.0/24";
    let bypass = "2001:db8::/32,198.18.0.0/15";
    let mut spoke = picture.spoke(&laptop, &["-route", route, "-bypass", bypass]);
    let line = spoke.line("tunnel up");

    assert!(line.contains(&format!("routed={route}")), "{line}");
    reaches(&laptop, "2001:db8:5::1".parse::<IpAddr>().unwrap());
    assert_eq!(way(&laptop, "198.18.4.2"), "dtun0");
    assert_eq!(way(&laptop, "198.18.5.2"), "uplink");
    let nowhere = "[2001:dba::1]:80".parse().unwrap();
    let refused = laptop.enter(|| TcpStream::connect_timeout(&nowhere, PATIENCE));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NetworkUnreachable);
}

#[test]
fn a_stop_that_is_asked_for_twice_at_once_leaves_nothing() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = rules_and_tables(&laptop);
    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");

    // As timeout does it, to the program and to its group; the second comes
    // when the first was noticed.
    spoke.signal(Signal::SIGINT);
    spoke.line("tunnel down");
    spoke.signal(Signal::SIGINT);

    assert!(spoke.wait().success());
    assert_eq!(rules_and_tables(&laptop), before);
}

#[test]
fn a_hub_that_does_not_forward_or_has_no_way_out_is_told() {
    let chain = "nft add chain inet theirs f { type filter hook forward priority 0 ; }";
    let nothing_back = "nothing comes back from beyond the hub";
    for (changes, said) in [
        (&[][..], "the hub forwards"),
        (
            &["sysctl -w net.ipv4.ip_forward=0"],
            "the hub does not seem to forward",
        ),
        (
            &["ip route del default"],
            "the hub has no way to the outside",
        ),
        (&["nft flush table inet nat"], nothing_back),
        (
            &[
                "nft add table inet theirs",
                chain,
                "nft add rule inet theirs f iifname dtun* drop",
            ],
            nothing_back,
        ),
        (
            &[
                "nft add table inet theirs",
                chain,
                "nft add rule inet theirs f iifname dtun* reject",
            ],
            "the hub's firewall refuses what it forwards",
        ),
    ] {
        let picture = Picture::new();
        let laptop = picture.network.host(2);
        let hub = &picture.hub.host;
        hub.ip(&format!("route add {} via 198.18.1.1", laptop.ip4()));
        for change in changes {
            hub.run(change);
        }

        let mut spoke = full(&picture, &laptop, &["-v"]);

        spoke.line(said);
    }
}

#[test]
fn a_resolver_beyond_the_hub_that_answers_shows_that_it_forwards() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.etc("resolv.conf", "nameserver 198.18.2.1\n");
    // Nothing else is heard of the routers there.
    picture.hub.host.run("nft add table inet theirs");
    for rule in [
        "add chain inet theirs in { type filter hook prerouting priority 0 ; }",
        "add rule inet theirs in iifname uplink icmp type != echo-request drop",
    ] {
        picture.hub.host.run(&format!("nft {rule}"));
    }
    let _resolver = Resolver::start(&picture.www, WWW4, [198, 18, 1, 2]);

    let mut spoke = full(&picture, &laptop, &["-v", "-dns", &WWW4.to_string()]);

    spoke.line("the hub forwards");
}

/// Everything through the tunnel but the picture's list.
fn full(picture: &Picture, host: &Host, more: &[&str]) -> Daemon {
    let list = picture.list();
    let flags = ["-route", "default", "-bypass", &list];

    picture.spoke(host, &[&flags[..], more].concat())
}

/// Rules and a table that the machine's owner has.
fn owners_rules(laptop: &Netns) {
    laptop.ip("route add 192.0.2.99 via 198.18.2.1 table 77");
    for rule in [
        "pref 100 to 192.0.2.99 lookup 77",
        "pref 32505 fwmark 7 lookup 77",
    ] {
        laptop.ip(&format!("rule add {rule}"));
        laptop.ip(&format!(
            "-6 rule add {}",
            rule.replace("192.0.2.99", "2001:db8:77::1")
        ));
    }
}

fn both(netns: &Netns, what: &str) -> String {
    ["-4", "-6"]
        .map(|family| netns.ip(&format!("{family} {what}")))
        .concat()
}

fn rules(netns: &Netns) -> String {
    both(netns, "rule")
}

fn rules_and_tables(netns: &Netns) -> String {
    rules(netns) + &both(netns, "route show table all")
}

fn main(netns: &Netns) -> String {
    both(netns, "route show table main")
}

/// Without what comes with the device and its addresses.
fn without_tunnel(routes: &str) -> String {
    let others = routes.lines().filter(|route| !route.contains("dtun0"));

    others.map(|route| format!("{route}\n")).collect()
}

/// The device by which the kernel would send a packet.
fn way(netns: &Netns, to: &str) -> String {
    let said = match netns.try_ip(&format!("route get {to}")) {
        Ok(said) | Err(said) => said,
    };
    let mut words = said.split_whitespace().skip_while(|word| *word != "dev");

    words.nth(1).unwrap_or_default().to_owned()
}

fn packets_into(netns: &Netns, device: &str) -> String {
    let said = netns.ip(&format!("-s link show dev {device}"));
    let mut lines = said.lines().skip_while(|line| !line.contains("TX:"));

    lines.nth(1).unwrap().to_owned()
}

/// Counts what the kernel tells of routes and rules.
struct Changes {
    monitor: Child,
    seen: Arc<AtomicUsize>,
}

impl Changes {
    fn watch(netns: &Netns) -> Self {
        let mut command = Command::new("ip");
        command.args(["-n", netns.name(), "monitor", "route", "rule"]);
        let mut monitor = command.stdout(Stdio::piped()).spawn().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for _ in lines.map_while(Result::ok) {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });

        Self { monitor, seen }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Err(error) = self.monitor.kill().and_then(|()| self.monitor.wait()) {
            eprintln!("{error}");
        }
    }
}

/// Changes from one death to the next.
const STRIDE: usize = 2;
