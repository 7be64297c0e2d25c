//! What the task does about what failed, or was taken away.

use std::time::{Duration, Instant};

use dtun_shared::nft::NftError;

use super::locked::MAY_BE_OPEN;
use super::{BLIND, Guard};

impl Guard {
    /// Tries again what failed: always where it is a lock, which blocks the
    /// tunnel itself until it knows of it.
    pub(super) fn retry(&mut self, error: &NftError) {
        let passes = match error {
            NftError::Silent | NftError::Ended | NftError::Io(_) => true,
            NftError::Missing | NftError::Start(_) | NftError::Refused(_) => false,
        };
        if passes || self.hold.is_lock() {
            self.repair_later();
        }
    }

    fn repair_later(&mut self) {
        self.repair = Some(Instant::now() + later(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn broken(&mut self) {
        let now = Instant::now();
        let at = self.repairs.not_before().map_or(now, |at| at.max(now));
        self.repair.get_or_insert(at);
    }

    pub(super) async fn put_back(&mut self, now: Instant) {
        let (was_behind, failures) = (self.behind, self.failures);
        let is_lock = self.hold.is_lock();
        let result = if is_lock {
            self.put_lock_back().await
        } else {
            self.put_up().await
        };
        if let Err(error) = result {
            if failures == 0 && is_lock {
                tracing::error!("{MAY_BE_OPEN}: failed to put it back: {error}");
            } else if failures == 0 {
                tracing::error!("failed to put the firewall's rules back: {error}");
            } else {
                tracing::debug!(%error, failures, "the firewall's rules still fail");
            }
            self.repair_later();
            return;
        }
        if was_behind {
            tracing::info!("the firewall has its rules");
        } else if self.hold.has_table() && self.repairs.made(now).is_zero() {
            tracing::info!("the firewall's rules were changed by another program: put back");
        }
    }
}

/// How long to wait after so many failures before; the program may be missing
/// for good.
fn later(failures: u32) -> Duration {
    (BLIND * (1 << failures.min(5))).min(RARE)
}

/// Between tries of what keeps failing.
const RARE: Duration = Duration::from_secs(60);
