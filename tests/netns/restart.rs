//! A restart or an upgrade that the service manager announces (SIGUSR1): what
//! stands stays, and connections go on.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::nat::{clean, clean_after};
use crate::network::{Host, Network};
use crate::picture::{HUB_AT_WWW4, Picture, WWW4, seen};
use crate::scratch::Scratch;
use crate::traffic::{Flow, reaches, reaches_not};
use crate::tunnel::{HUB4, HUB6, Hub, SOON, Spoke, devices};
use crate::wire::{Chatter, Wire};

#[test]
fn a_full_tunnel_stays_while_its_spoke_is_upgraded() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = state(&laptop);
    let mut spoke = picture.spoke(&laptop, &["-route", "default", "-bypass", &picture.list()]);
    spoke.line("tunnel up");
    let device = devices(&laptop);
    let out = Flow::start(&laptop, &picture.www, WWW4);
    out.moves_within(SOON);
    let ways = Ways::watch(&laptop, WWW4.into());

    for _ in 0..2 {
        spoke.signal(Signal::SIGUSR1);
        assert!(spoke.wait().success());
        spoke.line(LEFT);
        assert_eq!(devices(&laptop), device);
        spoke.restart();
        spoke.line(TAKEN_OVER);
        spoke.line_within("tunnel up", BACK);
        out.moves_within(SOON);
    }

    assert_eq!(ways.others(), [""; 0]);
    out.finish();
    assert_eq!(devices(&laptop), device);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());
    assert!(spoke.terminate().success());
    assert_eq!(state(&laptop), before);
}

#[test]
fn a_hub_restarted_several_times_in_a_row_has_its_spokes_back_each_time() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);

    for _ in 0..5 {
        hub.signal(Signal::SIGUSR1);
        assert!(hub.wait().success());
        hub.restart();
        spoke.line_within("tunnel up", BACK);
    }
    assert_eq!(spoke.count("reason=\"the hub said goodbye\""), 5);
}

#[test]
fn nothing_leaks_through_the_lock_and_no_connection_is_reset() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let www = network.host(3);
    let flags = ["-route", "default", "-strict"];
    let (mut spoke, _) = Spoke::up(&network, 2, &flags);
    let wire = Wire::of(&network, &spoke.host, &[]);
    let _chatter = Chatter::start(
        &spoke.host,
        vec![(www.ip4(), 80).into(), (www.ip6(), 80).into()],
    );
    let flow = Flow::start(&spoke.host, &hub.host, HUB4);
    flow.moves_within(SOON);

    for _ in 0..2 {
        spoke.signal(Signal::SIGUSR1);
        assert!(spoke.wait().success());
        reaches_not(&spoke.host, www.ip4());
        spoke.restart();
        spoke.line(TAKEN_OVER);
        spoke.line("the lock of -strict stands and is taken over");
        spoke.line_within("tunnel up", BACK);
        flow.moves_within(SOON);
        wire.is_tight();
    }
    flow.finish();
}

#[test]
fn names_are_asked_of_the_tunnels_resolver_all_the_time() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.etc("resolv.conf", "nameserver 198.18.2.1\n");
    let path = PathBuf::from(format!("/etc/netns/{}/resolv.conf", host.name()));
    let (mut spoke, state) = with_state(host, &["-dns", "10.0.0.1"]);
    spoke.line("resolvers set");
    spoke.line("tunnel up");
    let servers = Polled::poll({
        let path = path.clone();
        move || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.lines()
                .find(|line| line.starts_with("nameserver"))
                .filter(|line| *line != "nameserver 10.0.0.1")
                .map(str::to_owned)
        }
    });

    for _ in 0..2 {
        spoke.signal(Signal::SIGUSR1);
        assert!(spoke.wait().success());
        spoke.restart();
        spoke.line(TAKEN_OVER);
        spoke.line("resolvers set");
        spoke.line_within("tunnel up", BACK);
    }

    assert_eq!(servers.seen(), [""; 0]);
    assert_eq!(records(&state.path("state")), 1);
    assert!(spoke.terminate().success());
    let theirs = "nameserver 198.18.2.1\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), theirs);
    assert_eq!(records(&state.path("state")), 0);
}

#[test]
fn a_start_that_never_comes_is_cleaned_up_after() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.etc("resolv.conf", "nameserver 198.18.2.1\n");
    let path = PathBuf::from(format!("/etc/netns/{}/resolv.conf", host.name()));
    let before = state(&host);
    let scratch = Scratch::new();
    let config = scratch.path("config");
    let text = format!(
        "key foo\nconnect 198.18.1.2:443\nid spoke2\nstate {}\n\
         route default\ndns 10.0.0.1\ntable 300\nrule-pref 3000\n",
        scratch.path("state")
    );
    fs::write(&config, text).unwrap();
    let dtun = env!("CARGO_BIN_EXE_dtun");
    let run = ["INVOCATION_ID=one", dtun, "-config", &config];
    let mut spoke = Daemon::start(&host, "env", &run);
    spoke.line("tunnel up");
    spoke.signal(Signal::SIGUSR1);
    assert!(spoke.wait().success());
    let left = state(&host);
    assert!(left.contains("lookup 300"), "{left}");

    // As `ExecStopPost` between the two runs, and again after a start that
    // failed.
    let clean = |run: &str| {
        host.run(&format!(
            "env SERVICE_RESULT=success INVOCATION_ID={run} {dtun} clean -config {config}"
        ))
    };
    clean("one");
    assert_eq!(state(&host), left);
    clean("two");
    assert_eq!(state(&host), before);
    let theirs = "nameserver 198.18.2.1\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), theirs);

    // By hand.
    spoke.restart();
    spoke.line("tunnel up");
    spoke.signal(Signal::SIGUSR1);
    assert!(spoke.wait().success());
    assert!(host.ip("rule").contains("lookup 300"));
    host.run(&format!("{dtun} clean -config {config}"));
    assert_eq!(state(&host), before);
}

#[test]
fn what_does_not_fit_the_next_start_is_made_anew() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let before = state(&host);
    let scratch = Scratch::new();
    let state_folder = scratch.path("state");
    let start = |more: &[&str]| {
        let base = ["-key", "foo", "-connect", "198.18.1.2:443", "-id", "spoke2"];
        let args = [&base, &["-state", &state_folder][..], more].concat();
        let mut spoke = Daemon::dtun(&host, &args);
        spoke.line("tunnel up");
        spoke
    };
    let restarted = |mut spoke: Daemon| {
        spoke.signal(Signal::SIGUSR1);
        assert!(spoke.wait().success());
    };

    // Other routes on the same device: none of the old stays.
    restarted(start(&["-route", "default", "-dns", "10.0.0.1"]));
    let spoke = start(&["-route", "10.9.0.0/16", "-mtu", "1300"]);
    let rules = host.ip("rule");
    assert!(!rules.contains("suppress_prefixlength 0"), "{rules}");
    assert!(!rules.contains("dport 53"), "{rules}");
    assert_eq!(spoke.count(TAKEN_OVER), 1);
    assert!(host.ip("link show dtun0").contains("mtu 1300"));
    restarted(spoke);

    // None at all.
    restarted(start(&[]));
    assert!(!host.ip("rule").contains("lookup 11764"));

    // Another device.
    let mut spoke = start(&["-tun", "other0", "-route", "10.9.0.0/16"]);
    assert_eq!(devices(&host), []);
    assert!(spoke.terminate().success());
    assert_eq!(state(&host), before);
}

#[test]
fn what_another_version_has_left_is_taken_down() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let before = state(&host);
    let (mut spoke, _scratch) = with_state(host, &["-route", "default"]);
    spoke.line("tunnel up");
    spoke.signal(Signal::SIGUSR1);
    assert!(spoke.wait().success());
    let namespace = fs::metadata(format!("/run/netns/{}", spoke.host.name())).unwrap();
    let sign = format!("/run/dtun/left-dtun0-{}", namespace.ino());
    let mut value: Value = serde_json::from_slice(&fs::read(&sign).unwrap()).unwrap();
    value["tunnel"]["pools"] = "written otherwise".into();
    fs::write(&sign, value.to_string()).unwrap();

    spoke.restart();
    spoke.line("what was left for a restart is taken down");
    spoke.line("tunnel up");
    assert_eq!(devices(&spoke.host).len(), 1);
    assert!(spoke.terminate().success());
    assert_eq!(state(&spoke.host), before);
}

#[test]
fn two_spokes_of_one_control_group_leave_each_others_tunnels_alone() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let scratch = Scratch::new();
    let folder = scratch.path("state");
    let start = |name: &str| {
        let mut command = host.command(env!("CARGO_BIN_EXE_dtun"));
        command
            .args(["-key", "foo", "-connect", "198.18.1.2:443"])
            .args(["-id", name, "-tun", name, "-state", &folder])
            .env_remove("INVOCATION_ID");
        let mut spoke = Daemon::spawn(command);
        spoke.line("tunnel up");
        spoke
    };
    let mut spokes = [start("one"), start("two")];
    for spoke in &mut spokes {
        spoke.signal(Signal::SIGUSR1);
        assert!(spoke.wait().success());
    }

    for spoke in spokes.iter_mut().rev() {
        spoke.restart();
        spoke.line(TAKEN_OVER);
        spoke.line("tunnel up");
    }
}

#[test]
fn after_a_restart_a_kill_takes_everything_away_again() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let scratch = Scratch::new();
    let upgraded = scratch.path("dtun");
    fs::copy(env!("CARGO_BIN_EXE_dtun"), &upgraded).unwrap();
    let state = scratch.path("state");
    let args = [
        "-key",
        "foo",
        "-connect",
        "198.18.1.2:443",
        "-state",
        &state,
    ];
    let mut spoke = Daemon::dtun(&host, &args);
    spoke.line("tunnel up");
    spoke.signal(Signal::SIGUSR1);
    assert!(spoke.wait().success());

    let mut spoke = Daemon::start(&host, &upgraded, &args);
    spoke.line(TAKEN_OVER);
    spoke.line_within("tunnel up", BACK);
    spoke.kill();

    assert_eq!(devices(&host), []);
}

#[test]
fn hooks_hear_nothing_of_a_restart() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let scratch = Scratch::new();
    let heard = scratch.path("heard");
    let hook = scratch.script("hook", &format!("echo $EVENT $TUN >> {heard}"));
    let (mut spoke, _) = Spoke::up(&network, 2, &["-up", &hook, "-down", &hook]);
    spoke.host.ip("route add 10.9.0.0/16 dev dtun0");

    spoke.signal(Signal::SIGUSR1);
    spoke.restart();
    spoke.lease();
    reaches(&spoke.host, HUB6);

    assert_eq!(scratch.read("heard"), "up dtun0\n");
    assert!(spoke.host.ip("route").contains("10.9.0.0/16 dev dtun0"));
    assert!(spoke.terminate().success());
    assert_eq!(scratch.read("heard"), "up dtun0\ndown dtun0\n");
}

#[test]
fn a_service_manager_keeps_the_device_and_what_waits_in_it() {
    served("1");
}

#[test]
fn a_service_manager_that_keeps_nothing_is_done_without() {
    served("0");
}

fn served(keeps: &str) {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let before = state(&host);
    let scratch = Scratch::new();
    let manager = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/manager.py");
    let mut command = host.command("python3");
    command
        .args([manager, &scratch.path("socket"), env!("CARGO_BIN_EXE_dtun")])
        .args(["-key", "foo", "-connect", "198.18.1.2:443", "-id", "spoke2"])
        .args(["-state", &scratch.path("state"), "-route", "default"])
        .env("KEEPS", keeps);
    let mut spoke = Daemon::spawn(command);
    spoke.line("told READY=1");
    spoke.line("tunnel up");
    let device = devices(&host);
    let flow = Flow::start(&host, &hub.host, HUB4);
    flow.moves_within(SOON);

    for _ in 0..2 {
        spoke.signal(Signal::SIGUSR1);
        spoke.line("told FDSTORE=1 FDNAME=tun");
        spoke.line("ended 0");
        assert_eq!(devices(&host), device);
        spoke.line(TAKEN_OVER);
        spoke.line_within("tunnel up", BACK);
        flow.moves_within(SOON);
    }
    flow.finish();
    let forgot = spoke.count("told FDSTOREREMOVE=1 FDNAME=tun");
    assert_eq!(forgot, if keeps == "1" { 2 } else { 0 });
    assert_eq!(devices(&host), device);

    assert!(spoke.terminate().success());
    assert_eq!(state(&host), before);
}

#[test]
fn a_hub_that_is_upgraded_has_its_spokes_and_their_networks_back_in_two_seconds() {
    let mut picture = Picture::new();
    let laptop = picture.network.host(2);
    let lan = Netns::new("lan");
    let flags = ["-route", "default", "-peernet", "192.168.10.0/24"];
    let mut spoke = picture.spoke(&laptop, &flags);
    spoke.line("tunnel up");
    let routes = |host: &Host| host.ip("route show 192.168.10.0/24");
    let hub_device = picture.hub.device("laptop");
    let flow = Flow::start(&laptop, &picture.www, WWW4);
    flow.moves_within(SOON);
    let scratch = Scratch::new();
    let upgraded = scratch.path("dtun");
    fs::copy(env!("CARGO_BIN_EXE_dtun"), &upgraded).unwrap();

    picture.hub.signal(Signal::SIGUSR1);
    assert!(picture.hub.wait().success());
    assert_eq!(picture.hub.device("laptop"), hub_device);
    let state = picture.hub.state();
    let args = ["-key", "foo", "-state", &state];
    let mut next = Daemon::start(&picture.hub.host, &upgraded, &args);
    next.line("listening");
    spoke.line_within("tunnel up", BACK);
    next.line_within("peernet routed", BACK);
    flow.moves_within(SOON);

    flow.finish();
    assert!(routes(&picture.hub.host).contains("dev dtun0"));
    assert_eq!(picture.hub.device("laptop"), hub_device);
    drop(lan);
}

#[test]
fn a_hub_that_starts_leaves_the_devices_of_one_that_starts_again() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let (mut spoke, _) = Spoke::up(&network, 2, &[]);
    let device = hub.device("spoke2");
    hub.signal(Signal::SIGUSR1);
    assert!(hub.wait().success());

    let scratch = Scratch::new();
    let (state, address) = (scratch.path("state"), ["-listen", ":4433"]);
    let args = [&["-key", "foo", "-state", &state], &address[..]].concat();
    let mut other = Daemon::dtun(&hub.host, &args);
    other.line("listening");
    assert_eq!(hub.device("spoke2"), device);
    assert!(other.terminate().success());
    assert_eq!(hub.device("spoke2"), device);

    hub.restart();
    spoke.line("tunnel down");
    spoke.line_within("tunnel up", BACK);
    assert_eq!(hub.device("spoke2"), device);
}

#[test]
fn what_a_hub_leaves_that_does_not_come_back_goes_with_dtun_clean() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &["-nat"]);
    let _spoke = Spoke::up(&network, 2, &[]);
    let scratch = Scratch::new();
    let state_folder = scratch.path("state");
    let args = ["-key", "foo", "-state", &state_folder, "-listen", ":4433"];
    let mut other = Daemon::dtun(&hub.host, &args);
    other.line("listening");
    let _others = Spoke::up(&network, 3, &["-connect", "198.18.1.2:4433"]);
    let others = hub.device("spoke3");
    let left = |hub: &Hub| {
        let blackholes = hub.host.ip("route show type blackhole");
        assert!(blackholes.contains("10.77.0.0/24"), "{blackholes}");
        assert_eq!(hub.device("spoke3"), others, "a hub that runs");
        assert!(others.is_some());
        let namespace = fs::metadata(format!("/run/netns/{}", hub.host.name())).unwrap();
        let signs = fs::read_dir("/run/dtun").unwrap().flatten();
        let signs = signs.filter(|sign| {
            let name = sign.file_name().into_string().unwrap();
            name.ends_with(&format!("-{}", namespace.ino())) && name.contains("hub-443-")
        });
        [
            hub.device("spoke2").is_some(),
            blackholes.contains("10.0.0.0/24"),
            hub.host.run("nft list tables").contains("dtun-hub-443"),
            signs.count() > 0,
        ]
    };
    let (all, nothing) = ([true; 4], [false; 4]);
    let is_unit = |ending| move |host: &Host| clean_after(host, ending);
    let by_hand: fn(&Host) = |host| clean(host);
    let after_success = is_unit(["success", "exited", "0"]);
    let after_kill = is_unit(["signal", "killed", "KILL"]);
    let after_failure = is_unit(["exit-code", "exited", "1"]);
    let after_mistake = is_unit(["exit-code", "exited", "2"]);

    hub.kill();
    assert_eq!(left(&hub), all);
    by_hand(&hub.host);
    assert_eq!(left(&hub), nothing);

    // The start of the unit that follows a crash may fail.
    hub.restart();
    hub.kill();
    after_kill(&hub.host);
    assert_eq!(left(&hub), all);
    after_failure(&hub.host);
    assert_eq!(left(&hub), nothing);

    let restarted = |hub: &mut Hub| {
        hub.restart();
        hub.signal(Signal::SIGUSR1);
        assert!(hub.wait().success());
        after_success(&hub.host);
        assert_eq!(left(hub), all);
    };
    restarted(&mut hub);
    after_failure(&hub.host);
    assert_eq!(left(&hub), all);
    after_mistake(&hub.host);
    assert_eq!(left(&hub), nothing);

    restarted(&mut hub);
    by_hand(&hub.host);
    assert_eq!(left(&hub), nothing);
}

/// A spoke with its own state, on key `foo` towards the hub on host 1.
fn with_state(host: Host, args: &[&str]) -> (Spoke, Scratch) {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let spoke = Spoke::start_on(host, &[args, &["-state", &state]].concat());

    (spoke, scratch)
}

/// How many records of resolvers there are.
fn records(folder: &str) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();

    names
        .filter(|name| name.file_name().to_string_lossy().starts_with("dns-"))
        .count()
}

/// Rules, routes, addresses and filters of a machine, but for what the kernel
/// says a moment later.
fn state(netns: &Netns) -> String {
    let mut text: String = [
        "-4 rule",
        "-6 rule",
        "-4 route show table all",
        "-6 route show table all",
        "-brief addr",
    ]
    .map(|line| netns.ip(line))
    .concat();
    text += &netns.run("nft list ruleset");

    text.replace(" linkdown", "")
}

/// What a question was answered that was asked all the time.
struct Polled {
    enough: Arc<AtomicBool>,
    asker: JoinHandle<Vec<String>>,
}

impl Polled {
    fn poll(ask: impl Fn() -> Option<String> + Send + 'static) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&enough);
        let asker = thread::spawn(move || {
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                seen.extend(ask());
            }
            seen
        });

        Self { enough, asker }
    }

    fn seen(self) -> Vec<String> {
        self.enough.store(true, Ordering::Relaxed);

        self.asker.join().unwrap()
    }
}

/// Asks the kernel all the time by which device an address is reached.
struct Ways(Polled);

impl Ways {
    fn watch(netns: &Netns, to: IpAddr) -> Self {
        let name = netns.name().to_owned();
        let ask = move || {
            let mut ip = Command::new("ip");
            let said = ip.args(["-n", &name, "route", "get", &to.to_string()]);
            let said = said.output().unwrap();
            let way = String::from_utf8_lossy(&said.stdout).into_owned();
            (!way.contains(" dev dtun0 ")).then_some(way)
        };

        Self(Polled::poll(ask))
    }

    /// Other ways than the tunnel that it ever had.
    fn others(self) -> Vec<String> {
        self.0.seen()
    }
}

const LEFT: &str = "the tunnel is left for the next start";
const TAKEN_OVER: &str = "the tunnel of the last run is taken over";

/// From the start to the session.
const BACK: Duration = Duration::from_secs(2);
