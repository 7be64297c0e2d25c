//! The part that lets nothing leave but what is named. Pure.

use super::text::Text;
use super::{End, LAST, Lock, OPEN, Plan, QUESTION, YOUNG, is, refuse};

impl Plan {
    /// Lets nothing leave but what is named.
    pub(super) fn close(&self, text: &mut Text) {
        text.chain("refuse", "");
        for ((set, _), ip) in TRIED.iter().zip(["ip", "ip6"]) {
            text.rule(
                "refuse",
                &format!("meta l4proto udp update @{set} {{ {ip} daddr . udp sport . udp dport }}"),
            );
        }
        refuse(text);
        self.ways(text);

        // What a program is told at once.
        for (chain, hook) in [("send", "output"), ("pass", "forward")] {
            text.chain(chain, &format!("type filter hook {hook} priority 10;"));
            self.free(chain, "goto refuse", text);
            if chain == "send" {
                self.own(chain, text);
            }
            text.rule(chain, "jump ways");
            text.rule(chain, "goto refuse");
        }
        // What other programs' marks or translations led elsewhere after that.
        text.chain(LAST, "type filter hook postrouting priority 350;");
        self.free(LAST, "counter drop", text);
        self.own(LAST, text);
        text.rule(LAST, "jump ways");
        text.rule(LAST, "counter drop");
    }

    /// Everything while the lock is open, and what stays on this machine or
    /// goes into the tunnel; nothing else with the lease's addresses.
    fn free(&self, chain: &str, refused: &str, text: &mut Text) {
        text.rule(chain, &format!("meta nfproto @{OPEN} accept"));
        text.rule(chain, "oifname @inside accept");
        if let Some(End { ip4, ip6, .. }) = &self.end {
            text.rule(chain, &format!("ip saddr {ip4} {refused}"));
            if let Some(ip6) = ip6 {
                text.rule(chain, &format!("ip6 saddr {ip6} {refused}"));
            }
        }
    }

    /// Our own datagrams, and what gives this machine addresses and neighbours.
    fn own(&self, chain: &str, text: &mut Text) {
        text.rule(chain, &format!("meta mark {} accept", is(self.mark)));
        for (from, to) in [(68, 67), (67, 68), (546, 547), (547, 546)] {
            text.rule(chain, &format!("udp sport {from} udp dport {to} accept"));
        }
        text.rule(
            chain,
            "ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-router-advert, \
             nd-neighbor-solicit, nd-neighbor-advert } accept",
        );
        text.rule(
            chain,
            "ip6 hoplimit 1 icmpv6 type { mld-listener-report, mld-listener-done, \
             mld2-listener-report } accept",
        );
    }

    /// Answers to what came from outside, and the bypass.
    fn ways(&self, text: &mut Text) {
        text.chain("ways", "");
        let ours = is(self.mark);
        text.rule("ways", &format!("ct direction reply ct mark {ours} accept"));
        if self.names {
            text.rule("ways", &format!("{QUESTION} return"));
        }
        text.rule("ways", "ip daddr @bypass4 accept");
        text.rule("ways", "ip6 daddr @bypass6 accept");
    }
}

/// Makes the sets of what was refused.
pub(super) fn tried(text: &mut Text) {
    for (set, address) in TRIED {
        let key = format!("type {address} . inet_service . inet_service;");
        text.set(
            set,
            &format!("{key} flags dynamic, timeout; timeout 5m; size 16384;"),
        );
    }
}

/// Tells what belongs to a connection out of this machine by what comes in for
/// it, so that its packets are no answers.
pub(super) fn own_connections(lock: &Lock, unmarked: &str, text: &mut Text) {
    // One that is older than the filter may show itself first so. Nobody listens
    // at its port, and to a port that is not this machine's anything may have
    // gone; what is published for a guest is translated, as no such one is.
    let older = "tcp flags & (fin | syn | rst | ack) != syn ct status & dnat == 0";
    for other in ["fib daddr type != local", "tcp dport != @served"] {
        text.rule("arrive", &format!("{unmarked} {older} {other} return"));
    }
    let (low, high) = (lock.ephemeral.start(), lock.ephemeral.end());
    text.rule(
        "arrive",
        &format!("meta nfproto @{YOUNG} ct state new udp dport {low}-{high} return"),
    );
    // Whoever is sent to, and refused, opens nothing by sending something back.
    for ((set, _), ip) in TRIED.iter().zip(["ip", "ip6"]) {
        text.rule(
            "arrive",
            &format!("ct state new {ip} saddr . udp dport . udp sport @{set} return"),
        );
    }
}

/// Whether what is in the set comes and goes by itself.
pub(in super::super) fn is_for_a_time(set: &str) -> bool {
    set == YOUNG || TRIED.iter().any(|(tried, _)| set == *tried)
}

/// Where UDP was sent and refused in the last minutes: the other's address, our
/// port, the other's.
const TRIED: [(&str, &str); 2] = [("tried4", "ipv4_addr"), ("tried6", "ipv6_addr")];
