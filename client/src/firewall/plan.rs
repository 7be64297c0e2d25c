//! What the packet filter is to hold, in nft's words. Pure.
//!
//! Routes send traffic into the tunnel; the filter does what they cannot. What
//! came in by the uplink is answered by the uplink: its connection is marked,
//! and the answers get the mark that the rules take to the main table. What
//! comes for the lease's address by another way than the tunnel is dropped. With
//! resolvers of the tunnel's own, no question for a name leaves by another way,
//! from whatever socket. And the lock (`-strict`) lets nothing leave that is not
//! named here, whatever the routes say.
//!
//! Marks, of packets and of connections, are set in the bits of our mask only.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

mod lock;
mod text;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use dtun_shared::link::{GROUP_OF_HUBS, GROUP_OF_SPOKES};
use dtun_shared::mark::Mark;

use crate::routes::Bypass;
pub(super) use lock::is_for_a_time;
use lock::{own_connections, tried};
use text::{Text, join};

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) mark: Mark,
    /// The tunnel, while there is one.
    pub(super) end: Option<End>,
    pub(super) chosen: Option<Chosen>,
    /// Whether questions for names leave by the tunnel only.
    pub(super) names: bool,
    /// Devices that lead to nobody but this machine's own guests.
    pub(super) inside: BTreeSet<String>,
    pub(super) lock: Option<Lock>,
}

/// This machine's end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) device: String,
    pub(super) ip4: Ipv4Addr,
    pub(super) ip6: Option<Ipv6Addr>,
}

/// Only some traffic goes into the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// What is looked up in the tunnel's table.
    pub(super) mark: Mark,
    /// Groups whose sockets' packets are.
    pub(super) groups: Vec<u32>,
}

/// What may leave beside the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) bypass: Bypass,
    /// Ports of TCP that somebody listens at on this machine.
    pub(super) served: BTreeSet<u16>,
    /// Ports that the kernel gives to sockets that ask for none.
    pub(super) ephemeral: RangeInclusive<u16>,
}

impl Plan {
    /// The commands that make the table what it is to be, whatever it was.
    pub(super) fn commands(&self, table: &str) -> Vec<String> {
        let mut text = Text::new(table);
        match &self.lock {
            Some(_) => text.push("add table", ""),
            None => text.push("add table", "{ flags owner; }"),
        }
        text.push("flush table", "");
        self.sets(&mut text);
        self.marks(&mut text);
        match &self.lock {
            Some(_) => self.close(&mut text),
            None if self.names => self.hold_names(&mut text),
            None => {}
        }

        text.commands
    }

    /// Whether so many networks are open that it takes a while to say them.
    pub(super) fn is_long(&self) -> bool {
        self.lock
            .as_ref()
            .is_some_and(|lock| lock.bypass.len() > LONG)
    }

    /// The same with no network open.
    pub(super) fn without_bypass(&self) -> Self {
        let mut plan = self.clone();
        if let Some(lock) = &mut plan.lock {
            lock.bypass = Bypass::default();
        }

        plan
    }

    /// The command that tells the table of another set of inside devices.
    pub(super) fn inside_commands(&self, table: &str) -> Vec<String> {
        let mut text = Text::new(table);
        self.inside(&mut text);

        text.commands
    }

    fn sets(&self, text: &mut Text) {
        if self.names || self.lock.is_some() {
            self.inside(text);
        }
        let Some(lock) = &self.lock else {
            return;
        };
        // Empty but for a time: the elements run out by themselves.
        for set in [OPEN, YOUNG] {
            text.set(set, "type nf_proto; flags timeout;");
        }
        tried(text);
        text.set("served", "type inet_service;");
        let served: Vec<_> = lock.served.iter().collect();
        text.elements("served", &served);
        text.set("bypass4", "type ipv4_addr; flags interval;");
        text.elements("bypass4", &lock.bypass.ip4);
        text.set("bypass6", "type ipv6_addr; flags interval;");
        text.elements("bypass6", &lock.bypass.ip6);
    }

    fn inside(&self, text: &mut Text) {
        let own = ["lo"].into_iter().chain(self.device());
        let all: BTreeSet<_> = own.chain(self.inside.iter().map(String::as_str)).collect();
        let quoted: Vec<_> = all.iter().map(|name| format!("\"{name}\"")).collect();
        text.set("inside", "type ifname;");
        text.elements("inside", &quoted);
    }

    fn marks(&self, text: &mut Text) {
        let ours = is(self.mark);
        let mark = set("meta mark", self.mark);

        // Before every reverse path filter, firewalld's at -290 too.
        text.chain("early", "type filter hook prerouting priority -310;");
        text.rule("early", r#"iifname "lo" return"#);
        if let Some(end) = &self.end {
            let End { device, ip4, ip6 } = end;
            text.rule(
                "early",
                &format!(r#"iifname != "{device}" ip daddr {ip4} drop"#),
            );
            if let Some(ip6) = ip6 {
                text.rule(
                    "early",
                    &format!(r#"iifname != "{device}" ip6 daddr {ip6} drop"#),
                );
            }
            // The way back to a sender is looked up without user, group or device.
            let chosen = self.chosen.as_ref();
            let mark = chosen.map(|chosen| set("meta mark", chosen.mark) + " ");
            let mark = mark.unwrap_or_default();
            text.rule("early", &format!(r#"iifname "{device}" {mark}return"#));
        }
        self.pass_others("early", text);
        text.rule("early", &format!("fib daddr type local {mark}"));

        text.chain("arrive", "type filter hook prerouting priority mangle;");
        text.rule("arrive", r#"iifname "lo" return"#);
        if let Some(device) = self.device() {
            text.rule("arrive", &format!(r#"iifname "{device}" return"#));
        }
        self.pass_others("arrive", text);
        let unmarked = format!("ct mark & {:#010x} == 0", self.mark.mask());
        if let Some(lock) = &self.lock {
            own_connections(lock, &unmarked, text);
        }
        let set_mark = set("ct mark", self.mark);
        text.rule(
            "arrive",
            &format!("ct state new ct direction original {set_mark}"),
        );
        // A connection that was tracked before there was this table. Of UDP a
        // lock cannot tell who began it.
        let kind = self.lock.as_ref().map_or("", |_| "meta l4proto tcp ");
        text.rule(
            "arrive",
            &format!("{kind}ct direction original {unmarked} {set_mark}"),
        );
        text.rule(
            "arrive",
            &format!("ct direction reply ct mark {ours} {mark}"),
        );

        text.chain("answer", "type route hook output priority mangle;");
        text.rule(
            "answer",
            &format!("ct direction reply ct mark {ours} {mark}"),
        );
        self.choose(text);
    }

    /// What came by a tunnel of another process is answered by that one's rules,
    /// not by the main table.
    fn pass_others(&self, chain: &str, text: &mut Text) {
        if self.lock.is_none() {
            let groups = join(&[GROUP_OF_HUBS, GROUP_OF_SPOKES]);
            text.rule(chain, &format!("iifgroup {{ {groups} }} return"));
        }
    }

    /// Marks what chosen groups send. Their sockets chose the uplink's address.
    fn choose(&self, text: &mut Text) {
        let (Some(chosen), Some(device)) = (&self.chosen, self.device()) else {
            return;
        };
        if chosen.groups.is_empty() {
            return;
        }
        let groups = join(&chosen.groups);
        let unmarked = format!("meta mark & {:#010x} == 0", self.mark.mask());
        let mark = set("meta mark", chosen.mark);
        text.rule(
            "answer",
            &format!("meta skgid {{ {groups} }} {unmarked} {mark}"),
        );

        text.chain("translate", "type nat hook postrouting priority srcnat;");
        let theirs = is(chosen.mark);
        text.rule(
            "translate",
            &format!(r#"oifname "{device}" meta mark {theirs} masquerade"#),
        );
    }

    /// Keeps questions for names from leaving by another way than the tunnel.
    fn hold_names(&self, text: &mut Text) {
        text.chain("refuse", "");
        refuse(text);
        text.chain("names", "");
        text.rule("names", "oifname @inside return");
        // Another spoke's resolvers are asked by its tunnel.
        text.rule("names", &format!("oifgroup {GROUP_OF_SPOKES} return"));
        text.rule("names", &format!("meta mark {} return", is(self.mark)));
        text.rule("names", "ct direction reply return");
        text.rule("names", "goto refuse");
        for (chain, hook) in [("send", "output"), ("pass", "forward")] {
            text.chain(chain, &format!("type filter hook {hook} priority 10;"));
            text.rule(chain, &format!("{QUESTION} goto names"));
        }
    }

    fn device(&self) -> Option<&str> {
        self.end.as_ref().map(|end| end.device.as_str())
    }
}

/// Whether nft takes a device's name as it stands, between quotes. A star at
/// the end would mean any device that begins so.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-@+".contains(c))
}

/// The answer to what may not leave: IPv6 TCP hangs on anything but a reset.
fn refuse(text: &mut Text) {
    text.rule("refuse", "meta l4proto tcp counter reject with tcp reset");
    text.rule("refuse", "counter reject with icmpx type admin-prohibited");
}

/// Matches packets or connections with a mark.
fn is(mark: Mark) -> String {
    format!("& {:#010x} == {:#010x}", mark.mask(), mark.value())
}

/// Sets a mark, and leaves the bits outside its mask.
fn set(of: &str, mark: Mark) -> String {
    let (others, value) = (!mark.mask(), mark.value());

    format!("{of} set {of} & {others:#010x} | {value:#010x}")
}

/// Families for which the lock lets everything pass.
pub(super) const OPEN: &str = "open";

/// Families whose connections may still be older than the lock.
pub(super) const YOUNG: &str = "young";

/// So many networks take a hundredth of a second, on a slow machine a tenth.
const LONG: usize = 1000;

/// The chain that what leaves passes last.
pub(super) const LAST: &str = "last";

const QUESTION: &str = "meta l4proto { tcp, udp } th dport 53";

#[cfg(test)]
mod tests;
