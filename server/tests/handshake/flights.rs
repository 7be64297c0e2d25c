//! Each flight, whole and repeated.

use std::time::Duration;

use dtun_server::handshake::Verdict;
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::alert::{Alert, DECRYPT_ERROR, HANDSHAKE_FAILURE};
use dtun_shared::dtls::header::{ContentType, RecordHeader, records};
use dtun_shared::dtls::message::{Fragment, HandshakeType, ServerHello, fragments};

use crate::hub::{Hub, peer, talk};
use crate::spoke::Spoke;

#[test]
fn both_sides_have_the_same_keys_in_every_suite_with_and_without_extended_master_secret() {
    for suite in CipherSuite::ALL {
        for extended_master_secret in [true, false] {
            let mut hub = Hub::new();
            let mut spoke = Spoke::new(1).with_suite(suite);
            spoke.extended_master_secret = extended_master_secret;

            let mut session = hub.shake(peer(1), &mut spoke);

            assert_eq!(session.peer, peer(1));
            assert_eq!(session.hint, "laptop");
            assert_eq!(session.secrets.suite, suite);
            assert_eq!(session.only_ccm8, suite == CipherSuite::Ccm8);
            talk(&mut session, &mut spoke);
        }
    }
}

#[test]
fn the_suite_is_the_first_of_the_hub_s_whatever_the_spoke_s_order() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    spoke.suites = vec![0xC0A8, 0xC02B, 0xC0A4, 0x00A8];

    assert_eq!(
        hub.shake(peer(1), &mut spoke).secrets.suite,
        CipherSuite::Gcm
    );

    let mut spoke = Spoke::new(2);
    spoke.suites = vec![0xC0A8, 0xC0A4];
    let session = hub.shake(peer(2), &mut spoke);

    assert_eq!(session.secrets.suite, CipherSuite::Ccm);
    assert!(!session.only_ccm8);
}

#[test]
fn a_spoke_without_a_common_suite_is_told_so_once_it_has_a_cookie() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    spoke.suites = vec![0xC02B];

    hub.greet(peer(1), &mut spoke);

    assert_eq!(spoke.alerts, [Alert::fatal(HANDSHAKE_FAILURE)]);
    assert_eq!(hub.core.counters().half_open, 0);
}

#[test]
fn the_first_answers_take_record_and_message_numbers_of_their_hellos() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    for _ in 0..7 {
        spoke.plaintext(ContentType::Handshake, &[]);
    }

    let hello = spoke.flight(hub.now);
    let request = hub.deliver(peer(1), &hello).remove(0);
    let (header, body) = records(&request).next().unwrap();
    assert_eq!((header.epoch, header.seq), (0, 7));
    let first = fragments(body).next().unwrap();
    assert_eq!(
        (first.kind, first.message_seq),
        (HandshakeType::HelloVerifyRequest, 0)
    );

    spoke.handle_datagram(&request);
    let hello = spoke.flight(hub.now);
    let flight = hub.deliver(peer(1), &hello).remove(0);
    assert_eq!(
        messages(&flight),
        [
            (8, HandshakeType::ServerHello, 1),
            (9, HandshakeType::ServerHelloDone, 2)
        ]
    );
}

#[test]
fn the_first_record_may_say_dtls_1_0() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    for _ in 0..2 {
        let mut hello = spoke.flight(hub.now);
        hello[2] = 0xFF;
        for answer in hub.deliver(peer(1), &hello) {
            spoke.handle_datagram(&answer);
        }
    }

    hub.conclude(peer(1), &mut spoke);
}

#[test]
fn renegotiation_info_is_answered_when_offered_as_a_suite_and_only_then() {
    for (offered, suites) in [(true, vec![0x00A8, 0x00FF]), (false, vec![0x00A8])] {
        let mut hub = Hub::new();
        let mut spoke = Spoke::new(1);
        spoke.suites = suites;
        let hello = spoke.flight(hub.now);
        let request = hub.deliver(peer(1), &hello).remove(0);
        spoke.handle_datagram(&request);
        let hello = spoke.flight(hub.now);
        let flight = hub.deliver(peer(1), &hello).remove(0);

        let (_, body) = records(&flight).next().unwrap();
        let answer = fragments(body).next().unwrap();
        let answer = ServerHello::parse(answer.body).unwrap();
        assert_eq!(answer.renegotiation_info, offered);
        assert!(answer.session_id.is_empty());
    }
}

#[test]
fn a_fragmented_hello_is_dropped() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    let hello = spoke.hello_message();
    for datagram in split(&mut spoke, &hello, 20) {
        assert!(hub.deliver(peer(1), &datagram).is_empty());
    }

    assert!(hub.core.counters().fragmented_hellos > 1);
    assert_eq!(hub.core.counters().fragment_bytes, 0);
}

#[test]
fn a_key_exchange_in_fragments_is_put_together_in_any_order() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);

    let key_exchange = spoke.key_exchange_message().to_vec();
    let mut pieces = split(&mut spoke, &key_exchange, 3);
    assert!(pieces.len() > 2);
    pieces.reverse();
    for piece in &pieces[..pieces.len() - 1] {
        hub.deliver(peer(1), piece);
        assert!(hub.core.counters().fragment_bytes > 0);
    }
    hub.deliver(peer(1), pieces.last().unwrap());
    assert_eq!(hub.core.counters().fragment_bytes, 0);

    let finished = spoke.finished();
    hub.deliver(peer(1), &finished);
    assert_eq!(hub.established.len(), 1);
}

#[test]
fn the_spoke_s_last_flight_may_come_in_any_order_and_in_datagrams_of_its_own() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut hub = Hub::new();
        let mut spoke = Spoke::new(1);
        hub.greet(peer(1), &mut spoke);
        let parts = [
            spoke.key_exchange(),
            spoke.change_cipher_spec(),
            spoke.finished(),
        ];
        for part in order {
            hub.deliver(peer(1), &parts[part]);
        }

        assert_eq!(hub.established.len(), 1, "{order:?}");
    }
}

#[test]
fn application_data_behind_the_finished_is_left_to_the_session() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);

    let mut datagram = spoke.flight(hub.now);
    let behind = spoke.application(b"first");
    datagram.extend_from_slice(&behind);
    assert_eq!(hub.verdict(peer(1), &datagram), Verdict::NotMine);

    let mut session = hub.established.pop().unwrap();
    let mut record = behind;
    assert_eq!(session.opener.open(&mut record).unwrap().1, b"first");
}

#[test]
fn records_of_a_session_are_not_the_handshake_s() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.shake(peer(1), &mut spoke);
    let record = spoke.application(b"packet");

    assert_eq!(hub.verdict(peer(1), &record), Verdict::NotMine);
    assert_eq!(hub.verdict(peer(2), &record), Verdict::NotMine);
}

#[test]
fn the_hello_flight_is_repeated_under_new_numbers_when_the_hello_is() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let mut again = Spoke::new(1);
    again.flight(hub.now);
    let hello = again.flight(hub.now);
    let request = hub.deliver(peer(1), &hello).remove(0);
    again.handle_datagram(&request);
    let hello = again.flight(hub.now);

    let flight = hub.deliver(peer(1), &hello).remove(0);

    let first = messages(&flight)[0];
    assert_eq!(first, (3, HandshakeType::ServerHello, 1));
    assert_eq!(hub.core.counters().half_open, 1);
    hub.conclude(peer(1), &mut spoke);
}

#[test]
fn the_hello_flight_is_repeated_by_a_timer_that_doubles_six_times() {
    let mut hub = Hub::new();
    hub.greet(peer(1), &mut Spoke::new(1));

    let repeats = hub.pass(Duration::from_secs(29));

    let times: Vec<_> = repeats.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times, [250, 750, 1750, 3750, 7750, 15750]);
    let numbers: Vec<_> = repeats
        .iter()
        .map(|(_, flight)| records(flight).next().unwrap().0.seq)
        .collect();
    assert_eq!(numbers, [3, 5, 7, 9, 11, 13]);
}

#[test]
fn the_final_flight_is_repeated_for_a_repeated_finished_until_confirmed() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let flight = spoke.flight(hub.now);
    let first = hub.deliver(peer(1), &flight).remove(0);
    let session = hub.established.pop().unwrap();

    let too_soon = spoke.flight(hub.now);
    assert!(hub.deliver(peer(1), &too_soon).is_empty());

    let mut repeats = 0;
    let mut last = first;
    for _ in 0..30 {
        hub.pass(Duration::from_millis(100));
        let flight = spoke.flight(hub.now);
        for repeat in hub.deliver(peer(1), &flight) {
            let (old, new) = (numbers(&last), numbers(&repeat));
            assert!(old.iter().zip(&new).all(|(old, new)| old < new));
            last = repeat;
            repeats += 1;
        }
    }
    assert_eq!(repeats, 20);
    assert_eq!(session.sealer.sealed(), 21);

    spoke.handle_datagram(&last);
    assert!(spoke.session.is_some());
}

#[test]
fn a_confirmed_session_repeats_no_final_flight() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let flight = spoke.flight(hub.now);
    hub.deliver(peer(1), &flight);

    hub.core.confirmed(peer(1));
    hub.pass(Duration::from_millis(500));
    let flight = spoke.flight(hub.now);

    assert!(hub.deliver(peer(1), &flight).is_empty());
}

#[test]
fn a_wrong_key_and_an_unknown_hint_get_the_same_alert_after_a_second() {
    let cases = [
        Spoke::new(1).with_key("wrong battery"),
        Spoke::new(1).with_hint(b""),
        Spoke::new(1).with_hint(b"lap\ntop"),
        Spoke::new(1).with_hint(&[b'a'; 129]),
        Spoke::new(1).with_hint(&[b'a'; 3000]),
        Spoke::new(1).with_hint(b"\xFF"),
    ];
    for mut spoke in cases {
        let mut hub = Hub::new();
        hub.greet(peer(1), &mut spoke);
        let flight = spoke.flight(hub.now);
        assert!(hub.deliver(peer(1), &flight).is_empty());

        let sent = hub.pass(Duration::from_secs(20));

        let times: Vec<_> = sent.iter().map(|(at, _)| at.as_millis()).collect();
        assert_eq!(times, [250, 750, 1000], "two repeats and the alert");
        let (_, alert) = &sent[2];
        spoke.handle_datagram(alert);
        assert_eq!(spoke.alerts, [Alert::fatal(DECRYPT_ERROR)]);
        assert_eq!(hub.core.counters().half_open, 1);
        assert_eq!(hub.core.counters().rejected, 1);
        assert!(hub.established.is_empty());
    }
}

#[test]
fn the_right_key_after_a_wrong_one_is_good_and_nobody_gets_an_alert() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let mut wrong = spoke.finished();
    wrong[30] ^= 1;
    let key_exchange = spoke.key_exchange();
    hub.deliver(peer(1), &key_exchange);
    hub.deliver(peer(1), &wrong);
    hub.pass(Duration::from_millis(900));

    hub.conclude(peer(1), &mut spoke);

    let later = hub.pass(Duration::from_secs(5));
    assert!(later.is_empty(), "{later:?}");
}

#[test]
fn a_finished_that_the_transcript_does_not_explain_is_a_wrong_one() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let key_exchange = spoke.key_exchange();
    hub.deliver(peer(1), &key_exchange);
    for (seq, verify_data) in [(3, [7; 12].as_slice()), (3, &[7; 11]), (2, &[7; 12])] {
        let wrong = spoke.sealed_message(HandshakeType::Finished, seq, verify_data);
        assert!(hub.deliver(peer(1), &wrong).is_empty());
    }
    assert!(hub.established.is_empty());

    hub.conclude(peer(1), &mut spoke);
}

#[test]
fn a_finished_handshake_ends_those_that_began_before_it_and_no_later_one() {
    let mut hub = Hub::new();
    let mut spokes = [1, 2, 3].map(Spoke::new);
    for spoke in &mut spokes {
        hub.greet(peer(1), spoke);
    }
    assert_eq!(hub.core.counters().half_open, 3);

    hub.conclude(peer(1), &mut spokes[1]);
    assert_eq!(hub.core.counters().half_open, 1);

    hub.conclude(peer(1), &mut spokes[2]);
    assert_eq!(hub.core.counters().half_open, 0);
}

#[test]
fn a_handshake_beside_a_live_session_replaces_nothing_until_it_is_done() {
    let mut hub = Hub::new();
    let mut old = Spoke::new(1);
    let mut session = hub.shake(peer(1), &mut old);
    hub.core.confirmed(peer(1));
    let mut new = Spoke::new(2);

    hub.greet(peer(1), &mut new);
    let record = old.application(b"still here");
    assert_eq!(hub.verdict(peer(1), &record), Verdict::NotMine);
    talk(&mut session, &mut old);

    let flight = new.flight(hub.now);
    assert_eq!(hub.verdict(peer(1), &flight), Verdict::Consumed);
    assert_eq!(hub.established.len(), 1);
}

#[test]
fn a_late_copy_of_a_finished_handshake_s_hello_opens_nothing() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    let hello = spoke.flight(hub.now);
    let request = hub.deliver(peer(1), &hello).remove(0);
    spoke.handle_datagram(&request);
    let hello = spoke.flight(hub.now);
    let flight = hub.deliver(peer(1), &hello).remove(0);
    spoke.handle_datagram(&flight);
    hub.conclude(peer(1), &mut spoke);
    hub.core.confirmed(peer(1));

    assert!(hub.deliver(peer(1), &hello).is_empty());
    assert_eq!(hub.core.counters().half_open, 0);
}

/// Record number, type and message number of each message.
fn messages(datagram: &[u8]) -> Vec<(u64, HandshakeType, u16)> {
    records(datagram)
        .flat_map(|(header, body)| {
            fragments(body).map(move |it| (header.seq, it.kind, it.message_seq))
        })
        .collect()
}

/// Record numbers by epoch; the epochs are 0 and 1.
fn numbers(datagram: &[u8]) -> [u64; 2] {
    let headers: Vec<RecordHeader> = records(datagram).map(|(header, _)| header).collect();
    assert_eq!((headers[0].epoch, headers[1].epoch), (0, 1));
    [headers[0].seq, headers[1].seq]
}

/// A message as fragments of `len` bytes, each a datagram of its own.
pub(crate) fn split(spoke: &mut Spoke, message: &[u8], len: usize) -> Vec<Vec<u8>> {
    let whole = fragments(message).next().unwrap();
    let mut offset = 0;
    whole
        .body
        .chunks(len)
        .map(|body| {
            let mut fragment = Vec::new();
            Fragment {
                offset,
                body,
                ..whole
            }
            .emit(&mut fragment);
            offset += body.len();
            spoke.plaintext(ContentType::Handshake, &fragment)
        })
        .collect()
}
