//! What coalescing compares of a packet, read once.

use super::super::segment::{FIN, PSH, TCP_HEADER, UDP_CHECKSUM, UDP_HEADER, be32};
use super::super::{IP4_HEADER, IP6_HEADER, TCP, UDP, checksum};

/// A whole TCP or UDP packet with neither IPv4 options nor IPv6 extension
/// headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// IP version, protocol, source and destination port: with the pair, the
    /// flow.
    pub(super) ports: u64,
    pub(super) pair: Pair,
    /// What else must be the same in the IP header: traffic class, hop limit,
    /// flow label or DF.
    network: u64,
    /// And in the TCP header: acknowledgement, header length, flags but FIN and
    /// PSH, window. Zero for UDP.
    transport: u64,
    /// TCP sequence number.
    pub(super) seq: u32,
    /// Offset in the arena.
    pub(super) start: u32,
    /// IPv4 identification.
    pub(super) id: u16,
    /// Bytes of all headers.
    head: u16,
    payload: u16,
    /// TCP flags.
    pub(super) flags: u8,
    /// Whether it can be in a run.
    pub(super) joins: bool,
    /// Whether a run can begin with it, so that more can follow it.
    pub(super) begins: bool,
}

impl Found {
    pub(super) const NONE: Self = Self {
        ports: 0,
        pair: Pair([0; 4]),
        network: 0,
        transport: 0,
        seq: 0,
        start: 0,
        id: 0,
        head: 0,
        payload: 0,
        flags: 0,
        joins: false,
        begins: false,
    };

    /// None for all that is not such a packet, so also for fragments, and where
    /// lengths do not agree. `start` is where `packet` is in the arena.
    pub(super) fn of(packet: &[u8], start: usize) -> Option<Self> {
        let (found, protocol, transport) = match packet.first()? {
            0x45 => Self::ip4(packet)?,
            0x60..=0x6f => Self::ip6(packet)?,
            _ => return None,
        };
        let found = Self {
            start: u32::try_from(start).ok()?,
            ..found
        };

        match protocol {
            TCP => found.tcp(transport),
            UDP => found.udp(transport),
            _ => None,
        }
    }

    fn ip4(packet: &[u8]) -> Option<(Self, u8, &[u8])> {
        let (ip, transport) = packet.split_first_chunk::<IP4_HEADER>()?;
        let [_, class, l0, l1, i0, i1, f0, f1, ttl, protocol, ..] = *ip;
        // The reserved bit, MF and the offset.
        let plain = [f0 & !DF, f1] == [0, 0];
        if usize::from(u16::from_be_bytes([l0, l1])) != packet.len() || !plain {
            return None;
        }
        let found = Self {
            ports: u64::from(protocol) << 32 | IP4,
            pair: Pair::ip4(ip),
            network: u64::from(u32::from_be_bytes([0, f0, class, ttl])),
            id: u16::from_be_bytes([i0, i1]),
            head: IP4_HEADER as u16,
            ..Self::NONE
        };

        Some((found, protocol, transport))
    }

    fn ip6(packet: &[u8]) -> Option<(Self, u8, &[u8])> {
        let (ip, transport) = packet.split_first_chunk::<IP6_HEADER>()?;
        let [c0, c1, c2, c3, l0, l1, protocol, hops, ..] = *ip;
        if usize::from(u16::from_be_bytes([l0, l1])) != transport.len() {
            return None;
        }
        let found = Self {
            ports: u64::from(protocol) << 32,
            pair: Pair::ip6(ip),
            network: u64::from_be_bytes([0, 0, 0, c0, c1, c2, c3, hops]),
            head: IP6_HEADER as u16,
            ..Self::NONE
        };

        Some((found, protocol, transport))
    }

    fn tcp(self, bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<TCP_HEADER>()?;
        let header = usize::from(fixed[12] >> 4) * 4;
        let payload = bytes.len().checked_sub(header)?;
        if header < TCP_HEADER {
            return None;
        }
        let flags = fixed[13];
        let word = be32(fixed, 12) & !(u32::from(FIN | PSH) << 16);
        // ECE, which repeats until it is answered, may be set.
        let joins = payload > 0 && flags & !(ECE | FIN | PSH) == ACK;

        Some(Self {
            ports: self.ports | u64::from(be32(fixed, 0)),
            transport: u64::from(be32(fixed, 8)) << 32 | u64::from(word),
            seq: be32(fixed, 4),
            head: self.head + header as u16,
            payload: payload as u16,
            flags,
            joins,
            begins: joins && flags & (FIN | PSH) == 0,
            ..self
        })
    }

    fn udp(self, bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<UDP_HEADER>()?;
        if usize::from(u16::from_be_bytes([fixed[4], fixed[5]])) != bytes.len() {
            return None;
        }
        let payload = bytes.len() - UDP_HEADER;
        // A run has a checksum, so a datagram without one would get one.
        let joins = payload > 0 && fixed[UDP_CHECKSUM..] != [0, 0];

        Some(Self {
            ports: self.ports | u64::from(be32(fixed, 0)),
            head: self.head + UDP_HEADER as u16,
            payload: payload as u16,
            joins,
            begins: joins,
            ..self
        })
    }

    pub(super) fn is_ip4(&self) -> bool {
        self.ports & IP4 != 0
    }

    pub(super) fn is_tcp(&self) -> bool {
        (self.ports >> 32) as u8 == TCP
    }

    /// Bytes of all headers.
    pub(super) fn head(&self) -> usize {
        self.head.into()
    }

    /// Offset of the transport header in the packet.
    pub(super) fn transport_at(&self) -> usize {
        if self.is_ip4() {
            IP4_HEADER
        } else {
            IP6_HEADER
        }
    }

    pub(super) fn payload(&self) -> usize {
        self.payload.into()
    }

    /// Whether all but numbers and lengths is the same in the headers of two
    /// packets of one flow.
    pub(super) fn is_like(&self, other: &Self, arena: &[u8]) -> bool {
        self.network == other.network
            && self.transport == other.transport
            && self.rest(arena) == other.rest(arena)
    }

    /// Whether the packet must not be fragmented: its identification then has
    /// no meaning (RFC 6864, section 4.1).
    pub(super) fn is_atomic(&self) -> bool {
        self.network & u64::from(DF) << 16 != 0
    }

    /// Whether the packet's checksums are right.
    pub(super) fn is_right(&self, arena: &[u8]) -> bool {
        let len = self.head() + self.payload();
        let packet = &arena[self.start as usize..][..len];
        let (ip, transport) = packet.split_at(self.transport_at());
        let pseudo = self.pseudo(ip, transport.len() as u16);

        (!self.is_ip4() || checksum::is_right(checksum::sum(0, ip)))
            && checksum::is_right(checksum::sum(pseudo, transport))
    }

    /// The pseudo-header's sum with `len` bytes from the transport header on.
    pub(super) fn pseudo(&self, ip: &[u8], len: u16) -> u64 {
        let protocol = if self.is_tcp() { TCP } else { UDP };
        if let Some(addresses) = ip.get(8..40).and_then(<[u8]>::as_array) {
            checksum::pseudo6(addresses, protocol, len)
        } else {
            let addresses = ip[12..20].as_array().expect("eight bytes");
            checksum::pseudo4(addresses, protocol, len)
        }
    }

    /// TCP's urgent pointer, without URG only to be kept, and options.
    fn rest<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        let before = if self.is_tcp() {
            TCP_HEADER - 2
        } else {
            UDP_HEADER
        };
        let packet = &arena[self.start as usize..];

        &packet[self.transport_at() + before..self.head()]
    }
}

/// Source and destination address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair([u64; 4]);

impl Pair {
    /// Of any IP packet.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => packet.first_chunk().map(Self::ip4),
            6 => packet.first_chunk().map(Self::ip6),
            _ => None,
        }
    }

    fn ip4(header: &[u8; IP4_HEADER]) -> Self {
        let (words, _) = header[12..].as_chunks();

        Self([u64::from_ne_bytes(words[0]), 0, 0, 0])
    }

    fn ip6(header: &[u8; IP6_HEADER]) -> Self {
        let (words, _) = header[8..].as_chunks();

        Self(std::array::from_fn(|at| u64::from_ne_bytes(words[at])))
    }
}

const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
/// Don't fragment, in the first byte of its field.
const DF: u8 = 0x40;
/// Marks the ports of IPv4 flows.
const IP4: u64 = 1 << 40;
