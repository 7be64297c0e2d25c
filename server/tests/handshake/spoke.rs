//! A spoke's handshake, for tests only: it resends its flight every 250 ms and
//! keeps each step apart, so that tests can lose, forge and reorder.

use std::time::{Duration, Instant};

use dtun_server::handshake::{Entropy, SeededEntropy};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::alert::Alert;
use dtun_shared::dtls::header::{ContentType, emit_plaintext, records};
use dtun_shared::dtls::message::{
    ClientHello, ClientKeyExchange, Finished, Fragment, HandshakeType, HelloVerifyRequest,
    RENEGOTIATION_SCSV, ServerHello, Suites, emit_message, fragments,
};
use dtun_shared::dtls::schedule::{
    CLIENT_FINISHED, Psk, SERVER_FINISHED, Secrets, Transcript, extended_master_secret,
    master_secret, verify_data,
};
use dtun_shared::record::{Opener, Sealer};

/// Resends its flight after this long without progress.
pub(crate) const FLIGHT_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) const KEY: &str = "correct horse";

pub(crate) struct Spoke {
    pub(crate) psk: Psk,
    pub(crate) hint: Vec<u8>,
    pub(crate) suites: Vec<u16>,
    pub(crate) extended_master_secret: bool,
    pub(crate) random: [u8; 32],
    /// Plaintext alerts seen; never obeyed.
    pub(crate) alerts: Vec<Alert>,
    pub(crate) session: Option<Session>,
    cookie: Vec<u8>,
    message_seq: u16,
    next_record: u64,
    transcript: Transcript,
    server_hello: Option<Answer>,
    keyed: Option<Keyed>,
    resend_at: Option<Instant>,
}

/// The session after both Finished messages.
pub(crate) struct Session {
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
}

struct Answer {
    random: [u8; 32],
    suite: CipherSuite,
    extended_master_secret: bool,
    message: Vec<u8>,
    message_seq: u16,
}

struct Keyed {
    sealer: Sealer,
    opener: Opener,
    key_exchange: Vec<u8>,
    finished: Vec<u8>,
    server_verify_data: [u8; 12],
}

impl Spoke {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = [0; 32];
        SeededEntropy::new(seed ^ 0x5B0CE).fill(&mut random);

        Self {
            psk: Psk::new(KEY).unwrap(),
            hint: b"laptop".to_vec(),
            suites: CipherSuite::ALL.map(CipherSuite::code).to_vec(),
            extended_master_secret: true,
            random,
            alerts: Vec::new(),
            session: None,
            cookie: Vec::new(),
            message_seq: 0,
            next_record: 0,
            transcript: Transcript::default(),
            server_hello: None,
            keyed: None,
            resend_at: None,
        }
    }

    pub(crate) fn with_suite(mut self, suite: CipherSuite) -> Self {
        self.suites = vec![suite.code(), RENEGOTIATION_SCSV];
        self
    }

    pub(crate) fn with_key(mut self, key: &str) -> Self {
        self.psk = Psk::new(key).unwrap();
        self
    }

    pub(crate) fn with_hint(mut self, hint: &[u8]) -> Self {
        self.hint = hint.to_vec();
        self
    }

    /// The flight that is the spoke's to send, under new record numbers.
    pub(crate) fn flight(&mut self, now: Instant) -> Vec<u8> {
        self.resend_at = Some(now + FLIGHT_INTERVAL);
        if self.keyed.is_some() {
            let key_exchange = self.key_exchange();
            return [key_exchange, self.change_cipher_spec(), self.finished()].concat();
        }

        let hello = self.hello_message();
        self.plaintext(ContentType::Handshake, &hello)
    }

    /// The whole ClientHello message.
    pub(crate) fn hello_message(&self) -> Vec<u8> {
        let suites: Vec<u8> = self
            .suites
            .iter()
            .flat_map(|code| code.to_be_bytes())
            .collect();
        let mut body = Vec::new();
        ClientHello {
            random: self.random,
            session_id: &[],
            cookie: &self.cookie,
            suites: Suites::parse(&suites).unwrap(),
            extended_master_secret: self.extended_master_secret,
            renegotiation_info: false,
        }
        .emit(&mut body);

        message(HandshakeType::ClientHello, self.message_seq, &body)
    }

    pub(crate) fn key_exchange_message(&self) -> &[u8] {
        &self.keyed.as_ref().unwrap().key_exchange
    }

    /// A ClientKeyExchange for a hello flight that this spoke never saw.
    pub(crate) fn forge_key_exchange(&mut self) -> Vec<u8> {
        let message = key_exchange_message(2, &self.hint);
        self.plaintext(ContentType::Handshake, &message)
    }

    pub(crate) fn key_exchange(&mut self) -> Vec<u8> {
        let message = self.key_exchange_message().to_vec();
        self.plaintext(ContentType::Handshake, &message)
    }

    pub(crate) fn change_cipher_spec(&mut self) -> Vec<u8> {
        self.plaintext(ContentType::ChangeCipherSpec, &[1])
    }

    pub(crate) fn finished(&mut self) -> Vec<u8> {
        let keyed = self.keyed.as_ref().unwrap();
        let mut record = Vec::new();
        keyed
            .sealer
            .seal(ContentType::Handshake, &keyed.finished, &mut record)
            .unwrap();
        record
    }

    /// A handshake message under the keys of the handshake.
    pub(crate) fn sealed_message(&mut self, kind: HandshakeType, seq: u16, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        let sealer = &self.keyed.as_ref().unwrap().sealer;
        sealer
            .seal(
                ContentType::Handshake,
                &message(kind, seq, body),
                &mut record,
            )
            .unwrap();
        record
    }

    /// An application record under the keys of the handshake.
    pub(crate) fn application(&mut self, content: &[u8]) -> Vec<u8> {
        let sealer = match (&self.session, &self.keyed) {
            (Some(session), _) => &session.sealer,
            (None, keyed) => &keyed.as_ref().unwrap().sealer,
        };
        let mut record = Vec::new();
        sealer
            .seal(ContentType::ApplicationData, content, &mut record)
            .unwrap();
        record
    }

    /// One plaintext record.
    pub(crate) fn plaintext(&mut self, content: ContentType, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        emit_plaintext(content, self.next_record, body, &mut record);
        self.next_record += 1;
        record
    }

    /// Takes a datagram; `true` when the spoke's next flight is to be sent.
    pub(crate) fn handle_datagram(&mut self, datagram: &[u8]) -> bool {
        let mut send = false;
        let mut rest = datagram;
        for (header, body) in records(datagram) {
            let (record, after) = rest.split_at(13 + header.len);
            rest = after;
            match (header.epoch, header.content) {
                (0, ContentType::Handshake) => {
                    for fragment in fragments(body) {
                        send |= self.handle_message(&fragment);
                    }
                }
                (0, ContentType::Alert) => self.alerts.extend(Alert::parse(body)),
                (1, ContentType::Handshake) => self.handle_finished(record),
                _ => {}
            }
        }
        send
    }

    pub(crate) fn timeout(&self) -> Option<Instant> {
        self.resend_at.filter(|_| self.session.is_none())
    }

    fn handle_message(&mut self, fragment: &Fragment<'_>) -> bool {
        if self.keyed.is_some() {
            return false;
        }
        match fragment.kind {
            HandshakeType::HelloVerifyRequest if self.cookie.is_empty() => {
                let request = HelloVerifyRequest::parse(fragment.body).unwrap();
                self.cookie = request.cookie.to_vec();
                self.message_seq = fragment.message_seq + 1;
                true
            }
            HandshakeType::ServerHello
                if !self.cookie.is_empty() && fragment.message_seq == self.message_seq =>
            {
                let hello = ServerHello::parse(fragment.body).unwrap();
                self.server_hello = Some(Answer {
                    random: hello.random,
                    suite: CipherSuite::from_code(hello.suite).unwrap(),
                    extended_master_secret: hello.extended_master_secret,
                    message: message(fragment.kind, fragment.message_seq, fragment.body),
                    message_seq: fragment.message_seq,
                });
                false
            }
            HandshakeType::ServerHelloDone => {
                let Some(answer) = self.server_hello.take() else {
                    return false;
                };
                assert_eq!(fragment.message_seq, answer.message_seq + 1);
                self.keyed = Some(self.exchange_keys(&answer));
                true
            }
            _ => false,
        }
    }

    fn exchange_keys(&mut self, answer: &Answer) -> Keyed {
        let key_exchange = key_exchange_message(self.message_seq + 1, &self.hint);
        self.transcript = Transcript::default();
        self.transcript.add(&self.hello_message());
        self.transcript.add(&answer.message);
        self.transcript.add(&message(
            HandshakeType::ServerHelloDone,
            answer.message_seq + 1,
            &[],
        ));
        self.transcript.add(&key_exchange);

        let session_hash = self.transcript.hash();
        let secrets = Secrets {
            suite: answer.suite,
            master_secret: if answer.extended_master_secret {
                extended_master_secret(&self.psk, &session_hash)
            } else {
                master_secret(&self.psk, &self.random, &answer.random)
            },
            client_random: self.random,
            server_random: answer.random,
        };
        let finished = message(
            HandshakeType::Finished,
            self.message_seq + 2,
            &verify_data(&secrets.master_secret, CLIENT_FINISHED, &session_hash),
        );
        self.transcript.add(&finished);
        let keys = secrets.keys();

        Keyed {
            sealer: Sealer::new(answer.suite, &keys.client, 1, 0),
            opener: Opener::new(answer.suite, &keys.server, 1),
            server_verify_data: verify_data(
                &secrets.master_secret,
                SERVER_FINISHED,
                &self.transcript.hash(),
            ),
            key_exchange,
            finished,
        }
    }

    fn handle_finished(&mut self, record: &[u8]) {
        let mut record = record.to_vec();
        let Some(keyed) = &mut self.keyed else {
            return;
        };
        let Ok((ContentType::Handshake, plain)) = keyed.opener.open(&mut record) else {
            return;
        };
        let fragment = fragments(plain).next().unwrap();
        let finished = Finished::parse(fragment.body).unwrap();
        assert_eq!(fragment.message_seq, self.message_seq + 2);
        assert_eq!(finished.verify_data, keyed.server_verify_data);

        let keyed = self.keyed.take().unwrap();
        self.session = Some(Session {
            sealer: keyed.sealer,
            opener: keyed.opener,
        });
    }
}

fn message(kind: HandshakeType, seq: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    emit_message(kind, seq, body, &mut message);
    message
}

fn key_exchange_message(seq: u16, identity: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    ClientKeyExchange { identity }.emit(&mut body);
    message(HandshakeType::ClientKeyExchange, seq, &body)
}
