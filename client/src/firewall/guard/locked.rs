//! What the task does for a lock: it closes it, hears who touches it, lets it go
//! for `dtun unlock` and takes it over again.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dtun_shared::nft::{NftError, TableWatch, Touch};
use tokio::time::timeout;

use super::super::hold::Hold;
use super::super::lock::{self, Opened, Seen, Standing};
use super::super::plan;
use super::{BLIND, Guard};

impl Guard {
    /// Closes the lock, and keeps it from now on.
    pub(super) async fn close(&mut self, watch: TableWatch) -> anyhow::Result<Standing> {
        let before = std::mem::replace(&mut self.hold, Hold::Locked(watch));
        self.locked.store(true, Ordering::Relaxed);
        let wanted = self.plan();
        self.behind = true;
        self.closes = None;
        let standing = lock::close(&wanted).await?;
        let seen = self.hold.seen(&wanted).await?;
        self.behind = false;
        before.end().await;
        self.see(seen).await;

        Ok(standing)
    }

    /// Puts the lock back, which may be open until then: before its list, if that
    /// takes long.
    pub(super) async fn put_lock_back(&mut self) -> Result<(), NftError> {
        let tell = self.failures == 0;
        let plan = self.plan();
        if plan.is_long() {
            told_late(tell, lock::close_first(&plan)).await?;
            return self.put_up().await;
        }

        told_late(tell, self.put_up()).await
    }

    /// Somebody else, or `dtun unlock`, changed the lock's table.
    pub(super) async fn touched(&mut self, touch: io::Result<Touch>) {
        match touch {
            Ok(Touch::Elements(set)) if set == plan::OPEN => self.opened().await,
            Ok(Touch::Elements(set)) if plan::is_for_a_time(&set) => {}
            Ok(Touch::Elements(_) | Touch::Any) => self.broken(),
            Err(error) => {
                tracing::debug!(%error, "changes of the firewall are not told");
                self.repair.get_or_insert(Instant::now() + BLIND);
            }
        }
    }

    /// Looks whether somebody opened the lock, or the time is over.
    pub(super) async fn opened(&mut self) {
        let due = self.closes.take();
        match lock::opened().await {
            Ok(Opened::ForGood) => self.unlock().await,
            Ok(Opened::For(time)) => {
                // The kernel does not tell of the end.
                self.closes = Some(Instant::now() + time + LATER);
                tracing::warn!(
                    for_at_most = ?rounded(time),
                    "the lock of -strict is open: everything may leave this machine",
                );
            }
            Ok(Opened::Not) => tracing::warn!("the lock of -strict is closed again"),
            Err(error) => {
                tracing::debug!(%error, "failed to look at the lock");
                self.closes = due.map(|_| Instant::now() + BLIND);
                self.broken();
            }
        }
    }

    /// Heeds what others did to the lock at the same time.
    pub(super) async fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Whole => {}
            Seen::Broken => self.broken(),
            Seen::Unlocked => self.unlock().await,
        }
    }

    /// `dtun unlock`: from here on as without `-strict`, until `dtun lock`.
    async fn unlock(&mut self) {
        tracing::warn!(
            "the lock of -strict was opened by `dtun unlock`: everything may leave this machine \
             until `dtun lock` or the next start with -strict"
        );
        self.locked.store(false, Ordering::Relaxed);
        self.repair = None;
        self.hold.unlock();
        self.behind = false;
        let wanted = self.plan();
        if let Err(error) = self.hold.put_up(&wanted).await {
            tracing::warn!("the firewall stays without the tunnel's rules: {error}");
        }
        if let Err(error) = lock::remove().await {
            tracing::error!("failed to remove the lock of -strict: {error}");
            return;
        }
        self.hold.forget();
        // A `dtun lock` at the same time.
        self.lock_again(Ok(Touch::Any)).await;
    }

    /// Takes the lock over where somebody made its table again.
    pub(super) async fn lock_again(&mut self, touch: io::Result<Touch>) {
        let stands = match touch {
            Ok(_) => lock::stands().await,
            Err(error) => Err(error.into()),
        };
        match stands {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                tracing::debug!(%error, "changes of the firewall are not told");
                return;
            }
        }
        let Some(watch) = self.hold.take_watch() else {
            return;
        };
        match Box::pin(self.close(watch)).await {
            Ok(_) => tracing::warn!(
                "the lock of -strict is closed again: only the tunnel and what -bypass names is \
                 open"
            ),
            Err(error) => {
                tracing::error!("failed to close the lock of -strict again: {error:#}");
                self.repair = Some(Instant::now() + BLIND);
            }
        }
    }
}

/// Says where what closes the lock keeps us waiting.
async fn told_late<T>(tell: bool, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    match timeout(LATE, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            if tell {
                tracing::error!("{MAY_BE_OPEN}: nft has not answered for {LATE:?}");
            }
            work.await
        }
    }
}

/// A time to the second.
fn rounded(time: Duration) -> Duration {
    Duration::from_secs((time + Duration::from_millis(500)).as_secs())
}

/// What becomes of a lock that somebody has removed or changed.
pub(super) const MAY_BE_OPEN: &str = "the lock of -strict was removed or changed by another \
     program, and everything may leave this machine until it is back";

/// The lock is to be back within that time.
const LATE: Duration = Duration::from_secs(1);

/// The kernel closes the lock when it looks at the set.
const LATER: Duration = Duration::from_millis(50);
