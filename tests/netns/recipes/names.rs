//! Names that choose the way, with a real dnsmasq on the router.

use std::net::IpAddr;

use super::{CONNECT, Machine, lan, recipe};
use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::Host;
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, Picture, WWW4, WWW6, seen};
use crate::policy::everything;

#[test]
fn listed_names_and_their_addresses_go_through_the_tunnel() {
    let [marked, nft, nft_names, dtun, ipset, ipset_names, undo] =
        recipe("Some domains through the tunnel");
    for (sets, names) in [(nft, nft_names), (ipset, ipset_names)] {
        let home = Home::new(&["example.org", "203.0.113.2", "2001:db8:99::2"]);
        let machine = Machine::new(&home.router);
        machine.etc("resolv.conf", "nameserver 198.51.100.53\n");
        has_iptables(&home.router);
        let before = everything(&home.router);

        machine.run(&marked);
        machine.run(&sets);
        machine.run(&names);
        let mut spoke = machine.spoke(&dtun);
        machine.run(&marked);
        let dnsmasq = dnsmasq(&machine);

        home.knows("example.org", WWW4.into());
        home.knows("www.example.org", WWW6.into());
        home.knows("example.net", home.other.ip4().into());
        let (www, other, router) = (&home.picture.www, &home.other, &home.router);
        assert_eq!(seen(&home.pc, www, WWW4), HUB_AT_WWW4);
        assert_eq!(seen(&home.pc, www, WWW6), HUB_AT_WWW6);
        assert_eq!(seen(&home.pc, other, other.ip4()), router.ip4());
        assert_eq!(machine.seen_by("root", CONNECT, www, WWW4), HUB_AT_WWW4);
        assert_eq!(machine.seen_by("root", CONNECT, www, WWW6), HUB_AT_WWW6);
        home.asked(&home.far, "example.org", HUB_AT_WWW4.into());
        home.asked(&home.near, "example.net", router.ip4().into());
        assert_eq!(home.near.count("example.org from"), 0);
        assert_eq!(home.far.count("example.net from"), 0);

        drop(dnsmasq);
        assert!(spoke.terminate().success());
        machine.run(&undo);
        assert_eq!(everything(&home.router), before);
        assert_eq!(home.router.run("ipset list"), "");
    }
}

#[test]
fn listed_names_and_their_addresses_stay_out_of_the_tunnel() {
    let [sets, names, dtun, undo] = recipe("Some domains past the tunnel");
    let home = Home::new(&["example.net", "203.0.113.2", "2001:db8:99::2"]);
    home.picture.filter_reverse_paths(&[&home.router]);
    let machine = Machine::new(&home.router);
    let before = everything(&home.router);

    machine.run(&sets);
    machine.run(&names);
    let mut spoke = machine.spoke(&dtun);
    machine.run(&sets);
    let dnsmasq = dnsmasq(&machine);

    let (other, router, hub) = (&home.other, &home.router, &home.picture.hub.host);
    assert_eq!(seen(&home.pc, other, other.ip4()), hub.ip4());
    home.knows("example.org", other.ip4().into());
    home.knows("www.example.org", other.ip6().into());
    home.knows("example.net", WWW4.into());
    assert_eq!(seen(&home.pc, other, other.ip4()), router.ip4());
    assert_eq!(seen(&home.pc, other, other.ip6()), router.ip6());
    let own = |at: IpAddr| machine.seen_by("root", CONNECT, other, at);
    assert_eq!(own(other.ip4().into()), router.ip4());
    assert_eq!(own(other.ip6().into()), router.ip6());
    assert_eq!(seen(&home.pc, &home.picture.www, WWW4), HUB_AT_WWW4);
    home.asked(&home.near, "example.org", router.ip4().into());
    home.asked(&home.far, "example.net", HUB_AT_WWW4.into());
    assert_eq!(home.far.count("example.org from"), 0);
    assert_eq!(home.near.count("example.net from"), 0);

    drop(dnsmasq);
    assert!(spoke.terminate().success());
    machine.run(&undo);
    assert_eq!(everything(&home.router), before);
}

/// A LAN, a resolver beyond the hub that knows one name, and the provider's,
/// for which every name is the other host's.
struct Home {
    pc: Netns,
    near: Daemon,
    far: Daemon,
    other: Host,
    router: Host,
    picture: Picture,
}

impl Home {
    /// `known`: the name that the far resolver knows, and its addresses.
    fn new(known: &[&str; 3]) -> Self {
        let picture = Picture::new();
        let router = picture.network.host(2);
        let other = picture.network.host(4);
        let pc = lan(&router);
        pc.etc("resolv.conf", "nameserver 192.168.8.1\n");
        pc.etc("nsswitch.conf", "hosts: dns\n");
        for address in ["9.9.9.9/32", "2620:fe::fe/128"] {
            picture.www.ip(&format!("addr add {address} dev lo"));
        }
        let hub = &picture.hub.host;
        hub.ip(&format!("route add 9.9.9.9 via {WWW4}"));
        hub.ip(&format!("route add 2620:fe::fe via {WWW6}"));
        picture.network.router.ip("addr add 198.51.100.53 dev lo");

        let [name, ip4, ip6] = known;
        let far = resolver(
            &picture.www,
            "9.9.9.9",
            &[&format!("/{name}/{ip4}"), &format!("/{name}/{ip6}")],
        );
        let near = resolver(
            &picture.network.router,
            "198.51.100.53",
            &[
                &format!("/#/{}", other.ip4()),
                &format!("/#/{}", other.ip6()),
            ],
        );

        Self {
            pc,
            near,
            far,
            other,
            router,
            picture,
        }
    }

    /// The pc asks for a name, and is told the address.
    #[track_caller]
    fn knows(&self, name: &str, address: IpAddr) {
        let database = if address.is_ipv4() {
            "ahostsv4"
        } else {
            "ahostsv6"
        };
        let told = self.pc.run(&format!("getent {database} {name}"));
        assert!(told.starts_with(&format!("{address} ")), "{told}");
    }

    #[track_caller]
    fn asked(&self, resolver: &Daemon, name: &str, by: IpAddr) {
        resolver.line_anywhere(&[&format!("{name} from {by}")]);
    }
}

/// A resolver that knows these names only, and says who asked.
fn resolver(netns: &Netns, at: &str, known: &[&str]) -> Daemon {
    let known: Vec<_> = known.iter().map(|it| format!("--address={it}")).collect();
    let listen = format!("--listen-address={at}");
    let own = [
        "--conf-file=/dev/null",
        "--bind-interfaces",
        "--no-resolv",
        "--no-hosts",
        &listen,
    ];
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start(netns, "dnsmasq", &[&FOREGROUND[..], &own, &known].concat());
    daemon.line("started");

    daemon
}

/// The router's own, with what the recipe has written for it.
fn dnsmasq(machine: &Machine) -> Daemon {
    let mut daemon = machine.start(&format!(
        "dnsmasq {} --conf-dir=/etc/dnsmasq.d",
        FOREGROUND.join(" ")
    ));
    daemon.line("started");

    daemon
}

/// iptables makes tables and chains that are not there, and leaves them.
fn has_iptables(netns: &Netns) {
    for tool in ["iptables", "ip6tables"] {
        for chain in ["mangle PREROUTING", "mangle OUTPUT", "nat POSTROUTING"] {
            let (table, chain) = chain.split_once(' ').unwrap();
            for verb in ["-A", "-D"] {
                netns.run(&format!(
                    "{tool} -t {table} {verb} {chain} -p sctp -j ACCEPT"
                ));
            }
        }
    }
}

const FOREGROUND: [&str; 4] = [
    "--keep-in-foreground",
    "--log-facility=-",
    "--log-queries",
    "--pid-file",
];
