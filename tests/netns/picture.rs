//! The main job, as its users have it: a laptop behind a router whose traffic
//! leaves at the hub, but for a list of networks.
//!
//! ```text
//!   laptop ──── router ──┬── hub ──── www
//!                        └── direct
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, Network, connect, forward, lan};
use crate::scratch::Scratch;
use crate::tunnel::Hub;
use crate::wait::until;

#[test]
fn www_sees_the_hub_and_direct_sees_the_laptop() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = tables(&laptop);

    let mut spoke = picture.spoke(&laptop, &SPLIT);
    spoke.line("all by dtun0 but 198.18.1.2/32 via 198.18.2.1 dev uplink and 10001 networks");
    let line = spoke.line("tunnel up");

    assert!(line.contains("routed=0.0.0.0/1"), "{line}");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());

    assert!(spoke.terminate().success());
    assert_eq!(tables(&laptop), before);
}

#[test]
fn after_a_kill_the_next_run_leaves_the_routes_as_they_were() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = tables(&laptop);
    let mut spoke = picture.spoke(&laptop, &SPLIT);
    spoke.line("tunnel up");

    spoke.kill();
    assert!(!tables(&laptop).contains("dtun0"));
    spoke.restart();
    spoke.line("tunnel up");
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    spoke.terminate();

    assert_eq!(tables(&laptop), before);
}

#[test]
fn another_gateway_on_the_same_link_is_followed_past_the_scripts_own_host_route() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &SPLIT);
    spoke.line("tunnel up");

    let router = &picture.network.router;
    router.ip("addr add 198.18.2.9/24 dev host2");
    laptop.ip("route replace default via 198.18.2.9");
    spoke.line_within("10001 networks via 198.18.2.9 dev uplink", PATIENCE);

    assert!(!tables(&laptop).contains("via 198.18.2.1 "));
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
}

#[test]
fn a_gateway_that_died_before_the_next_one_came_is_left_without_a_fallback() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &[&SPLIT[..], &["-fallback", "never"]].concat());
    spoke.line("tunnel up");

    let router = &picture.network.router;
    router.ip("addr del 198.18.2.1/24 dev host2");
    router.ip("addr add 198.18.2.9/24 dev host2");
    laptop.ip("neigh flush dev uplink");
    spoke.line("tunnel down");
    laptop.ip("route replace default via 198.18.2.9");
    spoke.line_within("tunnel up", PATIENCE);

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
}

#[test]
fn www_still_sees_the_hub_when_the_uplink_and_the_hubs_address_changed() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let direct = picture.direct.ip4();
    let mut spoke = picture.spoke(&laptop, &SPLIT);
    spoke.line("tunnel up");

    picture.move_laptop(&laptop);
    spoke.line_within("dev wlan0 and 10001 networks", PATIENCE);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.direct, direct), ON_THE_RADIO);

    picture.move_hub(&laptop);
    spoke.line_within("all by dtun0 but 198.18.1.77/32 via 198.18.9.1", PATIENCE);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.direct, direct), ON_THE_RADIO);

    let before = laptop_without_tunnel(&laptop);
    assert!(spoke.terminate().success());
    assert_eq!(tables(&laptop), before);
}

#[test]
fn a_script_as_the_go_programs_users_have_it_works() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = tables(&laptop);
    let script = picture.their_script();

    let mut spoke = picture.spoke(&laptop, &["-up", &script]);

    spoke.line_within(THEIRS_DONE, PATIENCE);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());

    // It takes nothing back: what it put on the uplink stays, and the next run
    // finds it there.
    spoke.kill();
    assert!(!tables(&laptop).contains("dtun0"));
    spoke.restart();
    spoke.line_within(THEIRS_DONE, PATIENCE);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    assert!(spoke.terminate().success());
    assert!(!tables(&laptop).contains("dtun0"));
    laptop.ip("route flush proto boot via 198.18.2.1 root 100.0.0.0/8");
    laptop.ip("route del 198.18.1.2");
    laptop.ip(&format!("route del {direct}"));
    assert_eq!(tables(&laptop), before);
}

#[test]
fn their_script_is_run_again_when_the_uplink_and_the_hubs_address_changed() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let direct = picture.direct.ip4();
    let script = picture.their_script();
    let mut spoke = picture.spoke(&laptop, &["-up", &script]);
    spoke.line_within(THEIRS_DONE, PATIENCE);

    picture.move_laptop(&laptop);

    spoke.line_within(THEIRS_DONE, PATIENCE);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.direct, direct), ON_THE_RADIO);

    picture.move_hub(&laptop);

    spoke.line_within(THEIRS_DONE, PATIENCE);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.direct, direct), ON_THE_RADIO);

    assert!(spoke.terminate().success());
    assert!(!tables(&laptop).contains("dtun0"));
}

/// pc ──── router ════ hub ──── www, with one translation, at the hub.
#[test]
fn a_router_that_translates_nothing_carries_its_lan_to_www() {
    let picture = Picture::new();
    let router = picture.network.host(2);
    let pc = lan(&router, 10);

    let flags = [&SPLIT[..], &["-peernet", "192.168.10.0/24"]].concat();
    let mut spoke = picture.spoke(&router, &flags);
    spoke.line("tunnel up");

    let own: IpAddr = [192, 168, 10, 2].into();
    assert_eq!(seen(&pc, &picture.hub.host, [10, 0, 0, 1]), own);
    assert_eq!(seen(&pc, &picture.www, WWW4), HUB_AT_WWW4);
}

pub(crate) struct Picture {
    pub(crate) hub: Hub,
    pub(crate) www: Netns,
    pub(crate) direct: Host,
    pub(crate) network: Network,
    pub(crate) scratch: Scratch,
}

impl Picture {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// With a hub that has these flags.
    pub(crate) fn with(hub: &[&str]) -> Self {
        Self::prepared(hub, |host| {
            forward(host);
            host.run("nft add table inet nat");
            host.run("nft add chain inet nat out { type nat hook postrouting priority srcnat ; }");
            host.run("nft add rule inet nat out iifname dtun* oifname != dtun* masquerade");
        })
    }

    /// With a hub whose owner has done no more than this on its machine.
    pub(crate) fn prepared(hub: &[&str], prepare: impl FnOnce(&Host)) -> Self {
        let network = Network::new();
        let host = network.host(1);
        let www = Netns::new("www");
        connect(&host, "www", &www, "uplink");
        host.ip(&format!("addr add {HUB_AT_WWW4}/24 dev www"));
        host.ip(&format!("addr add {HUB_AT_WWW6}/64 dev www"));
        www.ip(&format!("addr add {WWW4}/24 dev uplink"));
        www.ip(&format!("addr add {WWW6}/64 dev uplink"));
        prepare(&host);

        let direct = network.host(3);
        let scratch = Scratch::new();
        let list: Vec<_> = (0..10_000)
            .map(|at| format!("100.{}.{}.0/24\r\n", at / 256, at % 256))
            .collect();
        let list = format!("# the list\r\n\r\n{}/32\r\n{}", direct.ip4(), list.concat());
        fs::write(scratch.path("list"), list).unwrap();

        Self {
            hub: Hub::start_on(host, hub),
            www,
            direct,
            network,
            scratch,
        }
    }

    /// The file of networks that stay out of the tunnel.
    pub(crate) fn list(&self) -> String {
        self.scratch.path("list")
    }

    /// One as the Go program's README has it, which knows one event only.
    fn their_script(&self) -> String {
        self.scratch.script(
            "theirs.sh",
            &format!(
                "VPN_IP=$(ping hub.example -c 1|grep from|cut -d' ' -f4|cut -d: -f1)\n\
                 DEFAULT_GW=$(ip route|grep default|cut -d' ' -f3)\n\
                 grep -v '#' {}|tr -d '\\r'|head -n 300|xargs -I % ip route add % via $DEFAULT_GW 2>/dev/null\n\
                 ip route add $VPN_IP/32 via $DEFAULT_GW\n\
                 ip route add 0.0.0.0/1 via $PEER_IP\n\
                 ip route add 128.0.0.0/1 via $PEER_IP\n\
                 echo {THEIRS_DONE}",
                self.scratch.path("list"),
            ),
        )
    }

    /// Lets every machine drop what comes by another way than an answer would
    /// take; the kernel takes the stricter of this and a device's own.
    pub(crate) fn filter_reverse_paths(&self, more: &[&Netns]) {
        let own = [
            &*self.hub.host,
            &self.www,
            &self.direct,
            &self.network.router,
        ];
        for netns in own.iter().chain(more) {
            netns.sysctl("ipv4/conf/all/rp_filter", "1");
        }
    }

    /// From the cable to another network by radio.
    pub(crate) fn move_laptop(&self, laptop: &Host) {
        let router = &self.network.router;
        connect(router, "radio", laptop, "wlan0");
        router.ip("addr add 198.18.9.1/24 dev radio");
        laptop.ip("link del uplink");
        laptop.ip(&format!("addr add {ON_THE_RADIO}/24 dev wlan0"));
        laptop.ip("route add default via 198.18.9.1");
    }

    /// Gives the hub another address, and its name that too.
    pub(crate) fn move_hub(&self, laptop: &Host) {
        laptop.etc("hosts", "198.18.1.77 198.18.1.77 hub.example\n");
        self.move_hub_silently();
    }

    /// Gives the hub another address that no file knows.
    pub(crate) fn move_hub_silently(&self) {
        let hub = &self.hub.host;
        hub.ip("addr del 198.18.1.2/24 dev uplink");
        hub.ip("addr add 198.18.1.77/24 dev uplink");
        hub.ip("route replace default via 198.18.1.1");
    }

    /// Starts a spoke that knows the hub by name, with the list in its environment.
    pub(crate) fn spoke(&self, host: &Host, flags: &[&str]) -> Daemon {
        self.spoke_after("true", host, flags)
    }

    /// A spoke that finds no nft on its machine.
    pub(crate) fn spoke_without_nft(&self, host: &Host, flags: &[&str]) -> Daemon {
        self.spoke_after("mount -t tmpfs none /usr/sbin", host, flags)
    }

    /// A spoke in mounts of its own that a command has changed.
    fn spoke_after(&self, change: &str, host: &Host, flags: &[&str]) -> Daemon {
        // No name belongs to the address, as with most servers: their script
        // takes what ping prints for one.
        host.etc("hosts", "198.18.1.2 198.18.1.2 hub.example\n");
        // The script's records belong to this machine, not to the one that tests.
        let own_run = format!(
            "mkdir -p /run/dtun \"$0\" && mount --bind \"$0\" /run/dtun && {change} && exec \"$@\""
        );
        let mut command = host.command("sh");
        command
            .args(["-c", &own_run, &self.scratch.path("run")])
            .args([
                env!("CARGO_BIN_EXE_dtun"),
                "-key",
                "foo",
                "-connect",
                "hub.example:443",
                "-id",
                "laptop",
            ])
            .args(["-keepalive", "1s"])
            .args(["-state", &self.scratch.path("state")])
            .args(flags)
            .env("DTUN_BYPASS", self.scratch.path("list"));

        Daemon::spawn(command)
    }
}

/// Connects to `at`, an address of `to`; returns the address that `to` sees.
#[track_caller]
pub(crate) fn seen(from: &Netns, to: &Netns, at: impl Into<IpAddr>) -> IpAddr {
    let listener = to.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();

    seen_by(from, (at.into(), port).into(), &listener)
}

/// Connects to `address`, which leads to the listener; returns the address that
/// this one sees.
#[track_caller]
pub(crate) fn seen_by(from: &Netns, address: SocketAddr, listener: &TcpListener) -> IpAddr {
    let timeout = Duration::from_secs(2);
    let connection = until(&format!("a connection to {address}"), PATIENCE, || {
        from.enter(|| TcpStream::connect_timeout(&address, timeout))
            .ok()
    });

    let (_, peer) = listener.accept().unwrap();
    drop(connection);

    peer.ip().to_canonical()
}

fn tables(netns: &Netns) -> String {
    ["-4", "-6"]
        .map(|family| netns.ip(&format!("{family} route show table all")))
        .concat()
}

/// The routes as they will be without the tunnel and what its script set.
fn laptop_without_tunnel(laptop: &Netns) -> String {
    tables(laptop)
        .lines()
        .filter(|route| !route.contains("proto 117") && !route.contains("dev dtun0"))
        .map(|route| format!("{route}\n"))
        .collect()
}

const SPLIT: [&str; 4] = [
    "-up",
    concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/up-split.sh"),
    "-down",
    concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/down-split.sh"),
];

/// The last line of their script.
const THEIRS_DONE: &str = "their routes stand";

pub(crate) const ON_THE_RADIO: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 2);
pub(crate) const WWW4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub(crate) const WWW6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 2);
pub(crate) const HUB_AT_WWW4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub(crate) const HUB_AT_WWW6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 1);

/// For what may need a few dials.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
