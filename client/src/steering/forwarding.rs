//! Says what a hub lacks that everything is sent to.

use std::net::{IpAddr, SocketAddr};

use dtun_shared::leaving::{Bind, Leaving};
use dtun_shared::udp::hop::{FirstHop, first_hop};

use super::Lease;
use crate::resolve::answers;

/// Asks whether the hub passes packets on, and answers come back; says what to
/// do where they do not. One of `dns` that answers shows it, too.
pub(super) async fn tell(lease: Lease, dns: Vec<IpAddr>) {
    let (local, peer) = (lease.addresses.local4, lease.addresses.peer4);
    match first_hop(&lease.device, local.addr(), peer.addr()).await {
        Ok(FirstHop::Passes) => tracing::debug!("the hub forwards"),
        Ok(FirstHop::NoRoute) => tracing::warn!(
            "the hub has no way to the outside: give it a default route (there: ip route)"
        ),
        Ok(FirstHop::Silent) => tracing::warn!(
            "the hub does not seem to forward: nothing comes back from beyond it \
             (there: sysctl -w net.ipv4.ip_forward=1, and masquerade what comes from dtun*)"
        ),
        Ok(FirstHop::Refuses) => tracing::warn!(
            "the hub's firewall refuses what it forwards: \
             accept there what comes from dtun*, or start it with -nat"
        ),
        Ok(FirstHop::Mute) if any_answers(&lease, dns).await => {
            tracing::debug!("the hub forwards");
        }
        Ok(FirstHop::Mute) => tracing::warn!(
            "nothing comes back from beyond the hub: its firewall drops what it forwards, or \
             nothing translates that (there: -nat, or accept and masquerade what comes from \
             dtun*), or the routers there are silent"
        ),
        Err(error) => tracing::debug!(%error, "the hub was not asked whether it forwards"),
    }
}

/// Whether a resolver beyond the hub answers.
async fn any_answers(lease: &Lease, dns: Vec<IpAddr>) -> bool {
    let pool = lease.addresses.local4;
    let leaving = Leaving {
        mark: None,
        bind: Some(Bind::Device(lease.device.clone())),
    };
    for ip in dns {
        let is_beyond = matches!(ip, IpAddr::V4(ip) if !pool.contains(&ip));
        if is_beyond && answers(SocketAddr::new(ip, 53), &leaving).await {
            return true;
        }
    }

    false
}
