//! A proxy in user space whose own packets take another way than those that
//! are given to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::{Machine, recipe};
use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::picture::{HUB_AT_WWW4, Picture, WWW4};
use crate::policy::everything;

#[test]
fn all_goes_to_the_proxy_and_what_the_proxy_sends_into_the_tunnel() {
    let [user, device, dtun, undo] = recipe("A proxy with a device of its own");
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.sysctl("ipv4/conf/all/rp_filter", "2");
    let other = picture.network.host(4);
    let machine = Machine::new(&laptop);
    let before = everything(&laptop);

    machine.run(&user);
    machine.run(&device);
    assert_eq!(answered(&laptop, &picture.www, WWW4), None);
    let mut spoke = machine.spoke(&dtun);
    let mut by_tunnel = proxy(&machine, "");
    assert_eq!(
        answered(&laptop, &picture.www, WWW4),
        Some(HUB_AT_WWW4.into())
    );
    let hub = picture.hub.host.ip4();
    assert_eq!(answered(&laptop, &other, other.ip4()), Some(hub.into()));
    assert!(laptop.ip("route get 203.0.113.2").contains("dev clash0"));
    by_tunnel.kill();
    assert_eq!(answered(&laptop, &other, other.ip4()), None);

    // Bound to the uplink, it goes past the tunnel.
    let mut past = proxy(&machine, "uplink");
    let own = IpAddr::from(laptop.ip4());
    assert_eq!(answered(&laptop, &other, other.ip4()), Some(own));
    past.kill();

    // Without a way to the hub, nothing goes round.
    let way = laptop.ip("route show default");
    laptop.ip("route del default");
    let marked = "route get 198.18.1.2 mark 0x640000";
    assert!(laptop.try_ip(marked).is_err());
    laptop.ip(&format!("route add {}", way.trim()));

    assert!(spoke.terminate().success());
    machine.run(&undo);
    assert_eq!(everything(&laptop), before);
}

/// Starts the proxy on `clash0`, as its user; its sockets are bound to a device
/// if one is named.
fn proxy(machine: &Machine, bound: &str) -> Daemon {
    let command = machine.command("clash", &format!("exec perl -e '{PROXY}' clash0 {bound}"));
    let mut daemon = Daemon::spawn(command);
    daemon.line("ready");

    daemon
}

/// Whom `to` sees when a datagram to `at`, its address, is answered.
fn answered(from: &Netns, to: &Netns, at: Ipv4Addr) -> Option<IpAddr> {
    let server = to.enter(|| UdpSocket::bind((at, 0)).unwrap());
    let address: SocketAddr = server.local_addr().unwrap();
    let client = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SOON)).unwrap();
    }
    client.send_to(b"who am I?", address).unwrap();
    let mut text = [0; 64];
    let (_, asker) = server.recv_from(&mut text).ok()?;
    server.send_to(b"you", asker).unwrap();
    let (len, answerer) = client.recv_from(&mut text).unwrap();
    assert_eq!((&text[..len], answerer), (&b"you"[..], address));

    Some(asker.ip())
}

const SOON: Duration = Duration::from_secs(2);

/// Passes on the UDP datagrams that come by the device `$ARGV[0]` from sockets
/// of its own, and gives it their answers (RFC 791, section 3.1; RFC 768).
const PROXY: &str = r#"
use strict; use warnings; use Socket;
my ($device, $bound) = @ARGV;
open(my $tun, "+<", "/dev/net/tun") or die "tun: $!";
my $request = pack("a16 S x22", $device, 0x1001);
ioctl($tun, 0x400454ca, $request) or die "$device: $!";
$| = 1; print "ready\n";
my %flow;
while (1) {
    my $ready = "";
    vec($ready, fileno($_), 1) = 1 for $tun, map { $_->{socket} } values %flow;
    select($ready, undef, undef, undef);
    if (vec($ready, fileno($tun), 1)) {
        sysread($tun, my $packet, 65535);
        next unless unpack("C", $packet) == 0x45 && unpack("x9 C", $packet) == 17;
        my ($from, $to, $sport, $dport) = unpack("x12 a4 a4 n n", $packet);
        my $flow = $flow{"$from $to $sport $dport"} //= do {
            socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die "$!";
            setsockopt($socket, SOL_SOCKET, 25, "$bound\0") or die "$bound: $!" if $bound;
            { socket => $socket, ends => [$to, $from, $dport, $sport] };
        };
        send($flow->{socket}, substr($packet, 28), 0, sockaddr_in($dport, $to)) or warn "$!";
    }
    for my $flow (values %flow) {
        next unless vec($ready, fileno($flow->{socket}), 1);
        recv($flow->{socket}, my $text, 65535, 0);
        my ($to, $from, $dport, $sport) = @{$flow->{ends}};
        my $head = sub { pack("C2 n3 C2 n a4 a4", 0x45, 0, 28 + length $text, 0, 0, 64, 17, $_[0], $to, $from) };
        my $sum = unpack("%32n*", $head->(0));
        $sum = ($sum & 0xffff) + ($sum >> 16) while $sum >> 16;
        syswrite($tun, $head->(~$sum & 0xffff) . pack("n4", $dport, $sport, 8 + length $text, 0) . $text);
    }
}
"#;
