//! The task that keeps the table, and what is in others' chains, as they are to
//! be.

use std::io;
use std::time::{Duration, Instant};

use dtun_shared::claim::Claim;
use dtun_shared::nft::{self, NftError, TableWatch, Touch};
use dtun_shared::repairs::Repairs;
use dtun_shared::stop::Stop;
use dtun_shared::timer::at;
use ipnet::IpNet;
use tokio::sync::{oneshot, watch};
use tokio::time::interval;

use super::doors;
use super::plan::Plan;

pub(super) struct Keeper {
    plan: Plan,
    /// Where the hub listens.
    port: u16,
    /// What tells `dtun clean` of us.
    claim: Option<Claim>,
    watch: TableWatch,
    repairs: Repairs,
    /// When to put back what somebody took away.
    repair: Option<Instant>,
    /// Tells of changes in the tables that iptables makes.
    theirs: TableWatch,
    entries: Repairs,
    /// When to look whether what we have in others' chains is there.
    look: Option<Instant>,
    /// The user knows that something cannot be had there.
    told: bool,
}

impl Keeper {
    /// Puts the table up, or takes over what stands.
    pub(super) async fn new(plan: Plan, port: u16, claim: Option<Claim>) -> Result<Self, NftError> {
        let mut keeper = Self {
            watch: TableWatch::new(&plan.table)?,
            theirs: TableWatch::new(IPTABLES)?,
            plan,
            port,
            claim,
            repairs: Repairs::of("rules of -nat").every(QUARREL),
            repair: None,
            entries: Repairs::of("accepts in the firewall's chains").every(QUARREL),
            look: None,
            told: false,
        };
        keeper.put_up().await?;
        keeper.look().await;
        if doors::has_firewalld().await? {
            let run = format!(
                "firewall-cmd --add-port={port}/udp; \
                 firewall-cmd --zone=trusted --add-interface=dtun+"
            );
            tracing::warn!(
                run,
                "firewalld may drop what spokes send: it has to be told"
            );
        }

        Ok(keeper)
    }

    pub(super) async fn run(
        mut self,
        mut peernets: watch::Receiver<Vec<IpNet>>,
        mut end: oneshot::Receiver<Stop>,
    ) {
        let mut minute = interval(MINUTE);
        loop {
            tokio::select! {
                biased;
                stop = &mut end => return self.finish(stop.unwrap_or_default()).await,
                touch = self.watch.touched() => self.touched(&touch),
                touch = self.theirs.touched() => self.look_soon(&touch),
                () = at(self.repair) => self.put_back().await,
                () = at(self.look) => self.look().await,
                _ = minute.tick() => if doors::is_deaf() {
                    self.look().await;
                },
                Ok(()) = peernets.changed() => {
                    self.plan.peernets = peernets.borrow_and_update().clone();
                    if let Err(error) = self.put_up().await {
                        tracing::warn!("-nat does not know of a new network: {error}");
                        self.repair = Some(Instant::now() + BLIND);
                    }
                    self.look().await;
                }
            }
        }
    }

    async fn put_up(&mut self) -> Result<(), NftError> {
        nft::run(&self.plan.script()).await?;
        self.watch.forget();
        // Somebody may have removed it at the same time.
        let list = format!("list table inet {}", self.plan.table);

        nft::run(&list).await.map(|_| ())
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

    /// Changes come in bursts.
    fn look_soon(&mut self, touch: &io::Result<Touch>) {
        let soon = Instant::now() + if touch.is_ok() { REST } else { BLIND };
        let not_before = self.entries.not_before();
        self.look
            .get_or_insert(not_before.map_or(soon, |at| at.max(soon)));
    }

    /// Lets pass in others' chains what they drop.
    async fn look(&mut self) {
        self.look = None;
        // Before: what happens from now on is looked at again.
        self.theirs.forget();
        let result = doors::open(&self.plan.table, &self.plan.inside(), self.port).await;
        let now = Instant::now();
        match result {
            Ok(changed) if changed.is_empty() => self.told = false,
            Ok(changed) => {
                self.told = false;
                if self.entries.made(now).is_zero() {
                    let chains = changed.join(", ");
                    tracing::info!(chains, "what spokes send is dropped there: accepted");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!("other rules may drop what spokes send: {error}");
                }
                self.look = Some(now + self.entries.made(now).max(REST));
            }
        }
    }

    async fn finish(self, stop: Stop) {
        if stop == Stop::Restart {
            return;
        }
        if let Err(error) = remove(&self.plan.table).await {
            tracing::error!("failed to remove the rules of -nat: {error:#}");
        } else if let Some(claim) = self.claim
            && let Err(error) = claim.remove()
        {
            tracing::debug!(%error, "the sign of -nat stays");
        }
    }
}

/// Removes a table, if it is there, and what bears its name in others' chains.
pub(super) async fn remove(table: &str) -> anyhow::Result<()> {
    doors::shut(table).await?;
    nft::run(&format!("table inet {table}\ndelete table inet {table}")).await?;

    Ok(())
}

/// The spokes may not be cut off for as long as a second.
const QUARREL: Duration = Duration::from_millis(700);

/// A program that writes its rules anew does so in many steps.
const REST: Duration = Duration::from_millis(100);

/// The older iptables tells nobody of changes.
const MINUTE: Duration = Duration::from_secs(60);

/// The table of either family in which iptables filters.
const IPTABLES: &str = "filter";

/// How long to wait where nothing is told, or nothing works.
const BLIND: Duration = Duration::from_secs(2);
