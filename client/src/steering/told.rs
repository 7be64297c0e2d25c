//! What was said already.

use dtun_shared::nft::NftError;

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
