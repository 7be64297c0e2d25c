//! A handshake for `Admit` to look at, at any of its stages.

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::DTLS_1_2;
use dtun_shared::dtls::header::{ContentType, RecordHeader, emit_plaintext};
use dtun_shared::dtls::message::{
    ClientHello, ClientKeyExchange, Finished, Fragment, HandshakeType, HelloVerifyRequest,
    RENEGOTIATION_SCSV, ServerHello, ServerKeyExchange, Suites, emit_message, fragments,
};
use dtun_shared::dtls::schedule::{Psk, Secrets, Transcript, extended_master_secret};
use dtun_shared::record::Sealer;

use crate::admit::Admit;

/// Both sides of one handshake, as far as `Admit` looks at them.
pub(super) struct Play {
    pub(super) admit: Admit,
    pub(super) server_flight: Vec<Vec<u8>>,
    key_exchange: Vec<u8>,
    server: Sealer,
}

impl Play {
    /// A handshake in which nothing has been sent.
    pub(super) fn new() -> Self {
        let psk = Psk::new("key").unwrap();
        let hello = client_hello(1);
        let server_hello = body(|out| {
            ServerHello {
                random: [2; 32],
                session_id: &[],
                suite: CipherSuite::Gcm.code(),
                extended_master_secret: true,
                renegotiation_info: true,
            }
            .emit(out);
        });
        let hint = body(|out| ServerKeyExchange { hint: b"hub" }.emit(out));
        let server_flight = vec![
            message(HandshakeType::ServerHello, 1, &server_hello),
            message(HandshakeType::ServerKeyExchange, 2, &hint),
            message(HandshakeType::ServerHelloDone, 3, &[]),
        ];
        let identity = body(|out| ClientKeyExchange { identity: b"me" }.emit(out));
        let key_exchange = message(HandshakeType::ClientKeyExchange, 2, &identity);

        let mut transcript = Transcript::default();
        transcript.add(&hello);
        server_flight
            .iter()
            .for_each(|message| transcript.add(message));
        transcript.add(&key_exchange);
        let secrets = Secrets {
            suite: CipherSuite::Gcm,
            master_secret: extended_master_secret(&psk, &transcript.hash()),
            client_random: [1; 32],
            server_random: [2; 32],
        };

        Self {
            admit: Admit::new(psk, CipherSuite::ALL.to_vec()),
            server_flight,
            key_exchange,
            server: Sealer::new(CipherSuite::Gcm, &secrets.keys().server, 1, 0),
        }
    }

    /// One whose library waits for the server's flight.
    pub(super) fn at_server_flight() -> Self {
        let mut play = Self::new();
        play.send_hello(0);
        play.admit.handle_incoming(&verify_request(b"cookie"));
        assert_eq!(play.shown().len(), 1);
        play.send_hello(1);

        play
    }

    /// One whose library waits for the server's Finished.
    pub(super) fn at_finished() -> Self {
        let mut play = Self::at_server_flight();
        play.admit.handle_incoming(&play.flight());
        assert_eq!(play.shown().len(), 1);
        play.send_finished(0);

        play
    }

    pub(super) fn send_hello(&mut self, message_seq: u16) {
        let hello = record(ContentType::Handshake, &client_hello(message_seq));
        assert!(self.admit.handle_outgoing(&hello));
    }

    /// The library's last flight, its Finished under this number.
    pub(super) fn send_finished(&mut self, seq: u64) {
        let mut datagram = record(ContentType::Handshake, &self.key_exchange);
        datagram.extend(record(ContentType::ChangeCipherSpec, &[1]));
        datagram.extend(protected(ContentType::Handshake, seq));
        assert!(self.admit.handle_outgoing(&datagram));
    }

    pub(super) fn flight(&self) -> Vec<u8> {
        self.server_flight
            .iter()
            .flat_map(|message| record(ContentType::Handshake, message))
            .collect()
    }

    pub(super) fn sealed(&self, content: ContentType, plain: &[u8]) -> Vec<u8> {
        body(|out| self.server.seal(content, plain, out).unwrap())
    }

    pub(super) fn finished(&self) -> Vec<u8> {
        let verify_data = body(|out| {
            Finished {
                verify_data: [9; 12],
            }
            .emit(out);
        });
        let finished = message(HandshakeType::Finished, 4, &verify_data);

        self.sealed(ContentType::Handshake, &finished)
    }

    pub(super) fn shown(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.admit.poll_deliver()).collect()
    }
}

pub(super) fn client_hello(message_seq: u16) -> Vec<u8> {
    let codes: Vec<u8> = CipherSuite::ALL
        .iter()
        .map(|suite| suite.code())
        .chain([RENEGOTIATION_SCSV])
        .flat_map(u16::to_be_bytes)
        .collect();
    let hello = body(|out| {
        ClientHello {
            random: [1; 32],
            session_id: &[],
            cookie: &[],
            suites: Suites::parse(&codes).unwrap(),
            extended_master_secret: true,
            renegotiation_info: true,
        }
        .emit(out);
    });

    message(HandshakeType::ClientHello, message_seq, &hello)
}

pub(super) fn verify_request(cookie: &[u8]) -> Vec<u8> {
    let request = body(|out| HelloVerifyRequest { cookie }.emit(out));
    let request = message(HandshakeType::HelloVerifyRequest, 0, &request);

    record(ContentType::Handshake, &request)
}

/// The messages as they are shown: a record each, numbered from `shown`.
pub(super) fn reshown(messages: &[Vec<u8>], shown: u64) -> Vec<u8> {
    body(|out| {
        for (seq, message) in (shown..).zip(messages) {
            emit_plaintext(ContentType::Handshake, seq, message, out);
        }
    })
}

/// A message cut into fragments of one byte each.
pub(super) fn pieces(whole: &[u8]) -> Vec<Vec<u8>> {
    let whole = fragments(whole).next().unwrap();
    if whole.body.is_empty() {
        return vec![body(|out| whole.emit(out))];
    }

    whole
        .body
        .chunks(1)
        .enumerate()
        .map(|(offset, byte)| {
            let piece = Fragment {
                offset,
                body: byte,
                ..whole
            };
            body(|out| piece.emit(out))
        })
        .collect()
}

pub(super) fn message(kind: HandshakeType, message_seq: u16, content: &[u8]) -> Vec<u8> {
    body(|out| emit_message(kind, message_seq, content, out))
}

pub(super) fn record(content: ContentType, fragment: &[u8]) -> Vec<u8> {
    body(|out| emit_plaintext(content, 7, fragment, out))
}

/// A record of epoch 1 that nobody's key has sealed.
pub(super) fn protected(content: ContentType, seq: u64) -> Vec<u8> {
    let mut record = body(|out| {
        RecordHeader {
            content,
            version: DTLS_1_2,
            epoch: 1,
            seq,
            len: 40,
        }
        .emit(out);
    });
    record.extend([0x5A; 40]);

    record
}

pub(super) fn body(emit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    emit(&mut out);

    out
}
