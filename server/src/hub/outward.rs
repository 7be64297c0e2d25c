//! The task of one lease's device: each packet that the kernel routes there
//! becomes a record to the spoke.

use std::sync::Arc;
use std::time::Duration;

use dtun_shared::device::Tun;
use dtun_shared::packet::Ends;
use tokio::time::sleep;

use crate::hub::counters::Dropped;
use crate::hub::shared::Shared;

/// Runs until it is aborted, which the lease's end does.
pub(super) async fn carry(shared: Arc<Shared>, tun: Arc<Tun>, hint: String) {
    let mut packet = vec![0; MAX_PACKET];
    let mut record = Vec::new();

    loop {
        match tun.recv(&mut packet).await {
            Ok(len) => forward(&shared, &hint, &packet[..len], &mut record),
            // Somebody has set the device down, or is deleting it.
            Err(error) => {
                tracing::debug!(device = tun.name(), %error, "device unreadable");
                sleep(RETRY).await;
            }
        }
    }
}

fn forward(shared: &Shared, hint: &str, packet: &[u8], record: &mut Vec<u8>) {
    if Ends::of(packet).is_none_or(|ends| ends.link_scope()) {
        shared.counters.count(Dropped::LinkScope);
        return;
    }
    // Only confirmed sessions speak for a hint: before the spoke's first record
    // nothing but the meta may go out.
    match shared.sessions.of_hint(hint) {
        Some(session) => shared.send_with(&session, packet, record),
        None => shared.counters.count(Dropped::NoSpoke),
    }
}

const MAX_PACKET: usize = 65_535;
const RETRY: Duration = Duration::from_secs(1);
