//! From what the user wants to the rules and tables that say so. Pure.
//!
//! ```text
//! +9  fwmark M lookup main                  our own datagrams, and no further
//! +0  fwmark M goto +9
//! +0  from ADDRESS lookup main              without a firewall: its answers
//! +1  udp dport 53 lookup T+1               names, before the LAN's resolver
//! +2  tcp dport 53 lookup T+1
//! +3  lookup main suppress_prefixlength 0   the networks the machine is in
//! +4  lookup T
//! ```
//!
//! With `-route-from` +1 to +4 are there for each of those whose packets go in,
//! and once more, as +6 to +8 behind a leap of what is sent from here, for what
//! is forwarded: an inverted rule could have no other selector.
//!
//! That is the order of making; whatever is missing of it, nothing is held up.
//! A rule that looks up main alone would let our datagrams fall through to T
//! where main has no default route, hence the leap.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use dtun_shared::link::{Entry, Family, Lead, MAIN, Rule, Then, Transport};
use dtun_shared::mark::Mark;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::bypass::Bypass;
use super::{RouteFrom, RouteWhat};

/// What is to be routed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) what: RouteWhat,
    pub(crate) mark: Mark,
    /// Resolvers that are reached through the tunnel whatever the lists say.
    pub(crate) dns: Vec<IpAddr>,
    /// Whose packets go in; none for everybody's.
    pub(crate) from: Vec<RouteFrom>,
    /// What no firewall marks.
    pub(crate) unmarked: Unmarked,
}

/// What rules tell by addresses, as well as they can, where there is no firewall
/// that tells it by marks: answers, of which a reverse path filter looks up the
/// way back before it lets in what they are to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unmarked {
    /// This machine's addresses outside of the tunnel.
    pub(crate) outside: BTreeSet<IpAddr>,
    /// Those at this end of the tunnel.
    pub(crate) inside: BTreeSet<IpAddr>,
}

impl Unmarked {
    /// All that either has.
    pub(crate) fn with(&self, other: &Self) -> Self {
        Self {
            outside: &self.outside | &other.outside,
            inside: &self.inside | &other.inside,
        }
    }
}

/// Where the rules and tables of one tunnel stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    /// T; the next is for port 53, the third for the next list.
    pub(crate) table: u32,
    /// The first of sixteen preferences.
    pub(crate) pref: u32,
}

impl Block {
    pub(crate) fn names(self) -> u32 {
        self.table + 1
    }

    /// The table for the next list while `current` is in use.
    pub(crate) fn other(self, current: u32) -> u32 {
        if current == self.table {
            self.table + 2
        } else {
            self.table
        }
    }

    pub(crate) fn tables(self) -> [u32; 3] {
        [self.table, self.table + 1, self.table + 2]
    }

    /// Whether a rule stands where those of this block do.
    pub(crate) fn holds(self, pref: u32) -> bool {
        (self.pref..self.pref + PREFS).contains(&pref)
    }
}

impl Plan {
    /// The families in which anything is routed.
    pub(crate) fn families(&self) -> Vec<Family> {
        let is_in = |family: &Family| match &self.what {
            RouteWhat::Everything(_) => true,
            RouteWhat::Nets(_) => self.nets(*family).next().is_some(),
        };

        Family::BOTH.into_iter().filter(is_in).collect()
    }

    /// Rules that say nothing yet of anybody's packets, in the order of making.
    pub(crate) fn preparing(&self, block: Block, family: Family) -> Vec<Rule> {
        let rule = |offset, then| Rule::new(family, block.pref + offset, then);
        let past = Then::Goto(block.pref + OWN);
        let marked = |rule| Rule {
            mark: Some(self.mark),
            ..rule
        };
        let mut rules = vec![marked(rule(OWN, Then::Lookup(MAIN))), marked(rule(0, past))];
        let outside = self.unmarked.outside.iter().copied().map(IpNet::from);
        rules.extend(
            outside
                .filter(|net| Family::of(*net) == family)
                .map(|net| Rule {
                    from: Some(net),
                    ..rule(0, Then::Lookup(MAIN))
                }),
        );
        if self.takes_forwarded() {
            rules.push(Rule {
                iif: Some("lo".to_owned()),
                ..rule(LOCAL, past)
            });
        }
        for turn in self.turns() {
            rules.extend(self.near(family, block.pref + turn.near, turn.selectors));
        }

        rules
    }

    /// Rules that lead into the tunnel, by the tables that are filled.
    pub(crate) fn leading(&self, block: Block, table: u32, family: Family) -> Vec<Rule> {
        let rule = |offset, then| Rule::new(family, block.pref + offset, then);
        let mut rules = Vec::new();
        for turn in self.turns() {
            if self.takes_names() {
                for (offset, transport) in
                    turn.names.into_iter().zip([Transport::Udp, Transport::Tcp])
                {
                    let names = Rule {
                        port: Some((transport, 53)),
                        ..rule(offset, Then::Lookup(block.names()))
                    };
                    rules.extend(self.selected(&names, turn.selectors));
                }
            }
            let into = rule(turn.into, Then::Lookup(table));
            rules.extend(self.selected(&into, turn.selectors));
        }

        rules
    }

    /// Rules that leave to the table main what it knows better.
    fn near(&self, family: Family, pref: u32, selectors: Selectors) -> Vec<Rule> {
        let rule = Rule::new(family, pref, Then::Lookup(MAIN));
        let rules: Vec<_> = match &self.what {
            RouteWhat::Everything(_) => vec![Rule {
                suppress: Some(0),
                ..rule
            }],
            // What is routed more closely than the user says stays so, as it
            // would beside a route in main.
            RouteWhat::Nets(_) => self
                .nets(family)
                .map(|net| Rule {
                    to: Some(net),
                    suppress: Some(net.prefix_len().into()),
                    ..rule.clone()
                })
                .collect(),
        };
        let of = |rule| self.selected(rule, selectors);

        rules.iter().flat_map(of).collect()
    }

    /// Whose packets the rules are asked for, one turn after another.
    fn turns(&self) -> Vec<Turn> {
        if self.from.is_empty() {
            return vec![Turn {
                selectors: Selectors::None,
                ..CHOSEN
            }];
        }
        let mut turns = vec![CHOSEN];
        if self.takes_forwarded() {
            turns.push(FORWARDED);
        }

        turns
    }

    /// The rule for each of those whose packets are meant.
    fn selected(&self, rule: &Rule, selectors: Selectors) -> Vec<Rule> {
        if selectors == Selectors::None {
            return vec![rule.clone()];
        }
        // What the firewall chose; and answers from the tunnel, which strict
        // reverse path filters look up by their mark.
        let mut rules: Vec<_> = self
            .mark
            .second()
            .map(|mark| Rule {
                mark: Some(mark),
                ..rule.clone()
            })
            .into_iter()
            .collect();
        rules.extend(self.from.iter().filter_map(|from| from.select(rule)));
        let inside = self.unmarked.inside.iter().copied().map(IpNet::from);
        rules.extend(inside.filter_map(|net| RouteFrom::Net(net).select(rule)));

        rules
    }

    /// What table T holds for the device of that index.
    pub(crate) fn table(&self, bypass: &Bypass, index: u32) -> Vec<Entry> {
        let lead = |net| Entry {
            net,
            lead: Lead::Device(index),
        };
        let mut entries: Vec<_> = match &self.what {
            RouteWhat::Everything(_) => Family::BOTH.map(|family| lead(family.everything())).into(),
            RouteWhat::Nets(nets) => nets.iter().copied().map(lead).collect(),
        };
        // A network that is both routed and kept out is kept out.
        entries.retain(|entry| !bypass.covers(entry.net));
        entries.extend(self.always().map(lead));
        let always: HashSet<_> = self.always().collect();

        let routed: Vec<_> = entries.iter().map(|entry| entry.net).collect();
        let is_in = |net: &IpNet| routed.iter().any(|routed| routed.contains(net));
        let throw = |net| Entry {
            net,
            lead: Lead::Throw,
        };
        let kept = bypass
            .nets()
            .filter(|net| is_in(net) && !always.contains(net));
        entries.extend(kept.map(throw));

        entries
    }

    /// What the table for port 53 holds.
    pub(crate) fn names(&self, index: u32) -> Vec<Entry> {
        let lead = |family: Family| Entry {
            net: family.everything(),
            lead: Lead::Device(index),
        };

        if self.takes_names() {
            Family::BOTH.map(lead).into()
        } else {
            Vec::new()
        }
    }

    /// Whether port 53 goes through the tunnel wherever it is meant to go.
    fn takes_names(&self) -> bool {
        self.what.is_everything() && !self.dns.is_empty()
    }

    fn takes_forwarded(&self) -> bool {
        self.from.contains(&RouteFrom::Forwarded)
    }

    fn nets(&self, family: Family) -> impl Iterator<Item = IpNet> {
        let nets: &[IpNet] = match &self.what {
            RouteWhat::Everything(_) => &[],
            RouteWhat::Nets(nets) => nets,
        };
        let dns = self.dns.iter().map(|ip| IpNet::from(*ip));

        nets.iter()
            .copied()
            .chain(dns)
            .filter(move |net| Family::of(*net) == family)
    }

    /// What goes in whatever a list keeps out.
    fn always(&self) -> impl Iterator<Item = IpNet> {
        let nets: &[IpNet] = match &self.what {
            RouteWhat::Everything(nets) => nets,
            RouteWhat::Nets(_) => &[],
        };
        let dns = self.dns.iter().map(|ip| IpNet::from(*ip));

        dns.chain(nets.iter().copied())
    }
}

/// A set of rules, and whose packets they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    selectors: Selectors,
    /// Offsets of the rules for port 53, UDP and TCP.
    names: [u32; 2],
    near: u32,
    into: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selectors {
    None,
    /// One rule each.
    Each,
}

const CHOSEN: Turn = Turn {
    selectors: Selectors::Each,
    names: [1, 2],
    near: 3,
    into: 4,
};

/// Behind the leap of what is not forwarded.
const FORWARDED: Turn = Turn {
    selectors: Selectors::None,
    names: [6, 6],
    near: 7,
    into: 8,
};

/// Preferences that belong to one tunnel.
pub(crate) const PREFS: u32 = 16;

/// Offsets of the rule for our own datagrams, and of that for what this
/// machine sends where only what it forwards goes in.
pub(crate) const OWN: u32 = 9;
const LOCAL: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Block = Block {
        table: 11764,
        pref: 32500,
    };

    fn plan(what: RouteWhat, dns: &[&str]) -> Plan {
        Plan {
            what,
            mark: Mark::DEFAULT,
            dns: dns.iter().map(|ip| ip.parse().unwrap()).collect(),
            from: Vec::new(),
            unmarked: Unmarked::default(),
        }
    }

    fn nets(nets: &[&str]) -> RouteWhat {
        RouteWhat::Nets(nets.iter().map(|net| net.parse().unwrap()).collect())
    }

    fn bypass(text: &str) -> Bypass {
        text.parse::<super::super::BypassSource>()
            .unwrap()
            .read()
            .unwrap()
    }

    /// As `ip rule` shows them, without what all of them share.
    fn shown(rules: &[Rule]) -> Vec<String> {
        rules
            .iter()
            .map(|rule| {
                let mark = match rule.mark {
                    Some(Mark::DEFAULT) => " marked",
                    Some(_) => " chosen",
                    None => "",
                };
                let from = rule
                    .from
                    .map_or_else(String::new, |net| format!(" from {net}"));
                let iif = rule
                    .iif
                    .as_ref()
                    .map_or_else(String::new, |name| format!(" iif {name}"));
                let uids = rule
                    .uids
                    .as_ref()
                    .map_or_else(String::new, |uids| format!(" uid {}", uids.start()));
                let port = rule.port.map_or("", |_| " port");
                let to = rule.to.map_or_else(String::new, |net| format!(" to {net}"));
                let suppress = rule
                    .suppress
                    .map_or_else(String::new, |len| format!(" suppress {len}"));
                format!(
                    "{}{mark}{from}{iif}{uids}{port}{to} {:?}{suppress}",
                    rule.pref, rule.then
                )
            })
            .collect()
    }

    fn leads(entries: &[Entry]) -> Vec<String> {
        entries
            .iter()
            .map(|entry| format!("{} {:?}", entry.net, entry.lead))
            .collect()
    }

    #[test]
    fn everything_goes_in_behind_what_main_knows_better_and_port_53_before_it() {
        let plan = plan(RouteWhat::Everything(Vec::new()), &["10.0.0.1"]);

        assert_eq!(
            shown(&plan.preparing(BLOCK, Family::Ip4)),
            [
                "32509 marked Lookup(254)",
                "32500 marked Goto(32509)",
                "32503 Lookup(254) suppress 0",
            ]
        );
        assert_eq!(
            shown(&plan.leading(BLOCK, 11766, Family::Ip6)),
            [
                "32501 port Lookup(11765)",
                "32502 port Lookup(11765)",
                "32504 Lookup(11766)",
            ]
        );
        assert_eq!(
            leads(&plan.names(7)),
            ["0.0.0.0/0 Device(7)", "::/0 Device(7)"]
        );
    }

    #[test]
    fn networks_go_in_behind_what_main_knows_better_of_each_and_only_in_their_family() {
        let plan = plan(nets(&["10.0.0.0/8", "192.0.2.0/24"]), &[]);

        assert_eq!(plan.families(), [Family::Ip4]);
        assert_eq!(
            shown(&plan.preparing(BLOCK, Family::Ip4))[2..],
            [
                "32503 to 10.0.0.0/8 Lookup(254) suppress 8",
                "32503 to 192.0.2.0/24 Lookup(254) suppress 24",
            ]
        );
        assert_eq!(
            shown(&plan.leading(BLOCK, 11764, Family::Ip4)),
            ["32504 Lookup(11764)"]
        );
        assert_eq!(plan.names(7), []);
    }

    #[test]
    fn rules_are_made_for_each_of_those_whose_packets_go_in() {
        let mut plan = plan(RouteWhat::Everything(Vec::new()), &[]);
        plan.from = vec![
            RouteFrom::User(1000),
            RouteFrom::Group(7),
            RouteFrom::Device("lan".to_owned()),
            RouteFrom::Net("192.168.8.0/25".parse().unwrap()),
            RouteFrom::Net("fd00::/64".parse().unwrap()),
        ];

        assert_eq!(
            shown(&plan.leading(BLOCK, 11764, Family::Ip4)),
            [
                "32504 chosen Lookup(11764)",
                "32504 uid 1000 Lookup(11764)",
                "32504 iif lan Lookup(11764)",
                "32504 from 192.168.8.0/25 Lookup(11764)",
            ]
        );
        let near = shown(&plan.preparing(BLOCK, Family::Ip6));
        assert_eq!(near.len(), 6);
        assert_eq!(near[5], "32503 from fd00::/64 Lookup(254) suppress 0");
    }

    #[test]
    fn what_is_forwarded_goes_in_behind_a_leap_of_the_rest() {
        let mut plan = plan(RouteWhat::Everything(Vec::new()), &["192.0.2.53"]);
        plan.from = vec![RouteFrom::Forwarded];

        assert_eq!(
            shown(&plan.preparing(BLOCK, Family::Ip4)),
            [
                "32509 marked Lookup(254)",
                "32500 marked Goto(32509)",
                "32505 iif lo Goto(32509)",
                "32503 chosen Lookup(254) suppress 0",
                "32507 Lookup(254) suppress 0",
            ]
        );
        assert_eq!(
            shown(&plan.leading(BLOCK, 11764, Family::Ip4)),
            [
                "32501 chosen port Lookup(11765)",
                "32502 chosen port Lookup(11765)",
                "32504 chosen Lookup(11764)",
                "32506 port Lookup(11765)",
                "32506 port Lookup(11765)",
                "32508 Lookup(11764)",
            ]
        );
    }

    #[test]
    fn without_a_firewall_answers_are_told_by_their_addresses() {
        let mut plan = plan(RouteWhat::Everything(Vec::new()), &[]);
        let ips = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        plan.unmarked = Unmarked {
            outside: ips(&["192.0.2.7", "2001:db8::7"]),
            inside: ips(&["10.0.0.2", "fc00::2"]),
        };

        assert_eq!(
            shown(&plan.preparing(BLOCK, Family::Ip4)),
            [
                "32509 marked Lookup(254)",
                "32500 marked Goto(32509)",
                "32500 from 192.0.2.7/32 Lookup(254)",
                "32503 Lookup(254) suppress 0",
            ]
        );
        assert_eq!(
            shown(&plan.leading(BLOCK, 11764, Family::Ip6)),
            ["32504 Lookup(11764)"]
        );

        plan.from = vec![RouteFrom::User(1000)];
        assert_eq!(
            shown(&plan.leading(BLOCK, 11764, Family::Ip6)),
            [
                "32504 chosen Lookup(11764)",
                "32504 uid 1000 Lookup(11764)",
                "32504 from fc00::2/128 Lookup(11764)",
            ]
        );
    }

    #[test]
    fn what_is_kept_out_is_thrown_but_for_resolvers() {
        let plan = plan(
            RouteWhat::Everything(Vec::new()),
            &["10.0.0.1", "192.0.2.53"],
        );

        assert_eq!(
            leads(&plan.table(&bypass("10.0.0.0/8,192.0.2.53,fc00::/7"), 7)),
            [
                "0.0.0.0/0 Device(7)",
                "::/0 Device(7)",
                "10.0.0.1/32 Device(7)",
                "192.0.2.53/32 Device(7)",
                "10.0.0.0/8 Throw",
                "fc00::/7 Throw",
            ]
        );
    }

    #[test]
    fn what_is_named_beside_everything_beats_a_list_that_does_not_name_it_more_closely() {
        let nets = ["10.8.0.0/16", "172.16.0.0/12", "192.0.2.0/24"].map(|net| net.parse().unwrap());
        let plan = plan(RouteWhat::Everything(nets.to_vec()), &[]);

        let mut leads = leads(&plan.table(&bypass("10.0.0.0/8,172.16.7.0/24,192.0.2.0/24"), 7));
        leads.sort();

        assert_eq!(
            leads,
            [
                "0.0.0.0/0 Device(7)",
                "10.0.0.0/8 Throw",
                "10.8.0.0/16 Device(7)",
                "172.16.0.0/12 Device(7)",
                "172.16.7.0/24 Throw",
                "192.0.2.0/24 Device(7)",
                "::/0 Device(7)",
            ]
        );
    }

    #[test]
    fn of_a_list_only_what_lies_in_a_routed_network_matters() {
        let plan = plan(nets(&["10.0.0.0/8", "172.16.0.0/16", "fd00::/8"]), &[]);

        assert_eq!(
            leads(&plan.table(&bypass("10.1.0.0/16,172.16.0.0/12,192.0.2.0/24"), 7)),
            [
                "10.0.0.0/8 Device(7)",
                "fd00::/8 Device(7)",
                "10.1.0.0/16 Throw",
            ]
        );
    }

    #[test]
    fn the_next_list_goes_to_the_table_that_is_not_in_use() {
        assert_eq!(BLOCK.other(11764), 11766);
        assert_eq!(BLOCK.other(11766), 11764);
        assert_eq!(BLOCK.names(), 11765);
    }
}
