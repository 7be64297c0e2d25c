//! What the fuzz targets call: one function for each kind of network bytes.
//! Each states what holds for all bytes, and panics where it does not.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run records` (or `messages`, `meta`,
//! `datagram`, `segment`, `coalesce`, `pieces`) looks for such bytes;
//! `tests/fuzz_entries.rs` tries some on every test run, without a fuzzer.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dtun_server::handshake::{Handshakes, SeededEntropy};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::alert::Alert;
use dtun_shared::dtls::fragment::Reassembly;
use dtun_shared::dtls::header::{ContentType, Look, emit_plaintext, look, records as walk};
use dtun_shared::dtls::message::{
    ClientHello, ClientKeyExchange, Finished, Fragment, HandshakeType, HelloVerifyRequest,
    ServerHello, ServerHelloDone, ServerKeyExchange, Suites, emit_message, fragments,
};
use dtun_shared::dtls::schedule::{DirectionKey, Psk};
use dtun_shared::meta::{Content, Control, HubMeta, MAX_LEN, SpokeMeta};
use dtun_shared::packet::coalesce::{Coalescer, Sink};
use dtun_shared::packet::ecn::Ecn;
use dtun_shared::packet::fragment::{Fragments, Piece};
use dtun_shared::packet::segment::Segments;
use dtun_shared::packet::vnet::{Offloads, VnetHeader};
use dtun_shared::parts::{Joiner, Parts};
use dtun_shared::record::{Opener, Sealer};

/// Records: the walk is the front of the datagram, and nothing opens that was
/// not sealed, before or after which the true record still does.
pub fn records(bytes: &[u8]) {
    let mut walked = Vec::new();
    for (header, body) in walk(bytes) {
        header.emit(&mut walked);
        walked.extend_from_slice(body);
    }
    assert!(bytes.starts_with(&walked));

    let key = DirectionKey::new([1; 16], [2; 4]);
    for suite in CipherSuite::ALL {
        let mut opener = Opener::new(suite, &key, 1);
        assert!(opener.open(&mut bytes.to_vec()).is_err());
        let mut rest = bytes;
        for (header, _) in walk(bytes) {
            let (record, after) = rest.split_at(13 + header.len);
            assert!(opener.open(&mut record.to_vec()).is_err());
            rest = after;
        }

        let mut genuine = Vec::new();
        Sealer::new(suite, &key, 1, 0)
            .seal(ContentType::ApplicationData, b"genuine", &mut genuine)
            .expect("the first number is free");
        let (_, plain) = opener.open(&mut genuine).expect("forgeries change nothing");
        assert_eq!(plain, b"genuine");
    }
}

/// Handshake messages: a record is fragments from end to end or has none,
/// what parses is emitted and parsed back, reassembly keeps to what it said.
pub fn messages(bytes: &[u8]) {
    let mut walked = Vec::new();
    let mut reassembly: Option<Reassembly> = None;
    for fragment in fragments(bytes) {
        fragment.emit(&mut walked);
        body(fragment.kind, fragment.body);
        let added = reassembly
            .as_mut()
            .is_some_and(|begun| begun.add(&fragment).is_ok());
        if !added {
            reassembly = begin(&fragment);
        }
        if let Some((kind, whole)) = reassembly
            .as_ref()
            .and_then(|begun| begun.body().map(|whole| (begun.kind(), whole)))
        {
            body(kind, whole);
        }
    }
    assert!(walked.is_empty() || walked == bytes);

    if let Some((&kind, rest)) = bytes.split_first() {
        body(HandshakeType::from_byte(kind), rest);
    }
    if let Some(alert) = Alert::parse(bytes) {
        assert_eq!(alert.emit(), bytes);
    }
}

/// The JSON messages: what parses is emitted and parsed back.
pub fn meta(bytes: &[u8]) {
    if let Ok(meta) = HubMeta::parse(bytes) {
        let emitted = meta.emit();
        if emitted.len() <= MAX_LEN {
            assert_eq!(HubMeta::parse(&emitted).expect("ours"), meta);
        }
    }
    if let Ok(meta) = SpokeMeta::parse(bytes) {
        let emitted = meta.emit();
        if emitted.len() <= MAX_LEN {
            let again = SpokeMeta::parse(&emitted).expect("ours");
            assert_eq!(
                (again.peernet, again.ext, again.parts, again.mtu),
                (meta.peernet, meta.ext, meta.parts, meta.mtu)
            );
            assert!(again.malformed.is_empty());
        }
    }
    if let Ok(control) = Control::parse(bytes) {
        let emitted = control.emit();
        assert_eq!(Content::of(&emitted), Content::Control);
        if emitted.len() <= MAX_LEN {
            assert_eq!(Control::parse(&emitted).expect("ours"), control);
        }
    }
}

/// The first look at a datagram, and what the hub does with it: nothing is
/// kept for a stranger and no more goes back than came; a spoke half-way
/// through its handshake is not brought further by any bytes.
pub fn datagram(bytes: &[u8]) {
    let first = walk(bytes).next();
    assert!(first.is_some() || look(bytes) == Look::Other);
    if let (Look::Epoch1(content), Some((header, _))) = (look(bytes), first) {
        assert_eq!((header.epoch, header.content), (1, content));
    }

    let now = Instant::now();
    let mut hub = hub();
    hub.handle_datagram(now, STRANGER, bytes);
    let answered: usize = transmits(&mut hub).iter().map(Vec::len).sum();
    assert!(answered <= bytes.len(), "{answered} bytes of answer");
    assert_eq!(hub.counters().half_open, 0);

    half_open(&mut hub, now);
    // Two bytes of length, then a datagram, and so on.
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len)).min(after.len());
        let (one, after) = after.split_at(len);
        hub.handle_datagram(now, SPOKE, one);
        rest = after;
    }
    hub.handle_datagram(now, SPOKE, bytes);
    hub.handle_timeout(now + Duration::from_secs(2));
    transmits(&mut hub);

    assert!(hub.poll_event().is_none(), "a session without the key");
    assert!(hub.counters().fragment_bytes <= 8192);
    assert_eq!(hub.counters().half_open, 1);
}

/// What a TUN hands over, two bytes of limit, the virtio-net header, the packet:
/// every piece keeps to the limit, and no byte of payload is lost.
pub fn segment(bytes: &[u8]) {
    let Some((limit, rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((header, packet)) = rest.split_first_chunk() else {
        return;
    };
    let Some(header) = VnetHeader::parse(header) else {
        return;
    };
    let limit = usize::from(u16::from_be_bytes(*limit));
    let mut work = packet.to_vec();
    let Ok(mut segments) = Segments::new(header, &mut work, limit) else {
        return;
    };
    let mut written = 0;
    while let Some(len) = segments.next_len() {
        assert!(len <= limit);
        let mut out = vec![0; len];
        segments.write_next(&mut out);
        assert_eq!(out[0] >> 4, packet[0] >> 4);
        written += len;
    }
    assert!(written >= packet.len());
}

/// An IPv4 packet after two bytes of limit: its fragments keep to the limit and
/// carry its payload. Parts of packets, each after two bytes of length: what
/// they make whole is bounded. And parts of our own come back as they were.
pub fn pieces(bytes: &[u8]) {
    let Some((limit, packet)) = bytes.split_first_chunk() else {
        return;
    };
    let limit = usize::from(u16::from_be_bytes(*limit));
    if let Some(fragments) = Fragments::of(packet, limit) {
        let mut payload = Vec::new();
        for fragment in fragments.map(written) {
            assert!(fragment.len() <= limit);
            payload.extend_from_slice(&fragment[usize::from(fragment[0] & 0x0f) * 4..]);
        }
        assert_eq!(payload, packet[usize::from(packet[0] & 0x0f) * 4..]);
    }

    let now = Instant::now();
    let mut joiner = Joiner::default();
    let mut rest = packet;
    while let Some((len, after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len)).min(after.len());
        let (part, after) = after.split_at(len);
        if let Ok(added) = joiner.add(now, Ecn::NotEct, part) {
            assert!(added.whole.is_none_or(|(packet, _)| packet.len() <= 1280));
        }
        rest = after;
    }
    if let Some(parts) = Parts::of(packet, limit, 7) {
        let mut joiner = Joiner::default();
        let mut whole = None;
        for part in parts.map(written) {
            assert!(whole.is_none() && part.len() <= limit);
            assert_eq!(Content::of(&part), Content::Part);
            whole = joiner.add(now, Ecn::Ect0, &part).expect("ours").whole;
        }
        assert_eq!(whole, Some((packet.to_vec(), Ecn::Ect0)));
    }
}

fn written(piece: Piece<'_>) -> Vec<u8> {
    let mut out = vec![0; piece.len()];
    piece.write(&mut out);

    out
}

/// Packets that peers sent, each after two bytes of length: what comes out,
/// cut again, has as many packets of the same sizes.
pub fn coalesce(bytes: &[u8]) {
    let mut arena = bytes.to_vec();
    let mut coalescer = Coalescer::new(Offloads::ALL);
    let mut cut = Cut(Vec::new());
    let mut sent = Vec::new();
    let mut at = 0;
    while let Some((len, rest)) = bytes[at..].split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let packet = at + 2..at + 2 + len;
        at = packet.end;
        if len > 0 {
            sent.push(len);
            coalescer.push(&mut arena, packet, &mut cut);
        }
    }
    coalescer.flush(&mut arena, &mut cut);

    sent.sort_unstable();
    cut.0.sort_unstable();
    assert_eq!(sent, cut.0);
}

/// The sizes of what is written, runs cut again.
struct Cut(Vec<usize>);

impl Sink for Cut {
    fn write(&mut self, header: VnetHeader, parts: &[IoSlice<'_>]) {
        let mut buffer = Vec::new();
        let mut segments = Segments::of_parts(header, parts, &mut buffer).expect("ours");
        while let Some(len) = segments.next_len() {
            segments.write_next(&mut vec![0; len]);
            self.0.push(len);
        }
    }
}

/// The ClientHello that takes a spoke half-way, as a seed for mutation.
#[must_use]
pub fn client_hello(cookie: &[u8], message_seq: u16) -> Vec<u8> {
    let hello = ClientHello {
        random: [7; 32],
        session_id: &[],
        cookie,
        suites: Suites::parse(&[0x00, 0xA8, 0xC0, 0xA8]).expect("two suites"),
        extended_master_secret: true,
        renegotiation_info: true,
    };
    let mut body = Vec::new();
    hello.emit(&mut body);
    let mut message = Vec::new();
    emit_message(HandshakeType::ClientHello, message_seq, &body, &mut message);
    let mut datagram = Vec::new();
    emit_plaintext(
        ContentType::Handshake,
        message_seq.into(),
        &message,
        &mut datagram,
    );

    datagram
}

fn hub() -> Handshakes {
    let psk = Psk::new("the hub's key").expect("not empty");

    Handshakes::new(psk, CipherSuite::ALL.to_vec(), SeededEntropy::new(1))
}

fn half_open(hub: &mut Handshakes, now: Instant) {
    hub.handle_datagram(now, SPOKE, &client_hello(&[], 0));
    let answers = transmits(hub);
    let (_, record) = walk(&answers[0]).next().expect("a record");
    let fragment = fragments(record).next().expect("a message");
    let request = HelloVerifyRequest::parse(fragment.body).expect("a verify request");
    hub.handle_datagram(now, SPOKE, &client_hello(request.cookie, 1));

    assert_eq!(hub.counters().half_open, 1);
    assert!(!transmits(hub).is_empty());
}

fn transmits(hub: &mut Handshakes) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| hub.poll_transmit())
        .map(|(_, datagram)| datagram)
        .collect()
}

fn begin(fragment: &Fragment<'_>) -> Option<Reassembly> {
    let begun = Reassembly::begin(fragment)?;
    assert_eq!(begun.held(), Reassembly::cost(fragment));

    Some(begun)
}

/// Parses a message's body as what it says it is.
fn body(kind: HandshakeType, body: &[u8]) {
    let mut emitted = Vec::new();
    match kind {
        HandshakeType::ClientHello => {
            // Unknown extensions are not kept, so the bytes may differ.
            if let Some(hello) = ClientHello::parse(body) {
                hello.emit(&mut emitted);
                assert_eq!(ClientHello::parse(&emitted), Some(hello));
            }
        }
        HandshakeType::ServerHello => {
            if let Some(hello) = ServerHello::parse(body) {
                hello.emit(&mut emitted);
                assert_eq!(ServerHello::parse(&emitted), Some(hello));
            }
        }
        HandshakeType::HelloVerifyRequest => {
            if let Some(request) = HelloVerifyRequest::parse(body) {
                request.emit(&mut emitted);
                assert_eq!(emitted[2..], body[2..]);
            }
        }
        HandshakeType::ServerKeyExchange => {
            if let Some(message) = ServerKeyExchange::parse(body) {
                message.emit(&mut emitted);
                assert_eq!(emitted, body);
            }
        }
        HandshakeType::ServerHelloDone => {
            assert_eq!(ServerHelloDone::parse(body).is_some(), body.is_empty());
        }
        HandshakeType::ClientKeyExchange => {
            if let Some(message) = ClientKeyExchange::parse(body) {
                message.emit(&mut emitted);
                assert_eq!(emitted, body);
            }
        }
        HandshakeType::Finished => {
            if let Some(message) = Finished::parse(body) {
                message.emit(&mut emitted);
                assert_eq!(emitted, body);
            }
        }
        HandshakeType::HelloRequest
        | HandshakeType::NewSessionTicket
        | HandshakeType::Certificate
        | HandshakeType::CertificateRequest
        | HandshakeType::CertificateVerify
        | HandshakeType::Other(_) => {}
    }
}

const SPOKE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    4433,
);
const STRANGER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)),
    4433,
);
