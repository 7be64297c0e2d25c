//! The firewall's part of a full tunnel: who comes by the uplink is answered by
//! it, and no question for a name leaves by it.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, setfsgid};
use socket2::{Domain, Socket, Type};

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, connect, forward, lan, track};
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, PATIENCE, Picture, WWW4, WWW6, seen};
use crate::traffic::{Flow, reaches, reaches_not};
use crate::tunnel::SOON;
use crate::wait::{until, until_true};
use crate::watch::Watch;
use crate::wire::Wire;

#[test]
fn who_comes_by_the_uplink_is_answered_by_it_under_strict_reverse_path_filters() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let admin = picture.network.host(4);
    filter_strictly(&laptop);
    let old = Flow::start(&admin, &laptop, laptop.ip4());
    old.moves_within(SOON);

    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    assert_eq!(seen(&admin, &laptop, laptop.ip4()), admin.ip4());
    assert_eq!(seen(&admin, &laptop, laptop.ip6()), admin.ip6());
    reaches(&admin, laptop.ip4());
    reaches(&admin, laptop.ip6());
    old.moves_within(SOON);
    old.finish();
}

#[test]
fn a_session_that_the_machine_tracked_before_the_tunnel_goes_on() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let admin = picture.network.host(4);
    track(&laptop);
    let old = Flow::start(&admin, &laptop, laptop.ip4());
    old.moves_within(SOON);

    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");

    old.moves_within(SOON);
    old.finish();
}

#[test]
fn a_published_port_of_a_container_is_answered_by_the_uplink_and_the_container_uses_the_tunnel() {
    containers_are_served(&[]);
}

#[test]
fn a_published_port_of_a_container_is_answered_under_the_lock_too() {
    containers_are_served(&["-strict"]);
}

#[track_caller]
fn containers_are_served(flags: &[&str]) {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let admin = picture.network.host(4);
    filter_strictly(&laptop);
    let guest = container(&laptop);

    let mut spoke = full(&picture, &laptop, flags);
    spoke.line("tunnel up");

    for (at, from) in [
        (IpAddr::from(laptop.ip4()), IpAddr::from(admin.ip4())),
        (laptop.ip6().into(), admin.ip6().into()),
    ] {
        let inside: SocketAddr = if at.is_ipv4() {
            ([172, 17, 0, 2], 80).into()
        } else {
            "[fd00:17::2]:80".parse().unwrap()
        };
        let listener = guest.enter(|| TcpListener::bind(inside).unwrap());
        let connection = connects(&admin, (at, 8080).into());
        assert_eq!(listener.accept().unwrap().1.ip(), from);
        drop(connection);
    }
    assert_eq!(seen(&guest, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&guest, &picture.www, WWW6), HUB_AT_WWW6);
}

#[test]
fn a_router_with_a_lock_serves_its_lan_through_the_tunnel_alone() {
    let picture = Picture::new();
    let router = picture.network.host(2);
    let pc = behind(&router);
    let flags = ["-peernet", "192.168.10.0/24,fd00:10::/64", "-strict"];
    let mut spoke = full(&picture, &router, &flags);
    spoke.line("tunnel up");

    assert_eq!(seen(&pc, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&pc, &picture.www, WWW6), HUB_AT_WWW6);
    reaches(&pc, [192, 168, 10, 1]);
    reaches_not(&router, [192, 168, 10, 2]);

    spoke.kill();
    let wire = Wire::of(&picture.network, &router, &[]);
    for at in [IpAddr::from(WWW4), WWW6.into()] {
        let refused = pc.enter(|| TcpStream::connect_timeout(&(at, 80).into(), SOON));
        assert_eq!(
            refused.unwrap_err().kind(),
            ErrorKind::ConnectionRefused,
            "{at}"
        );
    }
    wire.is_tight();
}

#[test]
fn what_comes_for_the_tunnels_address_by_the_uplink_is_dropped() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let router = &picture.network.router;
    let lease4 = [10, 0, 0, 2];
    router.ip("route add 10.0.0.2 via 198.18.2.2");
    router.ip("route add fc00::2 via 2001:db8:2::2");
    let lease6: IpAddr = "fc00::2".parse().unwrap();
    let mut open = picture.spoke(&laptop, &[]);
    open.line("tunnel up");
    reaches(router, lease4);
    reaches(router, lease6);
    assert!(open.terminate().success());

    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");

    reaches_not(router, lease4);
    reaches_not(router, lease6);
    reaches(&picture.hub.host, lease4);
    reaches(&picture.hub.host, lease6);
}

#[test]
fn nobody_flushes_the_table_and_it_goes_with_the_program() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let admin = picture.network.host(4);
    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");
    let table = laptop.run("nft -s list ruleset");
    assert!(table.contains("flags owner"), "{table}");

    laptop.run("nft flush ruleset");
    assert_eq!(laptop.run("nft -s list ruleset"), table);

    // Not even who kills its process is rid of it.
    kill(Pid::from_raw(owner(&laptop)), Signal::SIGKILL).unwrap();
    spoke.line("put back");
    assert_eq!(laptop.run("nft -s list ruleset"), table);
    assert_eq!(seen(&admin, &laptop, laptop.ip4()), admin.ip4());

    spoke.kill();
    until_true("no table", SOON, || {
        laptop.run("nft list ruleset").is_empty()
    });
}

#[test]
fn a_process_that_somebody_kills_while_it_keeps_nothing_is_not_missed() {
    let mut picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = full(&picture, &laptop, &["-fallback", "1s"]);
    spoke.line("tunnel up");
    picture.hub.terminate();
    spoke.line("the hub stays away");
    until_true("no table", SOON, || {
        !laptop.run("nft list ruleset").contains("dtun")
    });

    kill(Pid::from_raw(owner(&laptop)), Signal::SIGKILL).unwrap();
    picture.hub.restart();
    spoke.line("tunnel up");
    assert!(laptop.run("nft list ruleset").contains("dtun"));
    assert_eq!(spoke.count("put back"), 0);
}

#[test]
fn marks_of_others_on_packets_and_connections_are_kept() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let admin = picture.network.host(4);
    laptop.run("nft add table inet theirs");
    laptop.run("nft add chain inet theirs in { type filter hook prerouting priority -400 ; }");
    laptop.run("nft add rule inet theirs in meta mark set 0x5");
    laptop.run("nft add chain inet theirs early { type filter hook prerouting priority -160 ; }");
    laptop.run("nft add rule inet theirs early ct state new ct mark set 0x3000007");
    let mut spoke = full(&picture, &laptop, &[]);
    spoke.line("tunnel up");
    let watch = Watch::new(&laptop, "input");
    watch.count(
        "kept",
        "iifname uplink tcp dport 22 meta mark 0x640005 ct mark 0x3640007",
        "",
    );
    watch.count("every", "iifname uplink tcp dport 22", "");

    let listener = laptop.enter(|| TcpListener::bind((laptop.ip4(), 22)).unwrap());
    drop(connects(&admin, (laptop.ip4(), 22).into()));
    drop(listener.accept().unwrap());

    assert!(watch.packets("every") > 0);
    assert_eq!(watch.packets("kept"), watch.packets("every"));
}

#[test]
fn a_groups_packets_go_in_with_the_tunnels_address_and_nobody_elses() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let admin = picture.network.host(4);
    filter_strictly(&laptop);
    let group = Gid::from_raw(4242);
    let mut spoke = full(&picture, &laptop, &["-route-from", "group:4242"]);
    spoke.line("tunnel up");

    for at in [IpAddr::from(WWW4), WWW6.into()] {
        let listener = picture.www.enter(|| TcpListener::bind((at, 80)).unwrap());
        let connection = laptop.enter(|| {
            setfsgid(group);
            TcpStream::connect_timeout(&(at, 80).into(), SOON).unwrap()
        });
        let (_, from) = listener.accept().unwrap();
        let hub: [IpAddr; 2] = [HUB_AT_WWW4.into(), HUB_AT_WWW6.into()];
        assert!(hub.contains(&from.ip()), "{from}");
        drop(connection);
        // No router on the way knows www, but the hub.
        let others = laptop.enter(|| TcpStream::connect_timeout(&(at, 80).into(), SOON));
        others.unwrap_err();
    }
    let direct = picture.direct.ip4();
    let listener = picture
        .direct
        .enter(|| TcpListener::bind((direct, 80)).unwrap());
    laptop.enter(|| {
        setfsgid(group);
        TcpStream::connect_timeout(&(direct, 80).into(), SOON).unwrap()
    });
    assert_eq!(listener.accept().unwrap().1.ip(), laptop.ip4());
    assert_eq!(seen(&admin, &laptop, laptop.ip4()), admin.ip4());
}

#[test]
fn no_question_for_a_name_leaves_by_the_uplink() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.etc("resolv.conf", "nameserver 198.18.2.1\n");
    let pc = behind(&laptop);
    let watch = Watch::new(&picture.network.router, "prerouting");
    for (name, matches) in [("by_udp", "udp dport 53"), ("by_tcp", "tcp dport 53")] {
        watch.count(name, &format!("iifname host2 {matches}"), "");
    }
    let questions = |netns: &Netns, device: Option<&str>| {
        for at in [
            SocketAddr::from((laptop.gateway4(), 53)),
            (laptop.gateway6(), 53).into(),
            (WWW4, 53).into(),
            (picture.direct.ip4(), 53).into(),
        ] {
            netns.enter(|| question(at, device));
        }
    };
    let counted = || watch.packets("by_udp") + watch.packets("by_tcp");

    let mut spoke = full(&picture, &laptop, &["-dns", "10.0.0.1"]);
    spoke.line("tunnel up");
    questions(&laptop, None);
    questions(&laptop, Some("uplink"));
    questions(&pc, None);
    assert_eq!(counted(), 0);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);

    assert!(spoke.terminate().success());
    questions(&laptop, Some("uplink"));
    questions(&pc, None);
    assert!(watch.packets("by_udp") > 4, "{}", watch.packets("by_udp"));
    assert!(watch.packets("by_tcp") > 4, "{}", watch.packets("by_tcp"));
}

/// Everything through the tunnel but the picture's list.
fn full(picture: &Picture, host: &Host, more: &[&str]) -> Daemon {
    let list = picture.list();
    let flags = ["-route", "default", "-bypass", &list];

    picture.spoke(host, &[&flags[..], more].concat())
}

fn filter_strictly(netns: &Netns) {
    for device in ["all", "default", "uplink"] {
        netns.sysctl(&format!("ipv4/conf/{device}/rp_filter"), "1");
    }
}

/// A container with a port published and its traffic translated, as Docker
/// does it, in IPv6 too.
fn container(host: &Host) -> Netns {
    let guest = Netns::new("guest");
    host.ip("link add docker0 type bridge");
    connect(host, "port", &guest, "eth0");
    host.ip("link set port master docker0");
    host.ip("link set docker0 up");
    forward(host);
    for (family, net) in [("ip", "172.17.0."), ("ip6", "fd00:17::")] {
        let length = if family == "ip" { 16 } else { 64 };
        host.ip(&format!("addr add {net}1/{length} dev docker0"));
        guest.ip(&format!("addr add {net}2/{length} dev eth0"));
        guest.ip(&format!("route add default via {net}1"));
        host.run(&format!("nft add table {family} docker"));
        for (chain, hook) in [
            ("in", "prerouting priority dstnat"),
            ("out", "postrouting priority srcnat"),
        ] {
            host.run(&format!(
                "nft add chain {family} docker {chain} {{ type nat hook {hook} ; }}"
            ));
        }
        let to = if family == "ip" {
            "172.17.0.2:80"
        } else {
            "[fd00:17::2]:80"
        };
        host.run(&format!(
            "nft add rule {family} docker in fib daddr type local tcp dport 8080 dnat to {to}"
        ));
        host.run(&format!(
            "nft add rule {family} docker out {family} saddr {net}0/{length} oifname != docker0 masquerade"
        ));
    }

    guest
}

/// A computer of the LAN that the host is the router of.
fn behind(host: &Host) -> Netns {
    let pc = lan(host, 10);
    host.ip("addr add fd00:10::1/64 dev lan");
    pc.ip("addr add fd00:10::2/64 dev lan");
    pc.ip("route add default via fd00:10::1");

    pc
}

/// Asks by UDP and TCP; what becomes of it does not matter.
fn question(at: SocketAddr, device: Option<&str>) {
    for kind in [Type::DGRAM, Type::STREAM] {
        let socket = Socket::new(Domain::for_address(at), kind, None).unwrap();
        socket.bind_device(device.map(str::as_bytes)).unwrap();
        if kind == Type::DGRAM {
            let socket = UdpSocket::from(socket);
            for _ in 0..3 {
                socket.send_to(b"a question", at).unwrap_or_default();
            }
        } else {
            let wait = Duration::from_millis(200);
            socket.connect_timeout(&at.into(), wait).unwrap_or_default();
        }
    }
}

#[track_caller]
fn connects(from: &Netns, to: SocketAddr) -> TcpStream {
    until(&format!("a connection to {to}"), PATIENCE, || {
        from.enter(|| TcpStream::connect_timeout(&to, SOON)).ok()
    })
}

/// The process that owns the table in a namespace.
fn owner(netns: &Netns) -> i32 {
    let inside = netns.enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    let mut owners = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let is_nft = fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "nft\n");
        let is_there = fs::read_link(path.join("ns/net")).is_ok_and(|it| it == inside);
        (is_nft && is_there).then(|| path.file_name()?.to_str()?.parse().ok())?
    });

    owners.next().unwrap()
}
