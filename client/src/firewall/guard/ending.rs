//! What the task does when it ends.

use super::super::hold::Hold;
use super::super::{Ending, lock};
use super::Guard;

impl Guard {
    /// Takes down what is ours. It may come while something else is half done, a
    /// lock being closed too, so that nothing but the settings tells whether
    /// there may be one.
    pub(super) async fn finish(mut self, ending: Ending) {
        let is_lock = self.hold.is_lock();
        let hold = std::mem::replace(&mut self.hold, Hold::none());
        hold.end().await;
        if self.settings.lock.is_none() {
            return;
        }
        let ending = match ending {
            Ending::Open if lock::machine_stops().await => Ending::Locked, // Others may still run.
            Ending::Open | Ending::Locked => ending,
        };
        match ending {
            Ending::Locked if is_lock => self.tell_standing().await,
            Ending::Locked => {}
            // The kernel lets one batch in at a time: what a process of nft that
            // was killed has sent is done, or will not be.
            Ending::Open => match lock::remove().await {
                Ok(()) if is_lock => tracing::info!("the lock of -strict is gone"),
                Ok(()) => {}
                Err(error) => tracing::error!(
                    "failed to remove the lock of -strict, which may stay closed (`dtun unlock` \
                     opens it): {error}"
                ),
            },
        }
    }

    async fn tell_standing(&self) {
        match lock::stands().await {
            Ok(false) if self.begun => {
                tracing::error!("the lock of -strict is gone: everything may leave this machine");
            }
            Err(_) | Ok(false) if !self.begun => {} // That is told of already.
            Ok(_) | Err(_) => tracing::warn!(
                "the lock of -strict stays closed: `dtun unlock` opens it, the next start with \
                 -strict takes it over"
            ),
        }
    }
}
