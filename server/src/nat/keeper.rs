//! The task that keeps the table, and what is in others' chains, as they are to
//! be.

use std::io;
use std::time::{Duration, Instant};

use dtun_shared::claim::Claim;
use dtun_shared::nft::{self, NftError, TableWatch, Touch};
use dtun_shared::repairs::Repairs;
use dtun_shared::stop::Stop;
use dtun_shared::timer::at;
use tokio::sync::{oneshot, watch};
use tokio::time::interval;

use super::Networks;
use super::doors::{self, Doors};
use super::plan::Plan;

pub(super) struct Keeper {
    plan: Plan,
    watch: TableWatch,
    repairs: Repairs,
    /// When to put back what somebody took away.
    repair: Option<Instant>,
    /// What lets it pass in others' chains.
    doors: Doors,
    /// Tells of changes in others' tables.
    theirs: TableWatch,
    entries: Repairs,
    /// When to look whether what we have in others' chains is there.
    look: Option<Instant>,
    /// Looks in a row at which there was nothing to do.
    vain: u32,
    /// Before that the next would cost too much.
    calm: Option<Instant>,
    /// Looks in a row at which something failed.
    failures: u32,
    /// The user knows that something cannot be had there.
    told: bool,
}

impl Keeper {
    /// Puts the table up, or takes over what stands.
    pub(super) async fn new(plan: Plan, port: u16, claim: Option<Claim>) -> Result<Self, NftError> {
        let mut keeper = Self {
            watch: TableWatch::new(&plan.table)?,
            theirs: TableWatch::all_but(&plan.table)?,
            doors: Doors::new(&plan.table, port, claim),
            plan,
            repairs: Repairs::of("rules of -nat").every(QUARREL),
            repair: None,
            entries: Repairs::of("accepts in the firewall's chains")
                .every(QUARREL)
                .after(RELOADS),
            look: None,
            vain: 0,
            calm: None,
            failures: 0,
            told: false,
        };
        keeper.put_up().await?;
        keeper.look().await;

        Ok(keeper)
    }

    pub(super) async fn run(
        mut self,
        mut networks: watch::Receiver<Networks>,
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
                Ok(()) = networks.changed() => {
                    let Networks { peernets, except } = networks.borrow_and_update().clone();
                    (self.plan.peernets, self.plan.except) = (peernets, except);
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

    /// Changes come in bursts, and on some machines all the time.
    fn look_soon(&mut self, touch: &io::Result<Touch>) {
        let soon = Instant::now() + if touch.is_ok() { REST } else { BLIND };
        let others = [self.entries.not_before(), self.calm];
        let at = others.into_iter().flatten().fold(soon, Instant::max);
        // What failed before may work now.
        self.look = Some(self.look.map_or(at, |look| look.min(at)));
    }

    /// Lets pass in others' chains what they drop.
    async fn look(&mut self) {
        self.look = None;
        // Before: what happens from now on is looked at again.
        self.theirs.forget();
        let start = Instant::now();
        let opened = self.doors.open(&self.plan.inside()).await;
        let now = Instant::now();
        self.vain = if opened.places.is_empty() {
            self.vain.saturating_add(1)
        } else {
            0
        };
        let rest = ((now - start) * LEISURE).min(MINUTE);
        self.calm = (self.vain > IN_VAIN).then_some(now + rest);

        if !opened.places.is_empty() && self.entries.made(now).is_zero() {
            let chains = opened.places.join(", ");
            tracing::info!(chains, "what spokes send is dropped there: accepted");
        }
        let Some(error) = opened.failed else {
            self.told = false;
            self.failures = 0;
            return;
        };
        // A firewall that is just being started answers a little later.
        if self.failures >= PATIENT && !std::mem::replace(&mut self.told, true) {
            tracing::warn!("other rules may drop what spokes send: {error}");
        }
        let wait = (AGAIN * (1 << self.failures.min(8))).min(MINUTE);
        self.failures = self.failures.saturating_add(1);
        self.look = Some(now + wait);
    }

    async fn finish(mut self, stop: Stop) {
        if stop == Stop::Restart {
            return;
        }
        if let Err(error) = remove(&self.plan.table, &mut self.doors).await {
            tracing::error!("failed to remove the rules of -nat: {error:#}");
        } else if let Err(error) = self.doors.forget() {
            tracing::debug!(%error, "the sign of -nat stays");
        }
    }
}

/// Removes what a hub that was killed has left, and its claim.
pub(super) async fn remove_leftover(table: &str, claim: Claim) -> anyhow::Result<()> {
    let mut doors = Doors::new(table, 0, Some(claim));
    remove(table, &mut doors).await?;

    Ok(doors.forget()?)
}

/// Removes a table, if it is there, and what is ours in others' chains: the one
/// also where the other fails.
async fn remove(table: &str, doors: &mut Doors) -> anyhow::Result<()> {
    let shut = doors.shut().await;
    nft::run(&format!("table inet {table}\ndelete table inet {table}")).await?;

    Ok(shut?)
}

/// The spokes may not be cut off for as long as a second.
const QUARREL: Duration = Duration::from_millis(700);

/// Repairs in a minute: each reload of a firewall takes a few, and there may be some
/// reloads in a row.
const RELOADS: usize = 20;

/// A program that writes its rules anew does so in many steps.
const REST: Duration = Duration::from_millis(100);

/// The older iptables tells nobody of changes.
const MINUTE: Duration = Duration::from_secs(60);

/// Looking takes no more than one part in so many of a processor's time where
/// others change their rules all the time, and need nothing of ours.
const LEISURE: u32 = 5;

/// Our own changes are heard as well, and a reload may be told twice.
const IN_VAIN: u32 = 3;

/// Before what failed is tried again; that doubles.
const AGAIN: Duration = Duration::from_millis(250);

/// Failures that pass, some four seconds of them.
const PATIENT: u32 = 4;

/// How long to wait where nothing is told, or nothing works.
const BLIND: Duration = Duration::from_secs(2);
