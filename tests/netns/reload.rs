//! SIGHUP: the file of flags is read again, and the tunnel goes on.

use std::fs;

use nix::sys::signal::Signal;

use crate::daemon::Daemon;
use crate::network::{Host, Network};
use crate::picture::{HUB_AT_WWW4, Picture, WWW4, seen};
use crate::scratch::Scratch;
use crate::traffic::{Flow, reaches, reaches_not};
use crate::tunnel::{HUB4, Hub, SOON, devices, no_route, route};
use crate::wait::until_true;

#[test]
fn a_spoke_takes_over_what_is_routed_and_who_is_asked_for_names() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.etc("resolv.conf", THEIRS);
    let resolv_conf = format!("/etc/netns/{}/resolv.conf", laptop.name());
    let before = laptop.ip("rule");
    let file = File::new(&["route 203.0.113.0/24"]);
    let mut spoke = file.start(&laptop);
    spoke.line("tunnel up");
    let device = devices(&laptop);
    let flow = Flow::start(&laptop, &picture.www, WWW4);
    flow.moves_within(SOON);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());

    file.write(&["route default", "dns 10.0.0.1", "fallback 5m"]);
    spoke.signal(Signal::SIGHUP);
    spoke.line("configuration taken over: -dns, -fallback, -route");
    until_true("the hub's address at direct", SOON, || {
        seen(&laptop, &picture.direct, direct) == picture.hub.host.ip4()
    });
    assert_eq!(
        fs::read_to_string(&resolv_conf).unwrap().lines().last(),
        Some("nameserver 10.0.0.1")
    );
    flow.moves_within(SOON);

    // What was made for the lists before is gone.
    let bypass = format!("bypass {direct}/32");
    file.write(&["route default", &bypass]);
    spoke.signal(Signal::SIGHUP);
    spoke.line("configuration taken over: -bypass, -dns, -fallback");
    until_true("the laptop's address at direct", SOON, || {
        seen(&laptop, &picture.direct, direct) == laptop.ip4()
    });
    assert_eq!(fs::read_to_string(&resolv_conf).unwrap(), THEIRS);
    assert!(!laptop.ip("rule").contains("dport 53"));
    file.write(&["route 203.0.113.0/24"]);
    spoke.signal(Signal::SIGHUP);
    spoke.line("configuration taken over: -bypass, -route");
    until_true("one rule", SOON, || {
        !laptop.ip("rule").contains("suppress_prefixlength 0")
    });
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    flow.moves_within(SOON);
    flow.finish();
    assert_eq!(devices(&laptop), device);
    assert_eq!(spoke.count("tunnel up"), 1, "{}", spoke.text());
    assert!(spoke.terminate().success());
    assert_eq!(laptop.ip("rule"), before);
}

#[test]
fn what_needs_a_restart_is_said_and_a_mistake_changes_nothing() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let file = File::new(&["route 10.9.0.0/16"]);
    let mut spoke = file.start(&host);
    spoke.line("tunnel up");

    file.write(&["route 10.9.0.0/16", "tun other0", "mtu 1300", "v"]);
    spoke.signal(Signal::SIGHUP);
    spoke.line("-mtu, -tun: changed, and only a restart takes that over");
    spoke.line("configuration taken over: -v");
    // It is still so, and there is more in the log now.
    spoke.signal(Signal::SIGHUP);
    spoke.line("-mtu, -tun: changed, and only a restart takes that over");
    spoke.line("nothing to take over");

    file.write(&["route 10.9.0.0/16", "route default"]);
    spoke.signal(Signal::SIGHUP);
    let said = spoke.line("the configuration stays as it is");
    assert!(
        said.contains(&format!("{}:6: -route stands", file.path)),
        "{said}"
    );
    file.write(&[]);
    spoke.signal(Signal::SIGHUP);
    spoke.line(" -route: changed, and only a restart");
    spoke.line("configuration taken over: -v");

    reaches(&host, HUB4);
    assert!(host.ip("rule").contains("to 10.9.0.0/16"));
    assert_eq!(devices(&host)[0].name, "dtun0");
    assert!(spoke.terminate().success());
}

#[test]
fn a_lock_opens_for_another_list_in_one_step() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (open, closed) = (network.host(3), network.host(4));
    let host = network.host(2);
    let list = |host: &Host| format!("bypass {}/32", host.ip4());
    let file = File::new(&["route default", "strict", &list(&open)]);
    let mut spoke = file.start(&host);
    spoke.line("tunnel up");
    reaches(&host, open.ip4());
    reaches_not(&host, closed.ip4());

    file.write(&["route default", "strict", &list(&closed)]);
    spoke.signal(Signal::SIGHUP);
    spoke.line("configuration taken over: -bypass");

    until_true("the other host", SOON, || {
        host.try_run(&format!("ping -n -q -W 1 -c 1 {}", closed.ip4()))
            .is_ok()
    });
    reaches_not(&host, open.ip4());
    assert!(spoke.terminate().success());
}

#[test]
fn a_hub_judges_the_networks_behind_spokes_anew() {
    let network = Network::new();
    let host = network.host(1);
    let scratch = Scratch::new();
    let file = scratch.path("hub.conf");
    let write = |more: &str| {
        let state = scratch.path("state");
        fs::write(&file, format!("key foo\nstate {state}\n{more}")).unwrap();
    };
    write("");
    let mut hub = Daemon::dtun(&host, &["-config", &file]);
    hub.line("listening");
    let spoke = network.host(2);
    let state = scratch.path("spoke");
    let args = [
        "-key",
        "foo",
        "-connect",
        "198.18.1.2:443",
        "-peernet",
        "192.0.2.0/24",
    ];
    let mut spoke = Daemon::dtun(&spoke, &[&args[..], &["-state", &state]].concat());
    spoke.line("peernet refused net=192.0.2.0/24");

    write("allow-peernet 192.0.2.0/24\nlease 10m\nkeepalive 9s\n");
    hub.signal(Signal::SIGHUP);
    hub.line("configuration taken over: -allow-peernet, -keepalive, -lease");
    hub.line("peernet routed net=192.0.2.0/24");
    assert!(route(&host, "192.0.2.0/24").contains("dev dtun0"));
    write("no-spoke-to-spoke\n");
    hub.signal(Signal::SIGHUP);
    hub.line("-no-spoke-to-spoke: changed, and only a restart");
    hub.line("configuration taken over: -allow-peernet");
    no_route(&host, "192.0.2.0/24");

    assert_eq!(spoke.count("tunnel up"), 1);
    assert!(hub.terminate().success());
}

#[test]
fn a_hub_changes_the_networks_that_see_the_spokes_own_addresses() {
    let scratch = Scratch::new();
    let file = scratch.path("hub.conf");
    fs::write(&file, "nat\n").unwrap();
    let picture = Picture::prepared(&["-config", &file], |_| {});
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    picture
        .www
        .ip(&format!("route add 10.0.0.0/24 via {HUB_AT_WWW4}"));

    fs::write(&file, "nat\nnat-except 203.0.113.0/24\n").unwrap();
    picture.hub.signal(Signal::SIGHUP);

    until_true("the spoke's own address", SOON, || {
        seen(&laptop, &picture.www, WWW4) != HUB_AT_WWW4
    });
}

#[test]
fn the_service_manager_hears_when_a_reload_begins_and_ends() {
    let network = Network::new();
    let host = network.host(2);
    let file = File::new(&["route 10.9.0.0/16"]);
    let manager = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/manager.py");
    let socket = file.scratch.path("socket");
    let mut command = host.command("python3");
    command
        .args([
            manager,
            &socket,
            env!("CARGO_BIN_EXE_dtun"),
            "-config",
            &file.path,
        ])
        .env("KEEPS", "0");
    let mut spoke = Daemon::spawn(command);
    spoke.line("told READY=1");

    file.write(&["route default"]);
    spoke.signal(Signal::SIGHUP);

    spoke.line("told RELOADING=1 MONOTONIC_USEC=");
    spoke.line("told READY=1");
    file.write(&["rout default"]);
    spoke.signal(Signal::SIGHUP);
    spoke.line("the configuration stays as it is");
    spoke.line("told RELOADING=1 MONOTONIC_USEC=");
    spoke.line("told READY=1");
    assert!(spoke.terminate().success());
}

/// A spoke's flags.
struct File {
    scratch: Scratch,
    path: String,
}

impl File {
    fn new(lines: &[&str]) -> Self {
        let scratch = Scratch::new();
        let file = Self {
            path: scratch.path("spoke.conf"),
            scratch,
        };
        fs::write(file.scratch.path("key"), "foo").unwrap();
        file.write(lines);

        file
    }

    /// Puts these lines behind what stands there always: paths are those beside
    /// the file.
    fn write(&self, lines: &[&str]) {
        let always = "connect 198.18.1.2:443\nkey-file key\nid spoke2\nstate state\n";
        fs::write(&self.path, format!("{always}{}\n", lines.join("\n"))).unwrap();
    }

    fn start(&self, host: &Host) -> Daemon {
        Daemon::dtun(host, &["-config", &self.path])
    }
}

const THEIRS: &str = "nameserver 198.18.2.1\n";
