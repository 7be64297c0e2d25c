//! `-strict`: nothing leaves beside the tunnel, whatever happens.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, Network, connect, track};
use crate::resolver::Resolver;
use crate::scratch::Scratch;
use crate::traffic::{Flow, reaches, reaches_not, reaches_within, transfer};
use crate::tunnel::{HUB4, HUB6, Hub, Spoke};
use crate::wait::until_true;
use crate::wire::{Chatter, Wire};

#[test]
fn not_one_packet_leaves_by_another_way() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let www = network.host(3);
    let mut spoke = Spoke::start(&network, 2, &[LOCKED, &["-keepalive", "1s"]].concat());
    spoke.line(CLOSED);
    let wire = Wire::of(&network, &spoke.host, &[]);
    let chatter = Chatter::start(&spoke.host, everywhere(&www, &spoke.host));

    spoke.lease();
    reaches(&spoke.host, HUB4);
    reaches(&spoke.host, HUB6);
    wire.is_tight();

    // The hub goes and comes back.
    hub.kill();
    spoke.line("tunnel down");
    spoke.line("until there is a tunnel nothing leaves");
    hub.restart();
    spoke.lease();
    reaches(&spoke.host, HUB4);
    wire.is_tight();

    // The program is killed, and started again.
    let own = wire.own();
    spoke.kill();
    reaches_not(&spoke.host, www.ip4());
    reaches_not(&spoke.host, www.ip6());
    wire.is_tight();
    spoke.restart();
    spoke.line(TAKEN_OVER);
    spoke.lease();
    reaches(&spoke.host, HUB4);
    assert!(wire.own() > own, "the tunnel's datagrams are seen");
    wire.is_tight();

    // The service manager restarts it.
    spoke.signal(Signal::SIGUSR1);
    assert!(spoke.wait().success());
    spoke.line("stays closed");
    reaches_not(&spoke.host, www.ip4());
    spoke.restart();
    spoke.lease();
    wire.is_tight();

    // Somebody deletes the device.
    spoke.host.ip("link del dtun0");
    spoke.lease();
    reaches(&spoke.host, HUB4);
    wire.is_tight();

    // A stop by hand opens it, and all that was held back is seen.
    assert!(spoke.terminate().success());
    until_true("packets beside the tunnel", SOON, || wire.leaks() > 100);
    drop(chatter);
}

#[test]
fn a_stop_leaves_the_firewall_as_it_was() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.run("nft add table inet theirs");
    host.run("nft add chain inet theirs in { type filter hook input priority 0 ; }");
    let before = host.run("nft list ruleset");
    for strict in [LOCKED, &LOCKED[..2]] {
        let mut spoke = Daemon::dtun(&host, &[SPOKE, strict].concat());
        spoke.line("tunnel up");
        let during = host.run("nft list ruleset");
        assert!(during.contains("10.0.0."), "{during}");

        assert!(spoke.terminate().success());

        assert_eq!(host.run("nft list ruleset"), before);
    }
}

#[test]
fn what_is_refused_is_refused_at_once() {
    let network = Network::new();
    let _nobody = network.host(1);
    let www = network.host(3);
    let mut spoke = Spoke::start(&network, 2, LOCKED);
    spoke.line(CLOSED);

    for to in [IpAddr::from(www.ip4()), www.ip6().into()] {
        for device in [None, Some("uplink")] {
            let start = Instant::now();
            let refused = connects_by(&spoke.host, (to, 80).into(), device);
            assert_eq!(
                refused,
                Err(ErrorKind::ConnectionRefused),
                "{to} {device:?}"
            );
            assert!(start.elapsed() < Duration::from_secs(1), "{to} {device:?}");
        }
    }
    spoke.kill();
    let refused = connects(&spoke.host, (www.ip4(), 80).into());
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
}

#[test]
fn whoever_comes_from_outside_is_answered_under_the_lock() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let admin = network.host(3);
    let (mut spoke, _) = Spoke::up(&network, 2, LOCKED);
    let session = Flow::start(&admin, &spoke.host, spoke.host.ip4());

    for at in [IpAddr::from(spoke.host.ip4()), spoke.host.ip6().into()] {
        reaches(&admin, at);
        transfer(&admin, &spoke.host, at, 100_000);
    }
    spoke.kill();

    session.moves_within(SOON);
    session.finish();
    for at in [IpAddr::from(spoke.host.ip4()), spoke.host.ip6().into()] {
        transfer(&admin, &spoke.host, at, 100_000);
    }
}

#[test]
fn a_session_that_is_older_than_the_lock_goes_on_and_one_out_of_the_machine_does_not() {
    an_older_session_goes_on(|_| {});
}

#[test]
fn so_does_one_that_the_machine_tracked() {
    an_older_session_goes_on(track);
}

#[track_caller]
fn an_older_session_goes_on(prepare: fn(&Netns)) {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (admin, www) = (network.host(3), network.host(4));
    let host = network.host(2);
    prepare(&host);
    // As sshd does: its port is none that the kernel would give away.
    let listener = host.enter(|| TcpListener::bind((host.ip4(), 22)).unwrap());
    let inward = admin.enter(|| TcpStream::connect((host.ip4(), 22)).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    let listener = www.enter(|| TcpListener::bind((www.ip4(), 80)).unwrap());
    let outward = host.enter(|| TcpStream::connect((www.ip4(), 80)).unwrap());
    let (served, _) = listener.accept().unwrap();

    let mut spoke = Daemon::dtun(&host, &[SPOKE, LITTLE].concat());
    spoke.line("tunnel up");

    // Both are seen first by what comes in.
    says(&inward, &accepted);
    says(&accepted, &inward);
    says(&served, &outward);
    let wire = Wire::of(&network, &host, &["tcp sport 22"]);
    std::io::Write::write_all(&mut &outward, b"leak").unwrap_or_default();
    until_true("an end of the connection", SOON, || {
        std::io::Write::write_all(&mut &outward, b"leak").is_err()
    });
    wire.is_tight();
}

#[test]
fn the_bypass_is_open_and_the_lan_is_not() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (open, closed) = (network.host(3), network.host(4));
    let list = format!("{}/32,{}/128", open.ip4(), open.ip6());

    let (spoke, _) = Spoke::up(&network, 2, &[LOCKED, &["-bypass", &list]].concat());

    reaches(&spoke.host, open.ip4());
    reaches(&spoke.host, open.ip6());
    reaches_not(&spoke.host, closed.ip4());
    reaches_not(&spoke.host, spoke.host.gateway4());
    reaches_not(&spoke.host, spoke.host.gateway6());
}

#[test]
fn a_bypass_list_that_changed_is_open_in_one_step() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (first, second) = (network.host(3), network.host(4));
    let scratch = Scratch::new();
    let list = scratch.path("list");
    let write = |at: &Host| std::fs::write(&list, format!("{}\n{}\n", at.ip4(), at.ip6())).unwrap();
    write(&first);
    let (spoke, _) = Spoke::up(&network, 2, &[LOCKED, &["-bypass", &list]].concat());
    reaches(&spoke.host, first.ip4());
    reaches_not(&spoke.host, second.ip4());

    write(&second);

    reaches_within(&spoke.host, second.ip4(), SOON);
    reaches(&spoke.host, second.ip6());
    reaches_not(&spoke.host, first.ip4());
}

#[test]
fn the_hubs_name_is_found_under_the_lock_and_others_ask_by_the_tunnel_only() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let lan = Resolver::start(&network.router, host.gateway4(), [198, 18, 1, 2]);
    let own = format!("nameserver {}\n", host.gateway4());
    host.etc("resolv.conf", &own);
    let bypass = format!("{}/32", host.gateway4());
    let flags = [
        "-connect",
        "hub.example:443",
        "-dns",
        "10.0.0.1",
        "-bypass",
        &bypass,
    ];

    let mut spoke = Spoke::start_on(host, &[LOCKED, &flags].concat());
    spoke.lease();

    let asked = lan.askers().len();
    assert!(asked > 0);
    let far = Resolver::start(&hub.host, HUB4, [203, 0, 113, 1]);
    let names = spoke.host.run("getent ahostsv4 www.example");
    assert!(names.contains("203.0.113.1"), "{names}");
    assert!(!far.askers().is_empty());
    reaches(&spoke.host, spoke.host.gateway4());
    let question = spoke.host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.bind_device(Some(b"uplink")).unwrap();
        UdpSocket::from(socket).send_to(b"a question", (spoke.host.gateway4(), 53))
    });
    assert_eq!(question.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(lan.askers().len(), asked);
}

#[test]
fn addresses_are_leased_under_the_lock() {
    let network = Network::new();
    let _nobody = network.host(1);
    let mut spoke = Spoke::start(&network, 2, LOCKED);
    spoke.line(CLOSED);
    let wire = Wire::of(&network, &spoke.host, &["udp sport 68 udp dport 67"]);

    spoke.host.enter(|| {
        let from = |port: u16| {
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket
        };
        from(68).send_to(b"discover", "255.255.255.255:67").unwrap();
        let refused = from(69).send_to(b"a leak", "255.255.255.255:67");
        assert!(refused.is_err());
    });

    wire.is_tight();
}

#[test]
fn guests_of_the_machine_are_inside_and_get_out_no_other_way() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let www = network.host(3);
    let host = network.host(2);
    let first = guest(&host, "docker0", 17);
    let mut spoke = Daemon::dtun(&host, &[SPOKE, LITTLE].concat());
    spoke.line("tunnel up");
    crate::network::forward(&host);
    reaches(&host, [172, 17, 0, 2]);

    let second = guest(&host, "br-new", 18);

    reaches_within(&host, [172, 18, 0, 2], Duration::from_secs(5));
    reaches(&first, [172, 18, 0, 2]);
    let wire = Wire::of(&network, &host, &[]);
    for guest in [&first, &second] {
        let refused = connects(guest, (www.ip4(), 80).into());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        reaches_not(guest, www.ip4());
    }
    wire.is_tight();

    // A guest that routes the machine to others is the network outside.
    host.ip("route replace default via 172.18.0.2");
    until_true("a closed bridge", SOON, || {
        host.try_run("ping -n -q -W 1 -c 1 172.18.0.2").is_err()
    });
}

#[test]
fn a_lock_that_is_flushed_is_back_within_a_second_also_in_a_loop() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let www = network.host(3);
    let (mut spoke, _) = Spoke::up(&network, 2, LOCKED);

    for round in 0..8 {
        spoke.host.run("nft flush ruleset");
        let start = Instant::now();
        until_true("the lock", Duration::from_secs(1), || {
            spoke
                .host
                .try_run("nft list chain inet dtun-lock last")
                .is_ok_and(|chain| chain.contains("drop"))
        });
        assert!(start.elapsed() < Duration::from_secs(1), "round {round}");
        reaches_within(&spoke.host, HUB4, SOON);
    }
    reaches_not(&spoke.host, www.ip4());
    spoke.line("again and again");
    assert_eq!(spoke.count("again and again"), 1, "{}", spoke.text());

    for change in [
        "nft flush chain inet dtun-lock last",
        "nft delete table inet dtun-lock",
        "nft add element inet dtun-lock inside { uplink }",
    ] {
        spoke.host.run(change);
        until_true(change, Duration::from_secs(1), || {
            let table = spoke.host.try_run("nft list table inet dtun-lock");
            table.is_ok_and(|table| {
                table.matches("counter").count() > 3 && !table.contains("uplink")
            })
        });
    }
}

#[test]
fn a_long_list_does_not_keep_a_flushed_lock_open() {
    let network = Network::new();
    let _nobody = network.host(1);
    let www = network.host(3);
    let scratch = Scratch::new();
    let list = scratch.path("list");
    let nets = (0..40_000).map(|at| format!("100.{}.{}.0/25\n", 64 + at / 256, at % 256));
    let open = format!("{}/32\n", www.ip4());
    std::fs::write(&list, nets.collect::<String>() + &open).unwrap();
    let mut spoke = Spoke::start(&network, 2, &[LOCKED, &["-bypass", &list]].concat());
    spoke.line(CLOSED);
    reaches(&spoke.host, www.ip4());

    spoke.host.run("nft flush ruleset");

    until_true("the lock", Duration::from_secs(1), || {
        spoke
            .host
            .try_run("nft list chain inet dtun-lock last")
            .is_ok_and(|chain| chain.contains("drop"))
    });
    reaches_within(&spoke.host, www.ip4(), SOON);
}

#[test]
fn an_unlock_for_a_time_ends_by_itself_or_by_a_lock() {
    let network = Network::new();
    let _nobody = network.host(1);
    let www = network.host(3);
    let mut spoke = Spoke::start(&network, 2, LOCKED);
    spoke.line(CLOSED);

    assert!(dtun(&spoke.host, "unlock -for 2s").contains("open"));
    reaches(&spoke.host, www.ip4());
    reaches_within_not(&spoke.host, &www);
    spoke.line("is open");
    spoke.line("closed again");

    dtun(&spoke.host, "unlock -for 1h");
    reaches(&spoke.host, www.ip6());
    spoke.line("everything may leave");
    dtun(&spoke.host, "lock");
    reaches_not(&spoke.host, www.ip6());

    // The kernel keeps it open, nobody has to be there.
    dtun(&spoke.host, "unlock -for 1h");
    spoke.kill();
    reaches(&spoke.host, www.ip4());
    spoke.restart();
    spoke.line(TAKEN_OVER);
    reaches_not(&spoke.host, www.ip4());
}

#[test]
fn an_unlock_for_good_holds_until_the_next_start() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let www = network.host(3);
    let (mut spoke, _) = Spoke::up(&network, 2, LITTLE);

    dtun(&spoke.host, "unlock");

    reaches(&spoke.host, www.ip4());
    reaches(&spoke.host, HUB4);
    let said = dtun_fails(&spoke.host, "unlock -for 1s");
    assert!(said.contains("no lock"), "{said}");
    spoke.kill();
    spoke.restart();
    spoke.lease();
    reaches_not(&spoke.host, www.ip4());

    // Closed again, it is the spoke's own: the tunnel passes, and a stop opens it.
    dtun(&spoke.host, "unlock");
    reaches(&spoke.host, www.ip4());
    for _ in 0..2 {
        dtun(&spoke.host, "lock");
        reaches_not(&spoke.host, www.ip4());
        reaches(&spoke.host, HUB4);
    }
    spoke.line("closed again");
    spoke.host.run("nft flush ruleset");
    spoke.line("put back");
    reaches_not(&spoke.host, www.ip4());
    assert!(spoke.terminate().success());
    assert_eq!(spoke.host.run("nft list ruleset"), "");
    spoke.restart();
    spoke.lease();

    // Nobody is there who would have to be told.
    spoke.kill();
    dtun(&spoke.host, "unlock");
    assert_eq!(spoke.host.run("nft list ruleset"), "");
    reaches(&spoke.host, www.ip4());
}

#[test]
fn a_lock_without_a_spoke_waits_for_it() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let www = network.host(3);
    let host = network.host(2);
    let bypass = format!("lock {} -bypass {}/129", SPOKE.join(" "), www.ip6());
    // A network of that length is none of IPv6: it is taken for a file.
    let said = dtun_fails(&host, &bypass);
    assert!(said.contains("-bypass"), "{said}");

    dtun(
        &host,
        &format!("lock {} -bypass {}/128", SPOKE.join(" "), www.ip6()),
    );

    reaches_not(&host, www.ip4());
    reaches(&host, www.ip6());
    let wire = Wire::of(&network, &host, &[]);
    let mut spoke = Daemon::dtun(&host, &[SPOKE, LOCKED].concat());
    spoke.line(TAKEN_OVER);
    spoke.line("tunnel up");
    reaches(&host, HUB4);
    reaches_not(&host, www.ip6());
    wire.is_tight();
}

#[test]
fn two_locks_on_one_machine_are_refused() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let (spoke, _) = Spoke::up(&network, 2, LOCKED);

    let mut other = Daemon::dtun(&spoke.host, &[SPOKE, LOCKED].concat());

    other.line("another dtun runs with -strict");
    assert_eq!(other.wait().code(), Some(1));
    reaches(&spoke.host, HUB4);
}

#[test]
fn without_nft_the_lock_refuses_and_a_tunnel_goes_without() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let host = network.host(2);
    let bare = |args: &[&str]| {
        let hide = "mount -t tmpfs none /usr/sbin && exec \"$@\"";
        let mut command = host.command("unshare");
        command.args(["-m", "sh", "-c", hide, "sh", env!("CARGO_BIN_EXE_dtun")]);
        command.args([SPOKE, args].concat());
        Daemon::spawn(command)
    };

    let mut strict = bare(LOCKED);
    assert!(strict.line("ERROR").contains("nft is missing"));
    assert_eq!(strict.wait().code(), Some(1));

    let mut spoke = bare(&LOCKED[..2]);
    assert!(spoke.line("firewall").contains("nft is missing"));
    spoke.line("tunnel up");
    reaches(&host, HUB4);
}

#[test]
fn a_tunnel_that_the_lock_could_not_be_told_of_passes_later() {
    let network = Network::new();
    let host = network.host(2);
    let nft = Nft::new();
    let mut spoke = nft.spoke(&host, LOCKED);
    spoke.line(CLOSED);

    nft.does("fail", "");
    let _hub = Hub::start(&network, &[]);

    spoke.line("nothing passes by the tunnel either");
    spoke.line("tunnel up");
    reaches_not(&host, HUB4);
    nft.does_no_longer("fail");
    reaches_within(&host, HUB4, SOON);
    spoke.line("the firewall has its rules");
}

#[test]
fn what_others_do_while_the_lock_is_changed_is_seen() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);
    let www = network.host(3);
    let host = network.host(2);
    let nft = Nft::new();
    let mut spoke = nft.spoke(&host, LITTLE);
    spoke.line("tunnel up");
    let is_whole = || {
        let chain = host.try_run("nft list chain inet dtun-lock last");
        chain.is_ok_and(|chain| {
            chain.contains("counter") && chain.contains("jump ways") && chain.contains("@inside")
        })
    };
    until_true("the lock", SOON, is_whole);

    for change in [
        "flush table inet dtun-lock",
        "delete table inet dtun-lock",
        "flush chain inet dtun-lock last",
        "insert rule inet dtun-lock last accept",
    ] {
        nft.does("then", &format!("nft {change}"));
        host.run("nft delete table inet dtun-lock");
        until_true(change, SOON, || nft.has_done());
        until_true(change, Duration::from_secs(2), || {
            is_whole()
                && host
                    .try_run(&format!("ping -n -q -W 1 -c 1 {}", www.ip4()))
                    .is_err()
        });
    }

    nft.does(
        "then",
        "nft 'add element inet dtun-lock open { ipv4, ipv6 }'",
    );
    // Fails where the change before is being put back, and that does it.
    host.try_run("nft flush chain inet dtun-lock last")
        .unwrap_or_default();
    spoke.line("opened by `dtun unlock`");
    reaches_within(&host, www.ip4(), SOON);
    reaches(&host, HUB4);
}

/// A program nft that fails while there is a file `fail`, does nothing while there
/// is `hang`, nor with a long script while there is `slow`; once it has made a table
/// anew it does what a file `then` says, once, and does not end while there is `held`.
pub(crate) struct Nft(Scratch);

impl Nft {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let folder = scratch.path("");
        std::fs::copy("/usr/sbin/nft", scratch.path("nft")).unwrap();
        scratch.script(
            "wrapper",
            &format!(
                "cd {folder}\n[ -e fail ] && {{ echo 'Error: it fails' >&2; exit 1; }}\n\
                 case $* in *-i*) exec ./nft \"$@\";; esac\n\
                 cat > script\nwhile_there() {{ while [ -e $1 ]; do sleep 0.05; done; }}\n\
                 while_there hang\n\
                 [ $(wc -c < script) -gt 50000 ] && while_there slow\n\
                 ./nft \"$@\" < script\ncode=$?\nPATH=.:$PATH\n\
                 grep -q 'flush table' script || exit $code\n\
                 mv then now 2>/dev/null && {{ sh now; mv now done; }}\n\
                 while_there held\nexit $code"
            ),
        );

        Self(scratch)
    }

    /// A spoke that has no other.
    pub(crate) fn spoke(&self, host: &Netns, args: &[&str]) -> Daemon {
        self.dtun(host, &[SPOKE, args].concat())
    }

    /// The same for any of our commands.
    pub(crate) fn dtun(&self, host: &Netns, args: &[&str]) -> Daemon {
        let bind = "mount --bind \"$0\" /usr/sbin/nft && exec \"$@\"";
        let mut command = host.command("unshare");
        command.args(["-m", "sh", "-c", bind, &self.0.path("wrapper")]);
        command.arg(env!("CARGO_BIN_EXE_dtun"));
        command.args(args);

        Daemon::spawn(command)
    }

    pub(crate) fn does(&self, name: &str, script: &str) {
        std::fs::write(self.0.path("new"), script).unwrap();
        std::fs::rename(self.0.path("new"), self.0.path(name)).unwrap();
    }

    /// The end of what [`Self::does`].
    pub(crate) fn does_no_longer(&self, name: &str) {
        std::fs::remove_file(self.0.path(name)).unwrap();
    }

    /// Whether `then` is done; the next call asks for the next.
    fn has_done(&self) -> bool {
        std::fs::remove_file(self.0.path("done")).is_ok()
    }
}

/// Runs `dtun lock` or `dtun unlock`; returns what it said.
#[track_caller]
pub(crate) fn dtun(host: &Netns, line: &str) -> String {
    let (code, said) = call(host, line);
    assert_eq!(code, Some(0), "{line}: {said}");

    said
}

/// The same where it must fail.
#[track_caller]
fn dtun_fails(host: &Netns, line: &str) -> String {
    let (code, said) = call(host, line);
    assert!(code.is_some_and(|code| code > 0), "{line}: {said}");

    said
}

fn call(host: &Netns, line: &str) -> (Option<i32>, String) {
    let mut command = host.command(env!("CARGO_BIN_EXE_dtun"));
    let output = command.args(line.split_whitespace()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();

    (output.status.code(), String::from_utf8(said).unwrap())
}

/// A container behind a bridge of its own, as Docker makes them.
pub(crate) fn guest(host: &Host, bridge: &str, net: u8) -> Netns {
    let guest = Netns::new(bridge);
    let port = format!("port{net}");
    host.ip(&format!("link add {bridge} type bridge"));
    connect(host, &port, &guest, "eth0");
    host.ip(&format!("link set {port} master {bridge}"));
    host.ip(&format!("addr add 172.{net}.0.1/16 dev {bridge}"));
    host.ip(&format!("link set {bridge} up"));
    guest.ip(&format!("addr add 172.{net}.0.2/16 dev eth0"));
    guest.ip(&format!("route add default via 172.{net}.0.1"));

    guest
}

/// www by UDP and TCP, resolvers there and on the LAN, both families.
fn everywhere(www: &Host, host: &Host) -> Vec<SocketAddr> {
    [
        SocketAddr::from((www.ip4(), 80)),
        (www.ip6(), 80).into(),
        (www.ip4(), 53).into(),
        (www.ip6(), 53).into(),
        (host.gateway4(), 53).into(),
        (host.gateway6(), 53).into(),
        ([198, 18, 1, 2], 22).into(),
    ]
    .into()
}

fn connects(from: &Netns, to: SocketAddr) -> Result<(), ErrorKind> {
    connects_by(from, to, None)
}

fn connects_by(from: &Netns, to: SocketAddr, device: Option<&str>) -> Result<(), ErrorKind> {
    from.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind_device(device.map(str::as_bytes))?;
        socket.connect_timeout(&to.into(), SOON)
    })
    .map_err(|error| error.kind())
}

#[track_caller]
fn says(mut from: &TcpStream, mut to: &TcpStream) {
    use std::io::{Read, Write};

    from.write_all(b"word").unwrap();
    to.set_read_timeout(Some(SOON)).unwrap();
    to.read_exact(&mut [0; 4]).unwrap();
}

fn reaches_within_not(from: &Netns, www: &Host) {
    until_true("a closed lock", SOON, || {
        from.try_run(&format!("ping -n -q -W 1 -c 1 {}", www.ip4()))
            .is_err()
    });
}

pub(crate) const LOCKED: &[&str] = &["-route", "default", "-strict"];

/// What goes elsewhere finds the lock itself, not a hub that forwards nothing.
pub(crate) const LITTLE: &[&str] = &["-route", "192.0.2.0/24", "-strict"];

/// A spoke whose state nobody keeps.
pub(crate) const SPOKE: &[&str] = &[
    "-key",
    "foo",
    "-id",
    "spoke2",
    "-state",
    concat!(env!("CARGO_TARGET_TMPDIR"), "/lock"),
    "-connect",
    "198.18.1.2:443",
];

pub(crate) const CLOSED: &str = "the lock of -strict is closed";

const TAKEN_OVER: &str = "is taken over";

pub(crate) const SOON: Duration = Duration::from_secs(10);
