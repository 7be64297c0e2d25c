//! The task that keeps the filter as it is to be.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dtun_shared::link::{Change, Changes, Netlink};
use dtun_shared::nft::{NftError, Owner, TableWatch, Touch};
use tokio::sync::{mpsc, oneshot};

use super::hold::{Broken, Hold};
use super::lock::{Held, Standing};
use super::plan::{End, Plan, is_plain};
use super::{Ending, Settings, inside_now, lock};
use crate::routes::Bypass;
use crate::steering::Lease;
use dtun_shared::repairs::Repairs;

/// What the task is asked for.
#[derive(Debug)]
pub(super) enum Order {
    Stand {
        lease: Lease,
        bypass: Bypass,
        done: oneshot::Sender<Result<(), NftError>>,
    },
    Withdraw(oneshot::Sender<()>),
    End {
        ending: Ending,
        done: oneshot::Sender<()>,
    },
}

pub(super) struct Guard {
    settings: Settings,
    netlink: Netlink,
    changes: Changes,
    end: Option<End>,
    inside: BTreeSet<String>,
    hold: Hold,
    repairs: Repairs,
    locked: Arc<AtomicBool>,
    /// When to look at the devices again.
    look: Option<Instant>,
    /// When to put back what somebody took away.
    repair: Option<Instant>,
}

enum Wake {
    Order(Option<Order>),
    Change(io::Result<Change>),
    Held(Broken),
    Timer,
}

impl Guard {
    pub(super) async fn new(netlink: Netlink, settings: Settings) -> anyhow::Result<Self> {
        let changes = netlink.watch().context("failed to watch the network")?;
        let mut guard = Self {
            hold: Hold::Owned(None, None),
            settings,
            netlink,
            changes,
            end: None,
            inside: BTreeSet::new(),
            repairs: Repairs::of("rules of the firewall").every(QUARREL),
            locked: Arc::default(),
            look: None,
            repair: None,
        };
        if guard.wants_inside() {
            guard.look_inside().await;
        }
        if guard.settings.lock.is_some() {
            let held = Held::take()?;
            let mut watch = TableWatch::new(lock::TABLE).context("failed to watch the firewall")?;
            let standing = lock::close(&guard.plan()).await?;
            watch.forget();
            guard.hold = Hold::Locked { watch, _held: held };
            guard.locked.store(true, Ordering::Relaxed);
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
            guard.hold = Hold::Owned(owner.map(Box::new), None);
        }

        Ok(guard)
    }

    /// Whether the lock is there, from now on.
    pub(super) fn locked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.locked)
    }

    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            match self.wait(&mut orders).await {
                Wake::Order(None) => return,
                Wake::Order(Some(Order::End { ending, done })) => {
                    self.finish(ending).await;
                    done.send(()).unwrap_or_default();
                    return;
                }
                Wake::Order(Some(order)) => self.obey(order).await,
                Wake::Change(change) => self.note(change),
                Wake::Held(Broken::Touched(touch)) => self.touched(touch).await,
                Wake::Held(Broken::OwnerEnded) => {
                    self.hold = Hold::Owned(None, None);
                    self.broken();
                }
                Wake::Timer => self.duties().await,
            }
        }
    }

    async fn wait(&mut self, orders: &mut mpsc::Receiver<Order>) -> Wake {
        let timer = [self.look, self.repair].into_iter().flatten().min();
        tokio::select! {
            biased;
            order = orders.recv() => Wake::Order(order),
            broken = self.hold.broken() => Wake::Held(broken),
            change = self.changes.recv() => Wake::Change(change),
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
            Order::Withdraw(done) => {
                self.withdraw().await;
                done.send(()).unwrap_or_default();
            }
            Order::End { .. } => {}
        }
    }

    async fn stand(&mut self, lease: Lease, bypass: Bypass) -> Result<(), NftError> {
        if !is_plain(&lease.device) {
            let why = format!("no name that nft takes: {}", lease.device);
            return Err(NftError::Refused(why));
        }
        let end = Some(End {
            ip4: lease.addresses.local4.addr(),
            ip6: lease.addresses.ip6.map(|(local, _)| local.addr()),
            device: lease.device,
        });
        let has_table = !matches!(self.hold, Hold::Owned(_, None));
        let open = &mut self.settings.lock;
        if self.end == end && has_table && open.as_ref().is_none_or(|open| *open == bypass) {
            return Ok(());
        }
        self.end = end;
        if let Some(open) = open {
            *open = bypass;
        }

        self.put_up().await
    }

    async fn withdraw(&mut self) {
        self.end = None;
        self.repair = None;
        if let Err(error) = self.hold.take_down(&self.plan()).await {
            tracing::warn!("the lock of -strict still names the old tunnel: {error}");
        }
    }

    /// Makes the table what it is to be.
    async fn put_up(&mut self) -> Result<(), NftError> {
        let plan = self.plan();
        if !self.hold.put_up(&plan).await? {
            self.broken();
        }

        Ok(())
    }

    fn note(&mut self, change: io::Result<Change>) {
        let soon = match change {
            Ok(Change::Link { .. } | Change::Route | Change::Lost) => REST,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "network changes are not told");
                BLIND
            }
        };
        if self.wants_inside() {
            let at = Instant::now() + soon;
            self.look = Some(self.look.map_or(at, |look| look.min(at)));
        }
    }

    /// Somebody else, or `dtun unlock`, changed the lock's table.
    async fn touched(&mut self, touch: io::Result<Touch>) {
        match touch {
            Ok(Touch::Elements(set)) if set == super::plan::OPEN => match lock::opened().await {
                Ok(lock::Opened::ForGood) => self.unlock().await,
                Ok(lock::Opened::For(time)) => tracing::warn!(
                    for_at_most = time,
                    "the lock of -strict is open: everything may leave this machine",
                ),
                Ok(lock::Opened::Not) => tracing::warn!("the lock of -strict is closed again"),
                Err(error) => {
                    tracing::debug!(%error, "failed to look at the lock");
                    self.broken();
                }
            },
            Ok(Touch::Elements(set)) if set == super::plan::YOUNG => {}
            Ok(Touch::Elements(_) | Touch::Any) => self.broken(),
            Err(error) => {
                tracing::debug!(%error, "changes of the firewall are not told");
                self.repair = Some(Instant::now() + BLIND);
            }
        }
    }

    fn broken(&mut self) {
        let now = Instant::now();
        let at = self.repairs.not_before().map_or(now, |at| at.max(now));
        self.repair.get_or_insert(at);
    }

    /// `dtun unlock`: from here on as without `-strict`.
    async fn unlock(&mut self) {
        tracing::warn!(
            "the lock of -strict was opened by `dtun unlock`: everything may leave this machine \
             until the next start"
        );
        self.locked.store(false, Ordering::Relaxed);
        self.settings.lock = None;
        self.hold = Hold::Owned(None, None);
        if let Err(error) = self.put_up().await {
            tracing::warn!("the firewall stays without the tunnel's rules: {error}");
        }
        if let Err(error) = lock::remove().await {
            tracing::error!("failed to remove the lock of -strict: {error}");
        }
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
    }

    async fn put_back(&mut self, now: Instant) {
        if let Err(error) = self.put_up().await {
            tracing::error!("failed to put the firewall's rules back: {error}");
            self.repair = Some(now + BLIND);
            return;
        }
        if self.repairs.made(now).is_zero() {
            tracing::info!("the firewall's rules were changed by another program: put back");
        }
    }

    async fn look_inside(&mut self) {
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
        if let Err(error) = self.hold.tell_inside(&self.plan()).await {
            tracing::warn!("the firewall does not know of a new bridge: {error}");
        }
    }

    async fn finish(&mut self, ending: Ending) {
        let ending = match ending {
            Ending::Open if self.settings.lock.is_some() && lock::machine_stops().await => {
                Ending::Locked // Other programs may still run.
            }
            Ending::Open | Ending::Locked => ending,
        };
        match (&mut self.hold, ending) {
            (Hold::Owned(owner, _), _) => {
                if let Some(owner) = owner.take() {
                    owner.close().await;
                }
            }
            (Hold::Locked { .. }, Ending::Locked) => tracing::warn!(
                "the lock of -strict stays closed: `dtun unlock` opens it, the next start takes \
                 it over"
            ),
            (Hold::Locked { .. }, Ending::Open) => match lock::remove().await {
                Ok(()) => tracing::info!("the lock of -strict is gone"),
                Err(error) => tracing::error!("failed to remove the lock of -strict: {error}"),
            },
        }
    }

    fn wants_inside(&self) -> bool {
        self.settings.names || self.settings.lock.is_some()
    }

    fn plan(&self) -> Plan {
        Plan {
            end: self.end.clone(),
            ..self.settings.plan(self.inside.clone())
        }
    }
}

/// Waits until then, or for ever.
async fn at(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The lock may not be open for as long as a second.
const QUARREL: Duration = Duration::from_millis(700);

/// Changes come in bursts.
const REST: Duration = Duration::from_millis(50);

/// How long to wait where nothing is told, or nothing works.
const BLIND: Duration = Duration::from_secs(2);
