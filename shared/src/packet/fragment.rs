//! Cuts an IPv4 packet into fragments, where its sender allows that (RFC 791,
//! section 3.2). Pure, and allocates nothing.
//!
//! They are about equally long rather than as long as can be: records of one
//! size go out in one run.

use super::{IP4_HEADER, checksum};

/// A part of a packet, with what goes before it.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    head: [u8; LONGEST_HEADER],
    head_len: usize,
    body: &'a [u8],
}

impl<'a> Piece<'a> {
    /// # Panics
    ///
    /// Where `head` is longer than an IPv4 header can be.
    #[must_use]
    pub fn new(head: &[u8], body: &'a [u8]) -> Self {
        let mut piece = Self {
            head: [0; LONGEST_HEADER],
            head_len: head.len(),
            body,
        };
        piece.head[..head.len()].copy_from_slice(head);

        piece
    }

    /// In bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it has a head at least")]
    pub fn len(&self) -> usize {
        self.head_len + self.body.len()
    }

    /// # Panics
    ///
    /// Where `out` is not [`Self::len`] bytes long.
    pub fn write(&self, out: &mut [u8]) {
        let (head, body) = out.split_at_mut(self.head_len);
        head.copy_from_slice(&self.head[..self.head_len]);
        body.copy_from_slice(self.body);
    }
}

/// The fragments of one packet, which may be a fragment itself, in their order.
#[derive(Debug)]
pub struct Fragments<'a> {
    payload: &'a [u8],
    /// The next one's, but for length, place and checksum.
    header: Header,
    /// All but the first one's, which have fewer options.
    later: Header,
    /// Bytes of payload in each but the last; a multiple of 8.
    step: usize,
    /// Bytes of payload taken.
    taken: usize,
    /// Where the packet's own payload belongs, in units of 8 bytes.
    offset: usize,
    /// More fragments follow the packet.
    more: bool,
}

impl<'a> Fragments<'a> {
    /// Of a complete packet without Don't Fragment that is longer than `limit`,
    /// the most that each may have, in bytes.
    ///
    /// None where the packet is no such one, or the limit has no room for 8
    /// bytes of payload.
    #[must_use]
    pub fn of(packet: &'a [u8], limit: usize) -> Option<Self> {
        let fixed: &[u8; IP4_HEADER] = packet.first_chunk()?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let (header, payload) = packet.split_at_checked(header_len)?;
        let place = u16::from_be_bytes([fixed[6], fixed[7]]);
        let offset = usize::from(place & OFFSET);
        let is_whole = usize::from(u16::from_be_bytes([fixed[2], fixed[3]])) == packet.len();
        let fits_no_packet = offset * UNIT + payload.len() > MAX_PAYLOAD;
        if fixed[0] >> 4 != 4
            || header_len < IP4_HEADER
            || !is_whole
            || place & DONT_FRAGMENT != 0
            || fits_no_packet
        {
            return None;
        }

        let room = limit.checked_sub(header_len)? / UNIT * UNIT;
        if room == 0 {
            return None;
        }
        let count = payload.len().div_ceil(room).max(1);
        let header = Header::new(header);

        Some(Self {
            payload,
            later: header.of_later()?,
            header,
            step: payload.len().div_ceil(count).next_multiple_of(UNIT),
            taken: 0,
            offset,
            more: place & MORE != 0,
        })
    }
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let left = &self.payload[self.taken..];
        if left.is_empty() {
            return None;
        }
        let body = &left[..left.len().min(self.step)];
        let mut place = (self.offset + self.taken / UNIT) as u16;
        if self.more || body.len() < left.len() {
            place |= MORE;
        }
        let header = std::mem::replace(&mut self.header, self.later);
        self.taken += body.len();

        Some(header.finish(place, body))
    }
}

/// An IPv4 header with its options.
#[derive(Clone, Copy, Debug)]
struct Header {
    bytes: [u8; LONGEST_HEADER],
    len: usize,
}

impl Header {
    fn new(header: &[u8]) -> Self {
        let mut bytes = [0; LONGEST_HEADER];
        bytes[..header.len()].copy_from_slice(header);

        Self {
            bytes,
            len: header.len(),
        }
    }

    /// That of the fragments but the first: of the options only those that say
    /// so (RFC 791, section 3.1), closed by the end of the list. None where the
    /// list is malformed.
    fn of_later(&self) -> Option<Self> {
        let mut later = Self {
            bytes: [0; LONGEST_HEADER],
            len: IP4_HEADER,
        };
        later.bytes[..IP4_HEADER].copy_from_slice(&self.bytes[..IP4_HEADER]);
        let mut rest = &self.bytes[IP4_HEADER..self.len];
        while let Some(&kind) = rest.first() {
            let len = match kind {
                END_OF_OPTIONS => break,
                NO_OPERATION => 1,
                _ => usize::from(*rest.get(1)?),
            };
            let (option, after) = rest.split_at_checked(len).filter(|_| len > 0)?;
            if kind & COPIED != 0 {
                later.bytes[later.len..later.len + len].copy_from_slice(option);
                later.len += len;
            }
            rest = after;
        }
        later.len = later.len.next_multiple_of(4);
        later.bytes[0] = 0x40 | (later.len / 4) as u8;

        Some(later)
    }

    fn finish(mut self, place: u16, body: &[u8]) -> Piece<'_> {
        let len = (self.len + body.len()) as u16;
        let header = &mut self.bytes[..self.len];
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[6..8].copy_from_slice(&place.to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum::finish(checksum::sum(0, header));
        header[10..12].copy_from_slice(&sum);

        Piece::new(header, body)
    }
}

/// In bytes: fifteen words.
const LONGEST_HEADER: usize = 60;

/// What offsets count, in bytes.
const UNIT: usize = 8;

/// Of the longest packet, which has the shortest header.
const MAX_PAYLOAD: usize = 65_535 - IP4_HEADER;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Of an option's kind: in all fragments.
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A packet with `options`, which are a multiple of 4 bytes, at `place`.
    fn packet(options: &[u8], place: u16, payload: &[u8]) -> Vec<u8> {
        let header_len = IP4_HEADER + options.len();
        let mut packet = vec![0x40 | (header_len / 4) as u8, 0x02];
        packet.extend(((header_len + payload.len()) as u16).to_be_bytes());
        packet.extend([0xab, 0xcd]);
        packet.extend(place.to_be_bytes());
        packet.extend([63, 17, 0, 0, 10, 0, 0, 2, 198, 51, 100, 9]);
        packet.extend(options);
        let sum = checksum::finish(checksum::sum(0, &packet));
        packet[10..12].copy_from_slice(&sum);
        packet.extend(payload);

        packet
    }

    fn written(packet: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let write = |piece: Piece<'_>| {
            let mut out = vec![0; piece.len()];
            piece.write(&mut out);
            out
        };

        Fragments::of(packet, limit).unwrap().map(write).collect()
    }

    fn place(fragment: &[u8]) -> u16 {
        u16::from_be_bytes([fragment[6], fragment[7]])
    }

    /// What a receiver makes of fragments, and whether the last was among them.
    fn put_together(fragments: &[Vec<u8>]) -> (BTreeMap<usize, u8>, bool) {
        let mut bytes = BTreeMap::new();
        let mut is_ended = false;
        for fragment in fragments {
            let start = usize::from(place(fragment) & OFFSET) * UNIT;
            let header_len = usize::from(fragment[0] & 0x0f) * 4;
            for (at, byte) in (start..).zip(&fragment[header_len..]) {
                assert_eq!(bytes.insert(at, *byte), None, "twice at {at}");
            }
            is_ended |= place(fragment) & MORE == 0;
        }

        (bytes, is_ended)
    }

    #[test]
    fn a_packet_is_cut_in_halves_of_whole_units() {
        let payload: Vec<u8> = (0..1395_u16).map(|at| at as u8).collect();
        let whole = packet(&[], 0, &payload);

        let fragments = written(&whole, 1195);

        let shape: Vec<_> = fragments.iter().map(|f| (f.len(), place(f))).collect();
        assert_eq!(shape, [(20 + 704, MORE), (20 + 691, 88)]);
        // All but length, place and checksum are the packet's.
        for fragment in &fragments {
            assert_eq!(fragment[..2], whole[..2]);
            assert_eq!(fragment[4..6], whole[4..6]);
            assert_eq!(fragment[8..10], whole[8..10]);
            assert_eq!(fragment[12..20], whole[12..20]);
        }
    }

    #[test]
    fn the_first_fragment_has_all_options_and_later_ones_those_to_be_copied() {
        // Nothing, record route, nothing, router alert, end.
        let options = [1, 7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0, 0, 0, 0];
        let whole = packet(&options, 0, &[7; 100]);

        let fragments = written(&whole, 92);

        assert_eq!(fragments.len(), 2);
        assert_eq!(fragments[0][..1], [0x49]);
        assert_eq!(fragments[0][20..36], options);
        assert_eq!(fragments[1][..1], [0x46]);
        assert_eq!(fragments[1][20..24], [0x94, 4, 0, 0]);
    }

    #[test]
    fn what_is_no_packet_to_be_cut_is_left() {
        let cut = |packet: &[u8], limit| Fragments::of(packet, limit).is_some();
        let payload = [7; 100];
        let whole = packet(&[], 0, &payload);
        assert!(cut(&whole, 28));

        assert!(!cut(&whole, 27), "no room");
        assert!(!cut(&whole[..119], 60), "cut short");
        assert!(!cut(&packet(&[], DONT_FRAGMENT, &payload), 60));
        assert!(!cut(&packet(&[], 8191, &payload), 60), "past the end");
        for malformed in [[7, 0, 0, 0], [7, 9, 0, 0], [1, 1, 1, 7]] {
            assert!(!cut(&packet(&malformed, 0, &payload), 60));
        }
        let mut six = whole.clone();
        six[0] = 0x65;
        assert!(!cut(&six, 60));
        assert!(!cut(&[], 60));
    }

    proptest! {
        #[test]
        fn fragments_fit_are_right_and_say_the_same(
            payload in prop::collection::vec(any::<u8>(), 1..3000),
            options in prop::sample::select(vec![
                &[][..],
                &[1, 1, 1, 0],
                &[0x94, 4, 0, 0],
                &[7, 7, 4, 0, 0, 0, 0, 0],
                &[0x83, 7, 4, 10, 0, 0, 1, 1],
            ]),
            limit in 68usize..2000,
            offset in 0u16..1000,
            more: bool,
        ) {
            let mut payload = payload;
            let mut own = offset;
            if more {
                // All but the last have whole units (RFC 791, section 3.2).
                payload.resize(payload.len().next_multiple_of(UNIT), 0);
                own |= MORE;
            }
            let whole = packet(options, own, &payload);
            let fragments = written(&whole, limit);

            for fragment in &fragments {
                prop_assert!(fragment.len() <= limit);
                let header_len = usize::from(fragment[0] & 0x0f) * 4;
                prop_assert!(checksum::is_right(checksum::sum(0, &fragment[..header_len])));
                prop_assert_eq!(fragment[2..4].to_vec(), (fragment.len() as u16).to_be_bytes());
            }
            prop_assert_eq!(put_together(&fragments), put_together(&[whole]));
        }

        #[test]
        fn arbitrary_bytes_are_cut_to_fit_or_left(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            limit in 0usize..200,
            framed: bool,
        ) {
            if framed && bytes.len() > IP4_HEADER {
                bytes[0] = 0x45 | (bytes[0] & 0x07);
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6] &= 0x23;
            }
            if let Some(fragments) = Fragments::of(&bytes, limit) {
                for fragment in fragments {
                    prop_assert!(fragment.len() <= limit);
                }
            }
        }
    }
}
