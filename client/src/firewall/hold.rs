//! What holds the rules in the kernel: a process that owns their table, or a
//! table of its own that outlives us.

use std::io;

use dtun_shared::nft::{NftError, Owner, TableWatch, Touch};

use super::lock::{self, Held};
use super::plan::Plan;

pub(super) enum Hold {
    /// A process, and the table that it owns while there is a tunnel.
    Owned(Option<Box<Owner>>, Option<String>),
    Locked {
        watch: TableWatch,
        /// Tells other processes of ours that we are here.
        _held: Held,
    },
}

/// What may have to be put back.
pub(super) enum Broken {
    /// Somebody changed the lock's table.
    Touched(io::Result<Touch>),
    /// The process is gone, and its table.
    OwnerEnded,
}

impl Hold {
    /// Waits until something may be broken. Cancelling the wait loses nothing.
    pub(super) async fn broken(&mut self) -> Broken {
        match self {
            Self::Owned(None, _) => std::future::pending().await,
            Self::Owned(Some(owner), _) => {
                owner.ended().await;
                Broken::OwnerEnded
            }
            Self::Locked { watch, .. } => Broken::Touched(watch.touched().await),
        }
    }

    /// Makes the table what it is to be. False when somebody has removed it at
    /// the same time.
    pub(super) async fn put_up(&mut self, plan: &Plan) -> Result<bool, NftError> {
        match self {
            Self::Locked { watch, .. } => {
                lock::renew(plan).await?;
                watch.forget();
                lock::stands().await
            }
            Self::Owned(owner, standing) => {
                let Some(end) = &plan.end else {
                    return Ok(true);
                };
                let process = match owner {
                    Some(process) => process,
                    None => owner.insert(Box::new(Owner::new().await?)),
                };
                let table = owned_table(&end.device);
                let mut commands = plan.commands(&table);
                if let Some(old) = standing.take_if(|old| *old != table) {
                    commands.insert(0, format!("delete table inet {old}"));
                }
                process.apply(&commands).await?;
                *standing = Some(table);
                Ok(true)
            }
        }
    }

    /// Takes the tunnel's rules down; of a lock what `plan` has stays.
    pub(super) async fn take_down(&mut self, plan: &Plan) -> Result<(), NftError> {
        match self {
            Self::Locked { .. } => {
                self.put_up(plan).await?;
            }
            Self::Owned(owner, table) => {
                if let (Some(process), Some(table)) = (&mut *owner, table.take())
                    && let Err(error) = process.apply(&[format!("delete table inet {table}")]).await
                {
                    tracing::debug!(%error, "the table goes with its process");
                    *owner = None;
                }
            }
        }

        Ok(())
    }

    /// Tells the table of other inside devices.
    pub(super) async fn tell_inside(&mut self, plan: &Plan) -> Result<(), NftError> {
        match self {
            Self::Locked { watch, .. } => {
                lock::tell(plan).await?;
                watch.forget();
                Ok(())
            }
            Self::Owned(Some(owner), Some(table)) => {
                owner.apply(&plan.inside_commands(table)).await
            }
            Self::Owned(..) => Ok(()),
        }
    }
}

/// Two spokes of one machine have a table each. An identifier takes less than
/// a device's name does.
fn owned_table(device: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);

    format!("dtun-{}", device.replace(|c| !plain(c), "_"))
}
