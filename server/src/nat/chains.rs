//! Where the rules of iptables drop what spokes send or the hub is sent, and
//! what lets it pass there. Pure: reads what `iptables -S` prints.
//!
//! A rule is looked at as a packet of ours may meet it: one with a condition
//! that is not known to hold is passed over, so that what an owner blocks on
//! purpose stays blocked, and the accept goes right before what drops all the
//! rest. Where the chain's program has a chain for others' rules, it goes there.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use std::collections::HashMap;

use ipnet::IpNet;

/// What `iptables -S` printed.
#[derive(Debug)]
pub(super) struct Chains {
    /// Of the built-in ones.
    policies: HashMap<String, String>,
    rules: HashMap<String, Vec<Rule>>,
}

/// The words behind the chain's name.
type Rule = Vec<String>;

/// A rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) chain: String,
    /// Counted from 1; the length and one more for the end.
    pub(super) at: usize,
    pub(super) rule: Rule,
}

/// What is to pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The comment that every rule of ours bears.
    pub(super) tag: &'a str,
    /// Of spokes and behind them, of one family.
    pub(super) inside: &'a [IpNet],
    /// Where the hub listens, by UDP.
    pub(super) port: u16,
}

impl Chains {
    pub(super) fn parse(listing: &str) -> Self {
        let mut chains = Self {
            policies: HashMap::new(),
            rules: HashMap::new(),
        };
        for line in listing.lines() {
            let mut words = words(line).into_iter();
            let (Some(kind), Some(chain)) = (words.next(), words.next()) else {
                continue;
            };
            let rules = chains.rules.entry(chain.clone()).or_default();
            match kind.as_str() {
                "-P" => {
                    chains
                        .policies
                        .insert(chain, words.next().unwrap_or_default());
                }
                "-A" => rules.push(words.collect()),
                _ => {}
            }
        }

        chains
    }

    /// What has to be changed: rules of ours to be deleted, and those to be
    /// inserted after that, in this order.
    pub(super) fn changes(&self, wanted: Wanted<'_>) -> (Vec<(String, Rule)>, Vec<Accept>) {
        let is_ours = |rule: &Rule| has_comment(rule, wanted.tag);
        let mut ours = Vec::new();
        let mut theirs = Self {
            policies: self.policies.clone(),
            rules: self.rules.clone(),
        };
        for (chain, rules) in &mut theirs.rules {
            let mut before = 0;
            rules.retain(|rule| {
                if is_ours(rule) {
                    ours.push((chain.clone(), before, rule.clone()));
                } else {
                    before += 1;
                }
                !is_ours(rule)
            });
        }

        let accepts = theirs.accepts(wanted);
        let stands = |accept: &Accept, first: usize| {
            ours.iter().any(|(chain, before, rule)| {
                // Others may have put more before what drops meanwhile.
                *chain == accept.chain && *rule == accept.rule && *before < first
            })
        };
        let mut offsets: HashMap<&str, usize> = HashMap::new();
        let all_stand = accepts.iter().all(|accept| {
            let offset = offsets.entry(&accept.chain).or_default();
            let at = accept.at - *offset;
            *offset += 1;
            stands(accept, at)
        });
        if all_stand && ours.len() == accepts.len() {
            return Default::default();
        }
        let delete = ours.into_iter().map(|(chain, _, rule)| (chain, rule));

        (delete.collect(), accepts)
    }

    /// Whether firewalld has made them, which has a way of its own.
    pub(super) fn is_firewalld(&self) -> bool {
        ["INPUT_ZONES", "FORWARD_IN_ZONES"]
            .iter()
            .any(|chain| self.rules.contains_key(*chain))
    }

    /// All rules of ours, with their chains.
    pub(super) fn tagged(&self, tag: &str) -> Vec<(String, Rule)> {
        let all = self.rules.iter();
        let all = all.flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule)));

        all.filter(|(_, rule)| has_comment(rule, tag))
            .map(|(chain, rule)| (chain.clone(), rule.clone()))
            .collect()
    }

    /// What lets it pass in these chains, which have nothing of ours.
    fn accepts(&self, wanted: Wanted<'_>) -> Vec<Accept> {
        let tag = ["-m", "comment", "--comment", wanted.tag, "-j", "ACCEPT"];
        let mut all = Vec::new();
        if let Some((chain, mut at)) = self.place("FORWARD", Packet::Forwarded, &FOR_FORWARD) {
            for net in wanted.inside {
                let net = net.to_string();
                let out = ["-s", &net, "-i", "dtun+"];
                let answer = ["-d", &net, "-o", "dtun+", "-m", "conntrack"];
                let answer = [&answer[..], &["--ctstate", "RELATED,ESTABLISHED"]].concat();
                for matches in [&out[..], &answer] {
                    all.push(Accept {
                        chain: chain.clone(),
                        at,
                        rule: owned(&[matches, &tag].concat()),
                    });
                    at += 1;
                }
            }
        }
        if let Some((chain, at)) = self.place("INPUT", Packet::Udp(wanted.port), &FOR_INPUT) {
            let port = wanted.port.to_string();
            let udp = ["-p", "udp", "-m", "udp", "--dport", &port];
            let rule = owned(&[&udp[..], &tag].concat());
            all.push(Accept { chain, at, rule });
        }

        all
    }

    /// Where an accept has to be for a packet that is dropped; none for one
    /// that passes.
    fn place(&self, base: &str, packet: Packet, open: &[&str]) -> Option<(String, usize)> {
        let mut seen = Vec::new();
        let Fate::Dropped(chain, at) = self.fate(base, packet, &mut seen) else {
            return None;
        };
        let theirs = open
            .iter()
            .find(|open| seen.iter().any(|seen| seen == *open));
        let Some(open) = theirs else {
            return Some((chain, at));
        };
        let rules = &self.rules[*open];
        let last = rules.iter().position(|rule| packet.meets(rule));

        Some(((*open).to_owned(), last.unwrap_or(rules.len()) + 1))
    }

    fn fate(&self, chain: &str, packet: Packet, seen: &mut Vec<String>) -> Fate {
        if seen.len() > DEEPEST {
            return Fate::Falls; // The kernel has no loops, so this is none either.
        }
        seen.push(chain.to_owned());
        let rules = self.rules.get(chain).map_or(&[][..], Vec::as_slice);
        for (index, rule) in rules.iter().enumerate() {
            if !packet.meets(rule) {
                continue;
            }
            match target(rule) {
                Some((_, "ACCEPT")) => return Fate::Passes,
                Some((_, "DROP" | "REJECT")) => return Fate::Dropped(chain.to_owned(), index + 1),
                Some((_, "RETURN")) => break,
                Some((flag, other)) if self.rules.contains_key(other) => {
                    match self.fate(other, packet, seen) {
                        Fate::Falls if flag == "-g" => break,
                        Fate::Falls => {}
                        fate @ (Fate::Passes | Fate::Dropped(..)) => return fate,
                    }
                }
                Some(_) | None => {}
            }
        }

        match self.policies.get(chain).map(String::as_str) {
            Some("DROP") => Fate::Dropped(chain.to_owned(), rules.len() + 1),
            Some(_) => Fate::Passes,
            None => Fate::Falls,
        }
    }
}

/// What becomes of a packet in a chain.
enum Fate {
    Passes,
    /// In this chain, by this rule or behind the last.
    Dropped(String, usize),
    /// Back to the chain before.
    Falls,
}

#[derive(Clone, Copy, Debug)]
enum Packet {
    /// The first of a connection out of the tunnel.
    Forwarded,
    /// The first datagram of a spoke, for this port of the machine.
    Udp(u16),
}

impl Packet {
    /// Whether it certainly meets all of a rule's conditions.
    fn meets(self, rule: &[String]) -> bool {
        let end = target(rule).map_or(rule.len(), |(flag, _)| {
            rule.iter().position(|word| word == flag).unwrap_or(0)
        });
        let words: Vec<_> = rule[..end].iter().map(String::as_str).collect();

        words.chunks(2).all(|pair| match (self, pair) {
            (_, ["-m", "comment" | "state" | "conntrack"] | ["--comment", _]) => true,
            (_, ["--state" | "--ctstate", states]) => states.split(',').any(|state| state == "NEW"),
            (Self::Udp(_), ["-p", "udp"] | ["-m", "udp" | "multiport" | "addrtype"]) => true,
            (Self::Udp(_), ["--dst-type", "LOCAL"]) => true,
            (Self::Udp(port), ["--dport" | "--dports", ports]) => {
                ports.split(',').any(|ports| covers(ports, port))
            }
            _ => false,
        })
    }
}

/// Whether "443" or "400:500" takes a port in.
fn covers(ports: &str, port: u16) -> bool {
    let (low, high) = ports.split_once(':').unwrap_or((ports, ports));
    let parsed = low.parse().ok().zip(high.parse::<u16>().ok());

    parsed.is_some_and(|(low, high): (u16, u16)| (low..=high).contains(&port))
}

/// `-j` or `-g`, and where to.
fn target(rule: &[String]) -> Option<(&str, &str)> {
    let at = rule.iter().position(|word| word == "-j" || word == "-g")?;

    Some((&rule[at], rule.get(at + 1)?))
}

fn has_comment(rule: &[String], tag: &str) -> bool {
    rule.windows(2)
        .any(|pair| pair[0] == "--comment" && pair[1] == tag)
}

/// The words of a line; one with blanks or dots in it may be between quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }

    words
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Chains for others' rules: Docker's, ufw's.
const FOR_FORWARD: [&str; 3] = ["DOCKER-USER", "ufw-user-forward", "ufw6-user-forward"];
const FOR_INPUT: [&str; 2] = ["ufw-user-input", "ufw6-user-input"];

/// Calls of chains in one walk; a machine with a hundred containers has less.
const DEEPEST: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "-m comment --comment dtun-hub-443 -j ACCEPT";

    fn wanted(inside: &[IpNet]) -> Wanted<'_> {
        Wanted {
            tag: "dtun-hub-443",
            inside,
            port: 443,
        }
    }

    /// What would be inserted, one line each: chain, place, matches.
    fn inserted(listing: &str) -> Vec<String> {
        let inside = ["10.0.0.0/24".parse().unwrap()];
        let (deleted, accepts) = Chains::parse(listing).changes(wanted(&inside));
        assert!(deleted.is_empty(), "{deleted:?}");

        accepts
            .iter()
            .map(|accept| {
                let rule = accept.rule.join(" ");
                let matches = rule.strip_suffix(TAG).unwrap().trim_end();
                format!("{} {} {matches}", accept.chain, accept.at)
            })
            .collect()
    }

    const OUT: &str = "-s 10.0.0.0/24 -i dtun+";
    const BACK: &str = "-d 10.0.0.0/24 -o dtun+ -m conntrack --ctstate RELATED,ESTABLISHED";
    const PORT: &str = "-p udp -m udp --dport 443";

    #[test]
    fn the_accept_goes_right_before_what_drops_all_the_rest() {
        let oracle = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n\
             -A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
             -A INPUT -s 192.0.2.66/32 -j DROP\n\
             -A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT\n\
             -A INPUT -j REJECT --reject-with icmp-host-prohibited\n\
             -A FORWARD -j REJECT --reject-with icmp-host-prohibited\n";

        assert_eq!(
            inserted(oracle),
            [
                format!("FORWARD 1 {OUT}"),
                format!("FORWARD 2 {BACK}"),
                format!("INPUT 4 {PORT}"),
            ]
        );
    }

    #[test]
    fn a_chain_that_is_there_for_others_rules_gets_it() {
        let docker = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-N DOCKER-FORWARD\n\
             -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n\
             -A DOCKER-USER -s 192.0.2.66/32 -j DROP\n-A DOCKER-USER -j RETURN\n\
             -A DOCKER-FORWARD -i docker0 -j ACCEPT\n";
        let ufw = "-P INPUT DROP\n-P FORWARD DROP\n-N ufw-user-forward\n-N ufw-user-input\n\
             -N ufw-not-local\n-A INPUT -j ufw-not-local\n-A INPUT -j ufw-user-input\n\
             -A FORWARD -j ufw-user-forward\n\
             -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN\n-A ufw-not-local -j DROP\n\
             -A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT\n";

        assert_eq!(
            inserted(docker),
            [
                format!("DOCKER-USER 2 {OUT}"),
                format!("DOCKER-USER 3 {BACK}")
            ]
        );
        assert_eq!(
            inserted(ufw),
            [
                format!("ufw-user-forward 1 {OUT}"),
                format!("ufw-user-forward 2 {BACK}"),
                format!("ufw-user-input 2 {PORT}"),
            ]
        );
    }

    #[test]
    fn where_nothing_is_dropped_or_the_port_is_open_nothing_is_done() {
        for listing in [
            "",
            "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n",
            "-P FORWARD ACCEPT\n-A FORWARD -s 192.0.2.0/24 -j DROP\n",
            "-P FORWARD DROP\n-A FORWARD -j ACCEPT\n",
            "-P INPUT DROP\n-A INPUT -p udp -m udp --dport 443 -j ACCEPT\n",
            "-P INPUT DROP\n-A INPUT -p udp -m state --state NEW -m udp --dport 443 -j ACCEPT\n",
            "-P INPUT DROP\n-A INPUT -p udp -m multiport --dports 53,400:500 -j ACCEPT\n",
            "-P INPUT DROP\n-N open\n-A INPUT -g open\n\
             -A open -p udp -m udp --dport 443 -m comment --comment \"for -j DROP\" -j ACCEPT\n",
        ] {
            assert_eq!(inserted(listing), [""; 0], "{listing}");
        }
        assert_eq!(
            inserted("-P INPUT DROP\n-A INPUT -p udp -m udp --dport 4433 -j ACCEPT\n"),
            [format!("INPUT 2 {PORT}")]
        );
    }

    #[test]
    fn what_stands_is_left_and_what_is_in_the_wrong_place_is_moved() {
        let inside = ["10.0.0.0/24".parse().unwrap()];
        let rules = |lines: &[&str]| {
            let lines = lines.iter().map(|line| format!("-A FORWARD {line}\n"));
            format!("-P FORWARD ACCEPT\n{}", lines.collect::<String>())
        };
        let (out, back) = (format!("{OUT} {TAG}"), format!("{BACK} {TAG}"));
        let other = out.replace("dtun-hub-443", "dtun-hub-4433");

        let stands = rules(&["-i a -j DROP", &out, &back, &other, "-j REJECT"]);
        let (deleted, accepts) = Chains::parse(&stands).changes(wanted(&inside));
        assert_eq!((deleted.len(), accepts.len()), (0, 0), "{accepts:?}");

        for (broken, gone) in [
            (rules(&[&out, "-j REJECT"]), 1),
            (rules(&["-j REJECT", &out, &back]), 2),
            (rules(&[&out, &out, &back, "-j REJECT"]), 3),
        ] {
            let (deleted, accepts) = Chains::parse(&broken).changes(wanted(&inside));
            assert_eq!((deleted.len(), accepts.len()), (gone, 2), "{broken}");
        }
        let open = rules(&[&out, &back]);
        let (deleted, accepts) = Chains::parse(&open).changes(wanted(&inside));
        assert_eq!((deleted.len(), accepts.len()), (2, 0));
    }

    #[test]
    fn a_tag_with_dots_is_known_between_its_quotes() {
        let listing = "-P FORWARD ACCEPT\n-A FORWARD -m comment --comment \"dtun-hub-192.0.2.1-443\" -j ACCEPT\n";
        let wanted = Wanted {
            tag: "dtun-hub-192.0.2.1-443",
            inside: &[],
            port: 443,
        };

        let (deleted, _) = Chains::parse(listing).changes(wanted);

        assert_eq!(deleted.len(), 1);
    }
}
