//! Everything that a host puts on its uplink, seen by the router at the other
//! end before any of the router's own rules.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::namespace::Netns;
use crate::network::{Host, Network};

/// A capture of what is neither the tunnel's own nor about neighbours.
pub(crate) struct Wire<'a> {
    router: &'a Netns,
    table: String,
}

impl<'a> Wire<'a> {
    /// Captures from the host's port of the router. `allowed` are matches of nft
    /// for what may pass.
    pub(crate) fn of(network: &'a Network, host: &Host, allowed: &[&str]) -> Self {
        let wire = Self {
            router: &network.router,
            table: format!("netdev wire{}", host.number()),
        };
        wire.add("table", "");
        for (set, address) in [("leaked4", "ipv4_addr"), ("leaked6", "ipv6_addr")] {
            wire.add(
                "set",
                &format!("{set} {{ type {address} . inet_proto . inet_service ; flags dynamic ; size 1000 ; }}"),
            );
        }
        for counter in ["own", "leaks"] {
            wire.add("counter", counter);
        }
        wire.add(
            "chain",
            &format!(
                "seen {{ type filter hook ingress device host{} priority 0 ; }}",
                host.number()
            ),
        );
        for rule in [
            "ether type arp accept",
            "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept",
            "ip daddr 198.18.1.2 udp dport 443 counter name own accept",
        ] {
            wire.add("rule", &format!("seen {rule}"));
        }
        for matches in allowed {
            wire.add("rule", &format!("seen {matches} accept"));
        }
        for rule in [
            "counter name leaks",
            "meta l4proto { tcp, udp } update @leaked4 { ip daddr . meta l4proto . th dport }",
            "meta l4proto { tcp, udp } update @leaked6 { ip6 daddr . meta l4proto . th dport }",
            "ip protocol icmp update @leaked4 { ip daddr . meta l4proto . 0 }",
            "meta l4proto ipv6-icmp update @leaked6 { ip6 daddr . meta l4proto . 0 }",
        ] {
            wire.add("rule", &format!("seen {rule}"));
        }

        wire
    }

    /// Packets that should not have been there, so far.
    pub(crate) fn leaks(&self) -> u64 {
        self.packets("leaks")
    }

    /// The tunnel's own datagrams, so far.
    pub(crate) fn own(&self) -> u64 {
        self.packets("own")
    }

    /// Fails with what leaked, if anything did.
    #[track_caller]
    pub(crate) fn is_tight(&self) {
        if self.leaks() > 0 {
            let table = self.router.run(&format!("nft list table {}", self.table));
            panic!("leaked:\n{table}");
        }
    }

    /// Captures no longer.
    pub(crate) fn end(self) {
        self.router.run(&format!("nft delete table {}", self.table));
    }

    fn packets(&self, counter: &str) -> u64 {
        let text = self
            .router
            .run(&format!("nft list counter {} {counter}", self.table));
        let (_, rest) = text.split_once("packets ").unwrap();

        rest.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn add(&self, what: &str, rest: &str) {
        self.router
            .run(&format!("nft add {what} {} {rest}", self.table));
    }
}

/// Programs that talk to an address all the time, by every way that they know.
pub(crate) struct Chatter {
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Chatter {
    pub(crate) fn start(host: &Netns, to: Vec<SocketAddr>) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&enough);

        Self {
            enough,
            thread: Some(host.spawn(move || chatter(&to, &stop))),
        }
    }
}

impl Drop for Chatter {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the chatter ended early");
        }
    }
}

/// What is refused is said again; what it is refused with does not matter.
fn chatter(to: &[SocketAddr], stop: &AtomicBool) {
    let old: Vec<_> = to.iter().filter_map(|to| socket(*to)).collect();
    while !stop.load(Ordering::Relaxed) {
        for (socket, to) in old.iter().zip(to) {
            socket.send_to(b"old socket", to).unwrap_or_default();
        }
        for to in to {
            if let Some(socket) = socket(*to) {
                socket.send_to(b"new socket", to).unwrap_or_default();
            }
            drop(TcpStream::connect_timeout(to, Duration::from_millis(10)));
        }
    }
}

fn socket(to: SocketAddr) -> Option<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };

    UdpSocket::bind(any).ok()
}
