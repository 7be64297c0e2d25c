//! Putting one fragmented handshake message together (RFC 6347, section 4.2.3).
//!
//! Nothing here is authenticated, so everything is bounded: one message, at
//! most [`MAX_MESSAGE`] bytes, and [`Reassembly::cost`] says what a fragment
//! would make us allocate before anything is allocated. Where fragments
//! overlap the later one counts, so that a retransmission mends a forgery.

use super::message::{Fragment, HandshakeType};

/// One handshake message of which some bytes have arrived.
#[derive(Debug)]
pub struct Reassembly {
    kind: HandshakeType,
    message_seq: u16,
    body: Vec<u8>,
    /// One bit for each byte of `body` that has arrived.
    arrived: Vec<u64>,
    missing: usize,
}

impl Reassembly {
    /// Bytes of memory that [`Reassembly::begin`] takes for this fragment's
    /// message, for a caller that keeps a budget.
    #[must_use]
    pub fn cost(fragment: &Fragment<'_>) -> usize {
        fragment.total + 8 * fragment.total.div_ceil(64)
    }

    /// Starts with the first fragment that arrived, whichever it is. `None`
    /// for a message that is too long.
    #[must_use]
    pub fn begin(fragment: &Fragment<'_>) -> Option<Self> {
        if fragment.total > MAX_MESSAGE {
            return None;
        }
        let mut reassembly = Self {
            kind: fragment.kind,
            message_seq: fragment.message_seq,
            body: vec![0; fragment.total],
            arrived: vec![0; fragment.total.div_ceil(64)],
            missing: fragment.total,
        };
        reassembly.add(fragment).ok()?;

        Some(reassembly)
    }

    /// Adds another fragment of the same message.
    pub fn add(&mut self, fragment: &Fragment<'_>) -> Result<(), NotOfThisMessage> {
        let end = fragment.offset + fragment.body.len();
        if (fragment.kind, fragment.message_seq, fragment.total)
            != (self.kind, self.message_seq, self.body.len())
            || end > self.body.len()
        {
            return Err(NotOfThisMessage);
        }

        self.body[fragment.offset..end].copy_from_slice(fragment.body);
        for byte in fragment.offset..end {
            let (word, bit) = (&mut self.arrived[byte / 64], 1 << (byte % 64));
            if *word & bit == 0 {
                *word |= bit;
                self.missing -= 1;
            }
        }

        Ok(())
    }

    #[must_use]
    pub fn kind(&self) -> HandshakeType {
        self.kind
    }

    #[must_use]
    pub fn message_seq(&self) -> u16 {
        self.message_seq
    }

    /// The message's body once nothing of it is missing.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        (self.missing == 0).then_some(&self.body)
    }

    /// Bytes of memory held: what [`Reassembly::cost`] said.
    #[must_use]
    pub fn held(&self) -> usize {
        self.body.len() + 8 * self.arrived.len()
    }
}

/// The fragment differs from the earlier ones in type, number or length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fragment belongs to another message")]
pub struct NotOfThisMessage;

/// Longest message put together; a PSK handshake has none over 200 bytes, but
/// a ClientHello may carry many extensions.
pub const MAX_MESSAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragment(total: usize, offset: usize, body: &[u8]) -> Fragment<'_> {
        Fragment {
            kind: HandshakeType::ClientKeyExchange,
            total,
            message_seq: 2,
            offset,
            body,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_bytes(
            total in 1usize..600,
            pieces in prop::collection::vec(
                (any::<prop::sample::Index>(), 1usize..200, any::<u8>()),
                1..60,
            ),
        ) {
            let mut model = vec![None; total];
            let mut reassembly: Option<Reassembly> = None;

            for (offset, len, byte) in pieces {
                let offset = offset.index(total);
                let body = vec![byte; len.min(total - offset)];
                let piece = fragment(total, offset, &body);
                match &mut reassembly {
                    Some(reassembly) => reassembly.add(&piece).unwrap(),
                    None => reassembly = Reassembly::begin(&piece),
                }
                model[offset..offset + body.len()].fill(Some(byte));

                let whole: Option<Vec<u8>> = model.iter().copied().collect();
                prop_assert_eq!(reassembly.as_ref().unwrap().body(), whole.as_deref());
            }
        }

        #[test]
        fn holds_what_it_said_it_would(total in 1..=MAX_MESSAGE) {
            let piece = fragment(total, 0, &[1]);
            let reassembly = Reassembly::begin(&piece).unwrap();

            prop_assert_eq!(reassembly.held(), Reassembly::cost(&piece));
            prop_assert!(reassembly.held() <= MAX_MESSAGE + MAX_MESSAGE / 8);
        }
    }

    #[test]
    fn an_empty_message_is_whole_at_once() {
        assert_eq!(
            Reassembly::begin(&fragment(0, 0, &[])).unwrap().body(),
            Some(&[][..])
        );
    }

    #[test]
    fn a_message_over_the_limit_is_not_begun() {
        assert!(Reassembly::begin(&fragment(MAX_MESSAGE, 0, &[1])).is_some());
        assert!(Reassembly::begin(&fragment(MAX_MESSAGE + 1, 0, &[1])).is_none());
    }

    #[test]
    fn a_fragment_of_another_message_changes_nothing() {
        let first = fragment(2, 0, &[7]);
        let mut reassembly = Reassembly::begin(&first).unwrap();
        let foreign = [
            Fragment {
                kind: HandshakeType::Finished,
                ..fragment(2, 1, &[9])
            },
            Fragment {
                message_seq: 3,
                ..fragment(2, 1, &[9])
            },
            fragment(3, 1, &[9]),
            fragment(2, 1, &[9, 9]), // Never out of `fragments`.
        ];

        for foreign in foreign {
            assert_eq!(reassembly.add(&foreign), Err(NotOfThisMessage));
        }
        assert_eq!(reassembly.body(), None);
        reassembly.add(&fragment(2, 1, &[8])).unwrap();
        assert_eq!(reassembly.body(), Some(&[7, 8][..]));
    }
}
