//! What holds the rules in the kernel: a process that owns their table, or a
//! table of its own that outlives us.

use std::io;

use dtun_shared::nft::{NftError, Owner, TableWatch, Touch};

use super::lock::{self, Seen};
use super::plan::Plan;

pub(super) enum Hold {
    Owned {
        owner: Option<Box<Owner>>,
        /// What the process owns while there is a tunnel.
        table: Option<String>,
        /// The lock's table, which somebody opened for good: it may come again.
        unlocked: Option<TableWatch>,
    },
    /// The lock's table.
    Locked(TableWatch),
}

/// What may have to be put back.
pub(super) enum Broken {
    /// Somebody changed the lock's table.
    Touched(io::Result<Touch>),
    /// The same while we do not keep it.
    Unlocked(io::Result<Touch>),
    /// The process is gone, and its table.
    OwnerEnded,
}

impl Hold {
    pub(super) fn none() -> Self {
        Self::Owned {
            owner: None,
            table: None,
            unlocked: None,
        }
    }

    pub(super) fn is_lock(&self) -> bool {
        matches!(self, Self::Locked(_))
    }

    pub(super) fn has_table(&self) -> bool {
        !matches!(self, Self::Owned { table: None, .. })
    }

    /// Waits until something may be broken. Cancelling the wait loses nothing.
    pub(super) async fn broken(&mut self) -> Broken {
        match self {
            Self::Owned {
                owner, unlocked, ..
            } => {
                let ended = async {
                    match owner {
                        Some(owner) => owner.ended().await,
                        None => std::future::pending().await,
                    }
                };
                let touched = async {
                    match unlocked {
                        Some(watch) => watch.touched().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = ended => Broken::OwnerEnded,
                    touch = touched => Broken::Unlocked(touch),
                }
            }
            Self::Locked(watch) => Broken::Touched(watch.touched().await),
        }
    }

    /// Makes the table what it is to be.
    pub(super) async fn put_up(&mut self, plan: &Plan) -> Result<Seen, NftError> {
        match self {
            Self::Locked(_) => {
                lock::renew(plan).await?;
                self.seen(plan).await
            }
            Self::Owned { owner, table, .. } => {
                let Some(end) = &plan.end else {
                    return Ok(Seen::Whole);
                };
                if owner.is_none() {
                    *owner = Some(Box::new(Owner::new().await?));
                }
                let new = owned_table(&end.device);
                let mut commands = plan.commands(&new);
                if let Some(old) = table.take_if(|old| *old != new) {
                    commands.insert(0, format!("delete table inet {old}"));
                }
                self.apply(&commands).await?;
                if let Self::Owned { table, .. } = self {
                    *table = Some(new);
                }
                Ok(Seen::Whole)
            }
        }
    }

    /// How the lock stands after a change of ours: what was told until now may
    /// have been others' too.
    pub(super) async fn seen(&mut self, plan: &Plan) -> Result<Seen, NftError> {
        let Self::Locked(watch) = self else {
            return Ok(Seen::Whole);
        };
        watch.forget();

        lock::seen(plan).await
    }

    /// Takes the tunnel's rules down; a lock stays.
    pub(super) async fn take_down(&mut self) {
        let Self::Owned { table, .. } = self else {
            return;
        };
        if let Some(table) = table.take()
            && let Err(error) = self.apply(&[format!("delete table inet {table}")]).await
        {
            tracing::debug!(%error, "the table goes with its process");
            self.kill_owner().await;
        }
    }

    /// Tells the table of other inside devices.
    pub(super) async fn tell_inside(&mut self, plan: &Plan) -> Result<Seen, NftError> {
        match self {
            Self::Locked(_) => {
                lock::tell(plan).await?;
                return self.seen(plan).await;
            }
            Self::Owned {
                table: Some(table), ..
            } => {
                let commands = plan.inside_commands(table);
                self.apply(&commands).await?;
            }
            Self::Owned { .. } => {}
        }

        Ok(Seen::Whole)
    }

    /// The process is gone.
    pub(super) fn forget_owner(&mut self) {
        if let Self::Owned { owner, table, .. } = self {
            (*owner, *table) = (None, None);
        }
    }

    /// Lets a lock go, and hears when it comes again.
    pub(super) fn unlock(&mut self) {
        if let Self::Locked(watch) = std::mem::replace(self, Self::none())
            && let Self::Owned { unlocked, .. } = self
        {
            *unlocked = Some(watch);
        }
    }

    /// What hears of the lock's table while it is not ours.
    pub(super) fn take_watch(&mut self) -> Option<TableWatch> {
        match self {
            Self::Owned { unlocked, .. } => unlocked.take(),
            Self::Locked(_) => None,
        }
    }

    /// Forgets what was told.
    pub(super) fn forget(&mut self) {
        if let Self::Owned {
            unlocked: Some(watch),
            ..
        }
        | Self::Locked(watch) = self
        {
            watch.forget();
        }
    }

    /// Takes down what is ours alone.
    pub(super) async fn end(self) {
        if let Self::Owned {
            owner: Some(owner), ..
        } = self
        {
            owner.close().await;
        }
    }

    /// Lets the process carry commands out. One that does not answer is gone
    /// after that, and its table: what it still says would be taken for the
    /// answer to something else.
    async fn apply(&mut self, commands: &[String]) -> Result<(), NftError> {
        let Self::Owned {
            owner: Some(owner), ..
        } = self
        else {
            return Ok(());
        };
        let result = owner.apply(commands).await;
        if let Err(NftError::Silent | NftError::Ended | NftError::Io(_)) = result {
            self.kill_owner().await;
        }

        result
    }

    async fn kill_owner(&mut self) {
        if let Self::Owned { owner, table, .. } = self {
            *table = None;
            if let Some(owner) = owner.take() {
                owner.kill().await;
            }
        }
    }
}

/// Two spokes of one machine have a table each. An identifier takes less than
/// a device's name does.
fn owned_table(device: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);

    format!("dtun-{}", device.replace(|c| !plain(c), "_"))
}
