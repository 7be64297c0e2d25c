//! A small internet: a router, and hosts with one link each to it.
//!
//! ```text
//!   host 1 198.18.1.2 ──── 198.18.1.1 ┐
//!   host 2 198.18.2.2 ──── 198.18.2.1 ┤ router
//!   host N 198.18.N.2 ──── 198.18.N.1 ┘          the same in 2001:db8:N::/64
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::time::Duration;

use crate::namespace::Netns;
use crate::wait::until_true;

pub(crate) struct Network {
    pub(crate) router: Netns,
}

impl Network {
    pub(crate) fn new() -> Self {
        let router = Netns::new("router");
        forward(&router);

        Self { router }
    }

    /// A host with IPv4 and IPv6, its default routes by the router; `uplink` is
    /// its interface, `host{number}` the router's.
    pub(crate) fn host(&self, number: u8) -> Host {
        let netns = Netns::new(&format!("host{number}"));
        connect(&self.router, &format!("host{number}"), &netns, "uplink");
        let host = Host { netns, number };

        let port = format!("host{number}");
        self.router
            .ip(&format!("addr add {}/24 dev {port}", host.gateway4()));
        self.router
            .ip(&format!("addr add {}/64 dev {port} nodad", host.gateway6()));
        host.ip(&format!("addr add {}/24 dev uplink", host.ip4()));
        host.ip(&format!("addr add {}/64 dev uplink nodad", host.ip6()));
        host.ip(&format!("route add default via {}", host.gateway4()));
        host.ip(&format!("route add default via {}", host.gateway6()));

        host
    }
}

/// A machine of the network.
pub(crate) struct Host {
    netns: Netns,
    number: u8,
}

impl Host {
    pub(crate) fn ip4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 2)
    }

    /// Its IPv4 address with a port.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip4().into(), port)
    }

    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    pub(crate) fn gateway4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 1)
    }

    pub(crate) fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.number.into(), 0, 0, 0, 0, 2)
    }

    pub(crate) fn gateway6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.number.into(), 0, 0, 0, 0, 1)
    }
}

impl Deref for Host {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.netns
    }
}

/// A machine at 192.168.`net`.2 behind a router at 192.168.`net`.1, each with
/// its end of the link `lan`.
pub(crate) fn lan(router: &Netns, net: u8) -> Netns {
    let pc = Netns::new(&format!("pc{net}"));
    connect(router, "lan", &pc, "lan");
    forward(router);
    router.ip(&format!("addr add 192.168.{net}.1/24 dev lan"));
    pc.ip(&format!("addr add 192.168.{net}.2/24 dev lan"));
    pc.ip(&format!("route add default via 192.168.{net}.1"));

    pc
}

/// Joins two namespaces by a link whose ends are up and have the given names.
pub(crate) fn connect(left: &Netns, left_end: &str, right: &Netns, right_end: &str) {
    left.ip(&format!(
        "link add {left_end} type veth peer name {right_end} netns {}",
        right.name()
    ));
    for (netns, end) in [(left, left_end), (right, right_end)] {
        netns.sysctl(&format!("ipv6/conf/{end}/accept_dad"), "0");
        netns.ip(&format!("link set {end} up"));
    }
    // The kernel adds link-local routes a moment later, which a test that
    // compares routes would take for a change.
    for (netns, end) in [(left, left_end), (right, right_end)] {
        until_true("a link-local address", Duration::from_secs(5), || {
            netns
                .ip(&format!("-6 route show table local dev {end}"))
                .contains("local fe80:")
        });
    }
}

/// Lets a namespace forward, as a router or a hub does.
pub(crate) fn forward(netns: &Netns) {
    netns.sysctl("ipv4/ip_forward", "1");
    netns.sysctl("ipv6/conf/all/forwarding", "1");
}

/// Has a namespace track connections, as most firewalls do.
pub(crate) fn track(netns: &Netns) {
    netns.run("nft add table inet theirs");
    netns.run("nft add chain inet theirs in { type filter hook input priority 0 ; }");
    netns.run("nft add rule inet theirs in ct state established accept");
}
