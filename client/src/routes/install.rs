//! Puts rules and tables up, keeps them as they are to be, takes them down.

mod left;

use std::collections::HashSet;
use std::io;

use dtun_shared::link::{self, Entry, Family, Netlink, Rule, Then};
use ipnet::IpNet;

use super::bypass::Bypass;
use super::leftover;
use super::plan::{Block, Plan};
use super::unmarked::NeedsFirewall;
pub(crate) use left::LeftRoutes;

/// The rules and tables of a spoke.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(super) netlink: Netlink,
    pub(super) plan: Plan,
    place: Place,
    /// What is kept out of the tunnel.
    bypass: Bypass,
    standing: Option<Standing>,
}

/// Where the user wants rules and tables; none: where there is room.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    pub(crate) table: Option<u32>,
    pub(crate) pref: Option<u32>,
}

/// What has been put up.
#[derive(Debug)]
struct Standing {
    block: Block,
    /// Whether it is of this plan: else more may stand, and something be
    /// missing.
    is_of_plan: bool,
    /// The table that the list is in; none until it is.
    table: Option<u32>,
    device: u32,
    /// The list that is in the table.
    bypass: Bypass,
    /// What the kernel has taken of it.
    filled: Filled,
    /// Families that the machine has.
    families: Vec<Family>,
    /// Whether the rules that lead into the tunnel are up.
    leads: bool,
}

impl Standing {
    /// Nothing yet, at that place.
    fn new(block: Block, families: Vec<Family>) -> Self {
        Self {
            block,
            is_of_plan: true,
            table: None,
            device: 0,
            bypass: Bypass::default(),
            filled: Filled::default(),
            families,
            leads: false,
        }
    }
}

/// What the tables hold.
#[derive(Debug, Default)]
struct Filled {
    /// Routes of the list's table, of whatever kind.
    entries: usize,
    /// Routes into the device, each with its table.
    into: Vec<(u32, Entry)>,
}

/// Why nothing is routed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRouted {
    #[error("cannot {what}: {source}")]
    Kernel {
        what: &'static str,
        source: io::Error,
    },
    #[error("{0}")]
    Taken(#[from] leftover::Taken),
    #[error("{0}")]
    NoFirewall(#[from] NeedsFirewall),
}

impl Routes {
    pub(crate) fn new(netlink: Netlink, plan: Plan, place: Place) -> Self {
        Self {
            netlink,
            plan,
            place,
            bypass: Bypass::default(),
            standing: None,
        }
    }

    /// Removes what a run that was killed has left.
    pub(crate) async fn clean_up(&self, awaited: &[u32]) -> Result<(), NotRouted> {
        leftover::remove(&self.netlink, self.place, awaited)
            .await
            .map_err(kernel("remove the routes of an earlier run"))
    }

    /// Takes a list for the next [`Self::prepare`]; true if it is another than
    /// before.
    pub(crate) fn set_bypass(&mut self, bypass: Bypass) -> bool {
        let is_other = bypass != self.bypass;
        self.bypass = bypass;

        is_other
    }

    pub(crate) fn bypass(&self) -> &Bypass {
        &self.bypass
    }

    /// The table in use.
    pub(crate) fn table(&self) -> Option<u32> {
        self.standing.as_ref()?.table
    }

    /// Fills the tables for a device, and makes the rules that keep our own
    /// datagrams out of them. Nothing is sent into the tunnel by it.
    pub(crate) async fn prepare(&mut self, device: u32) -> Result<(), NotRouted> {
        if let Some(standing) = &self.standing
            && standing.device == device
            && standing.bypass == self.bypass
            && standing.is_of_plan
        {
            return self.restore(true).await.map(drop);
        }

        if self.standing.is_none() {
            let block = leftover::room(&self.netlink, self.place)
                .await
                .map_err(kernel("read rules and routes"))??;
            let families = self.families().await?;
            // First, so that a step which is broken off is taken back too.
            self.standing = Some(Standing::new(block, families));
        }
        if self.standing.as_ref().is_some_and(|it| !it.is_of_plan) {
            let families = self.families().await?;
            if let Some(standing) = &mut self.standing {
                standing.families = families;
            }
        }
        let Some(standing) = &self.standing else {
            return Ok(());
        };
        let (block, old, leads) = (standing.block, standing.table, standing.leads);
        let (table, is_of_plan) = (
            old.map_or(block.table, |old| block.other(old)),
            standing.is_of_plan,
        );
        let rules = preparing(&self.plan, block, &standing.families);
        if !is_of_plan {
            // An earlier run may have been killed while it filled it.
            let emptied = self.netlink.empty(table).await;
            emptied.map_err(kernel("empty a table"))?;
        }
        let filled = self.fill(block, table, device).await?;
        self.add(&rules).await?;

        if let Some(standing) = &mut self.standing {
            standing.table = Some(table);
            standing.device = device;
            standing.bypass = self.bypass.clone();
            standing.filled = filled;
        }
        if leads {
            self.lead().await?;
        }
        if !is_of_plan {
            self.prune().await?;
        }
        if let Some(old) = old {
            self.stop_leading(block, old).await?;
            self.netlink
                .empty(old)
                .await
                .map_err(kernel("empty the table of the last list"))?;
        }

        Ok(())
    }

    /// Makes the rules that lead into the tunnel, the last step.
    pub(crate) async fn lead(&mut self) -> Result<(), NotRouted> {
        if let Some(standing) = &mut self.standing {
            standing.leads = true;
        }
        let rules = self.standing.as_ref().map(|it| leading(&self.plan, it));

        self.add(&rules.unwrap_or_default()).await
    }

    /// Puts back what others have taken away; true if anything was. Of the
    /// tables, only the routes into the device are looked at, but with
    /// `thoroughly` all.
    pub(crate) async fn restore(&mut self, thoroughly: bool) -> Result<bool, NotRouted> {
        let Some(standing) = &self.standing else {
            return Ok(false);
        };
        let Some(table) = standing.table else {
            return Ok(false);
        };
        let mut wanted = self.wanted(&self.plan);
        let present: HashSet<_> = self.rules(&standing.families).await?.into_iter().collect();
        wanted.retain(|rule| !present.contains(rule));

        let is_cut = self.is_cut(standing, table, thoroughly).await?;
        if is_cut {
            self.fill(standing.block, table, standing.device).await?;
        }
        self.add(&wanted).await?;

        Ok(is_cut || !wanted.is_empty())
    }

    /// Takes everything down, first what counts.
    pub(crate) async fn remove(&mut self) -> Result<(), NotRouted> {
        let Some(standing) = &self.standing else {
            return Ok(());
        };
        let block = standing.block;
        if !standing.is_of_plan {
            let discarded = leftover::discard(&self.netlink, block).await;
            discarded.map_err(kernel("remove the routes of another plan"))?;
            self.standing = None;
            return Ok(());
        }
        let mut rules = preparing(&self.plan, block, &standing.families);
        for family in &standing.families {
            for table in [block.table, block.other(block.table)] {
                rules.extend(self.plan.leading(block, table, *family));
            }
        }
        for rule in rules.iter().rev() {
            self.netlink
                .delete_rule(rule)
                .await
                .map_err(kernel("remove a rule"))?;
        }
        for table in block.tables() {
            self.netlink
                .empty(table)
                .await
                .map_err(kernel("empty a table"))?;
        }
        // Last, so that the next finishes one which was broken off.
        self.standing = None;

        Ok(())
    }

    /// Those of the plan's families that the machine has.
    async fn families(&self) -> Result<Vec<Family>, NotRouted> {
        let mut families = Vec::new();
        for family in self.plan.families() {
            // Every family that there is has the rule for the table local.
            if !self.rules(&[family]).await?.is_empty() {
                families.push(family);
            }
        }

        Ok(families)
    }

    /// Every rule that is to be there by a plan.
    pub(super) fn wanted(&self, plan: &Plan) -> Vec<Rule> {
        let Some(standing) = &self.standing else {
            return Vec::new();
        };
        let mut rules = preparing(plan, standing.block, &standing.families);
        if standing.leads {
            rules.extend(leading(plan, standing));
        }

        rules
    }

    async fn rules(&self, families: &[Family]) -> Result<Vec<Rule>, NotRouted> {
        let mut rules = Vec::new();
        for family in families {
            let found = self.netlink.rules(*family).await;
            rules.extend(found.map_err(kernel("read the rules"))?);
        }

        Ok(rules)
    }

    async fn fill(&self, block: Block, table: u32, device: u32) -> Result<Filled, NotRouted> {
        let names = self.plan.names(device);
        let lists = self.plan.table(&self.bypass, device);
        let mut entries = lists.len();
        for (filled, wanted) in [(block.names(), names), (table, lists)] {
            let refused = self.netlink.fill(filled, wanted.into_iter()).await;
            if let Some((count, why)) = refused.map_err(kernel("fill a table"))? {
                if why.kind() == io::ErrorKind::PermissionDenied && self.is_without6(device).await {
                    tracing::debug!(
                        table = filled,
                        count,
                        "IPv6 is switched off on this machine"
                    );
                } else {
                    tracing::warn!(table = filled, count, %why, "routes were refused");
                }
                if filled == table {
                    entries = entries.saturating_sub(count);
                }
            }
        }
        let tables = [block.names(), table];

        Ok(Filled {
            entries,
            into: self.routes_into(&tables, device).await?,
        })
    }

    /// Whether IPv6 is switched off on this machine, so that none can leave it
    /// beside a tunnel which takes none either.
    async fn is_without6(&self, device: u32) -> bool {
        let is_six = |(index, net): &(u32, IpNet)| {
            *index != device && net.addr().is_ipv6() && !net.addr().is_loopback()
        };
        let addresses = self.netlink.all_addresses().await;

        !link::takes_ip6() && addresses.is_ok_and(|all| !all.iter().any(is_six))
    }

    /// The routes of some tables that lead into a device.
    async fn routes_into(
        &self,
        tables: &[u32],
        device: u32,
    ) -> Result<Vec<(u32, Entry)>, NotRouted> {
        let mut found = Vec::new();
        for table in tables {
            for family in Family::BOTH {
                let entries = self.netlink.entries_by(family, *table, Some(device)).await;
                let entries = entries.map_err(kernel("read a table"))?;
                found.extend(entries.into_iter().map(|entry| (*table, entry)));
            }
        }

        Ok(found)
    }

    /// Whether somebody has taken routes out of the tables.
    async fn is_cut(
        &self,
        standing: &Standing,
        table: u32,
        thoroughly: bool,
    ) -> Result<bool, NotRouted> {
        let tables = [standing.block.names(), table];
        let into = self.routes_into(&tables, standing.device).await?;
        if standing.filled.into.iter().any(|it| !into.contains(it)) {
            return Ok(true);
        }
        if !thoroughly {
            return Ok(false);
        }
        let mut entries = 0;
        for family in Family::BOTH {
            let found = self.netlink.entries(family, table).await;
            entries += found.map_err(kernel("read a table"))?.len();
        }

        Ok(entries < standing.filled.entries)
    }

    pub(super) async fn add(&self, rules: &[Rule]) -> Result<(), NotRouted> {
        for rule in rules {
            self.netlink
                .add_rule(rule)
                .await
                .map_err(kernel("make a rule"))?;
        }

        Ok(())
    }

    /// Removes the rules that lead into a table that is no longer used.
    async fn stop_leading(&self, block: Block, table: u32) -> Result<(), NotRouted> {
        for family in Family::BOTH {
            for rule in self.plan.leading(block, table, family) {
                if rule.then == Then::Lookup(table) {
                    self.netlink
                        .delete_rule(&rule)
                        .await
                        .map_err(kernel("remove a rule"))?;
                }
            }
        }

        Ok(())
    }
}

fn preparing(plan: &Plan, block: Block, families: &[Family]) -> Vec<Rule> {
    let of = |family: &Family| plan.preparing(block, *family);

    families.iter().flat_map(of).collect()
}

fn leading(plan: &Plan, standing: &Standing) -> Vec<Rule> {
    let Some(table) = standing.table else {
        return Vec::new();
    };
    let of = |family: &Family| plan.leading(standing.block, table, *family);

    standing.families.iter().flat_map(of).collect()
}

pub(super) fn kernel(what: &'static str) -> impl FnOnce(io::Error) -> NotRouted {
    move |source| NotRouted::Kernel { what, source }
}

#[cfg(test)]
mod tests;
