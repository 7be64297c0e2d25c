//! Says what a hub lacks that everything is sent to.

use dtun_shared::udp::hop::{FirstHop, first_hop};

use super::Lease;

/// Asks the hub whether it passes packets on, and says what to do where it does
/// not.
pub(super) async fn tell(lease: Lease) {
    let local = lease.addresses.local4.addr();
    match first_hop(&lease.device, local).await {
        Ok(FirstHop::Forwards) => tracing::debug!("the hub forwards"),
        Ok(FirstHop::NoRoute) => tracing::warn!(
            "the hub has no way to the outside: give it a default route (there: ip route)"
        ),
        Ok(FirstHop::Silent) => tracing::warn!(
            "the hub does not seem to forward: nothing comes back from beyond it \
             (there: sysctl -w net.ipv4.ip_forward=1, and masquerade what comes from dtun*)"
        ),
        Err(error) => tracing::debug!(%error, "the hub was not asked whether it forwards"),
    }
}
