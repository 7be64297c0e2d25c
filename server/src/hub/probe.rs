//! The question to a silent spoke: in its own terms, for the Go program has no
//! control messages and would die of one.

use dtun_shared::meta::Control;
use dtun_shared::packet::Echo;

use crate::hub::Kept;
use crate::hub::shared::Shared;

/// Asks the spoke for a sign of life.
pub(super) fn send(shared: &Shared, kept: &mut Kept) {
    kept.probes = kept.probes.wrapping_add(1);
    if kept.told.as_ref().is_some_and(|meta| meta.ext) {
        let ping = Control::Ping(u64::from(kept.probes));
        shared.send_in(&kept.session, &ping.emit());
        return;
    }

    let Some(inner) = kept.session.inner() else {
        return;
    };
    let echo = Echo {
        id: kept.session.serial as u16 ^ ECHO_ID,
        seq: kept.probes,
    };
    if let Some(packet) = echo.request(inner.own.echo_ends()) {
        kept.session.expect_echo(echo);
        shared.send_in(&kept.session, &packet);
    }
}

/// Away from the small numbers that `ping` takes from process ids.
const ECHO_ID: u16 = 0xd700;
