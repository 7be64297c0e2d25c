//! What gets past a lock, or is stuck behind it, at its edges: while it is closed
//! and removed, for what is older than it, and without the one who keeps it.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::daemon::Daemon;
use crate::lock::{CLOSED, LITTLE, LOCKED, Nft, SOON, SPOKE, dtun, guest};
use crate::namespace::Netns;
use crate::network::{Host, Network, forward};
use crate::scratch::Scratch;
use crate::traffic::{reaches, reaches_not, reaches_within};
use crate::tunnel::Spoke;
use crate::wait::until_true;
use crate::wire::Wire;

#[test]
fn a_stop_while_the_lock_is_being_closed_leaves_none() {
    let network = Network::new();
    let www = network.host(3);
    let host = network.host(2);
    let scratch = Scratch::new();
    let list = long_list(&scratch, &www);
    for args in [LOCKED.to_vec(), [LOCKED, &["-bypass", &list]].concat()] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let nft = Nft::new();
            nft.does("held", ""); // The kernel has it, and nobody knows yet.
            let mut spoke = nft.spoke(&host, &args);
            until_true("the lock", SOON, || stands(&host));

            spoke.signal(signal);

            assert_eq!(spoke.wait().code(), Some(0));
            assert_eq!(host.run("nft list ruleset"), "");
            assert_eq!(spoke.count(CLOSED), 0);
        }
    }
    reaches(&host, www.ip4());
}

#[test]
fn a_stop_while_a_long_list_is_loaded_leaves_no_lock() {
    let network = Network::new();
    let www = network.host(3);
    let host = network.host(2);
    let scratch = Scratch::new();
    let list = long_list(&scratch, &www);
    let nft = Nft::new();
    nft.does("slow", "");
    let mut spoke = nft.spoke(&host, &[LOCKED, &["-bypass", &list]].concat());
    until_true("the lock", SOON, || stands(&host));

    assert!(spoke.terminate().success());

    assert_eq!(host.run("nft list ruleset"), "");
}

#[test]
fn a_long_list_does_not_keep_the_machine_open_at_the_start() {
    let network = Network::new();
    let www = network.host(3);
    let host = network.host(2);
    let scratch = Scratch::new();
    let list = long_list(&scratch, &www);
    let locked = [LOCKED, &["-bypass", &list]].concat();
    for args in [
        [SPOKE, &locked].concat(),
        [&["lock"], SPOKE, &locked[2..]].concat(),
    ] {
        let nft = Nft::new();
        nft.does("slow", "");
        let mut lock = nft.dtun(&host, &args);

        until_true("the lock", SOON, || stands(&host));
        reaches_not(&host, www.ip4());

        nft.does_no_longer("slow");
        lock.line(CLOSED);
        reaches(&host, www.ip4());
        drop(lock);
        dtun(&host, "unlock");
    }
}

#[test]
fn a_connection_out_of_a_fixed_port_that_is_older_than_the_lock_ends() {
    let network = Network::new();
    let www = network.host(4);
    let host = network.host(2);
    let bound = host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        // As NFS does.
        socket.bind(&host.at(900).into()).unwrap();
        socket
    });
    it_ends(&network, &host, &www, bound);
}

#[test]
fn so_does_one_that_is_forwarded() {
    let network = Network::new();
    let www = network.host(4);
    let host = network.host(2);
    forward(&host);
    let guest = guest(&host, "docker0", 17);
    let back = format!("route add 172.17.0.0/16 via {}", host.ip4());
    network.router.ip(&back);
    let bound = guest.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::from(([172, 17, 0, 2], 62_010));
        socket.bind(&from.into()).unwrap();
        socket
    });
    it_ends(&network, &host, &www, bound);
}

#[track_caller]
fn it_ends(network: &Network, host: &Host, www: &Host, bound: Socket) {
    let listener = www.enter(|| TcpListener::bind(www.at(80)).unwrap());
    bound.connect(&www.at(80).into()).unwrap();
    let outward = TcpStream::from(bound);
    let (served, _) = listener.accept().unwrap();
    served.set_nodelay(true).unwrap();

    let mut spoke = Daemon::dtun(host, &[SPOKE, LITTLE].concat());
    spoke.line(CLOSED);
    let wire = Wire::of(network, host, &[]);

    // Seen first by what comes in.
    (&served).write_all(b"word").unwrap();
    until_true("an end of the connection", SOON, || {
        (&served).write_all(b"word").unwrap_or_default();
        (&outward).write_all(b"leak").is_err()
    });
    wire.is_tight();
}

#[test]
fn whoever_was_sent_to_in_vain_does_not_open_the_lock_by_sending_back() {
    let network = Network::new();
    let www = network.host(3);
    let host = network.host(2);
    let mut spoke = Daemon::dtun(&host, &[SPOKE, LITTLE].concat());
    spoke.line(CLOSED);
    let socket = |on: &Host, ip: &str, port| on.enter(|| UdpSocket::bind((ip, port)).unwrap());
    for (any, remote) in [
        ("0.0.0.0", www.at(7777)),
        ("::", SocketAddr::from((www.ip6(), 7777))),
    ] {
        let (theirs, ours) = (socket(&www, any, 7777), socket(&host, any, 6881));
        theirs.set_read_timeout(Some(SOON)).unwrap();
        ours.set_read_timeout(Some(SOON)).unwrap();
        let local = match remote {
            SocketAddr::V4(_) => host.at(6881),
            SocketAddr::V6(_) => (host.ip6(), 6881).into(),
        };
        let wire = Wire::of(&network, &host, &["udp sport 6882"]);
        let refused = ours.send_to(b"a leak", remote).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);

        for _ in 0..2 {
            theirs.send_to(b"open", local).unwrap();
            ours.recv_from(&mut [0; 9]).unwrap();
            for _ in 0..10 {
                assert!(ours.send_to(b"a leak", remote).is_err());
            }
        }
        wire.is_tight();

        // One that only answers does.
        let served = socket(&host, any, 6882);
        theirs.send_to(b"question", (local.ip(), 6882)).unwrap();
        served.set_read_timeout(Some(SOON)).unwrap();
        served.recv_from(&mut [0; 9]).unwrap();
        served.send_to(b"answer", remote).unwrap();
        theirs.recv_from(&mut [0; 9]).unwrap();
        wire.end();
    }
}

#[test]
fn a_spoke_without_strict_says_that_a_lock_stands() {
    let network = Network::new();
    let _nobody = network.host(1);
    let host = network.host(2);
    dtun(&host, &format!("lock {}", SPOKE.join(" ")));

    let mut spoke = Daemon::dtun(&host, &[SPOKE, &LOCKED[..2]].concat());

    let line = spoke.line("runs without -strict");
    assert!(
        line.contains("WARN") && line.contains("dtun unlock"),
        "{line}"
    );
    spoke.kill();
    let said = dtun(&host, "clean");
    assert!(
        said.contains("is left") && said.contains("dtun unlock"),
        "{said}"
    );
    dtun(&host, "unlock");
    assert_eq!(dtun(&host, "clean"), "");
    spoke.restart();
    spoke.line("dialling");
    assert_eq!(spoke.count("runs without -strict"), 1);
}

#[test]
fn a_bridge_that_the_uplink_joins_later_was_never_inside() {
    let network = Network::new();
    let www = network.host(3);
    let host = network.host(2);
    host.ip("link add br0 type bridge");
    host.ip("link set br0 up");
    dtun(&host, &format!("lock {}", SPOKE.join(" ")));
    let wire = Wire::of(&network, &host, &[]);

    host.ip("link set uplink master br0");
    host.ip("addr flush dev uplink");
    host.ip(&format!("addr add {}/24 dev br0", host.ip4()));
    host.ip(&format!("route add default via {}", host.gateway4()));

    reaches_not(&host, host.gateway4());
    reaches_not(&host, www.ip4());
    wire.is_tight();
}

#[test]
fn a_resolver_that_the_lock_shuts_off_is_told_of() {
    let network = Network::new();
    let _nobody = network.host(1);
    let host = network.host(2);
    let own = format!("nameserver {}\n", host.gateway4());
    host.etc("resolv.conf", &own);
    let mut spoke = Daemon::dtun(&host, &[SPOKE, LOCKED].concat());

    let line = spoke.line("names cannot be asked for");
    assert!(line.contains(&host.gateway4().to_string()), "{line}");
    assert!(line.contains("-dns") && line.contains("-bypass"), "{line}");
    assert!(spoke.terminate().success());

    let bypass = format!("{}/32", host.gateway4());
    for way in [["-bypass", &bypass], ["-dns", "10.0.0.1"]] {
        let mut spoke = Daemon::dtun(&host, &[SPOKE, LOCKED, &way].concat());
        spoke.line("dialling");
        assert_eq!(spoke.count("names cannot"), 0, "{}", spoke.text());
        assert!(spoke.terminate().success());
    }
}

#[test]
fn a_lock_that_cannot_be_put_back_is_told_of_and_does_not_keep_a_stop_waiting() {
    let network = Network::new();
    let _nobody = network.host(1);
    let www = network.host(3);
    let host = network.host(2);
    let nft = Nft::new();
    let mut spoke = nft.spoke(&host, LOCKED);
    spoke.line(CLOSED);
    nft.does("hang", "");

    host.run("nft delete table inet dtun-lock");

    let start = Instant::now();
    spoke.line("everything may leave this machine");
    assert!(start.elapsed() < Duration::from_secs(4));
    assert!(spoke.line("failed to put it back").contains("ERROR"));
    reaches_within(&host, www.ip4(), SOON);
    let start = Instant::now();
    assert!(spoke.terminate().success());
    assert!(start.elapsed() < Duration::from_secs(12));
    spoke.line("failed to remove the lock");
}

#[test]
fn a_hangup_leaves_the_lock_closed() {
    let network = Network::new();
    let _nobody = network.host(1);
    let www = network.host(3);
    let mut spoke = Spoke::start(&network, 2, LOCKED);
    spoke.line(CLOSED);

    spoke.signal(Signal::SIGHUP);

    assert!(spoke.wait().success());
    let text = spoke.text();
    assert!(
        text.lines().last().unwrap().contains("stays closed"),
        "{text}"
    );
    reaches_not(&spoke.host, www.ip4());
}

/// A file of so many networks that nft takes its time, and of one host.
fn long_list(scratch: &Scratch, open: &Host) -> String {
    let nets = (0..20_000).map(|at| format!("100.{}.{}.0/25\n", 64 + at / 256, at % 256));
    let text = nets.collect::<String>() + &format!("{}/32\n", open.ip4());
    let list = scratch.path("list");
    std::fs::write(&list, text).unwrap();

    list
}

/// Whether the lock stands, with all that it refuses.
fn stands(host: &Netns) -> bool {
    host.try_run("nft list chain inet dtun-lock last")
        .is_ok_and(|chain| chain.contains("drop"))
}
