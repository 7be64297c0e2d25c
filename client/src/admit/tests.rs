use dtun_shared::dtls::header::RecordHeader;
use dtun_shared::dtls::message::{
    ClientHello, ClientKeyExchange, Finished, MESSAGE_HEADER, RENEGOTIATION_SCSV, ServerHello,
    ServerHelloDone, ServerKeyExchange, Suites,
};
use dtun_shared::dtls::schedule::{Transcript, extended_master_secret};
use dtun_shared::record::Sealer;
use proptest::prelude::*;

use super::*;

/// Both sides of one handshake, as far as `Admit` looks at them.
struct Play {
    admit: Admit,
    server_flight: Vec<Vec<u8>>,
    key_exchange: Vec<u8>,
    server: Sealer,
}

impl Play {
    /// A handshake in which nothing has been sent.
    fn new() -> Self {
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
    fn at_server_flight() -> Self {
        let mut play = Self::new();
        play.send_hello(0);
        play.admit.handle_incoming(&verify_request(b"cookie"));
        assert_eq!(play.shown().len(), 1);
        play.send_hello(1);

        play
    }

    /// One whose library waits for the server's Finished.
    fn at_finished() -> Self {
        let mut play = Self::at_server_flight();
        play.admit.handle_incoming(&play.flight());
        assert_eq!(play.shown().len(), 1);
        play.send_finished(0);

        play
    }

    fn send_hello(&mut self, message_seq: u16) {
        let hello = record(ContentType::Handshake, &client_hello(message_seq));
        assert!(self.admit.handle_outgoing(&hello));
    }

    /// The library's last flight, its Finished under this number.
    fn send_finished(&mut self, seq: u64) {
        let mut datagram = record(ContentType::Handshake, &self.key_exchange);
        datagram.extend(record(ContentType::ChangeCipherSpec, &[1]));
        datagram.extend(protected(ContentType::Handshake, seq));
        assert!(self.admit.handle_outgoing(&datagram));
    }

    fn flight(&self) -> Vec<u8> {
        self.server_flight
            .iter()
            .flat_map(|message| record(ContentType::Handshake, message))
            .collect()
    }

    fn sealed(&self, content: ContentType, plain: &[u8]) -> Vec<u8> {
        body(|out| self.server.seal(content, plain, out).unwrap())
    }

    fn finished(&self) -> Vec<u8> {
        let verify_data = body(|out| {
            Finished {
                verify_data: [9; 12],
            }
            .emit(out);
        });
        let finished = message(HandshakeType::Finished, 4, &verify_data);

        self.sealed(ContentType::Handshake, &finished)
    }

    fn shown(&mut self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.admit.poll_deliver()).collect()
    }
}

#[test]
fn a_handshake_passes_and_leaves_its_secrets() {
    let mut play = Play::at_finished();
    let finished = play.finished();

    play.admit.handle_incoming(&finished);

    let shown = play.shown();
    assert_eq!(shown.len(), 1);
    assert!(shown[0].ends_with(&finished));
    let contents: Vec<_> = records(&shown[0])
        .map(|(header, _)| header.content)
        .collect();
    assert_eq!(
        contents,
        [ContentType::ChangeCipherSpec, ContentType::Handshake]
    );
    let passed = play.admit.finish().unwrap();
    assert_eq!(passed.secrets.suite, CipherSuite::Gcm);
    assert_eq!(passed.secrets.client_random, [1; 32]);
    assert_eq!(passed.next_seq, 1);
}

#[test]
fn the_server_flight_is_shown_once_and_only_when_whole() {
    let mut play = Play::at_server_flight();
    let (hello, rest) = (
        play.server_flight[0].clone(),
        play.server_flight[1..].to_vec(),
    );

    play.admit
        .handle_incoming(&record(ContentType::Handshake, &hello));
    assert_eq!(play.shown().len(), 0);
    for message in rest {
        play.admit
            .handle_incoming(&record(ContentType::Handshake, &message));
    }
    play.admit.handle_incoming(&play.flight());

    assert_eq!(play.shown(), [reshown(&play.server_flight, 1)]);
}

#[test]
fn a_flight_in_the_smallest_pieces_is_shown_whole() {
    let mut play = Play::at_server_flight();

    for message in play.server_flight.clone() {
        for piece in pieces(&message) {
            play.admit
                .handle_incoming(&record(ContentType::Handshake, &piece));
        }
    }

    assert_eq!(play.shown(), [reshown(&play.server_flight, 1)]);
}

#[test]
fn a_fresh_server_hello_takes_the_place_of_a_stale_one() {
    let mut play = Play::at_server_flight();
    let mut stale = play.server_flight[0].clone();
    stale[MESSAGE_HEADER + 2] ^= 1; // Another random.

    play.admit
        .handle_incoming(&record(ContentType::Handshake, &stale));
    play.admit.handle_incoming(&play.flight());

    assert_eq!(play.shown(), [reshown(&play.server_flight, 1)]);
}

#[test]
fn a_server_hello_that_answers_what_nobody_asked_is_not_shown() {
    let mut play = Play::at_server_flight();
    let hello = &play.server_flight[0][MESSAGE_HEADER..];
    let extensions = 2 + 32 + 1 + 2 + 1;

    for (kind, content) in [(10, &[0, 2, 0, 23][..]), (14, &[]), (0, &[0]), (999, &[])] {
        let mut hello = hello[..extensions].to_vec();
        let len = u16::try_from(content.len()).unwrap();
        for field in [len + 4, kind, len] {
            hello.extend(field.to_be_bytes());
        }
        hello.extend(content);
        assert!(ServerHello::parse(&hello).is_some());
        let hello = message(HandshakeType::ServerHello, 1, &hello);
        play.admit
            .handle_incoming(&record(ContentType::Handshake, &hello));
        assert_eq!(play.admit.reached(), Reached::HelloVerifyRequest, "{kind}");
    }
    let mut other_suite = play.server_flight[0].clone();
    other_suite[MESSAGE_HEADER + 36] ^= 1;
    play.admit
        .handle_incoming(&record(ContentType::Handshake, &other_suite));

    assert_eq!(play.admit.reached(), Reached::HelloVerifyRequest);
}

#[test]
fn no_cookie_is_shown_behind_the_server_flight() {
    let mut play = Play::at_server_flight();
    play.admit.handle_incoming(&play.flight());
    play.shown();

    play.admit.handle_incoming(&verify_request(b"another"));

    assert_eq!(play.shown().len(), 0);
}

#[test]
fn another_cookie_has_its_turn_when_hellos_go_unanswered() {
    let mut play = Play::at_server_flight();
    play.admit.handle_incoming(&verify_request(b"another"));
    assert_eq!(play.shown().len(), 0);

    for _ in 0..10 {
        play.send_hello(1);
    }

    let shown = play.shown();
    assert_eq!(shown.len(), 1);
    let (_, content) = records(&shown[0]).next().unwrap();
    let fragment = fragments(content).next().unwrap();
    assert_eq!(fragment.message_seq, 1);
    assert_eq!(
        HelloVerifyRequest::parse(fragment.body).unwrap().cookie,
        b"another"
    );
}

#[test]
fn alerts_are_noted_and_not_shown() {
    let mut play = Play::at_server_flight();

    for alert in [[2, 40], [2, 51]] {
        play.admit
            .handle_incoming(&record(ContentType::Alert, &alert));
    }

    assert_eq!(play.shown().len(), 0);
    assert_eq!(play.admit.alert(), Some(40));
}

#[test]
fn an_alert_of_the_library_does_not_leave() {
    let mut play = Play::new();

    assert!(
        !play
            .admit
            .handle_outgoing(&record(ContentType::Alert, &[2, 80]))
    );
}

#[test]
fn garbage_is_not_taken_for_a_finished() {
    let mut play = Play::at_finished();
    let mut forged = play.finished();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let not_finished = play.sealed(ContentType::Handshake, &play.server_flight[2]);

    for datagram in [
        forged,
        not_finished,
        protected(ContentType::Handshake, 0),
        record(ContentType::ChangeCipherSpec, &[1]),
    ] {
        play.admit.handle_incoming(&datagram);
    }

    assert_eq!(play.shown().len(), 0);
    let finished = play.finished();
    play.admit.handle_incoming(&finished);
    assert_eq!(play.shown().len(), 1);
}

#[test]
fn a_final_flight_under_new_numbers_is_shown_once() {
    let mut play = Play::at_finished();
    let (first, second) = (play.finished(), play.finished());

    play.admit.handle_incoming(&second);
    play.admit.handle_incoming(&first);

    assert_eq!(play.shown().len(), 1);
}

#[test]
fn application_records_are_kept_sealed_and_never_shown() {
    let mut play = Play::at_finished();
    let meta = play.sealed(ContentType::ApplicationData, b"{}");
    let goodbye = play.sealed(ContentType::Alert, &[1, 0]);

    play.admit
        .handle_incoming(&protected(ContentType::ApplicationData, 99));
    for datagram in [&meta, &goodbye, &meta] {
        play.admit.handle_incoming(datagram);
    }
    for _ in 0..100 {
        let packet = play.sealed(ContentType::ApplicationData, b"packet");
        play.admit.handle_incoming(&packet);
    }

    assert_eq!(play.shown().len(), 0);
    let finished = play.finished();
    play.admit.handle_incoming(&finished);
    let early = play.admit.finish().unwrap().early;
    assert_eq!(early[..2], [meta, goodbye]);
    assert_eq!(early.len(), MAX_EARLY);
}

#[test]
fn the_next_number_follows_the_highest_sent() {
    let mut play = Play::at_finished();
    for seq in [1, 3, 2] {
        play.send_finished(seq);
    }
    let finished = play.finished();
    play.admit.handle_incoming(&finished);

    assert_eq!(play.admit.finish().unwrap().next_seq, 4);
}

#[test]
fn an_unfinished_handshake_leaves_nothing() {
    assert!(Play::new().admit.finish().is_none());
    assert!(Play::at_server_flight().admit.finish().is_none());
    assert!(Play::at_finished().admit.finish().is_none());
}

proptest! {
    #[test]
    fn whatever_comes_only_whole_messages_in_their_turn_are_shown(
        datagrams in prop::collection::vec(datagram(), 0..60),
    ) {
        let mut play = Play::new();
        play.send_hello(0);
        let mut expected = 0;

        for datagram in datagrams {
            play.admit.handle_incoming(&datagram);
            for shown in play.shown() {
                expected = follows(&shown, expected)?;
                play.send_hello(expected);
            }
        }
    }
}

/// A million changed datagrams of a handshake, against each of its stages.
#[test]
fn a_million_mutated_datagrams_neither_panic_nor_take_memory() {
    let mut seed = Seed(0x5EED);
    for stage in [Play::new, Play::at_server_flight, Play::at_finished] {
        let mut play = stage();
        let recorded = [
            verify_request(b"cookie"),
            play.flight(),
            [
                record(ContentType::ChangeCipherSpec, &[1]),
                Play::at_finished().finished(),
            ]
            .concat(),
            Play::at_finished().sealed(ContentType::ApplicationData, b"{}"),
            record(ContentType::Alert, &[2, 40]),
        ];
        let mut settled = 0;
        for round in 0..334_000 {
            let mut datagram = recorded[seed.below(recorded.len())].clone();
            for _ in 0..=seed.below(4) {
                let at = seed.below(datagram.len());
                datagram[at] = seed.below(256).to_le_bytes()[0];
            }
            datagram.truncate(seed.below(datagram.len()) + seed.below(40));

            play.admit.handle_incoming(&datagram);
            play.shown();
            if round == 34_000 {
                settled = resident_kib();
            }
        }
        let grown = resident_kib().saturating_sub(settled);
        assert!(grown < 4096, "{grown} KiB for 300,000 datagrams");
    }
}

/// Checks that a datagram shown continues the handshake; returns the number of
/// the message that comes next.
fn follows(shown: &[u8], mut expected: u16) -> Result<u16, TestCaseError> {
    let mut rest = shown.len();
    for (header, content) in records(shown) {
        rest -= RECORD_HEADER + header.len;
        prop_assert_eq!((header.epoch, header.content), (0, ContentType::Handshake));
        let messages: Vec<_> = fragments(content).collect();
        prop_assert_eq!(messages.len(), 1);
        let message = messages[0];
        prop_assert!(message.is_whole());
        prop_assert_eq!(message.message_seq, expected);
        expected += 1;
        let body = message.body;
        let well_formed = [
            (
                HandshakeType::HelloVerifyRequest,
                HelloVerifyRequest::parse(body).is_some(),
            ),
            (
                HandshakeType::ServerHello,
                ServerHello::parse(body).is_some(),
            ),
            (
                HandshakeType::ServerKeyExchange,
                ServerKeyExchange::parse(body).is_some(),
            ),
            (
                HandshakeType::ServerHelloDone,
                ServerHelloDone::parse(body).is_some(),
            ),
        ]
        .contains(&(message.kind, true));
        prop_assert!(well_formed);
    }
    prop_assert_eq!(rest, 0);

    Ok(expected)
}

/// Noise, messages of a handshake under any number, pieces of them.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let play = Play::new();
    let mut bodies: Vec<Vec<u8>> = play.server_flight.clone();
    bodies.push(verify_request(b"cookie")[RECORD_HEADER..].to_vec());
    bodies.push(verify_request(b"another")[RECORD_HEADER..].to_vec());
    bodies.push(client_hello(0));
    let messages = (prop::sample::select(bodies), 0..4u16).prop_map(|(mut message, seq)| {
        message[4..6].copy_from_slice(&seq.to_be_bytes());
        message
    });
    let whole = messages.clone();
    let piece = (messages, any::<prop::sample::Index>()).prop_map(|(message, index)| {
        let pieces = pieces(&message);
        pieces[index.index(pieces.len())].clone()
    });

    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..100),
        4 => whole.prop_map(|message| record(ContentType::Handshake, &message)),
        2 => piece.prop_map(|piece| record(ContentType::Handshake, &piece)),
        1 => Just(play.flight()),
        1 => Just(record(ContentType::Alert, &[2, 40])),
        1 => Just(record(ContentType::ChangeCipherSpec, &[1])),
    ]
}

/// A linear congruential generator: every run mutates alike.
struct Seed(u64);

impl Seed {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);

        (self.0 >> 33) as usize % end
    }
}

fn resident_kib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();

    pages * 4
}

fn client_hello(message_seq: u16) -> Vec<u8> {
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

fn verify_request(cookie: &[u8]) -> Vec<u8> {
    let request = body(|out| HelloVerifyRequest { cookie }.emit(out));
    let request = message(HandshakeType::HelloVerifyRequest, 0, &request);

    record(ContentType::Handshake, &request)
}

/// The messages as they are shown: a record each, numbered from `shown`.
fn reshown(messages: &[Vec<u8>], shown: u64) -> Vec<u8> {
    body(|out| {
        for (seq, message) in (shown..).zip(messages) {
            emit_plaintext(ContentType::Handshake, seq, message, out);
        }
    })
}

/// A message cut into fragments of one byte each.
fn pieces(whole: &[u8]) -> Vec<Vec<u8>> {
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

fn message(kind: HandshakeType, message_seq: u16, content: &[u8]) -> Vec<u8> {
    body(|out| emit_message(kind, message_seq, content, out))
}

fn record(content: ContentType, fragment: &[u8]) -> Vec<u8> {
    body(|out| emit_plaintext(content, 7, fragment, out))
}

/// A record of epoch 1 that nobody's key has sealed.
fn protected(content: ContentType, seq: u64) -> Vec<u8> {
    let mut record = body(|out| {
        RecordHeader {
            content,
            version: dtun_shared::dtls::DTLS_1_2,
            epoch: 1,
            seq,
            len: 40,
        }
        .emit(out);
    });
    record.extend([0x5A; 40]);

    record
}

fn body(emit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    emit(&mut out);

    out
}
