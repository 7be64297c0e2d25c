//! What was said already.

use std::time::Duration;

use dtun_shared::nft::NftError;
use tokio::time::timeout;

use crate::firewall::lock_stands;

/// Says it once, until it works again.
pub(super) fn tell_no_firewall(result: Result<(), NftError>, locked: bool, told: &mut bool) {
    let first = !std::mem::replace(told, result.is_err());
    let Err(error) = result else {
        return;
    };
    if first && locked {
        tracing::warn!(
            %error,
            "-strict: the lock has not got the tunnel's rules: nothing passes by the tunnel \
             either, until they can be put up",
        );
    } else if first {
        tracing::warn!(
            %error,
            "the firewall has not got the tunnel's rules: who comes in by the uplink is answered \
             by it, but nobody who comes for a container; what is bound to its address, and \
             questions for names, may leave beside the tunnel",
        );
    }
}

/// Says that a lock stands which no flag of this run asked for.
pub(super) async fn tell_others_lock() {
    // One that cannot be seen now does not keep a tunnel waiting.
    if let Ok(Ok(true)) = timeout(GLANCE, lock_stands()).await {
        tracing::warn!(
            "the lock of -strict stands on this machine, and this spoke runs without -strict: \
             nothing passes by its tunnel; `dtun unlock` opens the lock, a start with -strict \
             takes it over"
        );
    }
}

/// A process takes milliseconds.
const GLANCE: Duration = Duration::from_secs(1);
