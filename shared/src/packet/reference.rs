//! Packets for tests, and slow independent ways to check, cut and read them:
//! byte by byte, with none of the code that is tested.

use proptest::prelude::*;

use super::vnet::{Gso, VnetHeader};

/// One packet to be built, whole or as a run.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) ip4: bool,
    pub(crate) tcp: bool,
    /// IPv4 type of service, IPv6 traffic class.
    pub(crate) class: u8,
    /// Flow label of IPv6.
    pub(crate) label: u32,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    /// Flags and offset of IPv4.
    pub(crate) fragment: u16,
    /// IPv4 options, IPv6 extension headers (complete; the first's type stands
    /// in `first_extension`).
    pub(crate) extra: Vec<u8>,
    pub(crate) first_extension: u8,
    /// Last byte of source and destination, ports.
    pub(crate) hosts: (u8, u8),
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// TCP options.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Model {
    pub(crate) fn new(ip4: bool, tcp: bool, payload: Vec<u8>) -> Self {
        Self {
            ip4,
            tcp,
            class: 0,
            label: 0,
            ttl: 64,
            id: 100,
            fragment: 0x4000,
            extra: Vec::new(),
            first_extension: 0,
            hosts: (2, 1),
            ports: (40_000, 443),
            seq: 1_000,
            ack: 77,
            flags: 0x10,
            window: 500,
            urgent: 0,
            options: Vec::new(),
            payload,
        }
    }

    /// Offset of the transport header.
    pub(crate) fn transport(&self) -> usize {
        let fixed = if self.ip4 { 20 } else { 40 };
        fixed + self.extra.len()
    }

    pub(crate) fn head(&self) -> usize {
        self.transport() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    fn field(&self) -> usize {
        self.transport() + if self.tcp { 16 } else { 6 }
    }

    /// The packet, complete.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut packet = self.unchecked();
        let sum = naive_sum(
            self.pseudo(&packet) + naive_sum(0, &packet[self.transport()..]),
            &[],
        );
        let check = match !(sum as u16) {
            0 if !self.tcp => 0xffff,
            check => check,
        };
        let field = self.field();
        packet[field..field + 2].copy_from_slice(&check.to_be_bytes());
        packet
    }

    /// The packet as a TUN hands a run over.
    pub(crate) fn run(&self, gso_size: u16) -> (VnetHeader, Vec<u8>) {
        let mut packet = self.unchecked();
        let sum = naive_sum(self.pseudo(&packet), &[]) as u16;
        let field = self.field();
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let header = VnetHeader {
            needs_csum: true,
            data_valid: false,
            gso: match (self.tcp, self.ip4) {
                (true, true) => Gso::Tcp4,
                (true, false) => Gso::Tcp6,
                (false, _) => Gso::Udp,
            },
            ecn: self.tcp && self.flags & 0x80 != 0,
            hdr_len: self.head() as u16,
            gso_size,
            csum_start: self.transport() as u16,
            csum_offset: (field - self.transport()) as u16,
        };
        (header, packet)
    }

    /// The packets that the run is, as a sender would have built each.
    pub(crate) fn pieces(&self, size: usize) -> Vec<Vec<u8>> {
        let mut pieces: Vec<&[u8]> = self.payload.chunks(size).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        let mut seq = self.seq;
        let mut packets = Vec::new();
        for (index, piece) in pieces.into_iter().enumerate() {
            let mut one = Self {
                payload: piece.to_vec(),
                seq,
                ..self.clone()
            };
            one.id = self.id.wrapping_add(index as u16);
            if index > 0 {
                one.flags &= 0x7f;
            }
            if index < last {
                one.flags &= 0xf6;
            }
            seq = seq.wrapping_add(piece.len() as u32);
            packets.push(one.emit());
        }
        packets
    }

    /// The packet with the IPv4 header's checksum only.
    fn unchecked(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.ports.0.to_be_bytes());
        transport.extend(self.ports.1.to_be_bytes());
        if self.tcp {
            assert_eq!(self.options.len() % 4, 0);
            transport.extend(self.seq.to_be_bytes());
            transport.extend(self.ack.to_be_bytes());
            transport.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0, 0]);
            transport.extend(self.urgent.to_be_bytes());
            transport.extend(&self.options);
        } else {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);

        let protocol = if self.tcp { 6 } else { 17 };
        let mut packet = Vec::new();
        if self.ip4 {
            let len = 20 + self.extra.len() + transport.len();
            packet.extend([0x45 + self.extra.len() as u8 / 4, self.class]);
            packet.extend(u16::try_from(len).unwrap().to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend(self.fragment.to_be_bytes());
            packet.extend([
                self.ttl,
                protocol,
                0,
                0,
                10,
                0,
                0,
                self.hosts.0,
                10,
                0,
                0,
                self.hosts.1,
            ]);
            packet.extend(&self.extra);
            let check = !(naive_sum(0, &packet) as u16);
            packet[10..12].copy_from_slice(&check.to_be_bytes());
        } else {
            let first = 6 << 28 | u32::from(self.class) << 20 | self.label;
            packet.extend(first.to_be_bytes());
            let len = self.extra.len() + transport.len();
            packet.extend(u16::try_from(len).unwrap().to_be_bytes());
            let next = if self.extra.is_empty() {
                protocol
            } else {
                self.first_extension
            };
            packet.extend([next, self.ttl]);
            for host in [self.hosts.0, self.hosts.1] {
                packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
            packet.extend(&self.extra);
        }
        packet.extend(transport);
        packet
    }

    fn pseudo(&self, packet: &[u8]) -> u32 {
        let addresses = if self.ip4 {
            &packet[12..20]
        } else {
            &packet[8..40]
        };
        let len = packet.len() - self.transport();
        naive_sum(len as u32 + if self.tcp { 6 } else { 17 }, addresses)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            ip4,
            tcp,
            class,
            label,
            ttl,
            id,
            ..
        } = self;
        let (flags, seq, ack, window) = (self.flags, self.seq, self.ack, self.window);
        write!(
            out,
            "{}{} {:?} {:?} class {class:#x} label {label:#x} ttl {ttl} id {id} \
             fragment {:#x} extra {} flags {flags:#x} seq {seq} ack {ack} window {window} \
             options {} payload {}",
            if *tcp { "tcp" } else { "udp" },
            if *ip4 { 4 } else { 6 },
            self.hosts,
            self.ports,
            self.fragment,
            self.extra.len(),
            self.options.len(),
            self.payload.len(),
        )
    }
}

/// One's complement sum of big-endian words.
pub(crate) fn naive_sum(start: u32, bytes: &[u8]) -> u32 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u32
}

/// Runs with everything that the kernel may put into them.
pub(crate) fn model(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Model> {
    let network = (
        any::<bool>(),
        any::<u8>(),
        0..1u32 << 20,
        any::<u8>(),
        any::<u16>(),
    );
    let fragment = prop::sample::select(vec![0u16, 0x4000, 0x8000]);
    let extra = prop::sample::select(vec![0usize, 0, 8, 24]);
    let transport = (
        any::<bool>(),
        any::<u32>(),
        any::<u32>(),
        any::<u8>(),
        any::<u16>(),
    );
    let options = prop::sample::select(vec![0usize, 4, 12, 40]);
    let ends = (any::<(u8, u8)>(), any::<(u16, u16)>());
    (network, fragment, extra, transport, options, ends, payload).prop_map(
        |(network, fragment, extra, transport, options, (hosts, ports), payload)| {
            let (ip4, class, label, ttl, id) = network;
            let (tcp, seq, ack, flags, window) = transport;
            let mut model = Model::new(ip4, tcp, payload);
            model.class = class;
            model.label = label;
            model.ttl = ttl;
            model.id = id;
            model.fragment = fragment;
            model.hosts = hosts;
            model.ports = ports;
            model.seq = seq;
            model.ack = ack;
            model.flags = flags;
            model.window = window;
            model.urgent = window >> 8;
            model.options = vec![1; options];
            model.extra = if ip4 {
                vec![1; extra]
            } else {
                extensions(extra, tcp)
            };
            model.first_extension = 60;
            model
        },
    )
}

/// Destination options of `len` bytes, a multiple of 8, in headers of 8.
pub(crate) fn extensions(len: usize, tcp: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let last = bytes.len() + 8 == len;
        let next = match (last, tcp) {
            (false, _) => 60,
            (true, true) => 6,
            (true, false) => 17,
        };
        bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes
}
