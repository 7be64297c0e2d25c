//! From one run to the next, and from one plan to another: what stands goes on
//! until what is to stand leads.

use dtun_shared::link::{Family, KERNEL, Rule};
use serde::{Deserialize, Serialize};

use super::super::plan::{Block, Plan};
use super::{NotRouted, Routes, Standing, kernel};

/// What stands of it for the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftRoutes {
    pub(in crate::routes) block: Block,
    /// The table that the list is in.
    table: u32,
}

impl Routes {
    /// What stands, for the next start.
    pub(crate) fn left(&self) -> Option<LeftRoutes> {
        let standing = self.standing.as_ref().filter(|it| it.leads)?;

        Some(LeftRoutes {
            block: standing.block,
            table: standing.table?,
        })
    }

    /// Takes over what an earlier run left standing, until the next
    /// [`Self::prepare`] makes it what it is to be; false where the user wants
    /// rules or tables elsewhere.
    pub(crate) fn take_over(&mut self, left: LeftRoutes, device: u32) -> bool {
        let LeftRoutes { block, table } = left;
        let fits = self.place.table.is_none_or(|table| table == block.table)
            && self.place.pref.is_none_or(|pref| pref == block.pref);
        if fits {
            self.standing = Some(Standing {
                is_of_plan: false,
                table: Some(table),
                device,
                leads: true,
                ..Standing::new(block, Vec::new())
            });
        }

        fits
    }

    /// Takes another plan for the next [`Self::prepare`]; what stands goes on
    /// until then.
    pub(crate) fn set_plan(&mut self, plan: Plan) {
        let plan = Plan {
            unmarked: self.plan.unmarked.clone(),
            ..plan
        };
        let is_other = plan != self.plan;
        self.plan = plan;
        if let Some(standing) = &mut self.standing
            && is_other
        {
            standing.is_of_plan = false;
        }
    }

    /// Removes rules of another plan from our place.
    pub(super) async fn prune(&mut self) -> Result<(), NotRouted> {
        let Some(standing) = &self.standing else {
            return Ok(());
        };
        let wanted = self.wanted(&self.plan);
        let present = self.rules(&Family::BOTH).await?;
        let is_odd = |rule: &&Rule| {
            standing.block.holds(rule.pref)
                && rule.protocol == KERNEL
                && !rule.other
                && !wanted.contains(rule)
        };
        for rule in present.iter().filter(is_odd) {
            self.netlink
                .delete_rule(rule)
                .await
                .map_err(kernel("remove a rule"))?;
        }
        if let Some(standing) = &mut self.standing {
            standing.is_of_plan = true;
        }

        Ok(())
    }
}
