//! What a run that was killed has left, and where there is room for the next.
//!
//! A leftover holds nothing up: its tables lead into a device that is gone, or
//! that nobody holds. It is known by its rules, wherever they stand.

use std::collections::HashSet;
use std::io;

use dtun_shared::link::{Family, KERNEL, Lead, MAIN, Netlink, Rule, Then};

use super::install::Place;
use super::plan::{Block, OWN, PREFS};

/// Rules or tables that somebody else uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rules from {} or tables from {} on are in use: name others with -rule-pref and -table",
    block.pref,
    block.table
)]
pub(crate) struct Taken {
    block: Block,
}

/// Removes what is left of any run that no longer runs, and whose device is
/// not `awaited` by its next start.
pub(crate) async fn remove(netlink: &Netlink, place: Place, awaited: &[u32]) -> io::Result<()> {
    let rules = all_rules(netlink).await?;
    for block in found(&rules, place) {
        if is_alive(netlink, &block.tables, awaited).await? {
            continue;
        }
        take_down(netlink, block).await?;
    }

    // A run that was killed before it made a rule left tables alone.
    let tables = place.block(0).tables();
    if !is_alive(netlink, &tables, awaited).await? {
        for table in tables {
            netlink.empty(table).await?;
        }
    }

    Ok(())
}

/// Removes what stands at one place, whoever holds the device.
pub(crate) async fn discard(netlink: &Netlink, block: Block) -> io::Result<()> {
    let rules = all_rules(netlink).await?;
    let place = Place {
        table: Some(block.table),
        pref: Some(block.pref),
    };
    let is_there = |found: &Found| found.rules.iter().all(|rule| block.holds(rule.pref));
    for found in found(&rules, place).into_iter().filter(is_there) {
        take_down(netlink, found).await?;
    }
    for table in block.tables() {
        netlink.empty(table).await?;
    }

    Ok(())
}

async fn take_down(netlink: &Netlink, found: Found) -> io::Result<()> {
    for rule in &found.rules {
        netlink.delete_rule(rule).await?;
    }
    for table in found.tables {
        netlink.empty(table).await?;
    }

    Ok(())
}

/// Rules and tables that nobody uses, where the user wants them.
pub(crate) async fn room(netlink: &Netlink, place: Place) -> io::Result<Result<Block, Taken>> {
    let rules = all_rules(netlink).await?;
    let routed: HashSet<_> = netlink
        .routes()
        .await?
        .into_iter()
        .map(|route| route.table)
        .collect();
    let is_free = |block: &Block| {
        !rules.iter().any(|rule| block.holds(rule.pref))
            && !block.tables().iter().any(|table| routed.contains(table))
    };
    let free = (0..BLOCKS).map(|at| place.block(at)).find(is_free);

    Ok(free.ok_or(Taken {
        block: place.block(0),
    }))
}

impl Place {
    /// One of several, if the user has not said which.
    fn block(self, at: u32) -> Block {
        Block {
            table: self.table.unwrap_or(TABLE + 4 * at),
            pref: self.pref.unwrap_or(PREF - PREFS * at),
        }
    }
}

/// Rules of one run, what counts first, and the tables that they name.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    rules: Vec<Rule>,
    tables: HashSet<u32>,
}

/// The runs that the rules tell of, with what has their shape; of a rule that
/// others may have too, the first that is made, only where ours stand.
fn found(rules: &[Rule], place: Place) -> Vec<Found> {
    let is_place = |start: &u32| (0..BLOCKS).any(|at| place.block(at).pref == *start);
    let ours = |rule: &&Rule| rule.protocol == KERNEL && !rule.other;
    let leaps = |rule: &Rule| rule.mark.is_some() && rule.then == Then::Goto(rule.pref + OWN);
    let is_own = |rule: &Rule| {
        rule.mark.is_some() && rule.suppress.is_none() && rule.then == Then::Lookup(MAIN)
    };

    // The rule that is made first may be alone.
    let mut starts: Vec<_> = rules
        .iter()
        .filter(ours)
        .filter_map(|rule| {
            let own = || {
                let start = is_own(rule).then(|| rule.pref.checked_sub(OWN)).flatten();
                start.filter(is_place)
            };
            leaps(rule).then_some(rule.pref).or_else(own)
        })
        .collect();
    starts.sort_unstable();
    starts.dedup();

    starts
        .into_iter()
        .map(|start| {
            let block = Block {
                table: 0,
                pref: start,
            };
            let has_leap = rules
                .iter()
                .filter(ours)
                .any(|rule| rule.pref == start && leaps(rule));
            let belongs = |rule: &&Rule| {
                if has_leap {
                    block.holds(rule.pref)
                } else {
                    rule.pref == start + OWN && is_own(rule)
                }
            };
            let mut rules: Vec<_> = rules.iter().filter(ours).filter(belongs).cloned().collect();
            // The leap before where it leads to, and both last.
            rules.sort_by_key(|rule| (is_own(rule), leaps(rule)));
            let tables = rules
                .iter()
                .filter_map(|rule| match rule.then {
                    Then::Lookup(table) if table != MAIN => Some(table),
                    Then::Lookup(_) | Then::Goto(_) | Then::Unreachable | Then::Other => None,
                })
                .collect();

            Found { rules, tables }
        })
        .collect()
}

/// Whether a table leads into a device that somebody holds, or is to hold soon.
async fn is_alive<'a>(
    netlink: &Netlink,
    tables: impl IntoIterator<Item = &'a u32>,
    awaited: &[u32],
) -> io::Result<bool> {
    for table in tables {
        for family in Family::BOTH {
            for entry in netlink.entries(family, *table).await? {
                if let Lead::Device(index) = entry.lead
                    && let Some(link) = netlink.link_by_index(index).await?
                    && (link.carrier || awaited.contains(&index))
                {
                    return Ok(true);
                }
            }
        }
    }

    Ok(false)
}

async fn all_rules(netlink: &Netlink) -> io::Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        rules.extend(netlink.rules(family).await?);
    }

    Ok(rules)
}

/// Clear of the tables and preferences of tailscale (52; 5210 to 5270),
/// wg-quick (51820; below 32766 or as the kernel counts down from there), mwan3
/// (1 to 250; 1001 to 3250) and clash (2022; 9000 to 9010).
const TABLE: u32 = 11764;
const PREF: u32 = 32_500;

/// Tunnels that find room by themselves.
const BLOCKS: u32 = 16;

#[cfg(test)]
mod tests {
    use dtun_shared::mark::Mark;

    use super::super::{Plan, RouteWhat, Unmarked};
    use super::*;

    const BLOCK: Block = Block {
        table: 500,
        pref: 100,
    };
    const PLACE: Place = Place {
        table: Some(BLOCK.table),
        pref: Some(BLOCK.pref),
    };

    fn theirs() -> Vec<Rule> {
        let rule = |pref, then| Rule {
            protocol: 3,
            ..Rule::new(Family::Ip4, pref, then)
        };
        let marked = |rule| Rule {
            mark: Some(Mark::DEFAULT),
            ..rule
        };

        vec![
            rule(105, Then::Lookup(500)),
            marked(rule(200, Then::Goto(209))),
            marked(rule(209, Then::Lookup(MAIN))),
            Rule {
                mark: Some(Mark::DEFAULT),
                ..Rule::new(Family::Ip4, 700, Then::Lookup(MAIN))
            },
            Rule::new(Family::Ip4, 32766, Then::Lookup(MAIN)),
        ]
    }

    fn ours() -> Vec<Rule> {
        let plan = Plan {
            what: RouteWhat::Everything(Vec::new()),
            mark: Mark::DEFAULT,
            dns: vec!["192.0.2.53".parse().unwrap()],
            from: Vec::new(),
            unmarked: Unmarked::default(),
        };
        let of = |family| {
            let mut rules = plan.preparing(BLOCK, family);
            rules.extend(plan.leading(BLOCK, 500, family));
            rules
        };

        Family::BOTH.into_iter().flat_map(of).collect()
    }

    #[test]
    fn a_run_is_known_by_its_rules_and_nobody_elses_are_taken_for_its() {
        let all = [theirs(), ours()].concat();

        let [found] = &found(&all, PLACE)[..] else {
            panic!("{:?}", found(&all, PLACE));
        };

        assert_eq!(found.rules.len(), ours().len());
        assert!(found.rules.iter().all(|rule| ours().contains(rule)));
        assert_eq!(found.tables, HashSet::from([500, 501]));
        let last: Vec<_> = found.rules[8..].iter().map(|rule| rule.pref).collect();
        assert_eq!(last, [100, 100, 109, 109]);
        assert_eq!(super::found(&theirs(), PLACE), []);
    }

    #[test]
    fn a_run_that_ended_at_any_step_is_known() {
        let order = ours();
        for steps in 1..=order.len() {
            let all = [theirs(), order[..steps].to_vec()].concat();

            let found: Vec<_> = found(&all, PLACE)
                .into_iter()
                .flat_map(|run| run.rules)
                .collect();

            assert_eq!(found.len(), steps, "{found:?}");
        }
    }
}
