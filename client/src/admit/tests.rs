mod play;

use dtun_shared::dtls::message::{MESSAGE_HEADER, ServerHello, ServerHelloDone, ServerKeyExchange};
use proptest::prelude::*;

use super::*;
use play::{Play, client_hello, message, pieces, protected, record, reshown, verify_request};

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
