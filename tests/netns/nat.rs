//! `-nat`: the hub lets spokes out, and leaves its machine's firewall as it was.

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::process::Command;

use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, connect, lan};
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, PATIENCE, Picture, WWW4, WWW6, seen};
use crate::traffic::Flow;
use crate::tunnel::SOON;
use crate::wait::until_true;

#[test]
fn www_sees_the_hub_and_the_firewall_is_afterwards_as_it_was() {
    let (mut picture, before) = nat(&[], own_rules);
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    let hub = &picture.hub;
    hub.line_anywhere(&["forwarding is switched on, and stays on", "IPv4"]);
    hub.line_anywhere(&["forwarding is switched on, and stays on", "IPv6"]);
    hub.line_anywhere(&["IPv6 to the outside: spokes get it"]);
    assert_ne!(firewall(&hub.host), before);

    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), before);
    assert_eq!(read(&picture.hub.host, "ipv4/ip_forward"), "1");
    assert_eq!(read(&picture.hub.host, "ipv6/conf/all/forwarding"), "1");
}

#[test]
fn a_hub_that_begins_to_forward_still_hears_its_router() {
    let provider = Netns::new("provider");
    let (picture, _) = nat(&[], |host| {
        host.sysctl("ipv6/conf/www/accept_ra", "0");
        connect(&provider, "customer", host, "wan");
        host.sysctl("ipv6/conf/wan/accept_ra", "1");
        until_true("a default route by an advertisement", SOON, || {
            advertise(&provider, "customer", 1800);
            announced(host)
        });
    });

    let host = &picture.hub.host;
    assert!(announced(host));
    assert_eq!(read(host, "ipv6/conf/www/accept_ra"), "0");
    picture
        .hub
        .line_anywhere(&["routers are still listened to", "wan"]);
    until_true("the end of the router", SOON, || {
        advertise(&provider, "customer", 0);
        !announced(host)
    });
}

/// Sends a router advertisement (RFC 4861, section 4.2) with this lifetime in
/// seconds.
fn advertise(router: &Netns, device: &str, lifetime: u16) {
    let link = router.ip(&format!("-o link show dev {device}"));
    let scope = link.split(':').next().unwrap().parse().unwrap();
    router.enter(|| {
        let raw = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        raw.set_multicast_hops_v6(255).unwrap();
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let [high, low] = lifetime.to_be_bytes();
        let message = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        raw.send_to(&message, &SocketAddrV6::new(all_nodes, 0, 0, scope).into())
            .unwrap();
    });
}

/// Whether a router has announced itself as the way out.
fn announced(host: &Netns) -> bool {
    host.ip("-6 route show default")
        .contains("dev wan proto ra")
}

/// pc ──── router ════ hub ──── www, with one translation, at the hub.
#[test]
fn a_network_behind_a_spoke_is_let_out_and_one_that_knows_the_way_back_sees_it() {
    let (picture, _) = nat(&["-nat-except", "198.51.100.0/24"], own_rules);
    let (hub, www) = (&picture.hub.host, &picture.www);
    www.ip("addr add 198.51.100.2/24 dev uplink");
    hub.ip("addr add 198.51.100.1/24 dev www");
    www.ip("route add 192.168.10.0/24 via 198.51.100.1");
    let router = picture.network.host(2);
    let pc = lan(&router, 10);
    let flags = ["-route", "default", "-peernet", "192.168.10.0/24"];
    let mut spoke = picture.spoke(&router, &flags);
    spoke.line("tunnel up");

    let own: IpAddr = [192, 168, 10, 2].into();
    assert_eq!(seen(&pc, www, [198, 51, 100, 2]), own);
    assert_eq!(seen(&pc, hub, [10, 0, 0, 1]), own);
    until_true("the translation of a peernet", SOON, || {
        seen(&pc, www, WWW4) == HUB_AT_WWW4
    });

    assert!(spoke.terminate().success());
    until_true("the peernet's end", SOON, || {
        !hub.run("nft list ruleset").contains("192.168.10.0")
    });
}

#[test]
fn connections_outlive_a_kill_and_a_restart_of_the_hub() {
    let (mut picture, before) = nat(&[], own_rules);
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");
    let flow = Flow::start(&laptop, &picture.www, WWW4);
    flow.moves_within(SOON);

    picture.hub.kill();
    picture.hub.restart();
    flow.moves_within(PATIENCE);
    picture.hub.signal(Signal::SIGUSR1);
    picture.hub.wait();
    clean_within_a_restart(&picture.hub.host);
    picture.hub.restart();
    flow.moves_within(PATIENCE);
    flow.finish();

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn what_a_kill_leaves_goes_with_dtun_clean_or_a_start_without_nat() {
    let (mut picture, before) = nat(&[], own_rules);
    let during = firewall(&picture.hub.host);
    clean(&picture.hub.host);
    assert_eq!(firewall(&picture.hub.host), during, "one that runs");

    picture.hub.kill();
    assert_eq!(firewall(&picture.hub.host), during);
    clean(&picture.hub.host);
    assert_eq!(firewall(&picture.hub.host), before);

    picture.hub.restart();
    assert_eq!(firewall(&picture.hub.host), during);
    picture.hub.kill();
    let state = picture.hub.state();
    let mut other = Daemon::dtun(&picture.hub.host, &["-key", "foo", "-state", &state]);
    other.line("listening");
    assert_eq!(firewall(&picture.hub.host), before);
}

#[test]
fn a_flush_of_all_rules_by_another_is_put_right_and_connections_go_on() {
    let (mut picture, _) = nat(&[], |_| {});
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");
    let during = firewall(&picture.hub.host);

    for _ in 0..2 {
        picture.hub.host.run("nft flush ruleset");
        picture.hub.line_within("put back", SOON);
        assert_eq!(firewall(&picture.hub.host), during);
        assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    }

    assert!(picture.hub.terminate().success());
    assert_eq!(firewall(&picture.hub.host), "");
}

/// What a machine's owner has in the firewall.
fn own_rules(host: &Host) {
    for rule in [
        "add table inet mine",
        "add chain inet mine in { type filter hook input priority 0 ; }",
        "add rule inet mine in tcp dport 9 drop",
    ] {
        host.run(&format!("nft {rule}"));
    }
}

/// A hub with `-nat` and these flags on a machine that was prepared, and that
/// machine's firewall before.
pub(crate) fn nat(flags: &[&str], prepare: impl FnOnce(&Host)) -> (Picture, String) {
    let mut before = String::new();
    let picture = Picture::prepared(&[&["-nat"], flags].concat(), |host| {
        prepare(host);
        before = firewall(host);
    });

    (picture, before)
}

pub(crate) fn firewall(netns: &Netns) -> String {
    netns.run("nft list ruleset")
}

fn read(netns: &Netns, path: &str) -> String {
    let file = format!("/proc/sys/net/{path}");
    netns.run(&format!("cat {file}")).trim().to_owned()
}

/// Runs `dtun clean`, which must succeed.
pub(crate) fn clean(netns: &Netns) {
    run_clean(netns.command(env!("CARGO_BIN_EXE_dtun")));
}

/// The same as a unit's `ExecStopPost`.
pub(crate) fn clean_within_a_restart(netns: &Netns) {
    clean_after(netns, ["success", "exited", "0"]);
}

/// The same after a process that ended so: `$SERVICE_RESULT`, `$EXIT_CODE`,
/// `$EXIT_STATUS`.
pub(crate) fn clean_after(netns: &Netns, [result, code, status]: [&str; 3]) {
    let mut command = netns.command(env!("CARGO_BIN_EXE_dtun"));
    command
        .env("SERVICE_RESULT", result)
        .env("EXIT_CODE", code)
        .env("EXIT_STATUS", status);
    run_clean(command);
}

fn run_clean(mut command: Command) {
    let output = command.args(["clean"]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
