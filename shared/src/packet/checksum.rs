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
    // The halves of each 64-bit word go to counters of their own, where 2^32 of
    // them fit: no carry, so that the compiler can use vector registers.
    let mut low = [0u64; BLOCK / 8];
    let mut high = [0u64; BLOCK / 8];
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            let word = u64::from_ne_bytes(*word);
            low[at] += word & 0xffff_ffff;
            high[at] += word >> 32;
        }
    }
    let counted: u64 = low.iter().sum::<u64>() + high.iter().sum::<u64>();

    add(acc, counted + sum_short(rest))
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
