//! Where rules that somebody has written for nft drop what spokes send or the
//! hub is sent, and what lets it pass there. Pure: reads what
//! `nft -j list ruleset` prints (libnftables-json(5)).
//!
//! A verdict in a table of our own would not help: every base chain has its say.
//! As with iptables, what an owner blocks on purpose stays blocked: the accept
//! goes before what drops all the rest, or before the first jump that a packet of
//! ours may take without coming back.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

mod packet;

use std::collections::HashMap;

use ipnet::IpNet;
use serde_json::Value;

use crate::hub::GROUP;
pub(super) use packet::Packet;
use packet::{Holds, Rule, Verdict};

/// What nft printed.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    bases: Vec<Base>,
    /// In the kernel's order.
    rules: HashMap<Place, Vec<Rule>>,
}

/// What is to pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The first word of the comment that every rule of ours bears.
    pub(super) tag: &'a str,
    /// Of spokes and behind them.
    pub(super) inside: &'a [IpNet],
    /// Where the hub listens, by UDP.
    pub(super) port: u16,
}

/// What to do in one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// For people.
    pub(super) chain: String,
    /// Commands of nft, to be carried out together.
    pub(super) script: String,
    /// Whether something new is accepted.
    pub(super) opens: bool,
}

/// A chain that packets of ours come to.
#[derive(Debug)]
struct Base {
    place: Place,
    hook: Hook,
    drops: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Forward,
    Input,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    family: String,
    table: String,
    chain: String,
}

/// A rule of ours.
struct Accept {
    /// What it is for: ours are compared by it.
    comment: String,
    matches: String,
    /// How many of the others' rules may be before it, at most.
    at: usize,
}

/// What becomes of a packet in a chain.
struct Walk {
    fate: Fate,
    /// Where an accept has to be.
    at: usize,
    /// Whether it may have gone another way.
    unclear: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Passes,
    Dropped,
    /// Back to the chain before, or to the policy.
    Falls,
}

impl Ruleset {
    /// `iptables` names the families whose chains iptables takes care of.
    pub(super) fn parse(listing: &Value, iptables: &[&str]) -> Self {
        let mut ruleset = Self::default();
        let entries = listing["nftables"].as_array();
        for entry in entries.into_iter().flatten() {
            if let Some(base) = base(&entry["chain"]) {
                if !is_others(&base.place, iptables) {
                    ruleset.bases.push(base);
                }
            } else if let Some(place) = place(&entry["rule"], "chain") {
                let rule = Rule::parse(&entry["rule"]);
                ruleset.rules.entry(place).or_default().extend(rule);
            }
        }

        ruleset
    }

    /// What has to be changed for it to pass.
    pub(super) fn changes(&self, wanted: Wanted<'_>) -> Vec<Change> {
        let bases = self.bases.iter();

        bases.filter_map(|base| self.change(base, wanted)).collect()
    }

    /// What removes all rules of ours.
    pub(super) fn removal(&self, tag: &str) -> Vec<Change> {
        let chains = self.rules.iter();
        let all = chains.map(|(place, rules)| {
            let ours = rules.iter().filter(|rule| rule.is_tagged(tag));
            (place, ours.map(|rule| delete(place, rule)).collect())
        });

        all.filter(|(_, script): &(_, String)| !script.is_empty())
            .map(|(place, script)| Change {
                chain: place.to_string(),
                script,
                opens: false,
            })
            .collect()
    }

    fn change(&self, base: &Base, wanted: Wanted<'_>) -> Option<Change> {
        let all = self.rules_of(&base.place);
        let mut theirs = Vec::new();
        let mut ours = Vec::new();
        for rule in all {
            if rule.is_tagged(wanted.tag) {
                ours.push((theirs.len(), rule));
            } else {
                theirs.push(rule);
            }
        }

        let accepts = self.accepts(base, &theirs, wanted);
        let stands = |accept: &Accept| {
            ours.iter().any(|(before, rule)| {
                rule.comment.as_deref() == Some(&accept.comment) && *before <= accept.at
            })
        };
        if accepts.iter().all(stands) && accepts.len() == ours.len() {
            return None;
        }
        let place = &base.place;
        let gone: String = ours.iter().map(|(_, rule)| delete(place, rule)).collect();
        let new: String = accepts
            .iter()
            .map(|accept| {
                let before = theirs.get(accept.at).map(|rule| rule.handle);
                insert(place, accept, before)
            })
            .collect();

        Some(Change {
            chain: place.to_string(),
            script: gone + &new,
            opens: !accepts.is_empty(),
        })
    }

    /// What lets it pass where it is dropped.
    fn accepts(&self, base: &Base, theirs: &[&Rule], wanted: Wanted<'_>) -> Vec<Accept> {
        let tag = wanted.tag;
        let family = base.place.family.as_str();
        let dropped = |packet| {
            let walk = self.walk(&base.place, theirs, packet, DEEPEST);
            let is_dropped = match walk.fate {
                Fate::Passes => false,
                Fate::Dropped => true,
                Fate::Falls => base.drops,
            };
            is_dropped.then_some(walk.at)
        };
        match base.hook {
            Hook::Input => {
                let ways = [("ip6", false), ("ip", true)];
                let ways = ways.into_iter().filter(|(other, _)| family != *other);
                let port = wanted.port;
                let at = ways.filter_map(|(_, ip6)| dropped(Packet::Udp { port, ip6 }));
                let accept = at.min().map(|at| Accept {
                    comment: format!("{tag} udp {port}"),
                    matches: format!("udp dport {port}"),
                    at,
                });
                accept.into_iter().collect()
            }
            Hook::Forward => {
                let mut all = Vec::new();
                for net in wanted.inside {
                    let ip = if net.addr().is_ipv6() { "ip6" } else { "ip" };
                    if family != "inet" && family != ip {
                        continue;
                    }
                    let Some(at) = dropped(Packet::Forwarded(*net)) else {
                        continue;
                    };
                    all.push(Accept {
                        comment: format!("{tag} from {net}"),
                        matches: format!("iifgroup {GROUP} {ip} saddr {net}"),
                        at,
                    });
                    all.push(Accept {
                        comment: format!("{tag} to {net}"),
                        matches: format!(
                            "oifgroup {GROUP} {ip} daddr {net} ct state established,related"
                        ),
                        at,
                    });
                }
                all
            }
        }
    }

    fn walk(&self, place: &Place, rules: &[&Rule], packet: Packet, deep: usize) -> Walk {
        let mut unclear = None;
        let ended = |fate, at: usize, unclear: Option<usize>| Walk {
            fate,
            at: unclear.unwrap_or(at),
            unclear: unclear.is_some(),
        };
        for (at, rule) in rules.iter().enumerate() {
            for (holds, verdict) in rule.verdicts(packet) {
                let (target, comes_back) = match (holds, verdict) {
                    (Holds::No, _) | (Holds::Unknown, Verdict::Ends(_) | Verdict::Returns) => {
                        continue;
                    }
                    (Holds::Unknown, Verdict::Jumps(_) | Verdict::Goes(_)) => {
                        unclear.get_or_insert(at);
                        continue;
                    }
                    (Holds::Yes, Verdict::Ends(fate)) => return ended(fate, at, unclear),
                    (Holds::Yes, Verdict::Returns) => return ended(Fate::Falls, at, unclear),
                    (Holds::Yes, Verdict::Jumps(target)) => (target, true),
                    (Holds::Yes, Verdict::Goes(target)) => (target, false),
                };
                let next = place.beside(target);
                let rules: Vec<_> = self.rules_of(&next).iter().collect();
                let Some(deep) = deep.checked_sub(1) else {
                    continue; // The kernel does not go so deep either.
                };
                let inner = self.walk(&next, &rules, packet, deep);
                if inner.unclear {
                    unclear.get_or_insert(at);
                }
                if inner.fate != Fate::Falls || !comes_back {
                    return ended(inner.fate, at, unclear);
                }
            }
        }

        ended(Fate::Falls, rules.len(), unclear)
    }

    fn rules_of(&self, place: &Place) -> &[Rule] {
        self.rules.get(place).map_or(&[], Vec::as_slice)
    }
}

impl Place {
    /// Another chain of the same table.
    fn beside(&self, chain: &str) -> Self {
        Self {
            chain: chain.to_owned(),
            ..self.clone()
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}

fn place(entry: &Value, chain: &str) -> Option<Place> {
    let text = |key| entry[key].as_str().map(str::to_owned);

    Some(Place {
        family: text("family")?,
        table: text("table")?,
        chain: text(chain)?,
    })
}

/// A chain that filters what is forwarded, or what is for this machine.
fn base(entry: &Value) -> Option<Base> {
    let place = place(entry, "name")?;
    let hook = match entry["hook"].as_str()? {
        "forward" => Hook::Forward,
        "input" => Hook::Input,
        _ => return None,
    };
    let is_ip = ["inet", "ip", "ip6"].contains(&place.family.as_str());

    (is_ip && entry["type"] == "filter").then(|| Base {
        place,
        hook,
        drops: entry["policy"] == "drop",
    })
}

/// Whether a chain is one of a program that has a way of its own, or is ours.
fn is_others(place: &Place, iptables: &[&str]) -> bool {
    let table = place.table.as_str();
    let is_iptables = place.family != "inet"
        && OF_IPTABLES.contains(&table)
        && place.chain.chars().all(|c| c.is_ascii_uppercase());
    if is_iptables {
        // Its own tool may be missing, or say that it cannot read this table.
        return table != "filter" || iptables.contains(&place.family.as_str());
    }

    OF_OTHERS.contains(&table) || table.starts_with("dtun-")
}

fn delete(place: &Place, rule: &Rule) -> String {
    format!("delete rule {place} handle {}\n", rule.handle)
}

/// Before that rule, or at the end.
fn insert(place: &Place, accept: &Accept, before: Option<u64>) -> String {
    let Accept {
        comment, matches, ..
    } = accept;
    let what = format!("{matches} accept comment \"{comment}\"");

    match before {
        Some(handle) => format!("insert rule {place} handle {handle} {what}\n"),
        None => format!("add rule {place} {what}\n"),
    }
}

/// Tables that iptables makes; its base chains have names in capitals.
const OF_IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// Tables that are told by their programs' own ways, or drop on purpose, or
/// leave to others what is not their own.
const OF_OTHERS: [&str; 6] = [
    "firewalld",
    "libvirt_network",
    "docker-bridges",
    "netavark",
    "kube-proxy",
    "mullvad",
];

/// As in the kernel (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

#[cfg(test)]
mod tests;
