//! Records on their way to one peer: made where they stand, and gathered into
//! messages that `UDP_SEGMENT` takes in one call.

use std::ops::Range;

use crate::packet::ecn::Ecn;

/// Sealed records in messages: each is a run of datagrams of one size, the last
/// perhaps shorter.
#[derive(Debug)]
pub(super) struct Outbox {
    buffer: Box<[u8]>,
    messages: Vec<Message>,
    records: usize,
}

/// A run of datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// In the outbox's buffer.
    pub(super) range: Range<usize>,
    /// Bytes of each datagram but the last.
    pub(super) segment: usize,
    pub(super) count: usize,
    pub(super) outer: Outer,
}

/// What the outer header is to say, the same for a whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outer {
    pub(super) ecn: Ecn,
    /// Nobody may fragment it.
    pub(super) df: bool,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            messages: Vec::with_capacity(MAX_MESSAGES),
            records: 0,
        }
    }

    /// Whether a record of `len` bytes goes with what is there: the receiver
    /// works on a full message while the next is made.
    pub(super) fn has_room(&self, len: usize, outer: Outer, longest: usize) -> bool {
        let Some(last) = self.messages.last() else {
            return true;
        };
        if last.takes(len, outer, longest.min(MAX_MESSAGE)) {
            return true;
        }

        self.messages.len() < MAX_MESSAGES && self.bytes() < ENOUGH
    }

    /// Room for one more record of `len` bytes; none when there is none.
    /// `longest` bounds a message.
    pub(super) fn room(&mut self, len: usize, outer: Outer, longest: usize) -> Option<&mut [u8]> {
        let end = self.bytes();
        if end + len > self.buffer.len() {
            return None;
        }
        let is_last = self.messages.len() == MAX_MESSAGES;
        match self.messages.last_mut() {
            Some(last) if last.takes(len, outer, longest.min(MAX_MESSAGE)) => {
                last.range.end += len;
                last.count += 1;
            }
            _ if is_last => return None,
            _ => self.messages.push(Message {
                range: end..end + len,
                segment: len,
                count: 1,
                outer,
            }),
        }
        self.records += 1;

        Some(&mut self.buffer[end..end + len])
    }

    /// Takes the last record back, which could not be sealed.
    pub(super) fn take_back(&mut self, len: usize) {
        let Some(last) = self.messages.last_mut() else {
            return;
        };
        last.range.end -= len;
        last.count -= 1;
        if last.count == 0 {
            self.messages.pop();
        }
        self.records -= 1;
    }

    pub(super) fn records(&self) -> usize {
        self.records
    }

    pub(super) fn bytes(&self) -> usize {
        self.messages.last().map_or(0, |last| last.range.end)
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(super) fn contents(&self, message: &Message) -> &[u8] {
        &self.buffer[message.range.clone()]
    }

    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.records = 0;
    }
}

impl Message {
    /// Whether one more record of `len` bytes goes with this message: a shorter
    /// one may, as the last.
    fn takes(&self, len: usize, outer: Outer, longest: usize) -> bool {
        self.outer == outer
            && len <= self.segment
            && self.range.len() == self.count * self.segment
            && self.count < MAX_SEGMENTS
            && self.range.len() + len <= longest
    }
}

/// The kernel's limit for one `UDP_SEGMENT` message, since Linux 4.18.
const MAX_SEGMENTS: usize = 64;

/// The longest UDP payload over IPv4 (RFC 768).
const MAX_MESSAGE: usize = 65_507;

/// Messages of one `sendmmsg`.
pub(super) const MAX_MESSAGES: usize = 16;

/// Bytes that make up for the price of a call.
const ENOUGH: usize = 32_768;

/// What is enough, and a full message.
const BUFFER: usize = ENOUGH + 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    const OUTER: Outer = Outer {
        ecn: Ecn::NotEct,
        df: true,
    };

    fn shape(outbox: &Outbox) -> Vec<(usize, usize)> {
        let shape = |message: &Message| (message.count, message.range.len());

        outbox.messages().iter().map(shape).collect()
    }

    #[test]
    fn equal_records_share_a_message_and_a_shorter_one_closes_it() {
        let mut outbox = Outbox::new();
        for len in [100, 100, 60, 60, 100] {
            outbox.room(len, OUTER, usize::MAX).unwrap().fill(len as u8);
        }

        assert_eq!(shape(&outbox), [(3, 260), (1, 60), (1, 100)]);
        assert_eq!((outbox.records(), outbox.bytes()), (5, 420));
        let last = outbox.messages()[2].clone();
        assert_eq!(outbox.contents(&last), [100; 100]);
    }

    #[test]
    fn another_outer_header_starts_another_message() {
        let mut outbox = Outbox::new();
        for (ecn, df) in [
            (Ecn::NotEct, true),
            (Ecn::Ect0, true),
            (Ecn::Ect0, false),
            (Ecn::Ect0, false),
        ] {
            outbox.room(9, Outer { ecn, df }, usize::MAX).unwrap();
        }

        assert_eq!(shape(&outbox), [(1, 9), (1, 9), (2, 18)]);
    }

    #[test]
    fn a_message_stays_within_the_kernels_limits_and_the_callers() {
        let mut outbox = Outbox::new();
        for _ in 0..65 {
            outbox.room(10, OUTER, usize::MAX).unwrap();
        }
        assert_eq!(shape(&outbox), [(64, 640), (1, 10)]);

        outbox.clear();
        for _ in 0..45 {
            outbox.room(1457, OUTER, usize::MAX).unwrap();
        }
        assert_eq!(shape(&outbox), [(44, 44 * 1457), (1, 1457)]);

        outbox.clear();
        for _ in 0..5 {
            outbox.room(1000, OUTER, 2500).unwrap();
        }
        assert_eq!(shape(&outbox), [(2, 2000), (2, 2000), (1, 1000)]);
    }

    #[test]
    fn what_has_no_room_is_told_and_a_record_can_be_taken_back() {
        let mut outbox = Outbox::new();
        assert!(outbox.has_room(40_000, OUTER, usize::MAX));
        outbox.room(40_000, OUTER, usize::MAX).unwrap();
        assert!(!outbox.has_room(40_000, OUTER, usize::MAX));
        outbox.room(40_000, OUTER, usize::MAX).unwrap();
        assert_eq!(outbox.room(40_000, OUTER, usize::MAX), None);
        assert_eq!(shape(&outbox), [(1, 40_000), (1, 40_000)]);

        outbox.take_back(40_000);
        assert_eq!((outbox.records(), outbox.bytes()), (1, 40_000));

        outbox.clear();
        for len in 1..=MAX_MESSAGES {
            outbox.room(len, OUTER, usize::MAX).unwrap();
        }
        assert_eq!(outbox.room(MAX_MESSAGES + 1, OUTER, usize::MAX), None);
    }
}
