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
