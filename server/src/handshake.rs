//! The hub's side of the DTLS 1.2 handshake with a pre-shared key (RFC 6347,
//! RFC 4279): datagram in; datagrams and finished handshakes out. Pure.
//!
//! Before the cookie nothing is kept, and never a byte more sent than came.
//! After it, whatever does not come in its turn is dropped and counted: no
//! datagram that others can forge ends a handshake. All handshakes of the hub
//! are in one [`Handshakes`], because their limits are common.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

mod candidate;
mod cookie;
mod counters;
mod entropy;
mod final_flight;
mod half_open;
mod hello;
mod hint;
mod key_exchange;
mod table;

pub use counters::HandshakeCounters;
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dtun_shared::dtls::alert::Alert;
use dtun_shared::dtls::header::{ContentType, RecordHeader, emit_plaintext, records};
use dtun_shared::dtls::message::{HandshakeType, fragments};
use dtun_shared::dtls::schedule::{Psk, Secrets};
use dtun_shared::dtls::{CipherSuite, DTLS_1_2, RECORD_HEADER};
use dtun_shared::record::{Opener, Sealer};

use candidate::Keyring;
use cookie::Cookies;
use final_flight::FinalFlight;
use half_open::{Done, Due, HalfOpen, LONGEST_FINISHED};
use table::{Id, Table};

/// Every half-open handshake of the hub, and the final flights of fresh sessions.
pub struct Handshakes {
    keyring: Keyring,
    /// In order of preference.
    suites: Vec<CipherSuite>,
    entropy: Box<dyn Entropy>,
    cookies: Cookies,
    table: Table,
    final_flights: HashMap<SocketAddr, FinalFlight>,
    /// When final flights are forgotten, the next first. One that was replaced
    /// is no longer due when its time here comes.
    forget: VecDeque<(Instant, SocketAddr)>,
    fragment_bytes: usize,
    transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Established>,
    counters: HandshakeCounters,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing in it concerns a session.
    Consumed,
    /// It holds records for the session with this peer, if there is one; poll
    /// events first, for it may have finished the handshake too.
    NotMine,
}

/// A handshake that both sides have proved the key in.
#[derive(Debug)]
pub struct Established {
    pub peer: SocketAddr,
    pub hint: String,
    pub secrets: Secrets,
    /// Shared with the final flight, which may be sealed again.
    pub sealer: Arc<Sealer>,
    pub opener: Opener,
    /// The spoke offered no suite but CCM_8, as the Go program does.
    pub only_ccm8: bool,
}

impl Handshakes {
    /// `suites` in the hub's order of preference.
    pub fn new(psk: Psk, suites: Vec<CipherSuite>, entropy: impl Entropy + 'static) -> Self {
        let mut entropy = Box::new(entropy);
        let keyring = Keyring::new(psk, entropy.as_mut());

        Self {
            keyring,
            suites,
            entropy,
            cookies: Cookies::new(),
            table: Table::default(),
            final_flights: HashMap::new(),
            forget: VecDeque::new(),
            fragment_bytes: 0,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: HandshakeCounters::default(),
        }
    }

    /// Takes what came from `peer`.
    pub fn handle_datagram(&mut self, now: Instant, peer: SocketAddr, datagram: &[u8]) -> Verdict {
        let mut verdict = Verdict::Consumed;
        let mut allowance = Allowance::default();
        let mut rest = datagram;

        for (header, body) in records(datagram) {
            let (record, after) = rest.split_at(RECORD_HEADER + header.len);
            rest = after;

            match (header.epoch, header.content) {
                (0, ContentType::Handshake) => {
                    self.handle_plaintext(now, peer, &header, body, &mut allowance);
                }
                // The epoch of the record after it says as much.
                (0, ContentType::ChangeCipherSpec) => {}
                (0, ContentType::Alert) => self.counters.alerts += 1,
                (0, ContentType::ApplicationData) => self.counters.out_of_turn += 1,
                (1, ContentType::Handshake)
                    if self.in_progress(peer) || self.final_flights.contains_key(&peer) =>
                {
                    if record.len() <= LONGEST_FINISHED && take(&mut allowance.finished) {
                        self.handle_finished(now, peer, record);
                    } else {
                        self.counters.out_of_turn += 1;
                    }
                }
                _ => verdict = Verdict::NotMine,
            }
        }
        if !rest.is_empty() || datagram.is_empty() {
            self.counters.malformed += 1;
        }

        verdict
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next finished handshake.
    pub fn poll_event(&mut self) -> Option<Established> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let half_open = self.table.next_deadline().map(|(at, _)| at);
        let forget = self.forget.front().map(|&(at, _)| at);

        half_open.into_iter().chain(forget).min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.table.next_deadline()
            && at <= now
        {
            self.handle_due(now, id);
        }
        while let Some(&(at, peer)) = self.forget.front()
            && at <= now
        {
            self.forget.pop_front();
            if self
                .final_flights
                .get(&peer)
                .is_some_and(|flight| flight.until() <= now)
            {
                self.final_flights.remove(&peer);
            }
        }
    }

    /// The first authenticated application record of the session with `peer`
    /// arrived, or the session ended: the final flight is needed no more.
    pub fn confirmed(&mut self, peer: SocketAddr) {
        if let Some(flight) = self.final_flights.get_mut(&peer) {
            flight.confirm();
        }
    }

    /// Whether a handshake with `peer` is in progress. Such a peer must get no
    /// alert for a record without a session: anyone can forge the record.
    #[must_use]
    pub fn in_progress(&self, peer: SocketAddr) -> bool {
        !self.table.of(peer).is_empty()
    }

    #[must_use]
    pub fn counters(&self) -> HandshakeCounters {
        HandshakeCounters {
            half_open: self.table.len(),
            fragment_bytes: self.fragment_bytes,
            final_flights: self.final_flights.len(),
            ..self.counters
        }
    }

    fn handle_plaintext(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        header: &RecordHeader,
        body: &[u8],
        allowance: &mut Allowance,
    ) {
        let mut messages = fragments(body).peekable();
        if messages.peek().is_none() {
            self.counters.malformed += 1;
        }
        for fragment in messages {
            if fragment.kind == HandshakeType::ClientHello && take(&mut allowance.hellos) {
                self.handle_hello(now, peer, header.seq, &fragment);
            } else if fragment.kind == HandshakeType::ClientKeyExchange
                && header.version == DTLS_1_2
                && take(&mut allowance.key_exchange)
            {
                if self.handle_key_exchange(now, peer, &fragment) {
                    allowance.key_exchange = 0;
                }
            } else {
                self.counters.out_of_turn += 1;
            }
        }
    }

    fn handle_finished(&mut self, now: Instant, peer: SocketAddr, record: &[u8]) {
        // First, so that a repeat never counts as a wrong key of a handshake beside it.
        if let Some(flight) = self.final_flights.get_mut(&peer)
            && flight.recognises(record)
        {
            if let Some(datagram) = flight.repeat(now) {
                self.counters.resent += 1;
                self.transmits.push_back((peer, datagram));
            }
            return;
        }

        for id in self.table.of(peer).to_vec() {
            let done = self
                .table
                .update(id, |half_open| half_open.handle_finished(now, record));
            if let Some(done) = done.flatten() {
                self.finish(id, done);
                return;
            }
        }
        self.counters.unverified += 1;
    }

    fn finish(&mut self, id: Id, done: Done) {
        let peer = done.established.peer;
        // Those opened later may be the spoke's next life; those before are not.
        for older in self.table.of(peer).to_vec() {
            if older <= id {
                self.remove(older);
            }
        }

        self.forget.push_back((done.final_flight.until(), peer));
        self.final_flights.insert(peer, done.final_flight);
        self.transmits.push_back((peer, done.datagram));
        self.events.push_back(done.established);
        self.counters.established += 1;
    }

    fn handle_due(&mut self, now: Instant, id: Id) {
        let Some(peer) = self.table.get(id).map(HalfOpen::peer) else {
            return;
        };
        match self
            .table
            .update(id, |half_open| half_open.handle_timeout(now))
        {
            Some(Due::Resend(flight)) => {
                self.counters.resent += 1;
                self.transmits.push_back((peer, flight));
            }
            Some(Due::Reject(alert)) => {
                self.counters.rejected += 1;
                self.transmits.push_back((peer, alert));
            }
            Some(Due::Expired) => {
                self.remove(id);
                self.counters.expired += 1;
            }
            Some(Due::Nothing) | None => {}
        }
    }

    fn remove(&mut self, id: Id) {
        if let Some(half_open) = self.table.remove(id) {
            self.fragment_bytes -= half_open.fragment_bytes();
        }
    }
}

/// What one datagram may still have done for it. A spoke never needs more, and
/// an attacker could pack a thousand key exchanges into one, each of which costs
/// far more than its bytes.
struct Allowance {
    /// One hello, one answer: several must not add up to more than came.
    hellos: u8,
    /// Fragments, until one makes the message whole.
    key_exchange: u8,
    finished: u8,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            hellos: 1,
            key_exchange: 8,
            finished: 1,
        }
    }
}

fn take(left: &mut u8) -> bool {
    let taken = *left > 0;
    *left = left.saturating_sub(1);

    taken
}

fn plaintext_alert(record: u64, description: u8) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(RECORD_HEADER + 2);
    let alert = Alert::fatal(description).emit();
    emit_plaintext(ContentType::Alert, record, &alert, &mut datagram);

    datagram
}
