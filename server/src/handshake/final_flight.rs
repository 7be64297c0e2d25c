//! The hub's ChangeCipherSpec and Finished, kept until the spoke has them
//! (RFC 6347, section 4.2.4), and the memory of a handshake that is done.
//!
//! Only a record that the spoke's key seals brings the flight out again: its
//! repeats are limited, and a forger must not use them up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::{ContentType, emit_plaintext};
use dtun_shared::dtls::schedule::DirectionKey;
use dtun_shared::record::{Opener, Sealer};

pub(super) struct FinalFlight {
    client_random: [u8; 32],
    suite: CipherSuite,
    client_key: DirectionKey,
    /// `None` once the spoke has shown that it has the flight.
    pending: Option<Flight>,
    until: Instant,
}

impl FinalFlight {
    pub(super) fn new(
        now: Instant,
        client_random: [u8; 32],
        suite: CipherSuite,
        client_key: DirectionKey,
        flight: Flight,
    ) -> Self {
        Self {
            client_random,
            suite,
            client_key,
            pending: Some(flight),
            until: now + LIFE,
        }
    }

    /// Whether a hello with this random is a late copy of the one that led here.
    pub(super) fn came_from(&self, client_random: &[u8; 32]) -> bool {
        self.client_random == *client_random
    }

    /// Whether a handshake record is the spoke's Finished repeated.
    pub(super) fn recognises(&self, record: &[u8]) -> bool {
        let mut record = record.to_vec();

        // Without the session's replay window: a repeat takes a new number, and
        // a copy does no harm that the spacing does not bound.
        Opener::new(self.suite, &self.client_key, 1)
            .open(&mut record)
            .is_ok_and(|(content, _)| content == ContentType::Handshake)
    }

    /// The flight again, if the spoke may still need it.
    pub(super) fn repeat(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.pending.as_mut().and_then(|flight| flight.repeat(now))
    }

    /// The spoke needs no more copies.
    pub(super) fn confirm(&mut self) {
        self.pending = None;
    }

    /// When the handshake is forgotten.
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}

/// What the flight is made of.
pub(super) struct Flight {
    /// Shared with the session, so that no sequence number is used twice.
    sealer: Arc<Sealer>,
    /// The Finished message with its header.
    finished: Vec<u8>,
    /// Next plaintext record number.
    next_record: u64,
    sent: Instant,
    resends: u8,
}

impl Flight {
    pub(super) fn new(
        now: Instant,
        sealer: Arc<Sealer>,
        finished: Vec<u8>,
        next_record: u64,
    ) -> Self {
        Self {
            sealer,
            finished,
            next_record,
            sent: now,
            resends: 0,
        }
    }

    /// The flight under new record numbers.
    pub(super) fn datagram(&mut self) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(96);
        emit_plaintext(
            ContentType::ChangeCipherSpec,
            self.next_record,
            &[1],
            &mut datagram,
        );
        self.next_record += 1;
        self.sealer
            .seal(ContentType::Handshake, &self.finished, &mut datagram)
            .expect("a session is replaced long before its numbers run out");

        datagram
    }

    fn repeat(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.resends == RESENDS || now < self.sent + SPACING {
            return None;
        }

        self.sent = now;
        self.resends += 1;
        Some(self.datagram())
    }
}

const RESENDS: u8 = 20;
const SPACING: Duration = Duration::from_millis(100);

/// As long as a cookie can be good, so that a late copy of the hello finds the
/// handshake remembered.
const LIFE: Duration = super::cookie::LIFE.saturating_mul(2);
