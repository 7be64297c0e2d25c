//! A packet in several records, for a path that carries less than a packet that
//! nobody may fragment: an IPv6 sender makes 1280 bytes whatever it is told
//! (RFC 8200, section 5). Pure: no clock.
//!
//! Only between two of ours, both of whose metas said `Parts`. Each part is the
//! content of a record of its own:
//!
//! ```text
//! 0x10 | place, count | number of the packet | bytes of the packet
//!   1  |   1 (4 + 4)  |    4, big-endian     |  1 or more
//! ```
//!
//! `count` is from 2 to [`MOST_PARTS`], `place` counts from 0. Records are
//! authenticated and come once, so there is neither overlap nor checksum to
//! look after. A receiver keeps [`MOST_TORN`] packets that are not whole, for
//! [`PATIENCE`]; one that begins when there are so many drops the oldest.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::packet::ecn::Ecn;
use crate::packet::fragment::Piece;

/// The parts of one packet, about equally long, in their order.
#[derive(Debug)]
pub struct Parts<'a> {
    packet: &'a [u8],
    number: u32,
    count: u8,
    place: u8,
    step: usize,
}

impl<'a> Parts<'a> {
    /// Cuts `packet` into contents of at most `limit` bytes each; `number` is
    /// another for each packet of an association. None where the packet is one
    /// that is not sent this way, or the limit is too low for it.
    #[must_use]
    pub fn of(packet: &'a [u8], limit: usize, number: u32) -> Option<Self> {
        let room = limit.checked_sub(HEADER).filter(|&room| room > 0)?;
        let count = packet.len().div_ceil(room).max(2);
        if count > MOST_PARTS || packet.len() < count || packet.len() > MAX_PACKET {
            return None;
        }

        Some(Self {
            packet,
            number,
            count: count as u8,
            place: 0,
            step: packet.len().div_ceil(count),
        })
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.packet.is_empty() {
            return None;
        }
        let (body, rest) = self.packet.split_at(self.step.min(self.packet.len()));
        let mut head = [KIND, self.place << 4 | self.count, 0, 0, 0, 0];
        head[2..].copy_from_slice(&self.number.to_be_bytes());
        self.packet = rest;
        self.place += 1;

        Some(Piece::new(&head, body))
    }
}

/// Puts the parts that a peer sends together again.
#[derive(Debug, Default)]
pub struct Joiner {
    /// The oldest first.
    torn: VecDeque<Torn>,
}

impl Joiner {
    /// Takes a record's content, whose datagram bore `mark`. Returns the packet
    /// that it makes whole, with the mark that its parts together bear (RFC
    /// 3168, section 5.3).
    ///
    /// # Errors
    ///
    /// When the content is no part, or does not go with those before it; it
    /// changes nothing then.
    pub fn add(&mut self, now: Instant, mark: Ecn, content: &[u8]) -> Result<Added, Malformed> {
        let part = Part::parse(content).ok_or(Malformed)?;
        let is_over = |torn: &Torn| now.saturating_duration_since(torn.begun) >= PATIENCE;
        let mut torn = self.torn.iter_mut();
        let known = torn.find(|torn| torn.number == part.number && !is_over(torn));
        let is_new = known.is_none();
        if let Some(torn) = known {
            torn.add(mark, &part)?;
        }

        let before = self.torn.len();
        self.torn.retain(|torn| !is_over(torn));
        let mut dropped = before - self.torn.len();
        if is_new {
            if self.torn.len() == MOST_TORN {
                self.torn.pop_front();
                dropped += 1;
            }
            self.torn.push_back(Torn::begin(now, mark, &part));
        }
        let whole = self.take(part.number);

        Ok(Added { whole, dropped })
    }

    /// Takes the packet of that number out, if it is whole.
    fn take(&mut self, number: u32) -> Option<(Vec<u8>, Ecn)> {
        let at = self.torn.iter().position(|torn| torn.number == number)?;
        let whole = self.torn[at].whole()?;
        self.torn.remove(at);

        Some(whole)
    }
}

/// What came of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// A packet is whole: its bytes, and its datagrams' mark.
    pub whole: Option<(Vec<u8>, Ecn)>,
    /// Packets that were given up, as their other parts did not come.
    pub dropped: usize,
}

/// Content that is no part of a packet, or of another than it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a part of a packet")]
pub struct Malformed;

struct Part<'a> {
    number: u32,
    place: usize,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Part<'a> {
    fn parse(content: &'a [u8]) -> Option<Self> {
        let (&[KIND, places, number @ ..], bytes) = content.split_first_chunk::<HEADER>()? else {
            return None;
        };
        let (place, count) = (usize::from(places >> 4), usize::from(places & 0x0f));
        let is_part = (2..=MOST_PARTS).contains(&count)
            && place < count
            && !bytes.is_empty()
            && bytes.len() <= MAX_PACKET;

        is_part.then_some(Self {
            number: u32::from_be_bytes(number),
            place,
            count,
            bytes,
        })
    }
}

/// A packet some of whose parts are there.
#[derive(Debug)]
struct Torn {
    number: u32,
    count: usize,
    begun: Instant,
    mark: Ecn,
    /// Empty where one is missing.
    parts: [Vec<u8>; MOST_PARTS],
}

impl Torn {
    fn begin(now: Instant, mark: Ecn, part: &Part<'_>) -> Self {
        let mut parts: [Vec<u8>; MOST_PARTS] = Default::default();
        parts[part.place] = part.bytes.to_vec();

        Self {
            number: part.number,
            count: part.count,
            begun: now,
            mark,
            parts,
        }
    }

    fn add(&mut self, mark: Ecn, part: &Part<'_>) -> Result<(), Malformed> {
        let is_new = part.count == self.count && self.parts[part.place].is_empty();
        if !is_new || self.len() + part.bytes.len() > MAX_PACKET {
            return Err(Malformed);
        }
        self.parts[part.place] = part.bytes.to_vec();
        if mark == Ecn::Ce {
            self.mark = mark;
        }

        Ok(())
    }

    fn whole(&self) -> Option<(Vec<u8>, Ecn)> {
        let parts = &self.parts[..self.count];

        parts
            .iter()
            .all(|part| !part.is_empty())
            .then(|| (parts.concat(), self.mark))
    }

    fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }
}

/// First byte of a part; no IP packet, and no JSON, begins so.
pub(crate) const KIND: u8 = 0x10;

/// Bytes before those of the packet.
const HEADER: usize = 6;

/// Longest packet, in bytes: of more an IPv6 sender is told.
const MAX_PACKET: usize = 1280;

/// A limit of 576 bytes takes three.
const MOST_PARTS: usize = 4;

/// Packets that are not whole. The parts of one go out side by side, so few are
/// under way at a time.
const MOST_TORN: usize = 8;

/// How much later than the first part the last may come.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(packet: &[u8], limit: usize, number: u32) -> Vec<Vec<u8>> {
        let write = |piece: Piece<'_>| {
            let mut out = vec![0; piece.len()];
            piece.write(&mut out);
            out
        };

        Parts::of(packet, limit, number)
            .unwrap()
            .map(write)
            .collect()
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at / 3) as u8).collect()
    }

    /// A joiner that takes marks for nothing.
    fn add(joiner: &mut Joiner, now: Instant, part: &[u8]) -> Added {
        joiner.add(now, Ecn::NotEct, part).unwrap()
    }

    #[test]
    fn a_packet_of_1280_goes_in_two_records_of_one_size() {
        let packet = bytes(1280);

        let parts = cut(&packet, 1195, 0x0102_0304);

        assert_eq!(parts[0][..6], [0x10, 0x02, 1, 2, 3, 4]);
        assert_eq!(parts[0][6..], packet[..640]);
        assert_eq!(parts[1][..6], [0x10, 0x12, 1, 2, 3, 4]);
        assert_eq!(parts[1][6..], packet[640..]);
        assert_eq!(parts.len(), 2);
        assert_eq!(cut(&packet, 576, 1).len(), 3);
    }

    #[test]
    fn what_is_too_long_for_the_limit_or_for_a_receiver_is_not_cut() {
        assert!(Parts::of(&bytes(1280), 325, 1).is_none());
        assert!(Parts::of(&bytes(1280), 326, 1).is_some());
        assert!(Parts::of(&bytes(1281), 1195, 1).is_none());
        assert!(Parts::of(&bytes(1), 1195, 1).is_none());
        assert!(Parts::of(&bytes(1280), 6, 1).is_none());
    }

    #[test]
    fn one_mark_of_congestion_marks_the_packet() {
        let now = Instant::now();
        let parts = cut(&bytes(1000), 400, 1);
        for marked in 0..3 {
            let mut joiner = Joiner::default();
            let mut marks = [Ecn::Ect0; 3];
            marks[marked] = Ecn::Ce;
            let added: Vec<_> = parts
                .iter()
                .zip(marks)
                .map(|(part, mark)| joiner.add(now, mark, part).unwrap())
                .collect();

            assert_eq!(added[2].whole, Some((bytes(1000), Ecn::Ce)));
        }
    }

    #[test]
    fn a_part_that_comes_too_late_begins_anew() {
        let mut joiner = Joiner::default();
        let now = Instant::now();
        let parts = cut(&bytes(1000), 600, 1);
        add(&mut joiner, now, &parts[0]);

        let late = add(&mut joiner, now + PATIENCE, &parts[1]);

        assert_eq!((late.whole, late.dropped), (None, 1));
        let whole = add(&mut joiner, now + PATIENCE, &parts[0]).whole;
        assert_eq!(whole, Some((bytes(1000), Ecn::NotEct)));
    }

    #[test]
    fn what_was_too_late_is_counted_though_malformed_parts_come_meanwhile() {
        let mut joiner = Joiner::default();
        let now = Instant::now();
        let [first, second, third] = [1, 2, 3].map(|number| cut(&bytes(1000), 600, number));
        add(&mut joiner, now, &first[0]);
        add(&mut joiner, now + PATIENCE / 2, &second[0]);

        let twice = joiner.add(now + PATIENCE, Ecn::NotEct, &second[0]);

        assert_eq!(twice, Err(Malformed));
        assert_eq!(add(&mut joiner, now + PATIENCE, &third[0]).dropped, 1);
    }

    #[test]
    fn a_peer_that_sends_halves_only_holds_a_few() {
        let mut joiner = Joiner::default();
        let now = Instant::now();
        let dropped: usize = (0..100)
            .map(|number| add(&mut joiner, now, &cut(&bytes(1280), 1195, number)[0]).dropped)
            .sum();

        assert_eq!((joiner.torn.len(), dropped), (MOST_TORN, 100 - MOST_TORN));
        let last = add(&mut joiner, now, &cut(&bytes(1280), 1195, 99)[1]);
        assert_eq!(last.whole.unwrap().0, bytes(1280));
    }

    #[test]
    fn what_does_not_go_together_changes_nothing() {
        let now = Instant::now();
        let mut joiner = Joiner::default();
        let parts = cut(&bytes(1000), 600, 1);
        add(&mut joiner, now, &parts[0]);

        let mut of_three = parts[1].clone();
        of_three[1] = 0x13;
        let mut too_long = parts[1].clone();
        too_long.resize(6 + 781, 0);
        for other in [
            parts[0].clone(),
            of_three,
            too_long,
            parts[1][..6].to_vec(),
            parts[1][..3].to_vec(),
            vec![0x10, 0x22, 0, 0, 0, 1, 7],
            vec![0x10, 0x01, 0, 0, 0, 1, 7],
            vec![0x10, 0x05, 0, 0, 0, 1, 7],
            vec![0x11, 0x12, 0, 0, 0, 1, 7],
        ] {
            assert_eq!(joiner.add(now, Ecn::Ce, &other), Err(Malformed));
        }

        let whole = add(&mut joiner, now, &parts[1]).whole;
        assert_eq!(whole, Some((bytes(1000), Ecn::NotEct)));
        assert!(joiner.torn.is_empty());
    }

    proptest! {
        #[test]
        fn parts_in_any_order_make_the_packets_they_were_cut_from(
            packets in prop::collection::vec((2usize..=1280, 326usize..1400), 1..=MOST_TORN),
            order in any::<prop::sample::Index>(),
            swaps in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 0..40),
        ) {
            let first = order.index(usize::MAX) as u32;
            let packet = |at: usize| -> Vec<u8> {
                bytes(packets[at].0).iter().map(|byte| byte ^ at as u8).collect()
            };
            let mut parts = Vec::new();
            for (at, (_, limit)) in packets.iter().enumerate() {
                let cut = cut(&packet(at), *limit, first.wrapping_add(at as u32));
                prop_assert!(cut.iter().all(|part| part.len() <= *limit));
                parts.extend(cut);
            }
            for [a, b] in swaps {
                let (a, b) = (a.index(parts.len()), b.index(parts.len()));
                parts.swap(a, b);
            }

            let now = Instant::now();
            let mut joiner = Joiner::default();
            let mut made = Vec::new();
            for part in &parts {
                let added = add(&mut joiner, now, part);
                prop_assert_eq!(added.dropped, 0);
                made.extend(added.whole.map(|(packet, _)| packet));
            }
            made.sort();
            let mut sent: Vec<_> = (0..packets.len()).map(packet).collect();
            sent.sort();
            prop_assert_eq!(made, sent);
        }

        #[test]
        fn arbitrary_bytes_never_hold_more_than_a_few_packets(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..60),
        ) {
            let now = Instant::now();
            let mut joiner = Joiner::default();
            for mut content in contents {
                if let [kind, places, a, b, c, ..] = &mut content[..] {
                    (*kind, *a, *b, *c) = (KIND, 0, 0, 0);
                    *places &= 0x33;
                }
                if let Ok(Added { whole: Some((packet, _)), .. }) =
                    joiner.add(now, Ecn::NotEct, &content)
                {
                    prop_assert!((2..=MAX_PACKET).contains(&packet.len()));
                }
                prop_assert!(joiner.torn.len() <= MOST_TORN);
                prop_assert!(joiner.torn.iter().all(|torn| torn.len() <= MAX_PACKET));
            }
        }
    }
}
