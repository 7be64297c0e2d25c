//! The task that keeps the table as it is to be.

use std::io;
use std::time::{Duration, Instant};

use dtun_shared::claim::Claim;
use dtun_shared::nft::{self, NftError, TableWatch, Touch};
use dtun_shared::repairs::Repairs;
use dtun_shared::stop::Stop;
use ipnet::IpNet;
use tokio::sync::{oneshot, watch};

use super::plan::Plan;

pub(super) struct Keeper {
    plan: Plan,
    /// What tells `dtun clean` of us.
    claim: Option<Claim>,
    watch: TableWatch,
    repairs: Repairs,
    /// When to put back what somebody took away.
    repair: Option<Instant>,
}

impl Keeper {
    /// Puts the table up, or takes over what stands.
    pub(super) async fn new(plan: Plan, claim: Option<Claim>) -> Result<Self, NftError> {
        let mut keeper = Self {
            watch: TableWatch::new(&plan.table)?,
            plan,
            claim,
            repairs: Repairs::of("rules of -nat").every(QUARREL),
            repair: None,
        };
        keeper.put_up().await?;

        Ok(keeper)
    }

    pub(super) async fn run(
        mut self,
        mut peernets: watch::Receiver<Vec<IpNet>>,
        mut end: oneshot::Receiver<Stop>,
    ) {
        loop {
            tokio::select! {
                biased;
                stop = &mut end => return self.finish(stop.unwrap_or_default()).await,
                touch = self.watch.touched() => self.touched(&touch),
                () = at(self.repair) => self.put_back().await,
                Ok(()) = peernets.changed() => {
                    self.plan.peernets = peernets.borrow_and_update().clone();
                    if let Err(error) = self.put_up().await {
                        tracing::warn!("-nat does not know of a new network: {error}");
                        self.repair = Some(Instant::now() + BLIND);
                    }
                }
            }
        }
    }

    async fn put_up(&mut self) -> Result<(), NftError> {
        nft::run(&self.plan.script()).await?;
        self.watch.forget();

        Ok(())
    }

    /// Somebody else changed the table.
    fn touched(&mut self, touch: &io::Result<Touch>) {
        let now = Instant::now();
        let at = match touch {
            Ok(_) => self.repairs.not_before().map_or(now, |at| at.max(now)),
            Err(error) => {
                tracing::debug!(%error, "changes of the firewall are not told");
                now + BLIND
            }
        };
        self.repair.get_or_insert(at);
    }

    async fn put_back(&mut self) {
        self.repair = None;
        let now = Instant::now();
        if let Err(error) = self.put_up().await {
            tracing::error!("failed to put the rules of -nat back: {error}");
            self.repair = Some(now + BLIND);
        } else if self.repairs.made(now).is_zero() {
            tracing::info!("the rules of -nat were changed by another program: put back");
        }
    }

    async fn finish(self, stop: Stop) {
        if stop == Stop::Restart {
            return;
        }
        match remove(&self.plan.table).await {
            Ok(()) => {
                if let Some(claim) = self.claim
                    && let Err(error) = claim.remove()
                {
                    tracing::debug!(%error, "the sign of -nat stays");
                }
            }
            Err(error) => tracing::error!("failed to remove the rules of -nat: {error}"),
        }
    }
}

/// Removes a table, if it is there.
pub(super) async fn remove(table: &str) -> Result<(), NftError> {
    nft::run(&format!("table inet {table}\ndelete table inet {table}"))
        .await
        .map(|_| ())
}

/// Waits until then, or for ever.
async fn at(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The spokes may not be cut off for as long as a second.
const QUARREL: Duration = Duration::from_millis(700);

/// How long to wait where nothing is told, or nothing works.
const BLIND: Duration = Duration::from_secs(2);
