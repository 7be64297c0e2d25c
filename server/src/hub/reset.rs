//! The answer to a record of a session that the hub does not have.
//!
//! A Go spoke closes on any plaintext fatal alert and dials again; one of ours
//! begins to probe. The sender's address may be forged, so the answer is never
//! larger than what came, and there are not many of them.

use std::time::{Duration, Instant};

use dtun_shared::dtls::alert::{Alert, UNEXPECTED_MESSAGE};
use dtun_shared::dtls::header::{ContentType, emit_plaintext, records};

/// Makes the alerts, at a limited rate.
#[derive(Debug)]
pub(super) struct Resets {
    left: u32,
    refilled: Instant,
}

impl Resets {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            refilled: now,
        }
    }

    /// The alert for `datagram`, if it is a protected record and may be answered.
    pub(super) fn answer(&mut self, now: Instant, datagram: &[u8]) -> Option<Vec<u8>> {
        let (header, _) = records(datagram).next()?;
        if header.epoch == 0 || datagram.len() < ALERT_LEN || !self.take(now) {
            return None;
        }

        // The peer's replay window for epoch 0 has seen the low numbers of our
        // handshake; the record's own number makes each answer a new one.
        let seq = header.seq & ABOVE_HANDSHAKE.wrapping_sub(1) | ABOVE_HANDSHAKE;
        let mut out = Vec::with_capacity(ALERT_LEN);
        let alert = Alert::fatal(UNEXPECTED_MESSAGE);
        emit_plaintext(ContentType::Alert, seq, &alert.emit(), &mut out);

        Some(out)
    }

    fn take(&mut self, now: Instant) -> bool {
        let intervals = now.duration_since(self.refilled).as_millis() / INTERVAL.as_millis();
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        if intervals > 0 {
            self.left = self.left.saturating_add(intervals).min(BURST);
            self.refilled = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;

        true
    }
}

/// Header and a two-byte alert.
const ALERT_LEN: usize = dtun_shared::dtls::RECORD_HEADER + 2;

/// A thousand spokes of a restarted hub are told within ten seconds.
const INTERVAL: Duration = Duration::from_millis(10);
const BURST: u32 = 200;

/// No handshake uses record numbers this high.
const ABOVE_HANDSHAKE: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use dtun_shared::dtls::header::RecordHeader;

    use super::*;

    fn record(epoch: u16, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        RecordHeader {
            content: ContentType::ApplicationData,
            version: 0xFEFD,
            epoch,
            seq: 7,
            len,
        }
        .emit(&mut out);
        out.resize(out.len() + len, 0);
        out
    }

    #[test]
    fn a_protected_record_is_answered_with_a_fatal_alert_no_larger() {
        let now = Instant::now();
        let asked = record(1, 2);

        let alert = Resets::new(now).answer(now, &asked).unwrap();

        assert!(alert.len() <= asked.len());
        let (header, body) = records(&alert).next().unwrap();
        assert_eq!(
            (header.content, header.epoch, body),
            (ContentType::Alert, 0, &[2, 10][..])
        );
    }

    #[test]
    fn nothing_short_malformed_or_in_the_clear_is_answered() {
        let now = Instant::now();
        let mut resets = Resets::new(now);

        assert_eq!(resets.answer(now, &record(1, 1)), None);
        assert_eq!(resets.answer(now, &record(0, 40)), None);
        assert_eq!(resets.answer(now, b"hello, is this thing on?"), None);
    }

    #[test]
    fn the_rate_is_limited_and_recovers() {
        let now = Instant::now();
        let mut resets = Resets::new(now);
        let mut answered = |now: Instant| {
            (0..1000)
                .filter(|_| resets.answer(now, &record(1, 40)).is_some())
                .count()
        };

        assert_eq!(answered(now), BURST as usize);
        assert_eq!(answered(now), 0);
        assert_eq!(answered(now + Duration::from_secs(1)), 100);
    }
}
