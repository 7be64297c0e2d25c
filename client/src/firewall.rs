//! The packet filter's part of the routes, and the lock (`-strict`).
//!
//! Without `-strict` all of it is a table that a process of nft owns for us:
//! others cannot flush it, and it is gone as soon as we are. The lock is a table
//! that stays, through kill -9 and a restart; the next start takes it over, and
//! changes it in one step. A task of its own keeps it as it is to be, whatever
//! the spoke's loop waits for.

mod guard;
mod hold;
mod inside;
mod lock;
mod plan;
mod settings;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dtun_shared::link::Netlink;
use dtun_shared::nft::NftError;
use dtun_shared::stop::Stop;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::routes::Bypass;
use crate::steering::Lease;
use guard::{Guard, Order};
use inside::{bridges, inside};
pub(crate) use lock::stands as lock_stands;
pub use lock::{lock, unlock};
pub(crate) use settings::Settings;

/// The task that keeps the filter.
#[derive(Debug)]
pub(crate) struct Firewall {
    orders: mpsc::Sender<Order>,
    /// Ends the guard, whatever it waits for.
    end: oneshot::Sender<Ending>,
    guard: JoinHandle<()>,
    /// Whether nothing may leave beside the tunnel, as the guard has it.
    locked: Arc<AtomicBool>,
    /// Whether the user has heard that while there is no tunnel.
    told_locked: bool,
}

impl Firewall {
    /// Begins, in a task: whoever stops waiting for what comes with it has a lock
    /// to [`Self::end`], closed or not. Once that has come the lock is closed, but
    /// for a tunnel that stands already; it is an error when that cannot be.
    ///
    /// # Errors
    ///
    /// When another process has the lock, or the network is not to be watched.
    pub(crate) fn start(
        netlink: &Netlink,
        settings: Settings,
        lease: Option<&Lease>,
    ) -> anyhow::Result<(Self, oneshot::Receiver<anyhow::Result<()>>)> {
        let guard = Guard::new(netlink.clone(), settings, lease)?;
        let (orders, inbox) = mpsc::channel(1);
        let (end, ending) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        let firewall = Self {
            orders,
            end,
            locked: guard.locked(),
            told_locked: false,
            guard: tokio::spawn(guard.run(begun, inbox, ending)),
        };

        Ok((firewall, begins))
    }

    /// Puts up what belongs to a tunnel, or brings it up to date; with a lock,
    /// `bypass` is what it leaves open.
    pub(crate) async fn stand(&mut self, lease: &Lease, bypass: &Bypass) -> Result<(), NftError> {
        self.told_locked = false;
        let (lease, bypass) = (lease.clone(), bypass.clone());

        self.ask(|done| Order::Stand {
            lease,
            bypass,
            done,
        })
        .await
        .unwrap_or(Err(NftError::Ended))
    }

    /// Has other settings from now on. Whether there is a lock stays as it is.
    pub(crate) async fn change(&self, settings: Settings) {
        self.ask(|done| Order::Change { settings, done }).await;
    }

    /// Takes down what belongs to a tunnel; a lock stays.
    pub(crate) async fn withdraw(&self) {
        if self.ask(Order::Withdraw).await.is_none() {
            tracing::error!("the firewall's keeper is gone");
        }
    }

    /// Takes everything down, but for a lock that is to stay.
    pub(crate) async fn end(self, ending: Ending) {
        // One that has ended by itself is told of below.
        self.end.send(ending).unwrap_or_default();
        if let Err(error) = self.guard.await {
            tracing::error!(%error, "the firewall's keeper ended early");
        }
    }

    /// Says, once until there is a tunnel, what a lock does without one.
    pub(crate) fn tell_lock(&mut self) {
        if self.is_locked() && !std::mem::replace(&mut self.told_locked, true) {
            tracing::warn!(
                "-strict: until there is a tunnel nothing leaves this machine but to -bypass; \
                 `dtun unlock -for 5m` opens it for the login page of a network"
            );
        }
    }

    /// Whether nothing may leave beside the tunnel.
    pub(crate) fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.orders.send(order(done)).await.ok()?;

        answer.await.ok()
    }
}

/// What becomes of the lock when we end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Somebody stopped us: the machine is as before.
    Open,
    /// We shall be back, or nobody wanted us to end.
    Locked,
}

impl From<Stop> for Ending {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::ForGood => Self::Open,
            Stop::Hangup | Stop::Restart => Self::Locked,
        }
    }
}

/// The inside devices of this machine.
async fn inside_now(netlink: &Netlink) -> io::Result<BTreeSet<String>> {
    let links = netlink.links().await?;
    if bridges(&links).next().is_none() {
        return Ok(BTreeSet::new()); // The routes may be many.
    }
    let routes = netlink.routes().await?;

    Ok(inside(&links, &routes))
}
