//! Handshake messages (RFC 6347, section 4.2.2): the 12-byte header, the
//! fragments in a record, and the bodies that a PSK handshake needs.
//!
//! Header: `type(1) length(3) message_seq(2) fragment_offset(3) fragment_length(3)`.

mod hello;
mod key_exchange;

pub use hello::{ClientHello, HelloVerifyRequest, RENEGOTIATION_SCSV, ServerHello, Suites};
pub use key_exchange::{ClientKeyExchange, Finished, ServerHelloDone, ServerKeyExchange};

use super::reader::Reader;

/// Length of a handshake message's header.
pub const MESSAGE_HEADER: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeType {
    HelloRequest,
    ClientHello,
    ServerHello,
    HelloVerifyRequest,
    NewSessionTicket,
    Certificate,
    ServerKeyExchange,
    CertificateRequest,
    ServerHelloDone,
    CertificateVerify,
    ClientKeyExchange,
    Finished,
    Other(u8),
}

impl HandshakeType {
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::HelloRequest,
            1 => Self::ClientHello,
            2 => Self::ServerHello,
            3 => Self::HelloVerifyRequest,
            4 => Self::NewSessionTicket,
            11 => Self::Certificate,
            12 => Self::ServerKeyExchange,
            13 => Self::CertificateRequest,
            14 => Self::ServerHelloDone,
            15 => Self::CertificateVerify,
            16 => Self::ClientKeyExchange,
            20 => Self::Finished,
            other => Self::Other(other),
        }
    }

    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::HelloRequest => 0,
            Self::ClientHello => 1,
            Self::ServerHello => 2,
            Self::HelloVerifyRequest => 3,
            Self::NewSessionTicket => 4,
            Self::Certificate => 11,
            Self::ServerKeyExchange => 12,
            Self::CertificateRequest => 13,
            Self::ServerHelloDone => 14,
            Self::CertificateVerify => 15,
            Self::ClientKeyExchange => 16,
            Self::Finished => 20,
            Self::Other(byte) => byte,
        }
    }
}

/// One fragment of a handshake message; a whole message is its only fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    pub kind: HandshakeType,
    /// Length of the whole message's body.
    pub total: usize,
    pub message_seq: u16,
    pub offset: usize,
    pub body: &'a [u8],
}

impl<'a> Fragment<'a> {
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.body.len() == self.total
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.kind.byte());
        put_u24(self.total, out);
        out.extend_from_slice(&self.message_seq.to_be_bytes());
        put_u24(self.offset, out);
        put_u24(self.body.len(), out);
        out.extend_from_slice(self.body);
    }

    fn parse(reader: &mut Reader<'a>) -> Option<Self> {
        let kind = HandshakeType::from_byte(reader.u8()?);
        let total = reader.u24()?;
        let message_seq = reader.u16()?;
        let offset = reader.u24()?;
        let len = reader.u24()?;
        let body = reader.take(len)?;
        // An empty fragment of a message that has a body says nothing, and
        // costs whoever keeps it.
        if offset + len > total || (len == 0 && total > 0) {
            return None;
        }

        Some(Self {
            kind,
            total,
            message_seq,
            offset,
            body,
        })
    }
}

/// The fragments in one handshake record. A record of which any part is
/// malformed yields none.
#[must_use]
pub fn fragments(record_body: &[u8]) -> Fragments<'_> {
    let mut walk = Reader(record_body);
    while !walk.0.is_empty() {
        if Fragment::parse(&mut walk).is_none() {
            return Fragments(Reader(&[]));
        }
    }

    Fragments(Reader(record_body))
}

/// The iterator behind [`fragments`].
#[derive(Clone)]
pub struct Fragments<'a>(Reader<'a>);

impl<'a> Iterator for Fragments<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        Fragment::parse(&mut self.0)
    }
}

/// Appends an unfragmented message.
pub fn emit_message(kind: HandshakeType, message_seq: u16, body: &[u8], out: &mut Vec<u8>) {
    let whole = Fragment {
        kind,
        total: body.len(),
        message_seq,
        offset: 0,
        body,
    };
    whole.emit(out);
}

fn put_u24(value: usize, out: &mut Vec<u8>) {
    let value = u32::try_from(value).expect("a length fits 24 bits");
    let [high, rest @ ..] = value.to_be_bytes();
    assert_eq!(high, 0, "a length fits 24 bits");
    out.extend_from_slice(&rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_is_fragments_from_end_to_end_or_has_none(
            wholes in prop::collection::vec(
                (any::<u8>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..30)),
                0..4,
            ),
            tail in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut record = Vec::new();
            for (kind, message_seq, body) in &wholes {
                let kind = HandshakeType::from_byte(*kind);
                emit_message(kind, *message_seq, body, &mut record);
            }
            record.extend(&tail);

            let mut walked = Vec::new();
            let mut count = 0;
            for fragment in fragments(&record) {
                fragment.emit(&mut walked);
                count += 1;
            }

            prop_assert!(count == 0 || walked == record);
            if tail.is_empty() {
                prop_assert_eq!(count, wholes.len());
            }
        }

        #[test]
        fn every_type_byte_survives(byte: u8) {
            prop_assert_eq!(HandshakeType::from_byte(byte).byte(), byte);
        }
    }

    #[test]
    fn a_fragment_lies_within_its_message() {
        //            type  length    seq   offset    length
        let inside = [16, 0, 0, 10, 0, 2, 0, 0, 8, 0, 0, 2, 0xAA, 0xBB];
        assert_eq!(
            fragments(&inside).collect::<Vec<_>>(),
            [Fragment {
                kind: HandshakeType::ClientKeyExchange,
                total: 10,
                message_seq: 2,
                offset: 8,
                body: &[0xAA, 0xBB],
            }]
        );

        let mut outside = inside;
        outside[8] = 9;
        assert_eq!(fragments(&outside).count(), 0);
    }

    #[test]
    fn a_header_without_content_is_no_fragment() {
        let header_only = [1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(fragments(&header_only).count(), 0);

        let server_hello_done = [14, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(fragments(&server_hello_done).count(), 1);
    }
}
