//! What becomes of a packet that the path does not carry whole, and the ICMP
//! message that says so: "fragmentation needed" (RFC 792, RFC 1191 section 4)
//! and "packet too big" (RFC 4443, section 3.2). Pure.
//!
//! The answer comes from the far end of the tunnel's link: a machine drops an
//! IPv4 packet from outside that bears one of its own addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::upper::Upper;
use super::{Ends, ICMP, ICMP6, IP4_HEADER, IP6_HEADER, checksum, sum};

/// How a packet goes along a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// In one datagram that nobody may fragment (outer DF on).
    Whole,
    /// In a datagram that may be fragmented (outer DF off).
    Pieces,
    /// Not at all: its sender is to be told.
    TooBig,
}

/// How packets of `len` bytes that `packet` is, or is cut into, go along a path
/// that carries `limit` bytes whole.
///
/// An IPv4 sender says by DF what it expects. An IPv6 sender expects 1280
/// bytes of every link (RFC 8200, section 5), so what is lower than that stays
/// between the tunnel's ends.
#[must_use]
pub fn fit(packet: &[u8], len: usize, limit: usize) -> Fit {
    if may_fragment(packet) {
        return Fit::Pieces;
    }
    match packet.first().map(|first| first >> 4) {
        _ if len <= limit => Fit::Whole,
        Some(6) if len <= LEAST6 => Fit::Pieces,
        _ => Fit::TooBig,
    }
}

/// Whether the sender of `packet` lets routers fragment it: IPv4 without DF.
#[must_use]
pub fn may_fragment(packet: &[u8]) -> bool {
    matches!(packet, [first, _, _, _, _, _, flags, ..] if first >> 4 == 4 && flags & DF == 0)
}

/// The far end of the tunnel's link, as the sender of a packet sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarEnd {
    pub ip4: Ipv4Addr,
    /// None where the tunnel carries IPv4 only.
    pub ip6: Option<Ipv6Addr>,
}

/// The whole ICMP packet that tells the sender of `packet` to send no more
/// than `mtu` bytes.
///
/// None for a packet that nobody must answer: no DF, an ICMP error, a fragment
/// but the first, from or to more than one host (RFC 1122, section 3.2.2; RFC
/// 4443, section 2.4 (e)); nor where the message would be of no use, as `mtu`
/// is not lower than the packet or than what an IPv6 sender respects. An
/// answer is at most 576 bytes long (RFC 1812, section 4.3.2.3), or 1280.
#[must_use]
pub fn answer(packet: &[u8], mtu: usize, from: &FarEnd) -> Option<Vec<u8>> {
    let ends = Ends::of(packet)?;
    let upper = Upper::of(packet)?;
    let offender = &packet[upper.at..];
    match (ends.source, ends.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let is_error = upper.protocol == ICMP
                && offender.first().is_none_or(|kind| !QUERIES4.contains(kind));
            let moot = may_fragment(packet) || packet.len() <= mtu;
            if is_error || moot || !is_host4(source) || !is_host4(destination) {
                return None;
            }
            Some(answer4(packet, mtu, from.ip4, source))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mtu = mtu.max(LEAST6);
            let moot = packet.len() <= mtu;
            if is_error6(upper.protocol, offender)
                || moot
                || !is_host6(source)
                || !is_host6(destination)
            {
                return None;
            }
            Some(answer6(packet, mtu, from.ip6?, source))
        }
        _ => None,
    }
}

fn answer4(packet: &[u8], mtu: usize, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(LONGEST4 - IP4_HEADER - ICMP_HEADER)];
    let len = IP4_HEADER + ICMP_HEADER + quoted.len();
    let mut answer = Vec::with_capacity(len);

    // Control traffic of the network (RFC 1812, section 4.3.2.5).
    answer.extend([0x45, PRECEDENCE6]);
    answer.extend((len as u16).to_be_bytes());
    answer.extend([0, 0, DF, 0, 64, ICMP, 0, 0]);
    answer.extend(from.octets());
    answer.extend(to.octets());
    let header = checksum(0, &answer).to_be_bytes();
    answer[10..12].copy_from_slice(&header);

    answer.extend([UNREACHABLE4, FRAGMENTATION_NEEDED, 0, 0, 0, 0]);
    answer.extend(u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes());
    answer.extend(quoted);
    let icmp = checksum(0, &answer[IP4_HEADER..]).to_be_bytes();
    answer[IP4_HEADER + 2..IP4_HEADER + 4].copy_from_slice(&icmp);

    answer
}

fn answer6(packet: &[u8], mtu: usize, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);

    error6(packet, [TOO_BIG6, 0], mtu, from, to)
}

/// An error of that type and code, with the 32 bits that follow the checksum.
pub(super) fn error6(
    packet: &[u8],
    kind: [u8; 2],
    word: u32,
    from: Ipv6Addr,
    to: Ipv6Addr,
) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(LEAST6 - IP6_HEADER - ICMP_HEADER)];
    let len = ICMP_HEADER + quoted.len();
    let mut answer = Vec::with_capacity(IP6_HEADER + len);

    answer.extend([0x60, 0, 0, 0]);
    answer.extend((len as u16).to_be_bytes());
    answer.extend([ICMP6, 64]);
    answer.extend(from.octets());
    answer.extend(to.octets());
    // The pseudo-header of RFC 8200, section 8.1.
    let pseudo = sum(len as u32 + u32::from(ICMP6), &answer[8..]);

    answer.extend(kind);
    answer.extend([0, 0]);
    answer.extend(word.to_be_bytes());
    answer.extend(quoted);
    let icmp = checksum(pseudo, &answer[IP6_HEADER..]).to_be_bytes();
    answer[IP6_HEADER + 2..IP6_HEADER + 4].copy_from_slice(&icmp);

    answer
}

/// Whether a transport header is that of an ICMPv6 error, which nobody answers
/// with another.
pub(super) fn is_error6(protocol: u8, header: &[u8]) -> bool {
    protocol == ICMP6
        && header
            .first()
            .is_none_or(|&kind| kind < FIRST_QUERY6 || kind == REDIRECT6)
}

/// Whether the address is that of one host.
fn is_host4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();

    first != 0 && first < 224 && !ip.is_loopback()
}

pub(super) fn is_host6(ip: Ipv6Addr) -> bool {
    !ip.is_multicast() && !ip.is_unspecified() && !ip.is_loopback()
}

/// What every link carries of IPv6, in bytes (RFC 8200, section 5).
pub const LEAST6: usize = 1280;

/// In the byte of the flags.
const DF: u8 = 0x40;

const ICMP_HEADER: usize = 8;

/// Longest answer of IPv4, in bytes.
const LONGEST4: usize = 576;

/// Internetwork control, in the TOS byte.
const PRECEDENCE6: u8 = 0xc0;

const UNREACHABLE4: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const TOO_BIG6: u8 = 2;

/// ICMP messages that are no errors: echo, router discovery, time stamp,
/// information, address mask, extended echo. Of an unknown one nothing is said.
const QUERIES4: [u8; 12] = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43];

/// Types below it are errors.
const FIRST_QUERY6: u8 = 128;
const REDIRECT6: u8 = 137;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FROM: FarEnd = FarEnd {
        ip4: Ipv4Addr::new(10, 0, 0, 1),
        ip6: Some(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 1)),
    };

    /// A packet of `len` bytes whose transport header starts with `upper`.
    fn four(len: usize, flags: u8, protocol: u8, upper: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend((len as u16).to_be_bytes());
        packet.extend([0, 7, flags, 0, 63, protocol, 0, 0]);
        packet.extend([10, 0, 0, 2, 198, 51, 100, 9]);
        packet.extend(upper);
        packet.resize(len, 0xaa);
        packet
    }

    fn six(len: usize, next: u8, upper: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(((len - 40) as u16).to_be_bytes());
        packet.extend([next, 63]);
        packet.extend("fc00::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(upper);
        packet.resize(len, 0xaa);
        packet
    }

    #[test]
    fn the_sender_of_a_big_ipv4_packet_learns_the_mtu() {
        let packet = four(1435, DF, 6, &[0x9c, 0x40, 1, 0xbb]);

        let answer = answer(&packet, 1215, &FROM).unwrap();

        assert_eq!(answer.len(), 576);
        let ends = Ends::of(&answer).unwrap();
        assert_eq!(ends.source, IpAddr::V4(FROM.ip4));
        assert_eq!(ends.destination, Ends::of(&packet).unwrap().source);
        assert_eq!(answer[2..4], 576u16.to_be_bytes());
        assert_eq!(checksum(0, &answer[..20]), 0);
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(answer[24..28], [0, 0, 0x04, 0xbf]); // 1215
        assert_eq!(checksum(0, &answer[20..]), 0);
        assert_eq!(answer[28..], packet[..548]);
    }

    #[test]
    fn the_sender_of_a_big_ipv6_packet_learns_the_mtu() {
        let packet = six(1415, 17, &[0x9c, 0x40, 1, 0xbb]);

        let answer = answer(&packet, 1395, &FROM).unwrap();

        assert_eq!(answer.len(), 1280);
        let ends = Ends::of(&answer).unwrap();
        assert_eq!(ends.source, IpAddr::V6(FROM.ip6.unwrap()));
        assert_eq!(ends.destination, Ends::of(&packet).unwrap().source);
        assert_eq!(answer[4..8], [0x04, 0xd8, ICMP6, 64]); // 1240 bytes
        assert_eq!(answer[40..42], [2, 0]);
        assert_eq!(answer[44..48], [0, 0, 0x05, 0x73]); // 1395
        let mut covered = answer[8..40].to_vec();
        covered.extend([0, 0, 0x04, 0xd8, 0, 0, 0, ICMP6]);
        covered.extend(&answer[40..]);
        assert_eq!(checksum(0, &covered), 0);
        assert_eq!(answer[48..], packet[..1232]);
    }

    #[test]
    fn nobody_is_told_less_than_1280_for_ipv6() {
        let told = answer(&six(1300, 17, &[0; 8]), 1195, &FROM).unwrap();
        assert_eq!(told[44..48], 1280u32.to_be_bytes());

        assert_eq!(answer(&six(1280, 17, &[0; 8]), 1195, &FROM), None);
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let mut later_fragment = four(1400, DF, 17, &[0; 8]);
        later_fragment[7] = 1;
        let mut from_nobody = four(1400, DF, 17, &[0; 8]);
        from_nobody[12..16].fill(0);
        let mut to_many = four(1400, DF, 17, &[0; 8]);
        to_many[16] = 239;
        let mut to_many6 = six(1400, 17, &[0; 8]);
        to_many6[24] = 0xff;
        for packet in [
            four(1400, 0, 17, &[0; 8]),     // May be fragmented.
            four(1200, DF, 17, &[0; 8]),    // Fits.
            four(1400, DF, ICMP, &[3, 4]),  // An error.
            four(1400, DF, ICMP, &[11, 0]), // Another.
            six(1400, ICMP6, &[2, 0]),      // An error.
            six(1400, ICMP6, &[137, 0]),    // A redirect.
            six(1400, 44, &[17, 0, 0, 8]),  // A later fragment.
            later_fragment,
            from_nobody,
            to_many,
            to_many6,
        ] {
            assert_eq!(answer(&packet, 1215, &FROM), None, "{packet:02x?}");
        }
    }

    #[test]
    fn a_ping_is_answered() {
        for packet in [
            four(1400, DF, ICMP, &[8, 0, 0, 0]),
            six(1400, ICMP6, &[128, 0, 0, 0]),
            six(1400, 44, &[ICMP6, 0, 0, 1, 0, 0, 0, 7, 128, 0]), // A first fragment.
        ] {
            assert!(answer(&packet, 1300, &FROM).is_some());
        }
    }

    #[test]
    fn without_ipv6_in_the_tunnel_nobody_answers_for_it() {
        let from = FarEnd { ip6: None, ..FROM };

        assert_eq!(answer(&six(1400, 17, &[0; 8]), 1300, &from), None);
    }

    #[test]
    fn df_follows_what_the_sender_expects() {
        let expectations = [
            (four(1400, 0, 17, &[]), Fit::Pieces),
            (four(1000, 0, 17, &[]), Fit::Pieces),
            (four(1215, DF, 17, &[]), Fit::Whole),
            (four(1216, DF, 17, &[]), Fit::TooBig),
            (six(1215, 17, &[]), Fit::Whole),
            (six(1280, 17, &[]), Fit::Pieces),
            (six(1281, 17, &[]), Fit::TooBig),
        ];
        for (packet, expected) in expectations {
            let len = packet.len();
            assert_eq!(fit(&packet, len, 1215), expected, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn an_answer_is_right_and_never_answered_itself(
            packet in prop::collection::vec(any::<u8>(), 0..100),
            version in prop::sample::select(vec![0x45u8, 0x4f, 0x60]),
            len in 0usize..2000,
            mtu in 0usize..2000,
        ) {
            let mut packet = packet;
            packet.resize(len, 0);
            if let Some(first) = packet.first_mut() {
                *first = version;
            }
            if let Some(told) = answer(&packet, mtu, &FROM) {
                prop_assert!(told.len() <= 1280 && packet.len() > mtu);
                prop_assert!(Ends::of(&told).is_some());
                prop_assert_eq!(answer(&told, 100, &FROM), None);
            }
        }
    }
}
