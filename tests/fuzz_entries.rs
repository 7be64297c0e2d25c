//! Drives what the fuzz targets call, with bytes near to real ones.

#[path = "../fuzz/src/lib.rs"]
pub mod entries;

use dtun_shared::dtls::header::{ContentType, emit_plaintext};
use dtun_shared::dtls::message::{
    ClientKeyExchange, Finished, Fragment, HandshakeType, ServerHello, emit_message,
};
use dtun_shared::packet::checksum;
use dtun_shared::packet::segment::Segments;
use dtun_shared::packet::vnet::{Gso, VnetHeader};
use proptest::prelude::*;
use proptest::sample::Index;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

/// Some bytes of a seed changed, a piece cut out or doubled.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    let piece = prop::option::of((any::<Index>(), 0usize..40, any::<bool>()));
    (prop::sample::select(seeds), changes, piece).prop_map(|(mut seed, changes, piece)| {
        for (at, byte) in changes {
            let at = at.index(seed.len());
            seed[at] = byte;
        }
        if let Some((at, len, double)) = piece {
            let at = at.index(seed.len());
            let piece = at..(at + len).min(seed.len());
            if double {
                let copy = seed[piece].to_vec();
                seed.splice(at..at, copy);
            } else {
                seed.drain(piece);
            }
        }
        seed
    })
}

/// Handshake records' bodies of all that a PSK handshake says.
fn messages() -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    let mut body = Vec::new();
    let hello = ServerHello {
        random: [3; 32],
        session_id: &[1, 2, 3],
        suite: 0x00A8,
        extended_master_secret: true,
        renegotiation_info: true,
    };
    hello.emit(&mut body);
    bodies.push((HandshakeType::ServerHello, body));
    bodies.push((HandshakeType::ServerHelloDone, Vec::new()));
    let mut body = Vec::new();
    ClientKeyExchange {
        identity: b"laptop",
    }
    .emit(&mut body);
    bodies.push((HandshakeType::ClientKeyExchange, body));
    let mut body = Vec::new();
    Finished {
        verify_data: [9; 12],
    }
    .emit(&mut body);
    bodies.push((HandshakeType::Finished, body));

    let mut messages = vec![entries::client_hello(b"cookie", 1)[13..].to_vec()];
    let mut flight = Vec::new();
    for (message_seq, (kind, body)) in (2..).zip(&bodies) {
        let mut message = Vec::new();
        emit_message(*kind, message_seq, body, &mut message);
        flight.extend_from_slice(&message);
        messages.push(message);
    }
    messages.push(flight);
    let mut pieces = Vec::new();
    for offset in [4, 0] {
        let piece = Fragment {
            kind: HandshakeType::ClientKeyExchange,
            total: 8,
            message_seq: 2,
            offset,
            body: &[0, 6, b'l', b'a'],
        };
        piece.emit(&mut pieces);
    }
    messages.push(pieces);

    messages
}

fn datagrams() -> Vec<Vec<u8>> {
    let mut datagrams = vec![entries::client_hello(&[], 0)];
    for message in messages() {
        let mut datagram = Vec::new();
        emit_plaintext(ContentType::Handshake, 2, &message, &mut datagram);
        emit_plaintext(ContentType::ChangeCipherSpec, 3, &[1], &mut datagram);
        emit_plaintext(ContentType::Handshake, 0, &[5; 40], &mut datagram);
        // The last record is the Finished, of epoch 1.
        let epoch = datagram.len() - 40 - 13 + 4;
        datagram[epoch] = 1;
        datagrams.push(datagram);
    }
    let framed: Vec<Vec<u8>> = datagrams
        .iter()
        .map(|datagram| {
            let len = datagram.len() as u16;
            [&len.to_be_bytes()[..], datagram].concat()
        })
        .collect();
    datagrams.extend(framed);

    datagrams
}

fn metas() -> Vec<Vec<u8>> {
    [
        r#"{"Local4":"10.0.0.2/24","Peer4":"10.0.0.1/24","Local6":"fc00::2/120","Peer6":"fc00::1/120","Routes":"","Ext":1,"Mtu":1400,"Out6":true}"#,
        r#"{"Error":"address pool 10.0.0.0/24 is full"}"#,
        r#"{"Routes":"10.1.0.0/16,fd00::/64","Ext":1,"Mtu":1280}"#,
        r#"{"Routes":"empty"}"#,
        r#"{"Ping":7}"#,
        r#"{"Refused":[{"Net":"0.0.0.0/0","Why":"a default route"}]}"#,
    ]
    .map(|json| json.as_bytes().to_vec())
    .into()
}

/// A run of three TCP segments over IPv4, or of three datagrams over IPv6, as
/// a TUN hands it over.
fn runs() -> Vec<(VnetHeader, Vec<u8>)> {
    let mut tcp = vec![0x45, 0, 0, 100, 0, 1, 0x40, 0, 64, 6, 0, 0];
    tcp.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    let check = checksum::finish(checksum::sum(0, &tcp));
    tcp[10..12].copy_from_slice(&check);
    tcp.extend([1, 2, 3, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0]);
    let begun = checksum::pseudo4(&[10, 0, 0, 1, 10, 0, 0, 2], 6, 80);
    tcp.extend(checksum::fold(begun).to_ne_bytes());
    tcp.resize(100, 0);

    let mut udp = vec![0x60, 0, 0, 0, 0, 68, 17, 64];
    udp.extend([7; 32]);
    udp.extend([1, 2, 3, 4, 0, 68]);
    udp.extend(checksum::fold(checksum::pseudo6(&[7; 32], 17, 68)).to_ne_bytes());
    udp.resize(108, 5);

    let header = |gso, hdr_len, csum_start, csum_offset| VnetHeader {
        needs_csum: true,
        gso,
        hdr_len,
        gso_size: 25,
        csum_start,
        csum_offset,
        ..VnetHeader::PLAIN
    };
    vec![
        (header(Gso::Tcp4, 40, 20, 16), tcp),
        (header(Gso::Udp, 48, 40, 6), udp),
    ]
}

fn handed_over() -> Vec<Vec<u8>> {
    runs()
        .into_iter()
        .map(|(header, packet)| [&[0, 70], &header.emit()[..], &packet].concat())
        .collect()
}

/// The packets of the runs, framed.
fn opened() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (header, mut packet) in runs() {
        let mut segments = Segments::new(header, &mut packet, 100).expect("well formed");
        while let Some(len) = segments.next_len() {
            let mut out = vec![0; len];
            segments.write_next(&mut out);
            all.extend((len as u16).to_be_bytes());
            all.extend(out);
        }
    }
    vec![all]
}

/// A limit and an IPv4 packet with options, to be cut; parts of two packets.
fn to_be_cut() -> Vec<Vec<u8>> {
    let mut packet = vec![0x00, 0x44, 0x47, 0, 0, 228, 0, 7, 0x20, 0, 64, 17, 0, 0];
    packet.extend([10, 0, 0, 2, 10, 0, 0, 1, 0x94, 4, 0, 0, 7, 3, 4, 0]);
    packet.resize(2 + 228, 0xaa);
    let mut parts = vec![0x04, 0xab];
    for (places, number) in [(0x02, 1), (0x12, 2), (0x12, 1), (0x02, 2)] {
        parts.extend([0, 16, 0x10, places, 0, 0, 0, number]);
        parts.extend([number; 10]);
    }

    vec![packet, parts]
}

proptest! {
    #[test]
    fn records_hold_what_they_promise(
        bytes in prop_oneof![bytes(), mutated(datagrams())],
    ) {
        entries::records(&bytes);
    }

    #[test]
    fn messages_hold_what_they_promise(
        bytes in prop_oneof![1 => bytes(), 3 => mutated(messages())],
    ) {
        entries::messages(&bytes);
    }

    #[test]
    fn metas_hold_what_they_promise(
        bytes in prop_oneof![1 => bytes(), 5 => mutated(metas())],
    ) {
        entries::meta(&bytes);
    }

    #[test]
    fn the_hub_keeps_its_promises_for_every_datagram(
        bytes in prop_oneof![1 => bytes(), 5 => mutated(datagrams())],
    ) {
        entries::datagram(&bytes);
    }

    #[test]
    fn what_a_device_hands_over_is_cut_whole_or_refused(
        bytes in prop_oneof![1 => bytes(), 5 => mutated(handed_over())],
    ) {
        entries::segment(&bytes);
    }

    #[test]
    fn what_peers_sent_comes_out_packet_for_packet(
        bytes in prop_oneof![1 => bytes(), 5 => mutated(opened())],
    ) {
        entries::coalesce(&bytes);
    }

    #[test]
    fn pieces_fit_and_make_what_they_were_cut_from(
        bytes in prop_oneof![1 => bytes(), 5 => mutated(to_be_cut())],
    ) {
        entries::pieces(&bytes);
    }
}

#[test]
fn seeds_hold_unmutated() {
    for seed in datagrams() {
        entries::records(&seed);
        entries::datagram(&seed);
    }
    for seed in messages() {
        entries::messages(&seed);
    }
    for seed in metas() {
        entries::meta(&seed);
    }
    for seed in handed_over() {
        entries::segment(&seed);
    }
    for seed in opened() {
        entries::coalesce(&seed);
    }
    for seed in to_be_cut() {
        entries::pieces(&seed);
    }
}
