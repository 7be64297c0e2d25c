//! The way out for spokes (`-nat`): forwarding, one masquerade in a table of
//! our own, and an accept where others' rules drop what spokes send.
//!
//! Forwarding is switched on and left on: off, it would cut off what others on
//! the machine have begun to forward meanwhile, such as containers. The table
//! outlives a restart and a kill, since without it the kernel would answer for
//! the spokes, with resets, what comes in meanwhile; the next start takes it
//! over or removes it, and so does [`clean`].

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

use keeper::Keeper;
use plan::Plan;

/// The task that keeps the rules.
#[derive(Debug)]
pub(crate) struct Nat {
    peernets: watch::Sender<Vec<IpNet>>,
    end: oneshot::Sender<Stop>,
    keeper: JoinHandle<()>,
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

        let plan = Plan::new(&name, pools, except);
        let keeper = Keeper::new(plan, listen.port(), claim)
            .await
            .context("-nat cannot be had (scripts/hub-nat.sh does without nft)")?;
        let (peernets, inbox) = watch::channel(Vec::new());
        let (end, ended) = oneshot::channel();

        Ok(Self {
            peernets,
            end,
            keeper: tokio::spawn(keeper.run(inbox, ended)),
        })
    }

    /// Tells which networks behind spokes are let out as well.
    pub(crate) fn set_peernets(&self, mut networks: Vec<IpNet>) {
        networks.sort();
        self.peernets.send_if_modified(|old| {
            let other = *old != networks;
            *old = networks;
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

/// Removes what hubs that were killed left of `-nat`; those that run keep it.
///
/// # Errors
///
/// When the packet filter refuses.
pub async fn clean() -> anyhow::Result<()> {
    for name in claims(PREFIX) {
        remove_leftover(&name).await?;
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

/// One of its own for each hub of a machine.
fn name(listen: SocketAddr) -> String {
    let port = listen.port();
    if listen.ip().is_unspecified() {
        return format!("{PREFIX}{port}");
    }
    let ip = listen.ip().to_string().replace(':', "_");

    format!("{PREFIX}{ip}-{port}")
}

const PREFIX: &str = "hub-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_of_one_machine_have_names_of_their_own() {
        for (listen, expected) in [
            ("[::]:443", "hub-443"),
            ("0.0.0.0:4433", "hub-4433"),
            ("192.0.2.1:443", "hub-192.0.2.1-443"),
            ("[2001:db8::1]:443", "hub-2001_db8__1-443"),
        ] {
            assert_eq!(name(listen.parse().unwrap()), expected);
        }
    }
}
