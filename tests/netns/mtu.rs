//! Paths that carry less than their ends' interfaces say.
//!
//! ```text
//!   host 1 (hub) ── near ═══ 1280 ═══ far ── host 2 (spoke)
//! ```
//!
//! All other links carry 1500 bytes, so nobody's own interface tells of it.

use std::net::IpAddr;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, Network, connect};
use crate::traffic::{Flow, reaches, transfer};
use crate::tunnel::{HUB4, HUB6, Hub, SOON, Spoke, mtu};
use crate::wait::{until, until_true};
use crate::watch::Watch;

#[test]
fn all_goes_through_a_path_of_1280_that_swallows_icmp() {
    let path = Path::new();
    path.narrow(1280);
    path.swallow_icmp();
    let hub = Hub::start(&path.near, &[]);
    let (spoke, lease) = Spoke::up(&path.far, 2, &[]);
    let ip6 = lease.ip6.unwrap();

    // At once, while nobody knows of the path yet.
    for (from, to, at) in [
        (&spoke.host, &hub.host, HUB4),
        (&hub.host, &spoke.host, lease.ip4),
        (&spoke.host, &hub.host, HUB6),
        (&hub.host, &spoke.host, ip6),
    ] {
        transfer(from, to, at, 20_000_000);
    }

    // The devices keep what IPv6 needs.
    let at_hub = hub.device("spoke2").unwrap().name;
    assert_eq!(mtu(&spoke.host, "dtun0"), 1435);
    assert_eq!(mtu(&hub.host, &at_hub), 1435);
    reaches(&spoke.host, HUB6);
}

#[test]
fn whoever_sends_too_much_is_told_by_either_end() {
    let path = Path::new();
    path.narrow(1280);
    path.swallow_icmp();
    let hub = Hub::start(&path.near, &[]);
    let (spoke, lease) = Spoke::up(&path.far, 2, &[]);

    for (host, to) in [(&spoke.host, HUB4), (&hub.host, lease.ip4)] {
        until_told(host, to, 1435, 1215);
        ping(host, to, 1215, "do").unwrap();
        assert!(ping(host, to, 1216, "do").is_err());
        // Without DF it goes in pieces.
        ping(host, to, 1435, "dont").unwrap();
    }
    for (host, to) in [(&spoke.host, HUB6), (&hub.host, lease.ip6.unwrap())] {
        until_told(host, to, 1400, 1280);
        ping(host, to, 1280, "do").unwrap();
    }
}

#[test]
fn a_path_over_ipv6_is_measured_too() {
    let path = Path::new();
    path.narrow(1280);
    path.swallow_icmp();
    let hub = Hub::start(&path.near, &[]);
    let at = format!("[{}]:443", hub.host.ip6());
    let (spoke, lease) = Spoke::up(&path.far, 2, &["-connect", &at]);

    until_told(&spoke.host, HUB4, 1415, 1195);
    until_told(&hub.host, lease.ip4, 1415, 1195);
    transfer(&spoke.host, &hub.host, HUB6, 4_000_000);
    transfer(&hub.host, &spoke.host, lease.ip6.unwrap(), 4_000_000);
}

#[test]
fn what_nobody_may_refuse_passes_an_ipv6_path_of_1280_that_says_nothing() {
    let path = Path::new();
    path.narrow(1280);
    path.swallow_icmp();
    let hub = Hub::start(&path.near, &[]);
    let at = format!("[{}]:443", hub.host.ip6());
    let (spoke, lease) = Spoke::up(&path.far, 2, &["-connect", &at]);
    until_told(&spoke.host, HUB4, 1415, 1195);
    until_told(&hub.host, lease.ip4, 1415, 1195);
    // Told once, an IPv6 sender makes 1280 bytes of each fragment.
    until_told(&spoke.host, HUB6, 1400, 1280);
    until_told(&hub.host, lease.ip6.unwrap(), 1400, 1280);
    let watch = Watch::new(&path.near.router, "forward");
    watch.count("fragments", "exthdr frag exists", "");

    for (host, to4, to6) in [
        (&spoke.host, HUB4, HUB6),
        (&hub.host, lease.ip4, lease.ip6.unwrap()),
    ] {
        for size in [1195, 1196, 1240, 1280] {
            ping(host, to6, size, "do").unwrap();
        }
        // In fragments of its own; the second in fragments of fragments.
        for size in [1195, 1196, 1415, 1416, 9000] {
            ping(host, to4, size, "dont").unwrap();
        }
        ping(host, to6, 5000, "dont").unwrap();
    }

    // The datagrams around them stayed whole.
    assert_eq!(watch.packets("fragments"), 0);
}

#[test]
fn ipv6_in_ipv6_keeps_its_1280_where_routers_say_what_they_carry() {
    let path = Path::new();
    path.narrow(1280);
    let hub = Hub::start(&path.near, &[]);
    let at = format!("[{}]:443", hub.host.ip6());
    let (spoke, lease) = Spoke::up(&path.far, 2, &["-connect", &at]);
    until_told(&spoke.host, HUB4, 1415, 1195);
    until_told(&hub.host, lease.ip4, 1415, 1195);

    ping(&spoke.host, HUB6, 1280, "do").unwrap();
}

#[test]
fn connections_are_made_for_segments_that_fit() {
    let path = Path::new();
    path.narrow(1280);
    path.swallow_icmp();
    let hub = Hub::start(&path.near, &[]);
    let (spoke, lease) = Spoke::up(&path.far, 2, &[]);
    let ip6 = lease.ip6.unwrap();
    until_told(&spoke.host, HUB4, 1435, 1215);
    until_told(&hub.host, lease.ip4, 1435, 1215);
    let syns = [&spoke.host, &hub.host].map(|host| count_syns(host, 1175, 1155));

    for (from, to, at) in [
        (&spoke.host, &hub.host, HUB4),
        (&hub.host, &spoke.host, lease.ip4),
        (&spoke.host, &hub.host, HUB6),
        (&hub.host, &spoke.host, ip6),
    ] {
        transfer(from, to, at, 100_000);
    }

    // Each end has seen two SYNs and two SYN-ACKs.
    for syns in syns {
        assert_eq!((syns.packets("fits"), syns.packets("other")), (4, 0));
    }
}

#[test]
fn a_connection_outlives_a_path_that_shrinks() {
    let path = Path::new();
    let hub = Hub::start(&path.near, &[]);
    let (spoke, lease) = Spoke::up(&path.far, 2, &[]);
    let flows = [
        (&spoke.host, &hub.host, HUB4),
        (&hub.host, &spoke.host, lease.ip4),
    ];

    outlives_a_path_that_shrinks(&path, flows, 1435, STALLED);
}

/// Nobody on an IPv6 path fragments, and an IPv6 sender makes 1280 bytes.
#[test]
fn a_connection_in_ipv6_outlives_an_ipv6_path_that_shrinks() {
    let path = Path::new();
    let hub = Hub::start(&path.near, &[]);
    let at = format!("[{}]:443", hub.host.ip6());
    let (spoke, lease) = Spoke::up(&path.far, 2, &["-connect", &at]);
    let flows = [
        (&spoke.host, &hub.host, HUB6),
        (&hub.host, &spoke.host, lease.ip6.unwrap()),
    ];
    // Small packets that come through hide that the large ones do not.
    let hub4 = HUB4.to_string();
    let _chatter = Daemon::start(&spoke.host, "ping", &["-n", "-q", "-i", "0.3", &hub4]);

    outlives_a_path_that_shrinks(&path, flows, 1415, RECOVERY);
}

/// `flows` go both ways and have carried packets of `mtu` bytes when the path
/// turns to 1280; both ends know of it `within` that time.
#[track_caller]
fn outlives_a_path_that_shrinks(
    path: &Path,
    flows: [(&Host, &Host, IpAddr); 2],
    mtu: usize,
    within: Duration,
) {
    path.swallow_icmp();
    for (from, _, to) in flows {
        ping(from, to, mtu, "do").unwrap();
    }
    let moving = flows.map(|(from, host, to)| Flow::start(from, host, to));
    for flow in &moving {
        flow.moves_within(SOON);
    }

    path.narrow(1280);

    for (from, _, to) in flows {
        let left = if to.is_ipv4() { mtu - 220 } else { 1280 };
        until_told_within(from, to, mtu, left, within);
    }
    for flow in &moving {
        flow.moves_within(RECOVERY);
    }
    for flow in moving {
        flow.finish();
    }
}

#[test]
fn a_path_that_says_what_it_carries_is_believed_after_a_look() {
    let path = Path::new();
    let hub = Hub::start(&path.near, &[]);
    let (spoke, lease) = Spoke::up(&path.far, 2, &[]);
    ping(&spoke.host, HUB4, 1435, "do").unwrap();

    // No size that a ladder of guesses would have.
    path.narrow(1387);

    until_told(&spoke.host, HUB4, 1435, 1322);
    until_told(&hub.host, lease.ip4, 1435, 1322);
    ping(&spoke.host, HUB4, 1322, "do").unwrap();
}

#[test]
fn the_device_has_what_the_route_carries_and_the_lower_one_holds() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.ip("link set uplink mtu 1400");
    network.router.ip("link set host2 mtu 1400");

    let mut narrow = Spoke::start_on(host, &[]);
    narrow.lease();
    let (wide, _) = Spoke::up(&network, 3, &[]);
    let (foreign, _) = Spoke::up(&network, 4, &["-suite", "ccm8"]);

    assert_eq!(mtu(&narrow.host, "dtun0"), 1335);
    assert_eq!(mtu(&wide.host, "dtun0"), 1435);
    assert_eq!(mtu(&foreign.host, "dtun0"), 1443);
    for (hint, expected) in [("spoke2", 1335), ("spoke3", 1435), ("spoke4", 1443)] {
        until_true("the hub's end", SOON, || {
            mtu(&hub.host, &hub.device(hint).unwrap().name) == expected
        });
    }
}

/// Two networks and the link between them.
struct Path {
    near: Network,
    far: Network,
}

impl Path {
    fn new() -> Self {
        let path = Self {
            near: Network::new(),
            far: Network::new(),
        };
        let (near, far) = (&path.near.router, &path.far.router);
        connect(near, "narrow", far, "narrow");
        near.ip("addr add 198.19.0.1/24 dev narrow");
        far.ip("addr add 198.19.0.2/24 dev narrow");
        near.ip("addr add 2001:db8:ffff::1/64 dev narrow nodad");
        far.ip("addr add 2001:db8:ffff::2/64 dev narrow nodad");
        near.ip("route add 198.18.2.0/24 via 198.19.0.2");
        near.ip("route add 2001:db8:2::/64 via 2001:db8:ffff::2");
        far.ip("route add default via 198.19.0.1");
        far.ip("route add default via 2001:db8:ffff::1");

        path
    }

    fn routers(&self) -> [&Netns; 2] {
        [&self.near.router, &self.far.router]
    }

    /// Both routers fragment, or refuse, what is longer than `mtu`.
    fn narrow(&self, mtu: u32) {
        for router in self.routers() {
            router.ip(&format!("link set narrow mtu {mtu}"));
        }
    }

    /// Nobody is told of what a router refuses.
    fn swallow_icmp(&self) {
        for router in self.routers() {
            router.run("nft add table inet hole");
            router.run("nft add chain inet hole out { type filter hook output priority 0 ; }");
            router.run("nft add rule inet hole out icmp type destination-unreachable drop");
            router.run("nft add rule inet hole out icmpv6 type packet-too-big drop");
        }
    }
}

/// One echo whose whole packet is of `size` bytes.
fn ping(from: &Netns, to: IpAddr, size: usize, df: &str) -> Result<String, String> {
    let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let data = size - headers;

    from.try_run(&format!("ping -n -M {df} -s {data} -c 1 -W 2 {to}"))
}

/// Waits until an echo of `size` bytes, which is too long, is answered by the
/// path's MTU.
#[track_caller]
fn until_told(from: &Netns, to: IpAddr, size: usize, mtu: usize) {
    until_told_within(from, to, size, mtu, RECOVERY);
}

#[track_caller]
fn until_told_within(from: &Netns, to: IpAddr, size: usize, mtu: usize, within: Duration) {
    let words = [format!("mtu = {mtu}"), format!("mtu={mtu}")];
    until(&format!("an MTU of {mtu} towards {to}"), within, || {
        let said = ping(from, to, size, "do").err()?;
        words.iter().any(|word| said.contains(word)).then_some(())
    });
}

/// Counts the SYNs that come out of the tunnel with these segment sizes, and
/// those with others.
fn count_syns(netns: &Netns, size4: u16, size6: u16) -> Watch<'_> {
    let watch = Watch::new(netns, "input");
    for (family, size) in [("ipv4", size4), ("ipv6", size6)] {
        let syn = format!("iifname dtun* meta nfproto {family} tcp flags & syn == syn");
        watch.count("fits", &format!("{syn} tcp option maxseg size {size}"), "");
        watch.count(
            "other",
            &format!("{syn} tcp option maxseg size != {size}"),
            "",
        );
    }

    watch
}

/// Two seconds without an answer, two to be watched for, two to measure, and
/// the time of an echo.
const STALLED: Duration = Duration::from_secs(10);

/// A limit that fell among other traffic is found within twelve seconds; a
/// connection then waits for its next retransmission.
const RECOVERY: Duration = Duration::from_secs(20);
