//! The user's programs, and what they are told.

use std::collections::HashMap;
use std::fs;

use nix::sys::signal::Signal;

use crate::network::Network;
use crate::scratch::Scratch;
use crate::traffic::reaches;
use crate::tunnel::{HUB4, Hub, SOON, Spoke, devices};
use crate::wait::until_true;

#[test]
fn the_up_hook_has_the_go_programs_environment_and_ours() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let notes = Scratch::new();
    let hook = notes.hook();

    let (_spoke, lease) = Spoke::up(&network, 2, &["-up", &hook]);
    until_true("the hook", SOON, || notes.calls().len() == 1);

    let call = &notes.calls()[0];
    let ip6 = lease.ip6.unwrap();
    for (name, value) in [
        ("EVENT", "up"),
        ("TUN", "dtun0"),
        ("HINT", "spoke2"),
        ("PEER_IP4", "10.0.0.1/24"),
        ("LOCAL_IP4", &format!("{}/24", lease.ip4)),
        ("PEER_IP6", "fc00::1/120"),
        ("LOCAL_IP6", &format!("{ip6}/120")),
        ("PEER_IP", "10.0.0.1"),
        ("LOCAL_IP", &lease.ip4.to_string()),
        ("SERVER_IP", "198.18.1.2"),
        ("SERVER_PORT", "443"),
        ("MTU", "1435"),
    ] {
        assert_eq!(call.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(call.contains_key("OUT6"));
    assert!(call["PATH"].contains("/usr/bin"));
    assert!(!call.contains_key("DTUN_KEY"));
}

#[test]
fn hooks_run_once_per_tunnel_not_once_per_session() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let notes = Scratch::new();
    let hook = notes.hook();
    let flags = ["-up", &hook, "-down", &hook, "-keepalive", "1s"];
    let (mut spoke, _) = Spoke::up(&network, 2, &flags);
    until_true("the up hook", SOON, || notes.events() == ["up"]);

    hub.kill();
    hub.restart();
    spoke.lease();
    reaches(&spoke.host, HUB4);
    assert_eq!(notes.events(), ["up"]);

    assert_eq!(spoke.terminate().code(), Some(0));
    assert_eq!(notes.events(), ["up", "down"]);
    assert_eq!(devices(&spoke.host), []);
}

#[test]
fn the_down_hook_runs_at_the_fallback_and_the_up_hook_at_the_return() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let notes = Scratch::new();
    let hook = notes.hook();
    let flags = [
        "-up",
        &hook,
        "-down",
        &hook,
        "-fallback",
        "1s",
        "-keepalive",
        "1s",
    ];
    let (mut spoke, _) = Spoke::up(&network, 2, &flags);
    until_true("the up hook", SOON, || notes.events() == ["up"]);

    hub.kill();
    until_true("the down hook", 2 * SOON, || {
        notes.events() == ["up", "down"]
    });
    hub.restart();
    spoke.lease();

    until_true("the up hook again", SOON, || {
        notes.events() == ["up", "down", "up"]
    });
}

#[test]
fn a_device_that_somebody_deletes_is_a_tunnel_that_went_and_came() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let notes = Scratch::new();
    let hook = notes.hook();
    let (mut spoke, _) = Spoke::up(&network, 2, &["-up", &hook, "-down", &hook]);
    until_true("the up hook", SOON, || notes.events() == ["up"]);

    spoke.host.ip("link del dtun0");
    spoke.lease();

    until_true("both hooks again", SOON, || {
        notes.events() == ["up", "down", "up"]
    });
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_device_that_goes_among_more_changes_than_the_kernel_keeps_is_missed() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let notes = Scratch::new();
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);
    let flood: String = (0..30_000)
        .map(|at| format!("route add 172.16.{}.{} dev lo\n", at / 250, at % 250))
        .collect();
    let file = notes.path("flood");
    fs::write(&file, flood).unwrap();

    spoke.signal(Signal::SIGSTOP);
    spoke.host.ip(&format!("-batch {file}"));
    spoke.host.ip("link del dtun0");
    spoke.signal(Signal::SIGCONT);

    spoke.line("somebody deleted the tunnel's device");
    spoke.lease();
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_new_gateway_towards_the_hub_is_an_uplink_event() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    network.router.ip("addr add 198.18.2.9/24 dev host2");
    let notes = Scratch::new();
    let hook = notes.hook();
    let mut spoke = Spoke::start_on(host, &["-up", &hook]);
    spoke.lease();
    until_true("the up hook", SOON, || notes.events() == ["up"]);

    spoke.host.ip("route replace default via 198.18.2.9");

    until_true("the uplink event", SOON, || {
        notes.events() == ["up", "uplink"]
    });
    reaches(&spoke.host, HUB4);
}

#[test]
fn a_failed_hook_says_its_code_and_last_line_and_leaves_the_tunnel_up() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let notes = Scratch::new();
    let hook = notes.script("up", "echo first words\necho last words >&2\nexit 7");

    let mut spoke = Spoke::start(&network, 2, &["-up", &hook]);
    spoke.lease();

    spoke.line_anywhere(&["first words"]);
    spoke.line_anywhere(&["ERROR", "7", "last words"]);
    reaches(&spoke.host, HUB4);
}

#[test]
fn the_hubs_hook_runs_for_each_lease() {
    let network = Network::new();
    let notes = Scratch::new();
    let hook = notes.hook();
    let hub = Hub::start(&network, &["-up", &hook]);

    let (_one, first) = Spoke::up(&network, 2, &[]);
    let (_two, second) = Spoke::up(&network, 3, &[]);
    until_true("two hooks", SOON, || notes.calls().len() == 2);

    for (hint, lease) in [("spoke2", first), ("spoke3", second)] {
        let calls = notes.calls();
        let call = calls.iter().find(|call| call["HINT"] == hint).unwrap();
        assert_eq!(call["EVENT"], "up");
        assert_eq!(call["TUN"], hub.device(hint).unwrap().name);
        assert_eq!(call["PEER_IP"], lease.ip4.to_string());
        assert_eq!(call["LOCAL_IP"], "10.0.0.1");
    }
}

impl Scratch {
    /// A hook that writes down its environment at each call.
    fn hook(&self) -> String {
        self.script(
            "hook",
            &format!("{{ env; echo .; }} >> {}", self.path("calls")),
        )
    }

    /// The environments of the calls so far.
    fn calls(&self) -> Vec<HashMap<String, String>> {
        let text = self.read("calls");
        let whole = text.rfind("\n.\n").map_or("", |end| &text[..end + 3]);

        whole
            .split_terminator("\n.\n")
            .map(|call| {
                call.lines()
                    .filter_map(|line| line.split_once('='))
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect()
            })
            .collect()
    }

    fn events(&self) -> Vec<String> {
        let calls = self.calls();

        calls
            .into_iter()
            .map(|mut call| call.remove("EVENT").unwrap())
            .collect()
    }
}
