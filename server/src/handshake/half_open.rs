//! One handshake in progress, from the ClientHello with a good cookie to the
//! client's Finished.
//!
//! Nothing that comes before a Finished is authenticated, so nothing before it
//! is believed for good: key exchanges stand beside each other as candidates
//! until a Finished tells which one was the spoke's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::alert;
use dtun_shared::dtls::fragment::Reassembly;
use dtun_shared::dtls::header::{ContentType, emit_plaintext};
use dtun_shared::dtls::message::{
    ClientKeyExchange, Fragment, HandshakeType, MESSAGE_HEADER, ServerHello, emit_message,
};
use dtun_shared::dtls::schedule::{SERVER_FINISHED, Transcript, verify_data};
use dtun_shared::record::{Opener, Sealer};

use super::candidate::{Candidate, Keyring};
use super::final_flight::{FinalFlight, Flight};
use super::{Established, plaintext_alert};

/// What the hub holds for one spoke that has not proved the key yet.
pub(super) struct HalfOpen {
    peer: SocketAddr,
    terms: Terms,
    /// ClientHello to ServerHelloDone.
    transcript: Transcript,
    /// The latest last.
    candidates: Vec<Candidate>,
    /// A ClientKeyExchange in fragments.
    partial: Option<Reassembly>,
    /// An epoch-1 record that overtook its ClientKeyExchange.
    early: Option<Box<[u8]>>,
    /// Next plaintext record number.
    next_record: u64,
    born: Instant,
    /// Arrival of the last datagram that moved the handshake.
    useful: Instant,
    resend_at: Option<Instant>,
    resends: u32,
    rejection: Rejection,
}

/// What the two hellos say.
pub(super) struct Terms {
    pub(super) client_random: [u8; 32],
    pub(super) server_random: [u8; 32],
    /// Of both: each side counts on from here.
    pub(super) message_seq: u16,
    pub(super) suite: CipherSuite,
    pub(super) only_ccm8: bool,
    pub(super) extended_master_secret: bool,
    pub(super) renegotiation_info: bool,
}

/// A handshake that is done.
pub(super) struct Done {
    pub(super) established: Established,
    pub(super) final_flight: FinalFlight,
    pub(super) datagram: Vec<u8>,
}

/// What a timer brought.
pub(super) enum Due {
    Nothing,
    Resend(Vec<u8>),
    /// No key verified the Finished.
    Reject(Vec<u8>),
    Expired,
}

impl HalfOpen {
    /// Opens a handshake for a hello whose cookie is good; `hello` is the
    /// message's body, `record` the number of its record.
    pub(super) fn new(
        now: Instant,
        peer: SocketAddr,
        terms: Terms,
        record: u64,
        hello: &[u8],
    ) -> Self {
        let mut half_open = Self {
            peer,
            terms,
            transcript: Transcript::default(),
            candidates: Vec::new(),
            partial: None,
            early: None,
            next_record: record,
            born: now,
            useful: now,
            resend_at: Some(now + FIRST_RESEND),
            resends: 0,
            rejection: Rejection::None,
        };
        half_open.transcript.add_message(
            HandshakeType::ClientHello,
            half_open.terms.message_seq,
            hello,
        );
        for message in half_open.hello_messages() {
            half_open.transcript.add(&message);
        }

        half_open
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether a hello is a repeat of the one that opened this handshake.
    pub(super) fn came_from(&self, client_random: &[u8; 32], message_seq: u16) -> bool {
        self.terms.client_random == *client_random && self.terms.message_seq == message_seq
    }

    pub(super) fn has_key_exchange(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// ServerHello and ServerHelloDone as one datagram, under new record numbers.
    pub(super) fn hello_flight(&mut self) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(128);
        for message in self.hello_messages() {
            emit_plaintext(
                ContentType::Handshake,
                self.next_record,
                &message,
                &mut datagram,
            );
            self.next_record += 1;
        }

        datagram
    }

    /// The spoke repeated its hello.
    pub(super) fn handle_hello_again(&mut self, now: Instant) -> Vec<u8> {
        self.useful = now;

        self.hello_flight()
    }

    /// Whether a fragment belongs to the message that comes next in plaintext.
    pub(super) fn expects(&self, fragment: &Fragment<'_>) -> bool {
        fragment.kind == HandshakeType::ClientKeyExchange
            && fragment.message_seq == self.key_exchange_seq()
    }

    /// Adds a fragment of the ClientKeyExchange; its body once it is whole.
    pub(super) fn assemble(&mut self, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let mut partial = self.partial.take();
        if partial.as_mut().is_none_or(|it| it.add(fragment).is_err()) {
            partial = Reassembly::begin(fragment);
        }

        let body = partial.as_ref()?.body().map(<[u8]>::to_vec);
        self.partial = partial.filter(|_| body.is_none());
        body
    }

    /// Bytes held for a message that has not come whole.
    pub(super) fn fragment_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, Reassembly::held)
    }

    /// Takes the body of a ClientKeyExchange; `false` if it does not parse.
    pub(super) fn handle_key_exchange(
        &mut self,
        now: Instant,
        body: &[u8],
        keyring: &Keyring,
    ) -> bool {
        let Some(ClientKeyExchange { identity }) = ClientKeyExchange::parse(body) else {
            return false;
        };
        self.useful = now;

        let mut transcript = self.transcript.clone();
        transcript.add_message(
            HandshakeType::ClientKeyExchange,
            self.key_exchange_seq(),
            body,
        );
        let session_hash = transcript.hash();

        if let Some(at) = self
            .candidates
            .iter()
            .position(|candidate| candidate.is_of(&session_hash))
        {
            let again = self.candidates.remove(at);
            self.candidates.push(again);
            return true;
        }

        let candidate = Candidate::new(&self.terms, identity, session_hash, keyring);
        if self.candidates.len() == CANDIDATES {
            self.candidates.remove(0);
        }
        self.candidates.push(candidate);

        true
    }

    /// The record that came before its ClientKeyExchange, if one did.
    pub(super) fn take_early(&mut self) -> Option<Box<[u8]>> {
        self.early.take()
    }

    /// Takes an epoch-1 handshake record, of [`LONGEST_FINISHED`] at most.
    pub(super) fn handle_finished(&mut self, now: Instant, record: &[u8]) -> Option<Done> {
        if self.candidates.is_empty() {
            self.early = Some(record.into());
            return None;
        }

        let done = self.verify(now, record);
        if done.is_none() && self.rejection == Rejection::None {
            self.rejection = Rejection::Due(now + PATIENCE);
        }
        done
    }

    /// Tries `record` as the Finished of each candidate, the latest first.
    pub(super) fn verify(&self, now: Instant, record: &[u8]) -> Option<Done> {
        self.candidates.iter().rev().find_map(|candidate| {
            let (opener, finished) = candidate.open_finished(&self.terms, record)?;
            self.complete(now, candidate, opener, &finished)
        })
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let mut deadline = (self.useful + IDLE).min(self.born + LIFE);
        if let Some(at) = self.resend_at {
            deadline = deadline.min(at);
        }
        if let Rejection::Due(at) = self.rejection {
            deadline = deadline.min(at);
        }

        deadline
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Due {
        if now >= self.useful + IDLE || now >= self.born + LIFE {
            return Due::Expired;
        }
        if let Rejection::Due(at) = self.rejection
            && now >= at
        {
            self.rejection = Rejection::Told;
            self.resend_at = None;
            let alert = plaintext_alert(self.next_record, alert::DECRYPT_ERROR);
            self.next_record += 1;
            return Due::Reject(alert);
        }
        if let Some(at) = self.resend_at
            && now >= at
        {
            self.resends += 1;
            self.resend_at =
                (self.resends < RESENDS).then(|| now + FIRST_RESEND * (1 << self.resends));
            return Due::Resend(self.hello_flight());
        }

        Due::Nothing
    }

    fn hello_messages(&self) -> [Vec<u8>; 2] {
        let mut body = Vec::with_capacity(64);
        ServerHello {
            random: self.terms.server_random,
            session_id: &[],
            suite: self.terms.suite.code(),
            extended_master_secret: self.terms.extended_master_secret,
            renegotiation_info: self.terms.renegotiation_info,
        }
        .emit(&mut body);
        let seq = self.terms.message_seq;

        [
            message(HandshakeType::ServerHello, seq, &body),
            message(HandshakeType::ServerHelloDone, seq + 1, &[]),
        ]
    }

    fn key_exchange_seq(&self) -> u16 {
        self.terms.message_seq + 1
    }

    fn complete(
        &self,
        now: Instant,
        candidate: &Candidate,
        opener: Opener,
        client_finished: &[u8],
    ) -> Option<Done> {
        // A decoy key opens nothing; were it to, its hint would still be unknown.
        let hint = candidate.hint.as_deref()?;

        let mut key_exchange = Vec::new();
        let identity = hint.as_bytes();
        ClientKeyExchange { identity }.emit(&mut key_exchange);
        let mut transcript = self.transcript.clone();
        transcript.add_message(
            HandshakeType::ClientKeyExchange,
            self.key_exchange_seq(),
            &key_exchange,
        );
        transcript.add(client_finished);
        let secrets = candidate.secrets(&self.terms);
        let verify_data = verify_data(&secrets.master_secret, SERVER_FINISHED, &transcript.hash());

        let keys = secrets.keys();
        let sealer = Arc::new(Sealer::new(secrets.suite, &keys.server, 1, 0));
        let mut flight = Flight::new(
            now,
            Arc::clone(&sealer),
            message(
                HandshakeType::Finished,
                self.terms.message_seq + 2,
                &verify_data,
            ),
            self.next_record,
        );
        let datagram = flight.datagram();

        let final_flight = FinalFlight::new(
            now,
            secrets.client_random,
            secrets.suite,
            keys.client,
            flight,
        );

        Some(Done {
            established: Established {
                peer: self.peer,
                hint: hint.to_owned(),
                secrets,
                sealer,
                opener,
                only_ccm8: self.terms.only_ccm8,
            },
            final_flight,
            datagram,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejection {
    None,
    Due(Instant),
    Told,
}

fn message(kind: HandshakeType, seq: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(MESSAGE_HEADER + body.len());
    emit_message(kind, seq, body, &mut message);

    message
}

/// A forged ClientKeyExchange must not push out the spoke's before its
/// Finished, which usually comes with it, is tried.
const CANDIDATES: usize = 4;

/// Header, explicit nonce, a 24-byte Finished and the tag take 61 bytes.
pub(super) const LONGEST_FINISHED: usize = 64;

const FIRST_RESEND: Duration = Duration::from_millis(250);
const RESENDS: u32 = 6;

/// How long the right Finished may come after a wrong one.
const PATIENCE: Duration = Duration::from_secs(1);

const IDLE: Duration = Duration::from_secs(30);
const LIFE: Duration = Duration::from_secs(90);
