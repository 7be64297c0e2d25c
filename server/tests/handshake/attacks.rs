//! What anyone on the Internet may send.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dtun_shared::dtls::header::{ContentType, emit_plaintext};
use dtun_shared::dtls::message::{Fragment, HandshakeType};

use crate::hub::{Hub, peer, talk};
use crate::random::Random;
use crate::spoke::Spoke;

#[test]
fn header_only_fragments_cost_nothing_with_or_without_a_cookie() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);

    let mut random = Random(1);
    let mut sent = 0;
    while sent < 700_000 {
        let mut datagram = Vec::new();
        while datagram.len() < 1400 {
            let kind = [1, 16, 20, 11][random.below(4)];
            let fragment = Fragment {
                kind: HandshakeType::from_byte(kind),
                total: 1 + random.below(1 << 24) % 5000,
                message_seq: u16::try_from(random.below(4)).unwrap(),
                offset: 0,
                body: &[],
            };
            let mut bytes = Vec::new();
            fragment.emit(&mut bytes);
            emit_plaintext(
                ContentType::Handshake,
                random.next() >> 20,
                &bytes,
                &mut datagram,
            );
        }
        sent += datagram.len();
        let from = if random.percent(50) {
            peer(1)
        } else {
            anyone(&mut random)
        };
        assert!(hub.deliver(from, &datagram).is_empty());
    }

    assert_eq!(hub.core.counters().half_open, 1);
    assert_eq!(hub.core.counters().fragment_bytes, 0);
    hub.conclude(peer(1), &mut spoke);
}

#[test]
fn fragments_of_all_handshakes_share_one_mebibyte() {
    let mut hub = Hub::new();
    let mut fullest = 0;
    for n in 0..2000_u16 {
        let from = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 1000));
        hub.greet(from, &mut Spoke::new(n.into()));
        for (total, message_seq) in [(4096, 2), (4097, 2), (1 << 23, 2), (4096, 9)] {
            let mut fragment = Vec::new();
            Fragment {
                kind: HandshakeType::ClientKeyExchange,
                total,
                message_seq,
                offset: 17,
                body: b"x",
            }
            .emit(&mut fragment);
            let datagram = Spoke::new(0).plaintext(ContentType::Handshake, &fragment);
            hub.deliver(from, &datagram);
            fullest = fullest.max(hub.core.counters().fragment_bytes);
        }
    }

    assert!((900_000..=1 << 20).contains(&fullest), "{fullest} bytes");
    assert!(hub.core.counters().over_budget > 1000);

    hub.pass(Duration::from_secs(31));
    assert_eq!(hub.core.counters().fragment_bytes, 0);
}

#[test]
fn a_forged_fragment_is_mended_by_the_spoke_s_next_repeat() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let mut forged = Vec::new();
    Fragment {
        kind: HandshakeType::ClientKeyExchange,
        total: 4000,
        message_seq: 2,
        offset: 0,
        body: b"forged",
    }
    .emit(&mut forged);
    let forged = spoke.plaintext(ContentType::Handshake, &forged);
    hub.deliver(peer(1), &forged);

    let key_exchange = spoke.key_exchange_message().to_vec();
    for piece in crate::flights::split(&mut spoke, &key_exchange, 3) {
        hub.deliver(peer(1), &piece);
    }
    let finished = spoke.finished();
    hub.deliver(peer(1), &finished);

    assert_eq!(hub.established.len(), 1);
    assert_eq!(hub.core.counters().fragment_bytes, 0);
}

#[test]
fn fifty_thousand_hellos_without_a_cookie_leave_nothing_and_get_less_than_they_sent() {
    let mut hub = Hub::new();
    let mut random = Random(1);
    for n in 0..50_000 {
        let mut spoke = Spoke::new(n);
        spoke.suites = vec![0x00A8];
        spoke.extended_master_secret = n % 2 == 0;
        let hello = spoke.flight(hub.now);

        let answers = hub.deliver(anyone(&mut random), &hello);

        assert_eq!(answers.len(), 1);
        assert!(answers[0].len() <= hello.len());
        hub.pass(Duration::from_micros(20));
    }

    let counters = hub.core.counters();
    assert_eq!(counters.cookies_issued, 50_000);
    assert_eq!(
        (
            counters.half_open,
            counters.fragment_bytes,
            counters.final_flights
        ),
        (0, 0, 0)
    );
    assert_eq!(hub.core.poll_timeout(), None);
}

#[test]
fn several_hellos_in_one_datagram_get_one_answer() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    let datagram: Vec<u8> = (0..10).flat_map(|_| spoke.flight(hub.now)).collect();

    assert_eq!(hub.deliver(peer(1), &datagram).len(), 1);
}

#[test]
fn a_datagram_full_of_key_exchanges_counts_as_one() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let key_exchange = spoke.key_exchange();
    hub.deliver(peer(1), &key_exchange);
    let forged: Vec<u8> = (0..1000)
        .flat_map(|n: u16| {
            Spoke::new(0)
                .with_hint(n.to_string().as_bytes())
                .forge_key_exchange()
        })
        .collect();

    hub.deliver(peer(1), &forged);

    assert_eq!(hub.core.counters().out_of_turn, 999);
    // Not pushed out, as it would be by four others.
    let finished = spoke.finished();
    hub.deliver(peer(1), &finished);
    assert_eq!(hub.established.len(), 1);
}

#[test]
fn a_datagram_full_of_finished_records_costs_one_trial() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let key_exchange = spoke.key_exchange();
    hub.deliver(peer(1), &key_exchange);
    let mut wrong = spoke.finished();
    wrong[30] ^= 1;

    hub.deliver(peer(1), &wrong.repeat(1000));
    assert_eq!(hub.core.counters().unverified, 1);
    assert_eq!(hub.core.counters().out_of_turn, 999);

    let mut long = wrong;
    long[11..13].copy_from_slice(&16_000_u16.to_be_bytes());
    long.resize(13 + 16_000, 0);
    hub.deliver(peer(1), &long);
    assert_eq!(hub.core.counters().unverified, 1);

    hub.conclude(peer(1), &mut spoke);
}

#[test]
fn a_cookie_is_worth_nothing_to_another_address() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    let hello = spoke.flight(hub.now);
    let request = hub.deliver(peer(1), &hello).remove(0);
    spoke.handle_datagram(&request);
    let hello = spoke.flight(hub.now);

    hub.deliver(peer(2), &hello);

    assert_eq!(hub.core.counters().half_open, 0);
    assert_eq!(hub.core.counters().cookies_issued, 2);
}

#[test]
fn more_forged_key_exchanges_than_are_kept_are_outlived_by_the_next_repeat() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let key_exchange = spoke.key_exchange();
    hub.deliver(peer(1), &key_exchange);
    for n in 0..10 {
        let mut forger = Spoke::new(n).with_hint(format!("mallory{n}").as_bytes());
        let forged = forger.forge_key_exchange();
        hub.deliver(peer(1), &forged);
    }
    let finished = spoke.finished();
    hub.deliver(peer(1), &finished);
    assert!(hub.established.is_empty());

    hub.pass(Duration::from_millis(250));
    let session = hub.conclude(peer(1), &mut spoke);

    assert_eq!(session.hint, "laptop");
    let later = hub.pass(Duration::from_secs(5));
    assert!(later.is_empty(), "{later:?}");
}

#[test]
fn forged_repeats_do_not_use_up_the_final_flight() {
    let mut hub = Hub::new();
    let mut spoke = Spoke::new(1);
    hub.greet(peer(1), &mut spoke);
    let flight = spoke.flight(hub.now);
    hub.deliver(peer(1), &flight);
    for _ in 0..50 {
        hub.pass(Duration::from_millis(100));
        let mut forged = spoke.flight(hub.now);
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(hub.deliver(peer(1), &forged).is_empty());
    }

    let again = spoke.flight(hub.now);
    for answer in hub.deliver(peer(1), &again) {
        spoke.handle_datagram(&answer);
    }
    assert!(spoke.session.is_some());
}

#[test]
fn forgeries_before_every_step_do_not_stop_a_handshake_in_progress() {
    for only in Forgery::ALL {
        for seed in 0..20 {
            forge_into(seed, &[only]);
        }
    }
    for seed in 0..20 {
        forge_into(seed, &Forgery::ALL);
    }
}

fn forge_into(seed: u64, forgeries: &[Forgery]) {
    let mut hub = Hub::new();
    let mut forger = Forger::new(&mut hub, seed);
    let mut spoke = Spoke::new(1000 + seed);

    hub.greet(peer(1), &mut spoke);
    let key_exchange = spoke.key_exchange();
    let change_cipher_spec = spoke.change_cipher_spec();
    let finished = spoke.finished();
    for genuine in [key_exchange, change_cipher_spec, finished] {
        for forgery in forgeries {
            for datagram in forger.forge(*forgery) {
                for answer in hub.deliver(peer(1), &datagram) {
                    spoke.handle_datagram(&answer);
                }
                hub.pass(Duration::from_millis(1));
            }
        }
        for answer in hub.deliver(peer(1), &genuine) {
            spoke.handle_datagram(&answer);
        }
    }

    assert!(spoke.session.is_some(), "{forgeries:?} seed {seed}");
    let mut session = hub.established.pop().expect("the hub has a session");
    assert_eq!(session.hint, "laptop");
    talk(&mut session, &mut spoke);

    for forgery in forgeries {
        for datagram in forger.forge(*forgery) {
            hub.deliver(peer(1), &datagram);
        }
    }
    talk(&mut session, &mut spoke);
    assert!(spoke.alerts.is_empty(), "{forgeries:?} brought an alert");
}

#[derive(Clone, Copy, Debug)]
enum Forgery {
    Alert,
    StaleFlight,
    WrongCookie,
    OtherKeyExchange,
    ChangeCipherSpec,
    GarbageFinished,
}

impl Forgery {
    const ALL: [Self; 6] = [
        Self::Alert,
        Self::StaleFlight,
        Self::WrongCookie,
        Self::OtherKeyExchange,
        Self::ChangeCipherSpec,
        Self::GarbageFinished,
    ];
}

/// Forges as the spoke at `peer(1)`, of which it has an earlier recording.
struct Forger {
    random: Random,
    recording: Vec<Vec<u8>>,
    scribe: Spoke,
}

impl Forger {
    fn new(hub: &mut Hub, seed: u64) -> Self {
        // Of a handshake that the hub remembers as done, one it has forgotten,
        // or one that was given up.
        let recording = match seed % 3 {
            0 => record(hub, peer(1), seed),
            1 => {
                let recording = record(hub, peer(1), seed);
                hub.pass(Duration::from_secs(121));
                recording
            }
            _ => record_unfinished(hub, peer(1), seed),
        };

        Self {
            random: Random(seed),
            recording,
            scribe: Spoke::new(seed),
        }
    }

    fn forge(&mut self, forgery: Forgery) -> Vec<Vec<u8>> {
        match forgery {
            Forgery::Alert => [[2, 51], [2, 40], [1, 0], [2, 10], [2, 115], [9, 9]]
                .iter()
                .map(|alert| self.scribe.plaintext(ContentType::Alert, alert))
                .collect(),
            Forgery::StaleFlight => self.recording.clone(),
            Forgery::WrongCookie => {
                let mut datagram = self.recording[1].clone();
                datagram[60] ^= 1;
                vec![datagram, self.recording[0].clone()]
            }
            Forgery::OtherKeyExchange => ["mallory", "laptop2", ""]
                .iter()
                .map(|hint| {
                    let mut scribe = Spoke::new(0).with_hint(hint.as_bytes());
                    scribe.forge_key_exchange()
                })
                .collect(),
            Forgery::ChangeCipherSpec => vec![
                self.scribe.plaintext(ContentType::ChangeCipherSpec, &[1]),
                self.scribe.plaintext(ContentType::ChangeCipherSpec, &[]),
            ],
            Forgery::GarbageFinished => (0..3)
                .map(|_| {
                    let mut record = Vec::new();
                    let body: Vec<u8> = (0..48).map(|_| self.random.next() as u8).collect();
                    emit_plaintext(
                        ContentType::Handshake,
                        self.random.next() >> 17,
                        &body,
                        &mut record,
                    );
                    record[4] = 1;
                    record
                })
                .collect(),
        }
    }
}

/// The spoke's datagrams of a handshake without its Finished.
fn record_unfinished(hub: &mut Hub, from: SocketAddr, seed: u64) -> Vec<Vec<u8>> {
    let mut spoke = Spoke::new(seed);
    let mut recording = Vec::new();
    for _ in 0..2 {
        let flight = spoke.flight(hub.now);
        for answer in hub.deliver(from, &flight) {
            spoke.handle_datagram(&answer);
        }
        recording.push(flight);
    }
    recording.push(spoke.key_exchange());
    hub.pass(Duration::from_secs(31));

    recording
}

/// The spoke's datagrams of one whole handshake.
fn record(hub: &mut Hub, from: SocketAddr, seed: u64) -> Vec<Vec<u8>> {
    let mut spoke = Spoke::new(seed);
    let mut recording = Vec::new();
    while spoke.session.is_none() {
        let flight = spoke.flight(hub.now);
        for answer in hub.deliver(from, &flight) {
            spoke.handle_datagram(&answer);
        }
        recording.push(flight);
    }
    hub.established.pop().unwrap();

    recording
}

#[test]
fn a_million_mutated_datagrams_neither_stop_the_hub_nor_fill_it() {
    let mut hub = Hub::new();
    let mut random = Random(7);
    let mut spoke = Spoke::new(1);
    let mut session = hub.shake(peer(1), &mut spoke);
    hub.core.confirmed(peer(1));

    for round in 0..100 {
        let mut recordings = record(&mut hub, peer(2), 100 + round);
        // The last flight of a handshake that stays in progress.
        let mut waiting = Spoke::new(300 + round);
        hub.greet(peer(2), &mut waiting);
        recordings.push(waiting.key_exchange());
        let established = hub.core.counters().established;

        for _ in 0..10_000 {
            let pick = random.below(recordings.len());
            let other = random.below(recordings.len());
            let datagram = mutate(&recordings[pick], &recordings[other], &mut random);
            let from = if random.percent(80) {
                peer(2)
            } else {
                anyone(&mut random)
            };
            for answer in hub.deliver(from, &datagram) {
                assert!(answer.len() < 200);
            }
        }
        hub.pass(Duration::from_secs(1));

        let counters = hub.core.counters();
        assert_eq!(counters.established, established);
        assert!(counters.half_open <= 64, "{counters:?}");
        assert!(counters.fragment_bytes <= 4 * 5000, "{counters:?}");
        assert!(counters.final_flights <= 202, "{counters:?}");

        let mut live = Spoke::new(500 + round);
        hub.shake(peer(3), &mut live);
    }
    talk(&mut session, &mut spoke);
}

fn mutate(datagram: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = datagram.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at + 1),
            3 => {
                let from = random.below(other.len());
                bytes.truncate(at + 1);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => bytes.insert(at, random.next() as u8),
            // Lengths and numbers are near the front.
            _ => {
                let at = random.below(bytes.len().min(30));
                bytes[at] = [0, 1, 0x7F, 0xFF][random.below(4)];
            }
        }
    }
    if bytes == datagram {
        bytes[0] ^= 0x80;
    }
    bytes
}

fn anyone(random: &mut Random) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(random.next() as u32);
    SocketAddr::from((ip, random.next() as u16))
}
