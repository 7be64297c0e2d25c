//! The way out for spokes (`-nat`): forwarding, one masquerade in a table of
//! our own, and an accept where others' rules drop what spokes send.
//!
//! Forwarding is switched on and left on: off, it would cut off what others on
//! the machine have begun to forward meanwhile, such as containers. The table
//! outlives a restart and a kill, since without it the kernel would answer for
//! the spokes, with resets, what comes in meanwhile; the next start takes it
//! over or removes it, and so does `dtun clean`.

mod chains;
mod doors;
mod firewalld;
mod forwarding;
mod keeper;
mod natives;
mod plan;

use std::net::SocketAddr;

use anyhow::Context as _;
use dtun_shared::claim::{Claim, claims};
use dtun_shared::stop::Stop;
use ipnet::IpNet;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::left::name;
use keeper::Keeper;
use plan::Plan;

/// The task that keeps the rules.
#[derive(Debug)]
pub(crate) struct Nat {
    networks: watch::Sender<Networks>,
    end: oneshot::Sender<Stop>,
    keeper: JoinHandle<()>,
}

/// Networks of the table that may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Networks {
    /// Behind spokes.
    peernets: Vec<IpNet>,
    /// They see the spokes' own addresses.
    except: Vec<IpNet>,
}

impl Nat {
    /// Lets the spokes of the hub that listens there out, whose addresses are
    /// of `pools`; the rules stand when this returns.
    ///
    /// # Errors
    ///
    /// When the packet filter refuses, or its program is missing.
    pub(crate) async fn start(
        listen: SocketAddr,
        pools: Vec<IpNet>,
        except: Vec<IpNet>,
    ) -> anyhow::Result<Self> {
        let name = name(listen);
        let claim = match Claim::try_take(&name) {
            Ok(Some(claim)) => Some(claim),
            Ok(None) => anyhow::bail!("another hub has the rules of -nat for {listen}"),
            Err(error) => {
                tracing::warn!("after a kill `dtun clean` will not know of -nat: {error}");
                None
            }
        };
        forwarding::switch_on(pools.iter().any(|net| net.addr().is_ipv6()));

        let networks = Networks {
            peernets: Vec::new(),
            except: except.clone(),
        };
        let plan = Plan::new(&name, pools, except);
        let keeper = Keeper::new(plan, listen.port(), claim)
            .await
            .context("-nat cannot be had (scripts/hub-nat.sh does without nft)")?;
        let (networks, inbox) = watch::channel(networks);
        let (end, ended) = oneshot::channel();

        Ok(Self {
            networks,
            end,
            keeper: tokio::spawn(keeper.run(inbox, ended)),
        })
    }

    /// Tells which networks behind spokes are let out as well.
    pub(crate) fn set_peernets(&self, mut networks: Vec<IpNet>) {
        networks.sort();
        self.networks.send_if_modified(|old| {
            let other = old.peernets != networks;
            old.peernets = networks;
            other
        });
    }

    /// Tells which networks know the way back.
    pub(crate) fn set_except(&self, networks: Vec<IpNet>) {
        self.networks.send_if_modified(|old| {
            let other = old.except != networks;
            old.except = networks;
            other
        });
    }

    /// Leaves what `stop` says.
    pub(crate) async fn end(self, stop: Stop) {
        self.end.send(stop).unwrap_or_default();
        if let Err(error) = self.keeper.await {
            tracing::error!(%error, "the keeper of -nat ended early");
        }
    }
}

/// Removes what hubs left that do not run, of names that begin like this, but for
/// those that `keep` says.
///
/// # Errors
///
/// When the packet filter refuses.
pub(crate) async fn clean(prefix: &str, keep: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for name in claims(prefix) {
        if !keep(&name) {
            remove_leftover(&name).await?;
        }
    }

    Ok(())
}

/// Removes what an earlier run of the hub that listens there left.
pub(crate) async fn forget(listen: SocketAddr) {
    let name = name(listen);
    if claims(&name).contains(&name)
        && let Err(error) = remove_leftover(&name).await
    {
        tracing::warn!("what an earlier run left stays: {error:#}");
    }
}

async fn remove_leftover(name: &str) -> anyhow::Result<()> {
    let Some(claim) = Claim::try_take(name)? else {
        return Ok(());
    };
    keeper::remove_leftover(&plan::table(name), claim)
        .await
        .context("failed to remove what -nat has left")?;
    tracing::info!(hub = name, "what -nat had left is removed");

    Ok(())
}
