//! The task that keeps the filter as it is to be.

mod change;
mod ending;
mod locked;
mod repair;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dtun_shared::link::{Change, Changes, Netlink};
use dtun_shared::nft::{NftError, Owner, TableWatch};
use dtun_shared::repairs::Repairs;
use dtun_shared::timer::at;
use tokio::sync::{mpsc, oneshot};

use super::hold::{Broken, Hold};
use super::lock::{Held, Standing};
use super::plan::{End, Plan, is_plain};
use super::{Ending, Settings, inside_now, lock};
use crate::routes::Bypass;
use crate::steering::Lease;

/// What the task is asked for.
#[derive(Debug)]
pub(super) enum Order {
    Stand {
        lease: Lease,
        bypass: Bypass,
        done: oneshot::Sender<Result<(), NftError>>,
    },
    Change {
        settings: Settings,
        done: oneshot::Sender<()>,
    },
    Withdraw(oneshot::Sender<()>),
}

pub(super) struct Guard {
    settings: Settings,
    netlink: Netlink,
    changes: Changes,
    end: Option<End>,
    inside: BTreeSet<String>,
    hold: Hold,
    /// Whether a lock was closed, or none was asked for.
    begun: bool,
    /// Whether the table may not be what it is to be.
    behind: bool,
    /// With a lock: tells other processes of ours that we are here, also after
    /// it was opened for good.
    _held: Option<Held>,
    repairs: Repairs,
    locked: Arc<AtomicBool>,
    /// When to look at the devices again.
    look: Option<Instant>,
    /// When they were looked at.
    looked: Option<Instant>,
    /// When to put back what somebody took away, or what failed.
    repair: Option<Instant>,
    /// When a lock that is open for a time should be closed.
    closes: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// The network fails to tell of changes, and is not asked before.
    deaf: Option<Instant>,
}

enum Wake {
    Order(Option<Order>),
    Change(io::Result<Change>),
    Held(Broken),
    Timer,
}

impl Guard {
    pub(super) fn new(
        netlink: Netlink,
        settings: Settings,
        lease: Option<&Lease>,
    ) -> anyhow::Result<Self> {
        let held = settings.lock.is_some().then(Held::take).transpose()?;
        let changes = netlink.watch().context("failed to watch the network")?;

        Ok(Self {
            hold: Hold::none(),
            begun: false,
            behind: false,
            _held: held,
            settings,
            netlink,
            changes,
            end: lease.filter(|lease| is_plain(&lease.device)).map(End::from),
            inside: BTreeSet::new(),
            repairs: Repairs::of("rules of the firewall").every(QUARREL),
            locked: Arc::default(),
            look: None,
            looked: None,
            repair: None,
            closes: None,
            failures: 0,
            deaf: None,
        })
    }

    /// Closes a lock; what is no lock needs a tunnel first.
    async fn begin(&mut self) -> anyhow::Result<()> {
        if self.wants_inside() {
            self.look_inside().await;
        }
        if self.settings.lock.is_some() {
            let watch = TableWatch::new(lock::TABLE).context("failed to watch the firewall")?;
            let standing = self.close(watch).await?;
            tracing::warn!(
                "{}: only the tunnel and what -bypass names is open, until this program is \
                 stopped by hand or `dtun unlock`",
                match standing {
                    Standing::Was => "the lock of -strict stands and is taken over",
                    Standing::New => "the lock of -strict is closed",
                }
            );
        } else {
            // Before there is a device: until a child has become another program
            // it holds what we hold. One that is missing is told of later.
            let owner = Owner::new().await.ok();
            self.hold = Hold::Owned {
                owner: owner.map(Box::new),
                table: None,
                unlocked: None,
            };
        }
        self.begun = true;

        Ok(())
    }

    /// Whether the lock is there, from now on.
    pub(super) fn locked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.locked)
    }

    /// Keeps the filter until `end` says what is to become of it, at whatever
    /// await that finds us; `begun` hears of the first step.
    pub(super) async fn run(
        mut self,
        begun: oneshot::Sender<anyhow::Result<()>>,
        orders: mpsc::Receiver<Order>,
        mut end: oneshot::Receiver<Ending>,
    ) {
        let ending = tokio::select! {
            biased;
            ending = &mut end => ending,
            () = self.keep(begun, orders) => end.await,
        };
        if let Ok(ending) = ending {
            self.finish(ending).await;
        }
    }

    async fn keep(
        &mut self,
        begun: oneshot::Sender<anyhow::Result<()>>,
        mut orders: mpsc::Receiver<Order>,
    ) {
        let result = self.begin().await;
        let failed = result.is_err();
        // Nobody waits any more where we are asked to end.
        begun.send(result).unwrap_or_default();
        if failed {
            return;
        }
        loop {
            match self.wait(&mut orders).await {
                Wake::Order(None) => return,
                Wake::Order(Some(order)) => self.obey(order).await,
                Wake::Change(change) => self.note(change),
                Wake::Held(Broken::Touched(touch)) => self.touched(touch).await,
                Wake::Held(Broken::OwnerEnded) => {
                    self.hold.forget_owner();
                    self.broken();
                }
                Wake::Held(Broken::Unlocked(touch)) => self.lock_again(touch).await,
                Wake::Timer => self.duties().await,
            }
        }
    }

    async fn wait(&mut self, orders: &mut mpsc::Receiver<Order>) -> Wake {
        let timers = [self.look, self.repair, self.closes];
        let timer = timers.into_iter().flatten().min();
        let deaf = self.deaf;
        tokio::select! {
            biased;
            order = orders.recv() => Wake::Order(order),
            broken = self.hold.broken() => Wake::Held(broken),
            change = async { not_before(deaf).await; self.changes.recv().await } => {
                Wake::Change(change)
            }
            () = at(timer) => Wake::Timer,
        }
    }

    async fn obey(&mut self, order: Order) {
        // Whoever asked may have gone away meanwhile.
        match order {
            Order::Stand {
                lease,
                bypass,
                done,
            } => {
                let result = self.stand(lease, bypass).await;
                done.send(result).unwrap_or_default();
            }
            Order::Change { settings, done } => {
                self.change(settings).await;
                done.send(()).unwrap_or_default();
            }
            Order::Withdraw(done) => {
                self.withdraw().await;
                done.send(()).unwrap_or_default();
            }
        }
    }

    async fn stand(&mut self, lease: Lease, bypass: Bypass) -> Result<(), NftError> {
        if !is_plain(&lease.device) {
            let why = format!("no name that nft takes: {}", lease.device);
            return Err(NftError::Refused(why));
        }
        let end = Some(End::from(&lease));
        let is_open = self.settings.lock.as_ref();
        let is_same = self.end == end && is_open.is_none_or(|open| *open == bypass);
        if is_same && self.hold.has_table() && !self.behind {
            return Ok(());
        }
        self.end = end;
        if let Some(open) = &mut self.settings.lock {
            *open = bypass;
        }
        let result = self.put_up().await;
        if let Err(error) = &result {
            self.retry(error);
        }

        result
    }

    async fn withdraw(&mut self) {
        self.end = None;
        if self.hold.is_lock() {
            if let Err(error) = self.put_up().await {
                tracing::warn!("the lock of -strict still names the old tunnel: {error}");
                self.retry(&error);
            }
        } else {
            self.repair = None;
            self.hold.take_down().await;
        }
    }

    /// Makes the table what it is to be.
    async fn put_up(&mut self) -> Result<(), NftError> {
        self.behind = true;
        let plan = self.plan();
        let seen = self.hold.put_up(&plan).await?;
        self.behind = false;
        self.failures = 0;
        self.see(seen).await;

        Ok(())
    }

    fn note(&mut self, change: io::Result<Change>) {
        let soon = match change {
            Ok(Change::Link { .. } | Change::Route | Change::Lost) => self.rest(),
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "network changes are not told");
                self.deaf = Some(Instant::now() + BLIND);
                BLIND
            }
        };
        if self.wants_inside() {
            let at = Instant::now() + soon;
            self.look = Some(self.look.map_or(at, |look| look.min(at)));
        }
    }

    /// A change is looked at once; where it was one of a burst, after that.
    fn rest(&self) -> Duration {
        self.looked.map_or(Duration::ZERO, |looked| {
            REST.saturating_sub(looked.elapsed())
        })
    }

    async fn duties(&mut self) {
        let now = Instant::now();
        if self.repair.is_some_and(|at| now >= at) {
            self.repair = None;
            self.put_back(now).await;
        }
        if self.look.is_some_and(|at| now >= at) {
            self.look = None;
            self.look_inside().await;
        }
        if self.closes.take_if(|at| now >= *at).is_some() {
            self.opened().await;
        }
    }

    async fn look_inside(&mut self) {
        self.looked = Some(Instant::now());
        let inside = match inside_now(&self.netlink).await {
            Ok(inside) if inside == self.inside => return,
            Ok(inside) => inside,
            Err(error) => {
                tracing::debug!(%error, "failed to look for bridges");
                return;
            }
        };
        tracing::debug!(?inside, "bridges of guests");
        self.inside = inside;
        let plan = self.plan();
        match self.hold.tell_inside(&plan).await {
            Ok(seen) => self.see(seen).await,
            Err(error) => {
                tracing::warn!("the firewall does not know of a new bridge: {error}");
                self.behind = true;
                self.retry(&error);
            }
        }
    }

    fn wants_inside(&self) -> bool {
        self.settings.names || self.settings.lock.is_some()
    }

    fn plan(&self) -> Plan {
        let plan = self.settings.plan(self.inside.clone());

        Plan {
            end: self.end.clone(),
            lock: plan.lock.filter(|_| self.hold.is_lock()),
            ..plan
        }
    }
}

async fn not_before(time: Option<Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time.into()).await;
    }
}

/// The lock may not be open for as long as a second.
const QUARREL: Duration = Duration::from_millis(700);

/// Changes come in bursts.
const REST: Duration = Duration::from_millis(50);

/// How long to wait where nothing is told, or nothing works.
const BLIND: Duration = Duration::from_secs(2);
