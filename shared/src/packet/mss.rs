//! Keeps TCP connections through the tunnel to segments that fit. Pure.

use super::TCP;
use super::checksum::update;
use super::upper::Upper;

/// Lowers the maximum segment size that a TCP SYN announces (RFC 9293, section
/// 3.7.1) to what a packet of `mtu` bytes has room for besides the fixed
/// headers (RFC 6691); leaves everything else alone, a smaller value too.
///
/// `partial` says that the checksum field holds only the pseudo-header's sum,
/// to which whoever completes it adds the option as it is then: such a field
/// stays. Another is corrected, right or wrong as it was.
pub fn clamp(packet: &mut [u8], mtu: usize, partial: bool) {
    let Some(upper) = Upper::of(packet) else {
        return;
    };
    if upper.protocol != TCP {
        return;
    }
    let fixed = if packet[0] >> 4 == 4 {
        20 + 20
    } else {
        40 + 20
    };
    let most = u16::try_from(mtu.saturating_sub(fixed)).unwrap_or(u16::MAX);
    if most == 0 {
        return;
    }
    clamp_tcp(&mut packet[upper.at..], most, partial);
}

fn clamp_tcp(tcp: &mut [u8], most: u16, partial: bool) {
    let Some((header, rest)) = tcp.split_first_chunk_mut::<HEADER>() else {
        return;
    };
    if header[13] & SYN == 0 {
        return;
    }
    let options = (usize::from(header[12] >> 4) * 4).saturating_sub(HEADER);
    let Some(at) = rest.get(..options).and_then(find) else {
        return;
    };
    let Some(value) = rest[at..].first_chunk_mut::<2>() else {
        return;
    };
    let old = *value;
    if u16::from_be_bytes(old) <= most {
        return;
    }

    *value = most.to_be_bytes();
    if partial {
        return;
    }
    let Some(field) = header[16..].first_chunk_mut() else {
        return;
    };
    if at % 2 == 0 {
        update(field, old, *value);
    } else {
        // The value lies across two words; swapped, the bytes count the same
        // (RFC 1071, section 2 (B)).
        let swapped = |[high, low]: [u8; 2]| [low, high];
        update(field, swapped(old), swapped(*value));
    }
}

/// Where the value of the MSS option lies.
fn find(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match options.get(at..)? {
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [NOP, ..] => at += 1,
            [END, ..] => return None,
            [_, len, ..] if *len >= 2 => at += usize::from(*len),
            _ => return None,
        }
    }
}

const HEADER: usize = 20;
const SYN: u8 = 0x02;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sum;
    use super::*;

    /// A TCP segment with its checksum, in a packet of either family.
    fn packet(six: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        assert_eq!(options.len() % 4, 0);
        let mut tcp = vec![0x9c, 0x40, 1, 0xbb, 1, 2, 3, 4, 0, 0, 0, 0];
        tcp.extend([((20 + options.len()) / 4 * 16) as u8, flags, 0xff, 0xff]);
        tcp.extend([0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(payload);
        let mut packet = if six {
            let mut ip = vec![0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64];
            ip.extend([0xfc; 32]);
            ip
        } else {
            let mut ip = vec![0x45, 0, 0, (20 + tcp.len()) as u8, 0, 0, 0x40, 0, 64, 6];
            ip.extend([0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
            ip
        };
        let at = packet.len();
        packet.extend(tcp);
        let sum = checksum_of(&packet, at).to_be_bytes();
        packet[at + 16..at + 18].copy_from_slice(&sum);
        packet
    }

    /// The checksum that the segment at `at` should have, whatever it has.
    fn checksum_of(packet: &[u8], at: usize) -> u16 {
        let mut tcp = packet[at..].to_vec();
        tcp[16..18].fill(0);
        let addresses = if at == 40 { 8..40 } else { 12..20 };
        let mut acc = sum(6 + tcp.len() as u32, &packet[addresses]);
        acc = sum(acc, &tcp);
        while acc > 0xffff {
            acc = (acc & 0xffff) + (acc >> 16);
        }
        !(acc as u16)
    }

    fn mss_of(packet: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([packet[at], packet[at + 1]])
    }

    #[test]
    fn a_syn_announces_no_more_than_fits_in_either_family() {
        for (six, fits) in [(false, 1215 - 40), (true, 1215 - 60)] {
            let ip = if six { 40 } else { 20 };
            for flags in [SYN, SYN | 0x10, SYN | 0xc0] {
                let mut syn = packet(six, flags, &[2, 4, 5, 0xb4, 4, 2, 1, 1], &[]);
                clamp(&mut syn, 1215, false);

                assert_eq!(mss_of(&syn, ip + 22), fits);
                assert_eq!(mss_of(&syn, ip + 16), checksum_of(&syn, ip));
            }
        }
    }

    #[test]
    fn an_option_across_two_words_keeps_the_checksum_right() {
        let mut syn = packet(false, SYN, &[1, 2, 4, 5, 0xb4, 1, 1, 0], b"fast open");

        clamp(&mut syn, 1000, false);

        assert_eq!(mss_of(&syn, 43), 960);
        assert_eq!(mss_of(&syn, 36), checksum_of(&syn, 20));
    }

    #[test]
    fn a_partial_checksum_stays() {
        let mut syn = packet(false, SYN, &[2, 4, 5, 0xb4], &[]);
        let before = mss_of(&syn, 36);

        clamp(&mut syn, 1000, true);

        assert_eq!(mss_of(&syn, 42), 960);
        assert_eq!(mss_of(&syn, 36), before);
    }

    #[test]
    fn extension_headers_do_not_hide_a_syn() {
        let mut syn = packet(true, SYN, &[2, 4, 5, 0xb4], &[]);
        syn[6] = 60;
        syn.splice(40..40, [6, 0, 1, 4, 0, 0, 0, 0]);

        clamp(&mut syn, 1280, false);

        assert_eq!(mss_of(&syn, 48 + 22), 1220);
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let options: &[u8] = &[2, 4, 5, 0xb4];
        let mut udp = packet(false, SYN, options, &[]);
        udp[9] = 17;
        let mut fragment = packet(false, SYN, options, &[]);
        fragment[7] = 185;
        for untouched in [
            packet(false, 0x10, options, &[]),            // No SYN.
            packet(false, SYN, &[2, 4, 3, 0xc0], &[]),    // Small enough.
            packet(false, SYN, &[0, 2, 4, 255], &[0xff]), // After the end of options.
            packet(false, SYN, &[3, 0, 2, 4], &[255; 4]), // An option of no length.
            packet(false, SYN, &[1, 1, 2, 4], &[255; 4]), // Cut by the payload.
            udp,
            fragment,
        ] {
            let mut packet = untouched.clone();
            clamp(&mut packet, 1000, false);
            assert_eq!(packet, untouched);
        }
    }

    proptest! {
        #[test]
        fn the_checksum_is_right_after_as_before(
            six: bool,
            before in 0usize..3,
            mss: u16,
            mtu in 0usize..2000,
            payload in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let mut options = vec![1; before];
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
            options.resize(8, 0);
            let mut syn = packet(six, SYN, &options, &payload);
            let at = if six { 40 } else { 20 };

            clamp(&mut syn, mtu, false);

            let room = (mtu as u16).saturating_sub(at as u16 + 20);
            let expected = if room == 0 { mss } else { mss.min(room) };
            prop_assert_eq!(mss_of(&syn, at + 22 + before), expected);
            prop_assert_eq!(mss_of(&syn, at + 16), checksum_of(&syn, at));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            version in prop::sample::select(vec![0x45u8, 0x60]),
            mut packet in prop::collection::vec(any::<u8>(), 0..100),
            partial: bool,
        ) {
            if let [first, .., _, _, _] = packet.as_mut_slice() {
                *first = version;
            }
            clamp(&mut packet, 600, partial);
        }
    }
}
