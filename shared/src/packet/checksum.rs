//! The Internet checksum (RFC 1071), whole and updated (RFC 1624). Pure.
//!
//! Sums are in the byte order of the machine: the one's complement sum of 16-bit
//! words is the same in either order but for a swap (RFC 1071, section 2 (B)),
//! so nothing is swapped on the way and results go to memory as they are.

/// Adds `bytes`, as 16-bit words as they stand in memory, to the partial sum
/// `acc`; an odd last byte counts as the first of a word whose other is zero, so
/// only the last piece of what is summed may have an odd length.
#[must_use]
pub fn sum(acc: u64, bytes: &[u8]) -> u64 {
    // Two chains of additions with carry. Counters of 32-bit words in vector
    // registers are as fast on x86-64, but a change nearby can keep the
    // compiler from using these: then they take four times as long.
    let (mut even, mut odd) = (0u128, 0u128);
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        even += u128::from(u64::from_ne_bytes(words[0]));
        odd += u128::from(u64::from_ne_bytes(words[1]));
        even += u128::from(u64::from_ne_bytes(words[2]));
        odd += u128::from(u64::from_ne_bytes(words[3]));
    }
    let wide = even + odd;

    add(
        add(acc, sum_short(rest)),
        add(wide as u64, (wide >> 64) as u64),
    )
}

/// The partial sum as 16 bits, not inverted, in the machine's byte order.
#[must_use]
pub fn fold(acc: u64) -> u16 {
    let mut acc = (acc & 0xffff_ffff) + (acc >> 32);
    acc = (acc & 0xffff) + ((acc >> 16) & 0xffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);

    acc as u16
}

/// The checksum as it stands in a packet.
#[must_use]
pub fn finish(acc: u64) -> [u8; 2] {
    (!fold(acc)).to_ne_bytes()
}

/// Whether a sum over data with its checksum, pseudo-header included, is right.
#[must_use]
pub fn is_right(acc: u64) -> bool {
    fold(acc) == 0xffff
}

/// A 16-bit number as it counts in a sum when it stands in a packet.
#[must_use]
pub fn word(number: u16) -> u64 {
    number.to_be().into()
}

/// The partial sum of an IPv4 pseudo-header (RFC 9293, section 3.1): source and
/// destination as they stand in the header, and the bytes from the transport
/// header on.
#[must_use]
pub fn pseudo4(addresses: &[u8; 8], protocol: u8, len: u16) -> u64 {
    sum_short(addresses) + word(protocol.into()) + word(len)
}

/// The partial sum of an IPv6 pseudo-header (RFC 8200, section 8.1): source and
/// final destination, and the bytes from the transport header on.
#[must_use]
pub fn pseudo6(addresses: &[u8; 32], next_header: u8, len: u16) -> u64 {
    sum_short(addresses) + word(next_header.into()) + word(len)
}

/// Corrects the checksum `field` of data in which the aligned 16-bit word `old`
/// became `new` (RFC 1624, equation 3).
pub fn update(field: &mut [u8; 2], old: [u8; 2], new: [u8; 2]) {
    let inverted = |bytes: [u8; 2]| u64::from(!u16::from_ne_bytes(bytes));
    let acc = inverted(*field) + inverted(old) + u64::from(u16::from_ne_bytes(new));

    *field = finish(acc);
}

/// The sum of up to some tens of bytes.
fn sum_short(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut acc: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    let (words, rest) = rest.as_chunks::<2>();
    if let [word] = words {
        acc += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        acc += u64::from(u16::from_ne_bytes([*last, 0]));
    }

    acc
}

/// One's complement addition: a carry out of the top comes in at the bottom.
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);

    sum + u64::from(carry)
}

/// Bytes taken at once.
const BLOCK: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::naive_sum;
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];

        assert_eq!(fold(sum(0, &bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn no_carry_is_lost() {
        for len in [31, 32, 33, 64, 65_535, 65_536] {
            let bytes = vec![0xff; len];
            let odd = if len % 2 == 1 { 0xff00 } else { 0xffff };
            assert_eq!(fold(sum(0, &bytes)), u16::from_be(odd));
            assert_eq!(fold(sum(u64::MAX, &bytes)), u16::from_be(odd));
        }
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_a_sum_of_pairs(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff), Just(0)], 0..2000),
            cut in any::<prop::sample::Index>(),
        ) {
            let expected = (naive_sum(0, &bytes) as u16).to_be_bytes();
            prop_assert_eq!(fold(sum(0, &bytes)).to_ne_bytes(), expected);

            let even = cut.index(bytes.len() + 1) / 2 * 2;
            let (front, back) = bytes.split_at(even);
            prop_assert_eq!(fold(sum(sum(0, front), back)).to_ne_bytes(), expected);
        }

        #[test]
        fn pseudo_headers_agree(
            addresses in any::<[u8; 32]>(),
            protocol in any::<u8>(),
            len in any::<u16>(),
        ) {
            let extra = u32::from(protocol) + u32::from(len);
            let four = addresses.first_chunk().unwrap();
            prop_assert_eq!(
                fold(pseudo4(four, protocol, len)).to_ne_bytes(),
                (naive_sum(extra, four) as u16).to_be_bytes()
            );
            prop_assert_eq!(
                fold(pseudo6(&addresses, protocol, len)).to_ne_bytes(),
                (naive_sum(extra, &addresses) as u16).to_be_bytes()
            );
        }

        #[test]
        fn an_update_is_what_a_whole_sum_gives(
            mut bytes in prop::collection::vec(any::<u8>(), 2..60),
            at in any::<prop::sample::Index>(),
            new in any::<[u8; 2]>(),
        ) {
            // A header is never all zeros, where the two forms of zero differ.
            bytes.extend([0x45, 0]);
            if bytes.len() % 2 == 1 {
                bytes.push(1);
            }
            let at = at.index(bytes.len() / 2 - 1) * 2;
            let mut field = finish(sum(0, &bytes));
            let old = [bytes[at], bytes[at + 1]];
            update(&mut field, old, new);
            bytes[at..at + 2].copy_from_slice(&new);

            prop_assert!(is_right(sum(u64::from(u16::from_ne_bytes(field)), &bytes)));
            prop_assert_eq!(field, finish(sum(0, &bytes)));
        }
    }
}
