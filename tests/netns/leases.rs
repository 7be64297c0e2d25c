//! What the hub keeps for a hint, how long, and what a stop leaves behind.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, field};
use crate::namespace::Netns;
use crate::network::Network;
use crate::nobody::{self, Nobody};
use crate::scratch::Scratch;
use crate::traffic::{reaches, reaches_within};
use crate::tunnel::{HUB4, HUB6, Hub, SOON, Spoke, devices, mtu, route};
use crate::wait::until_true;

#[test]
fn a_device_outlives_its_session_by_the_lease_time() {
    let network = Network::new();
    let notes = Scratch::new();
    let down = notes.script(
        "down",
        &format!("echo $EVENT $TUN $HINT >> {}", notes.path("calls")),
    );
    let hub = Hub::start(&network, &["-lease", "2s", "-down", &down]);
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);
    let device = hub.device("spoke2");

    spoke.terminate();
    assert_eq!(hub.device("spoke2"), device);
    until_true("the end of the lease", SOON, || {
        hub.device("spoke2").is_none()
    });

    assert_eq!(notes.read("calls"), "down dtun0 spoke2\n");
}

#[test]
fn a_device_that_somebody_deletes_is_made_anew_under_a_session() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-peernet", "10.9.2.0/24"]);
    let device = hub.device("spoke2").unwrap();
    assert!(route(&hub.host, "10.9.2.0/24").contains(&device.name));

    hub.host.ip(&format!("link del {}", device.name));

    hub.line("device was deleted: made anew");
    hub.line("its device was deleted");
    spoke.line("tunnel up");
    let anew = hub.device("spoke2").unwrap();
    assert_eq!(anew.name, device.name);
    assert_ne!(anew.index, device.index);
    assert!(route(&hub.host, "10.9.2.0/24").contains(&device.name));
    reaches(&spoke.host, HUB4);
}

#[test]
fn addresses_and_state_that_others_take_from_a_leases_device_come_back() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let (spoke, lease) = Spoke::up(&network, 2, &["-peernet", "10.9.2.0/24"]);
    let name = hub.device("spoke2").unwrap().name;
    until_true("the peernet", SOON, || {
        route(&hub.host, "10.9.2.0/24").contains(&name)
    });

    for change in [
        format!("addr flush dev {name}"),
        format!("-6 addr flush dev {name}"),
        format!("link set {name} down"),
    ] {
        hub.host.ip(&change);
        reaches_within(&spoke.host, HUB4, SOON);
        reaches_within(&spoke.host, HUB6, SOON);
        assert!(route(&hub.host, "10.9.2.0/24").contains(&name), "{change}");
        reaches(&hub.host, lease.ip4);
    }
    assert_eq!(hub.count("session down"), 0, "{}", hub.text());
}

#[test]
fn an_address_is_another_s_only_when_the_down_hook_and_the_device_are_done() {
    let network = Network::new();
    let notes = Scratch::new();
    let down = notes.script("down", "sleep 3");
    let mut hub = Hub::start(
        &network,
        &["-pool4", "10.0.0.0/30", "-lease", "0s", "-down", &down],
    );
    let (mut first, _) = Spoke::up(&network, 2, &[]);
    first.terminate();
    hub.line("lease over");

    let (mut second, _) = Spoke::up(&network, 3, &[]);
    assert_eq!(hub.device("spoke2"), None);
    reaches(&second.host, HUB4);

    second.terminate();
    hub.line("lease over");
    assert_eq!(hub.terminate().code(), Some(0));
    assert_eq!(hub.device("spoke3"), None);
}

#[test]
fn a_spoke_that_returns_while_its_down_hook_runs_gets_its_packets_and_its_up_hook_after_it() {
    let network = Network::new();
    let notes = Scratch::new();
    let calls = notes.path("calls");
    let note = format!("echo $EVENT $TUN >> {calls}");
    let up = notes.script("up", &note);
    let go = notes.path("go");
    let wait = format!("until [ -e {go} ]; do sleep 0.1; done; {note}");
    let down = notes.script("down", &wait);
    let mut hub = Hub::start(&network, &["-lease", "0s", "-up", &up, "-down", &down]);
    hub.host.sysctl("ipv4/conf/all/rp_filter", "1");
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);
    spoke.terminate();
    hub.line("lease over");

    spoke.restart();
    spoke.lease();
    reaches(&spoke.host, HUB4);
    reaches(&spoke.host, HUB6);
    assert_eq!(notes.read("calls"), "up dtun0\n");

    fs::write(go, "").unwrap();
    until_true("both hooks", SOON, || {
        notes.read("calls") == "up dtun0\ndown dtun0\nup dtun1\n"
    });
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_damaged_state_is_set_aside_with_a_warning() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &["-keepalive", "1s"]);
    hub.kill();
    let files: Vec<_> = fs::read_dir(hub.state())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "json"))
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    fs::write(&files[0], "{\"leases\": [{").unwrap();

    hub.restart();

    hub.line_anywhere(&["WARN", "state"]);
    spoke.lease();
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_stop_leaves_nothing_behind_on_either_side() {
    let network = Network::new();
    let host = network.host(2);
    let before = picture(&host);
    let hub_host = network.host(1);
    let hub_before = picture(&hub_host);
    let mut hub = Hub::start_on(hub_host, &[]);
    let mut spoke = Spoke::start_on(host, &["-peernet", "192.168.10.0/24"]);
    spoke.lease();
    reaches(&spoke.host, HUB4);

    let start = Instant::now();
    assert_eq!(spoke.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2));
    hub.line("said goodbye");
    assert_eq!(hub.terminate().code(), Some(0));

    assert_eq!(picture(&spoke.host), before);
    assert_eq!(picture(&hub.host), hub_before);
}

#[test]
fn a_restart_that_is_announced_keeps_devices_and_what_names_them() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, first) = Spoke::up(&network, 2, &[]);
    let device = hub.device("spoke2");
    hub.host.ip("route add 203.0.113.0/24 dev dtun0");

    hub.signal(Signal::SIGUSR1);
    assert_eq!(hub.wait().code(), Some(0));
    spoke.line_within("tunnel down", Duration::from_secs(2));
    assert_eq!(hub.device("spoke2"), device);
    hub.restart();

    let again = spoke.lease();
    assert_eq!((again.ip4, again.ip6), (first.ip4, first.ip6));
    assert_eq!(hub.device("spoke2"), device);
    assert!(
        hub.host
            .ip("route show")
            .contains("203.0.113.0/24 dev dtun0")
    );
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_hub_that_stops_says_goodbye_and_is_found_again_at_once() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);

    hub.terminate();
    spoke.line_within("tunnel down", Duration::from_secs(2));
    hub.restart();

    spoke.line_within("tunnel up", Duration::from_secs(5));
}

#[test]
fn an_interrupt_and_a_closed_terminal_end_a_spoke_cleanly() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    for (number, signal) in [(2, Signal::SIGINT), (3, Signal::SIGHUP)] {
        let (mut spoke, _) = Spoke::up(&network, number, &[]);

        spoke.signal(signal);

        assert_eq!(spoke.wait().code(), Some(0), "{signal}");
        assert_eq!(devices(&spoke.host), []);
        hub.line("the spoke said goodbye");
    }
}

#[test]
fn the_lower_mtu_of_both_holds() {
    let network = Network::new();
    let hub = Hub::start(&network, &["-mtu", "1350"]);
    let (low, _) = Spoke::up(&network, 2, &["-mtu", "1300"]);
    let (high, _) = Spoke::up(&network, 3, &["-mtu", "1390"]);

    assert_eq!(mtu(&low.host, "dtun0"), 1300);
    assert_eq!(mtu(&high.host, "dtun0"), 1350);
    let at_hub = |hint| mtu(&hub.host, &hub.device(hint).unwrap().name);
    assert_eq!(at_hub("spoke3"), 1350);
    until_true("the hub's end for the low one", SOON, || {
        at_hub("spoke2") == 1300
    });
}

#[test]
fn a_persistent_device_is_attached_to_without_rights_and_left_as_it_was() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let nobody = Nobody::new();
    host.ip(&format!("tuntap add dev mine mode tun user {}", nobody::ID));
    host.sysctl("ipv6/conf/mine/addr_gen_mode", "1");
    host.ip("addr add 10.0.0.2 peer 10.0.0.1 dev mine");
    host.ip("link set mine up");
    let before = host.ip("addr show dev mine");
    let args = ["-key", "foo", "-connect", "198.18.1.2:443", "-tun", "mine"];

    let mut spoke = Daemon::spawn(nobody.command(&host, &args));
    let line = spoke.line("tunnel up");

    assert_eq!(field(&line, "device").as_deref(), Some("mine"));
    reaches(&host, HUB4);
    assert_eq!(spoke.terminate().code(), Some(0));
    // Without a program that holds it, it has no carrier, as before.
    assert_eq!(host.ip("addr show dev mine"), before);
}

#[test]
fn a_log_for_machines_is_json_in_every_line() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &["-log-format", "json"]);
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);
    spoke.terminate();
    hub.line("session down");
    hub.terminate();

    for line in hub.text().lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        assert!(value.is_object());
    }
}

/// Links and routes, but for what the kernel does by itself.
fn picture(netns: &Netns) -> String {
    let links = netns.ip("-br link");
    let four = netns.ip("-4 route show table all");
    let six = netns.ip("-6 route show table all");

    let mut lines: Vec<_> = [links, four, six]
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.contains("fe80:") && !line.contains("ff00:"))
        .collect();
    lines.sort();

    lines.join("\n")
}
