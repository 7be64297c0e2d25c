//! `-dns`: the machine's resolvers for the time of the tunnel.

use std::fs;
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, Network};
use crate::picture::{PATIENCE, Picture};
use crate::resolver::Resolver;
use crate::scratch::Scratch;
use crate::tunnel::{HUB4, Hub, SOON, Spoke};
use crate::wait::{until, until_true};
use crate::watch::Watch;

const THEIRS: &str = "# of the owner\nnameserver 198.18.2.1\nsearch lan\n";

const DNS: [&str; 2] = ["-dns", "10.0.0.1"];

#[test]
fn names_are_asked_by_the_tunnel_and_then_of_the_lan_again() {
    let (network, hub, host, _) = machine();
    let lan = Resolver::start(&network.router, host.gateway4(), [192, 0, 2, 1]);
    assert_eq!(address_of(&host, "www.example"), "192.0.2.1");
    let asked = lan.askers();

    let mut spoke = Spoke::start_on(host, &DNS);
    spoke.line("resolvers set servers=10.0.0.1");
    let lease = spoke.lease();
    let far = Resolver::start(&hub.host, HUB4, [203, 0, 113, 1]);
    assert_eq!(address_of(&spoke.host, "www.example"), "203.0.113.1");
    assert!(far.askers().contains(&lease.ip4));
    assert_eq!(lan.askers(), asked);

    assert!(spoke.terminate().success());
    assert_eq!(address_of(&spoke.host, "www.example"), "192.0.2.1");
}

#[test]
fn in_a_full_tunnel_no_question_leaves_by_the_uplink() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.etc("resolv.conf", THEIRS);
    let (near, far) = (&picture.network.router, &picture.hub.host);
    let watch = Watch::new(near, "prerouting");
    watch.count(
        "asked",
        "iifname host2 meta l4proto { udp, tcp } th dport 53",
        "",
    );
    let lan = [IpAddr::from(laptop.gateway4()), laptop.gateway6().into()];
    let ask_lan = || {
        laptop.enter(|| {
            for ip in lan {
                let socket = UdpSocket::bind(if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
                socket.unwrap().send_to(b"?", (ip, 53)).unwrap();
                // Refused, or not answered, as it may be: it was asked.
                drop(TcpStream::connect_timeout(&(ip, 53).into(), TRIED));
            }
        });
    };
    ask_lan();
    assert!(watch.packets("asked") >= 4);

    let flags = [
        "-route",
        "default",
        "-bypass",
        "@private,198.18.0.0/15",
        DNS[0],
        DNS[1],
    ];
    let mut spoke = picture.spoke(&laptop, &flags);
    spoke.line("tunnel up");
    let _far = Resolver::start(far, HUB4, [203, 0, 113, 1]);
    let before = watch.packets("asked");
    ask_lan();
    assert_eq!(address_of(&laptop, "www.example"), "203.0.113.1");

    assert_eq!(watch.packets("asked"), before);
}

#[test]
fn two_tunnels_have_a_resolver_each_and_either_may_end_first() {
    let picture = Picture::new();
    let hub = &picture.hub.host;
    let [first, second] = [[10, 1, 1, 2], [10, 1, 1, 3]].map(|ip| {
        hub.ip(&format!("addr add {}/32 dev lo", IpAddr::from(ip)));
        Resolver::start(hub, ip, [203, 0, 113, ip[3]])
    });
    let laptop = picture.network.host(2);
    laptop.etc("resolv.conf", THEIRS);
    for (is_first_over, left) in [(true, "203.0.113.3"), (false, "203.0.113.2")] {
        let (before, asked) = (fs::read(etc(&laptop)).unwrap(), first.askers().len());
        let mut full = picture.spoke(&laptop, &["-route", "default", "-dns", "10.1.1.2"]);
        full.line("tunnel up");
        assert_eq!(address_of(&laptop, "www.example"), "203.0.113.2");
        assert!(first.askers().len() > asked);
        let state = picture.scratch.path("other");
        let flags = ["-id", "other", "-state", &state, "-route", "192.0.2.0/24"];
        let dns = ["-dns", "10.1.1.3"];
        let mut other = picture.spoke(&laptop, &[&flags[..], &dns].concat());
        other.line("tunnel up");
        assert_eq!(address_of(&laptop, "www.example"), "203.0.113.3");
        assert!(!second.askers().is_empty());

        let (one, next) = if is_first_over {
            (&mut full, &mut other)
        } else {
            (&mut other, &mut full)
        };
        assert!(one.terminate().success());
        assert_eq!(address_of(&laptop, "www.example"), left);
        assert!(next.terminate().success());
        assert_eq!(fs::read(etc(&laptop)).unwrap(), before);
    }
}

#[test]
fn a_hub_that_moved_is_found_though_its_name_is_asked_in_the_dead_tunnel() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let resolver = picture.network.host(4);
    let names = Resolver::start(&resolver, resolver.ip4(), [198, 18, 1, 2]);
    laptop.etc("resolv.conf", &format!("nameserver {}\n", resolver.ip4()));
    let words =
        "-key foo -connect hub.example:443 -id laptop -keepalive 1s -route default -fallback never";
    let words: Vec<_> = words.split(' ').chain(DNS).collect();
    let mut spoke = Daemon::dtun(&laptop, &words);
    spoke.line("tunnel up");

    names.set([198, 18, 1, 77]);
    picture.move_hub_silently();
    spoke.line("tunnel down");
    let line = spoke.line_within("tunnel up", PATIENCE);

    assert!(line.contains("hub=198.18.1.77:443"), "{line}");
    assert_eq!(asked(&etc(&laptop)), ["10.0.0.1"]);
}

#[test]
fn a_resolv_conf_that_is_a_mount_is_written_in_place() {
    let (_network, _hub, host, path) = machine();
    let inode = fs::metadata(&path).unwrap().ino();
    let machine = fs::read("/etc/resolv.conf").unwrap();

    let mut spoke = Spoke::start_on(host, &DNS);
    spoke.line("resolvers set");

    assert_eq!(asked(&path), ["10.0.0.1"]);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert!(spoke.terminate().success());
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(fs::read("/etc/resolv.conf").unwrap(), machine);
}

#[test]
fn after_a_kill_they_are_back_at_once() {
    let (_network, _hub, host, path) = machine();
    let mut spoke = Spoke::start_on(host, &DNS);
    spoke.line("resolvers set");

    spoke.kill();

    until_true("their resolvers", SOON, || {
        fs::read_to_string(&path).unwrap() == THEIRS
    });
    spoke.restart();
    spoke.line("resolvers set");
    assert_eq!(asked(&path), ["10.0.0.1"]);
}

#[test]
fn the_guard_has_nothing_of_the_spokes_and_does_not_die_with_its_group() {
    let (_network, _hub, host, path) = machine();
    let mut spoke = Spoke::start_on(host, &DNS);
    spoke.line("resolvers set");
    let guard = until("the guard", SOON, || guard_of(&spoke));

    // Beside what the spoke's own parent left open for both.
    let files = links(&format!("/proc/{guard}/fd"));
    for ours in ["/dev/net/tun", "socket:", "anon_inode:"] {
        assert!(
            !files.iter().any(|file| file.starts_with(ours)),
            "{files:?}"
        );
    }
    let input = fs::read_link(format!("/proc/{guard}/fd/0")).unwrap();
    let ends = files.iter().filter(|file| Path::new(file) == input);
    assert_eq!(ends.count(), 1, "{files:?}");
    let environment = fs::read_to_string(format!("/proc/{guard}/environ")).unwrap();
    assert!(!environment.contains("DTUN_KEY"), "{environment}");
    assert_eq!(getpgid(Some(pid(guard))).unwrap(), pid(guard));
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(pid(guard), signal).unwrap();
    }
    assert_eq!(asked(&path), ["10.0.0.1"]);

    spoke.kill();
    until_true("their resolvers", SOON, || {
        fs::read_to_string(&path).unwrap() == THEIRS
    });
    until_true("the guard's end", SOON, || is_gone(guard));
}

#[test]
fn where_the_guard_is_killed_too_the_next_start_or_clean_puts_them_back() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let (_network, mut hub, host, path) = machine();
    let mut spoke = Spoke::start_on(host, &[&DNS[..], &["-state", &state]].concat());
    let kill_both = |spoke: &mut Spoke| {
        spoke.line("resolvers set");
        let guard = until("the guard", SOON, || guard_of(spoke));
        kill(pid(guard), Signal::SIGKILL).unwrap();
        spoke.kill();
        assert_eq!(asked(&path), ["10.0.0.1"]);
    };

    kill_both(&mut spoke);
    clean(&spoke.host, &state);
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
    clean(&spoke.host, &state);
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);

    spoke.restart();
    kill_both(&mut spoke);
    hub.kill();
    spoke.restart();
    spoke.line("dialling");
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
}

#[test]
fn clean_takes_away_the_routes_of_a_killed_spoke_too() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let (_network, _hub, host, path) = machine();
    let rules = |netns: &Netns| ["-4", "-6"].map(|family| netns.ip(&format!("{family} rule")));
    let before = rules(&host);
    let flags = [&DNS[..], &["-state", &state, "-route", "default"]].concat();
    let mut spoke = Spoke::start_on(host, &flags);
    spoke.lease();
    spoke.kill();
    assert_ne!(rules(&spoke.host), before);

    clean(&spoke.host, &state);

    assert_eq!(rules(&spoke.host), before);
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
}

#[test]
fn clean_leaves_the_resolvers_of_a_tunnel_that_stands() {
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let (_network, _hub, host, path) = machine();
    let mut spoke = Spoke::start_on(host, &[&DNS[..], &["-state", &state]].concat());
    spoke.line("resolvers set");

    clean(&spoke.host, &state);

    assert_eq!(asked(&path), ["10.0.0.1"]);
}

#[test]
fn at_whatever_step_it_is_killed_nothing_of_ours_stays() {
    let (_network, _hub, host, path) = machine();
    let scratch = Scratch::new();
    let state = scratch.path("state");
    let has_records = || {
        fs::read_dir(&state).is_ok_and(|mut names| {
            names.any(|name| {
                name.unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .starts_with("dns-")
            })
        })
    };
    let steps: [&dyn Fn(&Spoke) -> bool; 3] = [
        &|_| has_records(),
        &|spoke| guard_of(spoke).is_some(),
        &|_| fs::read_to_string(&path).unwrap() != THEIRS,
    ];
    let mut spoke = Spoke::start_on(host, &[&DNS[..], &["-state", &state]].concat());

    for step in steps {
        while !step(&spoke) {
            std::hint::spin_loop();
        }
        spoke.kill();
        until_true("their resolvers", SOON, || {
            fs::read_to_string(&path).unwrap() == THEIRS
        });
        clean(&spoke.host, &state);
        assert!(!has_records());
        assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
        spoke.restart();
    }
}

#[test]
fn systemd_resolved_forgets_them_at_whatever_step_the_spoke_is_killed() {
    let scratch = Scratch::new();
    let (_network, _hub, host, path) = machine();
    host.etc("resolv.conf", "nameserver 127.0.0.53\n");
    let program = |dies: &str| {
        let calls = scratch.path("calls");
        scratch.script(
            "resolvectl",
            &format!("echo \"$*\" >>{calls}\ncase $1 in {dies}) kill -9 $PPID;; esac"),
        );
    };
    let with_program = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", scratch.path(""));
    let start = || {
        let state = scratch.path("state");
        let dtun = env!("CARGO_BIN_EXE_dtun");
        let words = [
            &[&with_program[..], dtun, "-key", "foo", "-state", &state][..],
            &TO_HUB,
            &DNS,
        ];
        Daemon::start(&host, "env", &words.concat())
    };
    let calls = [
        "dns dtun0 10.0.0.1",
        "domain dtun0 ~.",
        "default-route dtun0 yes",
        "revert dtun0",
    ];

    for (last, dies) in ["dns", "domain", "default-route"].iter().enumerate() {
        program(dies);
        start().wait();
        let expected = [&calls[..=last], &calls[3..]].concat();
        until_true("what was asked", SOON, || {
            scratch.read("calls").lines().eq(expected.iter().copied())
        });
        fs::remove_file(scratch.path("calls")).unwrap();
    }

    program("none");
    let mut spoke = start();
    spoke.line("resolvers set servers=10.0.0.1 by=systemd-resolved");
    assert_eq!(scratch.read("calls"), calls[..3].join("\n") + "\n");
    assert!(spoke.terminate().success());
    assert_eq!(scratch.read("calls"), calls.join("\n") + "\n");
    assert_eq!(asked(&path), ["127.0.0.53"]);
}

#[test]
fn a_link_comes_back_as_the_link_it_was() {
    let machine = OwnEtc::new();
    fs::write(machine.scratch.path("theirs"), THEIRS).unwrap();
    symlink("../theirs", machine.resolv_conf()).unwrap();
    let mut spoke = machine.spoke("");

    for is_killed in [false, true] {
        spoke.line("resolvers set");
        assert_eq!(asked(&machine.resolv_conf()), ["10.0.0.1"]);
        assert_eq!(machine.scratch.read("theirs"), THEIRS);
        if is_killed {
            spoke.kill();
        } else {
            assert!(spoke.terminate().success());
            spoke.restart();
        }
    }

    until_true("the link", SOON, || {
        fs::read_link(machine.resolv_conf()).is_ok_and(|target| target == Path::new("../theirs"))
    });
    assert_eq!(machine.names(), ["nsswitch.conf", "resolv.conf"]);
}

#[test]
fn a_link_to_a_mount_is_left_and_the_mount_written() {
    let machine = OwnEtc::new();
    for name in ["of-all", "of-this"] {
        fs::write(machine.scratch.path(name), THEIRS).unwrap();
    }
    symlink(machine.scratch.path("of-all"), machine.resolv_conf()).unwrap();
    let mount = format!(
        "mount --bind {} {} && ",
        machine.scratch.path("of-this"),
        machine.scratch.path("of-all")
    );
    let mut spoke = machine.spoke(&mount);

    spoke.line("resolvers set");

    assert!(machine.resolv_conf().is_symlink());
    assert_eq!(machine.scratch.read("of-all"), THEIRS);
    assert_eq!(
        asked(Path::new(&machine.scratch.path("of-this"))),
        ["10.0.0.1"]
    );
    assert!(spoke.terminate().success());
    assert_eq!(machine.scratch.read("of-this"), THEIRS);
}

#[test]
fn a_mount_that_goes_away_leaves_the_machines_own_file_alone() {
    const NEW: &str = "nameserver 192.0.2.99\n";
    for is_killed in [false, true] {
        let machine = OwnEtc::new();
        machine.write("nameserver 192.0.2.1\n");
        fs::write(machine.scratch.path("of-this"), THEIRS).unwrap();
        let of_this = PathBuf::from(machine.scratch.path("of-this"));
        let mount = format!(
            "mount --bind {} {} && ",
            of_this.display(),
            machine.resolv_conf().display()
        );
        let mut spoke = machine.spoke(&mount);
        spoke.line("resolvers set");
        assert_eq!(asked(&of_this), ["10.0.0.1"]);

        machine.write(NEW);

        spoke.line("no longer this namespace's own file");
        assert_eq!(asked(&of_this), ["10.0.0.1"]);
        if is_killed {
            spoke.kill();
        } else {
            assert!(spoke.terminate().success());
        }
        until_true("their resolvers", SOON, || {
            fs::read_to_string(&of_this).unwrap() == THEIRS
        });
        assert_eq!(fs::read_to_string(machine.resolv_conf()).unwrap(), NEW);
        assert_eq!(spoke.count("somebody changed the resolvers"), 0);
    }
}

#[test]
fn where_etc_is_not_for_writing_there_is_nothing_to_put_back() {
    let machine = OwnEtc::new();
    machine.write(THEIRS);
    let etc = machine.scratch.path("etc");
    let mount = format!("mount --bind {etc} {etc} && mount -o remount,bind,ro {etc} && ");

    let mut spoke = machine.spoke(&mount);
    let line = spoke.line("failed to set the resolvers");
    assert_eq!(line.matches("os error 30").count(), 1, "{line}");
    until_true("no child", SOON, || children(&spoke).is_empty());
    assert!(spoke.terminate().success());

    assert_eq!(spoke.count("failed to put back"), 0, "{}", spoke.text());
    let state = fs::read_dir(machine.scratch.path("state")).unwrap();
    let names = state.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.starts_with("dns-")));
}

#[test]
fn what_a_dhcp_client_writes_is_put_off_until_the_end() {
    let machine = OwnEtc::new();
    machine.write(THEIRS);
    let mut spoke = machine.spoke("");
    spoke.line("resolvers set");

    for server in ["192.0.2.7", "192.0.2.8", "192.0.2.9"] {
        machine.write(&format!("nameserver {server}\n"));
        until_true("ours again", SOON, || {
            asked(&machine.resolv_conf()) == ["10.0.0.1"]
        });
    }

    assert_eq!(spoke.count("somebody changed the resolvers"), 1);
    assert!(spoke.terminate().success());
    assert_eq!(asked(&machine.resolv_conf()), ["192.0.2.9"]);
    assert_eq!(machine.names(), ["nsswitch.conf", "resolv.conf"]);
}

#[test]
fn what_is_written_into_a_mount_is_put_off_too() {
    let (_network, _hub, host, path) = machine();
    let mut spoke = Spoke::start_on(host, &DNS);
    spoke.line("resolvers set");

    spoke.host.etc("resolv.conf", "nameserver 192.0.2.7\n");

    until_true("ours again", SOON, || asked(&path) == ["10.0.0.1"]);
    assert!(spoke.terminate().success());
    assert_eq!(asked(&path), ["192.0.2.7"]);
}

#[test]
fn at_the_fallback_the_machine_has_its_own_resolvers() {
    let (_network, mut hub, host, path) = machine();
    let flags = [&DNS[..], &["-fallback", "1s", "-keepalive", "1s"]].concat();
    let mut spoke = Spoke::start_on(host, &flags);
    spoke.line("resolvers set");

    hub.kill();
    spoke.line("resolvers are as they were");
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
    hub.restart();
    spoke.line("resolvers set");
    assert_eq!(asked(&path), ["10.0.0.1"]);
}

#[test]
fn while_routes_fail_the_machine_has_its_own_resolvers() {
    let (_network, _hub, host, path) = machine();
    host.ip("rule add pref 20005 lookup main");
    let flags = "-route default -table 500 -rule-pref 20000 -dns 10.0.0.1";
    let flags: Vec<_> = flags.split(' ').collect();

    let mut spoke = Spoke::start_on(host, &flags);
    spoke.line("nothing is routed into the tunnel");
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
    spoke.host.ip("rule del pref 20005");
    spoke.line("resolvers set");

    assert_eq!(asked(&path), ["10.0.0.1"]);
    let way = spoke.host.ip("route get 203.0.113.9");
    assert!(way.contains("dtun"), "{way}");
}

#[test]
fn where_they_cannot_be_set_the_guard_is_let_go() {
    let machine = OwnEtc::new();
    fs::create_dir(machine.resolv_conf()).unwrap();

    let mut spoke = machine.spoke("");
    spoke.line("failed to set the resolvers");

    until_true("no child", SOON, || children(&spoke).is_empty());
}

/// A hub, and a host whose resolvers the file of that path names for every
/// command in its namespace.
fn machine() -> (Network, Hub, Host, PathBuf) {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.etc("resolv.conf", THEIRS);
    let path = etc(&host);

    (network, hub, host, path)
}

/// A host with an `/etc` of its own, which is not a mount for each file.
struct OwnEtc {
    scratch: Scratch,
    _network: Network,
    _hub: Hub,
    host: Host,
}

impl OwnEtc {
    fn new() -> Self {
        let network = Network::new();
        let hub = Hub::start(&network, &[]);
        let host = network.host(2);
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("etc")).unwrap();
        fs::write(scratch.path("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();

        Self {
            scratch,
            _network: network,
            _hub: hub,
            host,
        }
    }

    /// Starts after `first`, a shell's words.
    fn spoke(&self, first: &str) -> Daemon {
        let etc = self.scratch.path("etc");
        let shell = format!("{first}mount --rbind {etc} /etc && exec \"$@\"");
        let state = self.scratch.path("state");
        let dtun = env!("CARGO_BIN_EXE_dtun");
        let mut command: Command = self.host.command("unshare");
        command.args(["-m", "sh", "-c", &shell, "sh", dtun, "-key", "foo"]);
        command.args(["-state", &state]).args(TO_HUB).args(DNS);

        Daemon::spawn(command)
    }

    fn resolv_conf(&self) -> PathBuf {
        self.scratch.path("etc/resolv.conf").into()
    }

    /// As a DHCP client does it.
    fn write(&self, text: &str) {
        let aside = self.scratch.path("etc/resolv.conf.dhcp");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.resolv_conf()).unwrap();
    }

    /// What is in `/etc`.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.scratch.path("etc"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();

        names
    }
}

/// For a connection that need not come about.
const TRIED: Duration = Duration::from_millis(300);

const TO_HUB: [&str; 4] = ["-connect", "198.18.1.2:443", "-id", "spoke2"];

/// The file that every command in the namespace has for its `/etc/resolv.conf`.
fn etc(host: &Host) -> PathBuf {
    format!("/etc/netns/{}/resolv.conf", host.name()).into()
}

fn clean(host: &Host, state: &str) {
    let dtun = env!("CARGO_BIN_EXE_dtun");
    host.run(&format!("{dtun} clean -state {state}"));
}

fn asked(path: &Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver ").map(str::to_owned))
        .collect()
}

/// By the C library, as any program asks.
fn address_of(netns: &Netns, name: &str) -> String {
    let said = netns.run(&format!("getent ahostsv4 {name}"));

    said.split_whitespace().next().unwrap().to_owned()
}

fn guard_of(spoke: &Daemon) -> Option<u32> {
    children(spoke).into_iter().find(|process| {
        // Between its making and its start it is a copy of the spoke.
        fs::read_to_string(format!("/proc/{process}/cmdline"))
            .is_ok_and(|line| line.contains("-when-over"))
    })
}

/// Those that it has not waited for are among them.
fn children(spoke: &Daemon) -> Vec<u32> {
    let parent = format!(" {} ", spoke.id());
    let is_its_child = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The parent is the second field behind the name.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest[1..].starts_with(&parent))
    };

    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_its_child)
        .collect()
}

fn links(folder: &str) -> Vec<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .map(|target| target.to_str().unwrap().to_owned())
        .collect()
}

fn is_gone(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();

    stat.is_empty() || stat.contains(") Z ")
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process.cast_signed())
}
