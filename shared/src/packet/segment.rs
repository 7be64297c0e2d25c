//! Cuts a packet read from a TUN with offloads into the packets that the
//! kernel would have sent without them (its `inet_gso_segment`,
//! `tcp_gso_segment` and `__udp_gso_segment`). Pure, and allocates nothing.
//!
//! The surprising choice: the pseudo-header's sum is never computed. The
//! checksum field holds it, of the whole run; only its length is exchanged.
//! So a routing header, whose final destination the pseudo-header counts, is
//! right without being read.

use std::io::IoSlice;

use super::vnet::{Gso, VnetHeader};
use super::{IP4_HEADER, IP6_HEADER, TCP, UDP, checksum};

/// The packets of one run, in their order; or one packet, its checksum
/// completed.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a mut [u8],
    /// None for a packet that is no run.
    cut: Option<Cut>,
    /// Bytes of payload taken; for no run, of the packet.
    taken: usize,
    /// Segments taken.
    count: u16,
}

impl<'a> Segments<'a> {
    /// `limit` is the largest packet in bytes. A TCP run is cut smaller where
    /// its segments don't fit; anything else larger is too big.
    ///
    /// # Errors
    ///
    /// A packet that is too big is left as a packet that an ICMP error can
    /// quote; the checksum of one that is no run is complete.
    pub fn new(header: VnetHeader, packet: &'a mut [u8], limit: usize) -> Result<Self, NotCut> {
        if header.gso == Gso::None {
            if header.needs_csum {
                complete(packet, header).ok_or(NotCut::Malformed)?;
            }
            if packet.is_empty() {
                return Err(NotCut::Malformed);
            }
            if packet.len() > limit {
                return Err(NotCut::TooBig);
            }
            return Ok(Self::over(packet, None));
        }

        let layout = Layout::of(header, packet).ok_or(NotCut::Malformed)?;
        let payload = packet.len() - layout.head;
        let room = limit.checked_sub(layout.head).ok_or(NotCut::TooBig)?;
        let mut step = usize::from(header.gso_size);
        if step.min(payload) > room {
            if !layout.tcp || room == 0 {
                return Err(NotCut::TooBig);
            }
            step = room;
        }
        let cut = Cut::prepare(layout, step, packet);

        Ok(Self::over(packet, Some(cut)))
    }

    /// Puts the parts of a run together in `buffer` and cuts it: for a device
    /// that refuses the run.
    ///
    /// # Errors
    ///
    /// Only a header that does not belong to the parts.
    pub fn of_parts(
        header: VnetHeader,
        parts: &[IoSlice<'_>],
        buffer: &'a mut Vec<u8>,
    ) -> Result<Self, NotCut> {
        buffer.clear();
        for part in parts {
            buffer.extend_from_slice(part);
        }

        Self::new(header, buffer, usize::MAX)
    }

    /// Bytes of the next packet; none after the last.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        match &self.cut {
            None => (self.taken == 0).then_some(self.packet.len()),
            Some(cut) => {
                let left = self.packet.len() - cut.head - self.taken;
                (left > 0 || self.count == 0).then_some(cut.head + left.min(cut.step))
            }
        }
    }

    /// Writes the next packet, complete.
    ///
    /// # Panics
    ///
    /// Where `out` is not [`Self::next_len`] bytes long, or nothing is left.
    pub fn write_next(&mut self, out: &mut [u8]) {
        assert_eq!(self.next_len(), Some(out.len()), "the segment's own length");
        let Some(cut) = &self.cut else {
            out.copy_from_slice(self.packet);
            self.taken = out.len();
            return;
        };

        let (head, payload) = self.packet.split_at(cut.head);
        let (out_head, out_payload) = out.split_at_mut(cut.head);
        let end = self.taken + out_payload.len();
        out_head.copy_from_slice(head);
        out_payload.copy_from_slice(&payload[self.taken..end]);
        cut.finish(out, self.count, self.taken, end == payload.len());
        self.taken = end;
        self.count = self.count.wrapping_add(1);
    }

    fn over(packet: &'a mut [u8], cut: Option<Cut>) -> Self {
        Self {
            packet,
            cut,
            taken: 0,
            count: 0,
        }
    }
}

/// Why a packet was not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCut {
    #[error("virtio-net header and packet do not agree")]
    Malformed,
    #[error("packet is larger than the path carries")]
    TooBig,
}

/// Where the headers of a run are, checked against the packet.
struct Layout {
    ip4: bool,
    tcp: bool,
    /// Offset of the transport header.
    transport: usize,
    /// Bytes of all headers.
    head: usize,
}

impl Layout {
    fn of(header: VnetHeader, packet: &[u8]) -> Option<Self> {
        let transport = usize::from(header.csum_start);
        let ip4 = packet.first()? >> 4 == 4;
        let (tcp, family_fits) = match header.gso {
            Gso::Tcp4 => (true, ip4),
            Gso::Tcp6 => (true, !ip4),
            Gso::Udp => (false, true),
            Gso::None => return None,
        };
        let protocol = if tcp { TCP } else { UDP };
        let starts = if ip4 {
            starts4(packet, protocol)? == transport
        } else {
            starts6(packet, protocol, transport)
        };
        let (len, field) = if tcp {
            let len = usize::from(packet.get(transport + 12)? >> 4) * 4;
            (len, TCP_CHECKSUM)
        } else {
            (UDP_HEADER, UDP_CHECKSUM)
        };
        let agrees = header.needs_csum
            && header.gso_size > 0
            && family_fits
            && starts
            && usize::from(header.csum_offset) == field
            && (!tcp || len >= TCP_HEADER)
            && transport + len <= packet.len();

        agrees.then_some(Self {
            ip4,
            tcp,
            transport,
            head: transport + len,
        })
    }
}

/// What the segments of a run have in common.
#[derive(Debug)]
struct Cut {
    ip4: bool,
    tcp: bool,
    transport: usize,
    head: usize,
    /// Bytes of payload in each segment but the last.
    step: usize,
    /// IPv4 identification of the first segment.
    id: u16,
    /// Sequence number of the first segment.
    seq: u32,
    /// CWR, PSH and FIN with the rest of their byte.
    flags: u8,
    /// Sum of the IPv4 header without identification, length, checksum.
    ip_sum: u64,
    /// Sum of the pseudo-header without its length.
    pseudo: u64,
}

impl Cut {
    /// Reads what differs between segments and sets it to zero in `packet`.
    fn prepare(layout: Layout, step: usize, packet: &mut [u8]) -> Self {
        let (ip, transport) = packet.split_at_mut(layout.transport);
        let mut cut = Self {
            ip4: layout.ip4,
            tcp: layout.tcp,
            transport: layout.transport,
            head: layout.head,
            step,
            id: 0,
            seq: 0,
            flags: 0,
            ip_sum: 0,
            pseudo: 0,
        };
        if cut.ip4 {
            cut.id = u16::from_be_bytes([ip[4], ip[5]]);
            ip[2..6].fill(0);
            ip[10..12].fill(0);
            cut.ip_sum = checksum::sum(0, ip);
        }
        // As the kernel: a TCP run counts its bytes, a UDP run believes the
        // length in its header, which whoever began the checksum wrote.
        let (field, len) = if cut.tcp {
            cut.seq = be32(transport, 4);
            cut.flags = transport[13];
            (TCP_CHECKSUM, transport.len() as u16)
        } else {
            (
                UDP_CHECKSUM,
                u16::from_be_bytes([transport[4], transport[5]]),
            )
        };
        let begun = u16::from_ne_bytes([transport[field], transport[field + 1]]);
        cut.pseudo = u64::from(begun) + u64::from(!(checksum::word(len) as u16));
        transport[field..field + 2].fill(0);

        cut
    }

    /// Completes the headers of segment `index`, whose payload, `offset` bytes
    /// into that of the run, is in its place.
    fn finish(&self, out: &mut [u8], index: u16, offset: usize, last: bool) {
        // Lengths fit: the whole run's is in its header.
        let transport_len = (out.len() - self.transport) as u16;
        if self.ip4 {
            let len = out.len() as u16;
            let id = self.id.wrapping_add(index);
            let sum = self.ip_sum + checksum::word(len) + checksum::word(id);
            out[2..4].copy_from_slice(&len.to_be_bytes());
            out[4..6].copy_from_slice(&id.to_be_bytes());
            out[10..12].copy_from_slice(&checksum::finish(sum));
        } else {
            let payload = (out.len() - IP6_HEADER) as u16;
            out[4..6].copy_from_slice(&payload.to_be_bytes());
        }

        let transport = &mut out[self.transport..];
        if self.tcp {
            let seq = self.seq.wrapping_add(offset as u32);
            transport[4..8].copy_from_slice(&seq.to_be_bytes());
            // CWR answers one ECN echo, so once (RFC 3168, section 6.1.2); the
            // end and the push are after the last byte.
            let cleared = if index == 0 { 0 } else { CWR } | if last { 0 } else { FIN | PSH };
            transport[13] = self.flags & !cleared;
        } else {
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
        }
        let sum = checksum::sum(self.pseudo + checksum::word(transport_len), transport);
        let mut check = checksum::finish(sum);
        let field = if self.tcp {
            TCP_CHECKSUM
        } else {
            // Zero says that there is no checksum (RFC 768).
            if check == [0; 2] {
                check = [0xff; 2];
            }
            UDP_CHECKSUM
        };
        transport[field..field + 2].copy_from_slice(&check);
    }
}

/// Completes the checksum of a packet that is no run, as the kernel's
/// `skb_checksum_help`: whatever the protocol, and zero is written as its
/// other form. None if the field is not inside, or in the IP header.
fn complete(packet: &mut [u8], header: VnetHeader) -> Option<()> {
    let start = usize::from(header.csum_start);
    let counted = packet.get_mut(start..).filter(|_| start >= IP4_HEADER)?;
    let field = usize::from(header.csum_offset);
    let mut check = checksum::finish(checksum::sum(0, counted));
    if check == [0; 2] {
        check = [0xff; 2];
    }
    counted.get_mut(field..field + 2)?.copy_from_slice(&check);

    Some(())
}

/// Where the payload of an IPv4 packet starts, if it is whole and of the
/// protocol, and no fragment.
fn starts4(packet: &[u8], protocol: u8) -> Option<usize> {
    let fixed = packet.first_chunk::<IP4_HEADER>()?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;

    (header >= IP4_HEADER && len == packet.len() && !fragment && fixed[9] == protocol)
        .then_some(header)
}

/// Whether a whole IPv6 packet has the protocol's header at `transport`, after
/// extension headers that all segments repeat (RFC 8200, section 4).
fn starts6(packet: &[u8], protocol: u8, transport: usize) -> bool {
    let Some(fixed) = packet.first_chunk::<IP6_HEADER>() else {
        return false;
    };
    let len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    if fixed[0] >> 4 != 6 || len + IP6_HEADER != packet.len() {
        return false;
    }

    let mut next = fixed[6];
    let mut at = IP6_HEADER;
    while at < transport && REPEATED.contains(&next) {
        let Some(&[after, units]) = packet.get(at..at + 2) else {
            return false;
        };
        next = after;
        at += 8 + usize::from(units) * 8;
    }

    at == transport && next == protocol
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) const TCP_HEADER: usize = 20;
pub(super) const UDP_HEADER: usize = 8;
/// Offsets of the checksum fields in their headers.
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_CHECKSUM: usize = 6;
pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
/// Hop-by-hop options, routing header, destination options.
const REPEATED: [u8; 3] = [0, 43, 60];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::{Model, model, naive_sum};
    use super::*;

    fn cut(header: VnetHeader, packet: &mut [u8], limit: usize) -> Result<Vec<Vec<u8>>, NotCut> {
        let mut segments = Segments::new(header, packet, limit)?;
        let mut packets = Vec::new();
        while let Some(len) = segments.next_len() {
            let mut out = vec![0xaa; len];
            segments.write_next(&mut out);
            packets.push(out);
        }
        Ok(packets)
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        (0usize..4000, any::<u8>()).prop_map(|(len, start)| {
            (0..len)
                .map(|at| (at as u8).wrapping_mul(31) ^ start)
                .collect()
        })
    }

    /// A datagram whose checksum comes out as zero.
    fn sums_to_zero(ip4: bool) -> Model {
        let mut model = Model::new(ip4, false, vec![0; 64]);
        let packet = model.emit();
        let field = model.head() - 2;
        let check = [packet[field], packet[field + 1]];
        model.payload[..2].copy_from_slice(&check);
        model
    }

    proptest! {
        #[test]
        fn a_run_is_cut_into_the_packets_that_it_was_made_of(
            model in model(payload()),
            size in 1u16..1500,
        ) {
            let (header, mut packet) = model.run(size);

            prop_assert_eq!(
                cut(header, &mut packet, usize::MAX).unwrap(),
                model.pieces(size.into())
            );
        }

        #[test]
        fn a_tcp_run_is_cut_to_the_limit_and_udp_is_too_big(
            model in model(payload()),
            size in 1u16..1500,
            room in 1usize..1500,
        ) {
            let (header, mut packet) = model.run(size);
            let limit = model.head() + room;
            let fits = room >= usize::from(size).min(model.payload.len());
            let whole = packet.clone();
            let cut = cut(header, &mut packet, limit);

            if model.tcp || fits {
                let size = room.min(size.into());
                prop_assert_eq!(cut.unwrap(), model.pieces(size));
            } else {
                prop_assert_eq!(cut, Err(NotCut::TooBig));
                prop_assert_eq!(packet, whole);
            }
        }

        #[test]
        fn a_checksum_is_completed_wherever_it_stands_behind_the_ip_header(
            mut packet in prop::collection::vec(any::<u8>(), 1..200),
            csum_start in 0u16..220,
            csum_offset in 0u16..220,
        ) {
            let header = VnetHeader { needs_csum: true, csum_start, csum_offset, ..VnetHeader::PLAIN };
            let start = usize::from(csum_start);
            let field = start + usize::from(csum_offset);
            let mut expected = packet.clone();
            let inside = start >= IP4_HEADER && field + 2 <= packet.len();
            if inside {
                let check = match !(naive_sum(0, &packet[start..]) as u16) {
                    0 => 0xffff,
                    check => check,
                };
                expected[field..field + 2].copy_from_slice(&check.to_be_bytes());
            }

            let cut = cut(header, &mut packet, 200);
            prop_assert_eq!(cut, if inside { Ok(vec![expected]) } else { Err(NotCut::Malformed) });
        }

        #[test]
        fn no_header_over_no_packet_panics(
            header in any::<[u8; 10]>(),
            kind in prop::sample::select(vec![0u8, 1, 4, 5, 0x81]),
            small in any::<bool>(),
            mut packet in prop::collection::vec(any::<u8>(), 0..200),
            limit in 0usize..300,
        ) {
            let mut header = header;
            header[1] = kind;
            let mut header = VnetHeader::parse(&header).unwrap();
            if small {
                header.csum_start %= 64;
                header.csum_offset %= 20;
                header.needs_csum = true;
            }
            if let Ok(packets) = cut(header, &mut packet, limit) {
                prop_assert!(packets.iter().all(|packet| packet.len() <= limit));
            }
        }

        #[test]
        fn a_damaged_run_is_refused_or_keeps_to_the_limit(
            model in model(payload()),
            size in 0u16..1500,
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            field in 0usize..10,
            limit in 0usize..1600,
        ) {
            let (header, mut packet) = model.run(size);
            let mut header = header.emit();
            header[field] = byte;
            let at = at.index(model.head());
            packet[at] = byte;
            let len = packet.len();
            if let Some(header) = VnetHeader::parse(&header)
                && let Ok(packets) = cut(header, &mut packet, limit)
            {
                prop_assert!(packets.iter().all(|packet| packet.len() <= limit));
                prop_assert!(packets.iter().map(Vec::len).sum::<usize>() >= len);
            }
        }
    }

    #[test]
    fn a_zero_checksum_of_udp_is_written_as_its_other_form() {
        for ip4 in [true, false] {
            let model = sums_to_zero(ip4);
            let field = model.head() - 2;

            let (header, mut packet) = model.run(64);
            let run = cut(header, &mut packet, 1500).unwrap();
            assert_eq!(run[0][field..field + 2], [0xff, 0xff]);

            let (header, mut packet) = model.run(64);
            let plain = VnetHeader {
                gso: Gso::None,
                ..header
            };
            let single = cut(plain, &mut packet, 1500).unwrap();
            assert_eq!(single, run);
        }
    }

    #[test]
    fn the_longest_run_of_ipv6_is_cut() {
        let mut model = Model::new(false, true, vec![7; 65_535 - 32]);
        model.options = vec![1; 12];
        for size in [1400, 65_535] {
            let (header, mut packet) = model.run(size);
            assert_eq!(
                cut(header, &mut packet, usize::MAX).unwrap(),
                model.pieces(size.into())
            );
        }
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let lies: [fn(&mut VnetHeader, &mut Vec<u8>); 10] = [
            |header, _| header.gso_size = 0,
            |header, _| header.needs_csum = false,
            |header, _| header.csum_start += 4,
            |header, _| header.csum_start = u16::MAX,
            |header, _| header.csum_offset = 6,
            |header, _| header.gso = Gso::Tcp4,
            |header, _| header.gso = Gso::Udp,
            |_, packet| packet.push(0),
            |_, packet| packet.truncate(70),
            |_, packet| packet[52] = 0x40,
        ];
        for lie in lies {
            let (mut header, mut packet) = Model::new(false, true, vec![1; 3000]).run(1000);
            lie(&mut header, &mut packet);
            assert_eq!(cut(header, &mut packet, 1500), Err(NotCut::Malformed));
        }
    }

    #[test]
    fn a_wrong_length_of_headers_is_only_a_hint() {
        let model = Model::new(true, true, vec![1; 3000]);
        let (mut header, mut packet) = model.run(1000);
        header.hdr_len = 3;
        assert_eq!(cut(header, &mut packet, 1500).unwrap(), model.pieces(1000));
    }

    #[test]
    fn a_fragment_is_not_cut() {
        let mut model = Model::new(true, false, vec![1; 3000]);
        model.fragment = 0x2000;
        let (header, mut packet) = model.run(1000);
        assert_eq!(cut(header, &mut packet, 1500), Err(NotCut::Malformed));
    }

    #[test]
    fn a_packet_that_is_no_run_passes_whole_or_not_at_all() {
        let packet = Model::new(true, true, vec![1; 1000]).emit();
        let mut copy = packet.clone();
        assert_eq!(cut(VnetHeader::PLAIN, &mut copy, 1040).unwrap(), [packet]);
        assert_eq!(cut(VnetHeader::PLAIN, &mut copy, 1039), Err(NotCut::TooBig));
        assert_eq!(
            cut(VnetHeader::PLAIN, &mut [], 1039),
            Err(NotCut::Malformed)
        );
    }
}
