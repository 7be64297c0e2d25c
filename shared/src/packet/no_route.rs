//! The ICMPv6 message that says that there is no way to where a packet was to
//! go: "no route to destination" (RFC 4443, section 3.1). Pure.

use std::net::{IpAddr, Ipv6Addr};

use super::Ends;
use super::too_big::{error6, is_error6, is_host6};
use super::upper::Upper;

/// The whole packet that tells the sender of `packet`, in the name of `from`
/// or else of where it was to go.
///
/// None for IPv4, and for a packet that nobody must answer: an ICMP error, a
/// fragment but the first, from or to more than one host (RFC 4443, section
/// 2.4 (e)).
#[must_use]
pub fn answer(packet: &[u8], from: Option<Ipv6Addr>) -> Option<Vec<u8>> {
    let ends = Ends::of(packet)?;
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ends.source, ends.destination) else {
        return None;
    };
    let upper = Upper::of(packet)?;
    if is_error6(upper.protocol, &packet[upper.at..]) || !is_host6(source) || !is_host6(destination)
    {
        return None;
    }

    Some(error6(
        packet,
        [UNREACHABLE, NO_ROUTE],
        0,
        from.unwrap_or(destination),
        source,
    ))
}

const UNREACHABLE: u8 = 1;
const NO_ROUTE: u8 = 0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ICMP6;
    use super::super::{checksum, sum};
    use super::*;

    const FROM: Ipv6Addr = Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 1);

    fn packet(next: u8, upper: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, upper.len() as u8, next, 63];
        packet.extend("fc00::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(upper);
        packet
    }

    #[test]
    fn the_sender_learns_that_there_is_no_route() {
        let syn = packet(6, &[7; 20]);

        let answer = answer(&syn, Some(FROM)).unwrap();

        assert_eq!(answer.len(), 40 + 8 + syn.len());
        let ends = Ends::of(&answer).unwrap();
        assert_eq!(ends.source, IpAddr::V6(FROM));
        assert_eq!(ends.destination, Ends::of(&syn).unwrap().source);
        assert_eq!(answer[4..8], [0, 68, ICMP6, 64]);
        assert_eq!(answer[40..42], [1, 0]);
        assert_eq!(answer[44..48], [0; 4]);
        assert_eq!(answer[48..], syn);
        let pseudo = sum(68 + u32::from(ICMP6), &answer[8..40]);
        assert_eq!(checksum(pseudo, &answer[40..]), 0);
    }

    #[test]
    fn without_ipv6_in_the_tunnel_the_destination_seems_to_answer() {
        let syn = packet(6, &[7; 20]);

        let answer = answer(&syn, None).unwrap();

        let (told, asked) = (Ends::of(&answer).unwrap(), Ends::of(&syn).unwrap());
        assert_eq!(told.source, asked.destination);
    }

    #[test]
    fn errors_and_what_is_for_many_are_not_answered() {
        let mut to_many = packet(17, &[0; 8]);
        to_many[24] = 0xff;
        let mut from_nobody = packet(17, &[0; 8]);
        from_nobody[8..24].fill(0);
        for packet in [
            packet(ICMP6, &[1, 0, 0, 0]),
            packet(ICMP6, &[137, 0]),
            packet(44, &[17, 0, 0, 8]),
            to_many,
            from_nobody,
            vec![0x45; 40],
        ] {
            assert_eq!(answer(&packet, Some(FROM)), None, "{packet:02x?}");
        }
        assert!(answer(&packet(ICMP6, &[128, 0, 0, 0]), Some(FROM)).is_some());
    }

    proptest! {
        #[test]
        fn no_answer_is_answered(mut packet in prop::collection::vec(any::<u8>(), 0..2000)) {
            if let Some(first) = packet.first_mut() {
                *first = 0x60;
            }
            if let Some(told) = answer(&packet, Some(FROM)) {
                prop_assert!(told.len() <= 1280);
                prop_assert_eq!(answer(&told, Some(FROM)), None);
            }
        }
    }
}
