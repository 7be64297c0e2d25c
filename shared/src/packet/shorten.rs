//! One TCP packet made a run of itself, so that it can be cut to a size that
//! its sender cannot be told of. Pure.
//!
//! An IPv6 sender makes packets of 1280 bytes whatever an ICMP message says
//! (RFC 8200, section 5), and nobody on an IPv6 path fragments. A tunnel whose
//! path carries less cuts the stream instead, which its receiver does not mind
//! (RFC 9293, section 3.8).

use super::segment::{TCP_CHECKSUM, TCP_HEADER};
use super::vnet::{Gso, VnetHeader};
use super::{IP6_HEADER, TCP, checksum};

/// Makes a run of `packet`, one TCP packet over IPv6 without extension headers;
/// its checksum field then holds the pseudo-header's sum.
///
/// None for any other packet, which is left as it is: so is one that carries
/// nothing, and one whose checksum is wrong, for a cut one would be right.
#[must_use]
pub fn as_run(header: VnetHeader, packet: &mut [u8]) -> Option<VnetHeader> {
    let (ip, tcp) = packet.split_first_chunk_mut::<IP6_HEADER>()?;
    let transport_len = u16::try_from(tcp.len()).ok()?;
    let is_tcp = ip[0] >> 4 == 6
        && ip[NEXT_HEADER] == TCP
        && u16::from_be_bytes([ip[4], ip[5]]) == transport_len;
    let tcp_header = usize::from(tcp.get(12)? >> 4) * 4;
    let payload = tcp.len().checked_sub(tcp_header)?;
    let is_stream = tcp_header >= TCP_HEADER && payload > 0 && tcp[13] & NO_STREAM == 0;
    if header.gso != Gso::None || !is_tcp || !is_stream {
        return None;
    }

    let addresses = ip.last_chunk()?;
    let pseudo = checksum::pseudo6(addresses, TCP, transport_len);
    let field = TCP_CHECKSUM..TCP_CHECKSUM + 2;
    if header.needs_csum {
        let is_tcps = usize::from(header.csum_start) == IP6_HEADER
            && usize::from(header.csum_offset) == TCP_CHECKSUM;
        if !is_tcps {
            return None;
        }
    } else if !checksum::is_right(checksum::sum(pseudo, tcp)) {
        return None;
    }
    tcp[field].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());

    Some(VnetHeader {
        needs_csum: true,
        gso: Gso::Tcp6,
        ecn: tcp[13] & CWR != 0,
        hdr_len: (IP6_HEADER + tcp_header) as u16,
        gso_size: payload as u16,
        csum_start: IP6_HEADER as u16,
        csum_offset: TCP_CHECKSUM as u16,
        ..VnetHeader::PLAIN
    })
}

/// In the IPv6 header.
const NEXT_HEADER: usize = 6;

const CWR: u8 = 0x80;

/// SYN, RST, URG: such packets are no mere piece of a stream.
const NO_STREAM: u8 = 0x02 | 0x04 | 0x20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::segment::Segments;

    /// A complete packet with `payload`, 12 bytes of options, these flags.
    fn packet(flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = (32 + payload.len()) as u16;
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(len.to_be_bytes());
        packet.extend([TCP, 64]);
        packet.extend([0xfc; 16]);
        packet.extend([0xfd; 16]);
        packet.extend([1, 2, 3, 4, 0, 0, 0, 100, 0, 0, 0, 9, 0x80, flags]);
        packet.extend([0, 50, 0, 0, 0, 0]);
        packet.extend([1; 12]);
        packet.extend(payload);
        let check = checksum::finish(tcp_sum(&packet));
        packet[56..58].copy_from_slice(&check);

        packet
    }

    fn tcp_sum(packet: &[u8]) -> u64 {
        let tcp = &packet[IP6_HEADER..];
        let addresses = packet[8..].first_chunk().unwrap();
        let pseudo = checksum::pseudo6(addresses, TCP, tcp.len() as u16);

        checksum::sum(pseudo, tcp)
    }

    proptest! {
        #[test]
        fn a_stream_is_cut_to_the_limit_and_says_the_same(
            payload in prop::collection::vec(any::<u8>(), 1..1300),
            limit in 100usize..1280,
        ) {
            let mut whole = packet(0x19, &payload);
            let header = as_run(VnetHeader::PLAIN, &mut whole).unwrap();
            let mut segments = Segments::new(header, &mut whole, limit).unwrap();

            let mut said = Vec::new();
            while let Some(len) = segments.next_len() {
                prop_assert!(len <= limit);
                let mut piece = vec![0; len];
                segments.write_next(&mut piece);
                prop_assert!(checksum::is_right(tcp_sum(&piece)));
                let seq = u32::from_be_bytes(piece[44..48].try_into().unwrap());
                prop_assert_eq!(seq as usize, 100 + said.len());
                said.extend_from_slice(&piece[72..]);
                let is_last = said.len() == payload.len();
                prop_assert_eq!(piece[53], if is_last { 0x19 } else { 0x10 });
            }
            prop_assert_eq!(said, payload);
        }

        #[test]
        fn arbitrary_bytes_are_no_stream_or_can_be_cut(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            needs_csum: bool,
            framed: bool,
        ) {
            if framed && bytes.len() > IP6_HEADER {
                let len = (bytes.len() - IP6_HEADER) as u16;
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
                bytes[6] = TCP;
            }
            let header = VnetHeader {
                needs_csum,
                csum_start: 40,
                csum_offset: 16,
                ..VnetHeader::PLAIN
            };
            if let Some(run) = as_run(header, &mut bytes) {
                prop_assert!(Segments::new(run, &mut bytes, 1280).is_ok());
            }
        }
    }

    #[test]
    fn what_is_no_stream_stays_as_it_is() {
        let mut wrong = packet(0x10, b"payload");
        *wrong.last_mut().unwrap() ^= 1;
        let mut udp = packet(0x10, b"payload");
        udp[NEXT_HEADER] = 17;

        for mut other in [
            packet(0x10, b""),
            packet(0x12, b"payload"),
            packet(0x14, b"payload"),
            packet(0x30, b"payload"),
            wrong,
            udp,
        ] {
            let before = other.clone();
            assert_eq!(as_run(VnetHeader::PLAIN, &mut other), None);
            assert_eq!(other, before);
        }
    }
}
