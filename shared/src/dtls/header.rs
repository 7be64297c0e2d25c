//! The record header (RFC 6347, section 4.1), walking a datagram's records, and
//! the first look at a datagram.

use super::reader::Reader;
use super::{DTLS_1_0, DTLS_1_2, MAX_CIPHERTEXT, RECORD_HEADER};

/// What a record carries (RFC 5246, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
}

impl ContentType {
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }

    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
        }
    }
}

/// A parsed record header:
/// `type(1) version(2) epoch(2) sequence_number(6) length(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub content: ContentType,
    /// `0xFEFD`, or `0xFEFF` in a first ClientHello.
    pub version: u16,
    pub epoch: u16,
    /// 48 bits.
    pub seq: u64,
    /// Bytes that follow the header.
    pub len: usize,
}

impl RecordHeader {
    /// Parses the header at the front of `bytes`; says nothing of the body.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let content = ContentType::from_byte(reader.u8()?)?;
        let version = reader.u16()?;
        if version != DTLS_1_2 && version != DTLS_1_0 {
            return None;
        }
        let epoch = reader.u16()?;
        let [a, b, c, d, e, f] = reader.array()?;
        let seq = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let len = usize::from(reader.u16()?);
        if len > MAX_CIPHERTEXT {
            return None;
        }

        Some(Self {
            content,
            version,
            epoch,
            seq,
            len,
        })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    /// The header as it goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> [u8; RECORD_HEADER] {
        let len = u16::try_from(self.len).expect("a record is shorter than 64 KiB");
        debug_assert!(self.seq < 1 << 48);

        let mut bytes = [0; RECORD_HEADER];
        bytes[0] = self.content.byte();
        bytes[1..3].copy_from_slice(&self.version.to_be_bytes());
        bytes[3..5].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[5..11].copy_from_slice(&self.seq.to_be_bytes()[2..]);
        bytes[11..13].copy_from_slice(&len.to_be_bytes());

        bytes
    }
}

/// Appends a record of epoch 0, which nothing protects.
pub fn emit_plaintext(content: ContentType, seq: u64, body: &[u8], out: &mut Vec<u8>) {
    let header = RecordHeader {
        content,
        version: DTLS_1_2,
        epoch: 0,
        seq,
        len: body.len(),
    };
    header.emit(out);
    out.extend_from_slice(body);
}

/// Walks the records of a datagram: header and body of each, up to the first
/// that is malformed or cut off.
#[must_use]
pub fn records(datagram: &[u8]) -> Records<'_> {
    Records { rest: datagram }
}

/// The iterator behind [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = (RecordHeader, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = RecordHeader::parse(self.rest)?;
        let (body, rest) = self.rest[RECORD_HEADER..].split_at_checked(header.len)?;
        self.rest = rest;

        Some((header, body))
    }
}

/// What a datagram is, by its first record: enough to choose who handles it,
/// trusted for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A ClientHello in the clear, or the first fragment of one.
    Hello,
    /// Another handshake message, or a ChangeCipherSpec, in the clear.
    Handshake,
    /// An alert in the clear.
    Alert,
    /// A protected record.
    Epoch1(ContentType),
    /// Not a whole DTLS record, or one that no peer of ours sends.
    Other,
}

/// Takes the first look at a datagram.
#[must_use]
pub fn look(datagram: &[u8]) -> Look {
    let Some((header, body)) = records(datagram).next() else {
        return Look::Other;
    };
    match (header.epoch, header.content) {
        (0, ContentType::Handshake) if body.first() == Some(&CLIENT_HELLO) => Look::Hello,
        (0, ContentType::Handshake | ContentType::ChangeCipherSpec) => Look::Handshake,
        (0, ContentType::Alert) => Look::Alert,
        (1, content) => Look::Epoch1(content),
        _ => Look::Other,
    }
}

const CLIENT_HELLO: u8 = 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = RecordHeader> {
        (
            20u8..24,
            prop::bool::ANY,
            any::<u16>(),
            0..1u64 << 48,
            0..=MAX_CIPHERTEXT,
        )
            .prop_map(|(content, first, epoch, seq, len)| RecordHeader {
                content: ContentType::from_byte(content).unwrap(),
                version: if first { DTLS_1_0 } else { DTLS_1_2 },
                epoch,
                seq,
                len,
            })
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed_back(header in header(), tail: [u8; 3]) {
            let mut bytes = Vec::new();
            header.emit(&mut bytes);
            prop_assert_eq!(bytes.len(), RECORD_HEADER);
            bytes.extend(tail);

            prop_assert_eq!(RecordHeader::parse(&bytes), Some(header));
        }

        #[test]
        fn records_are_the_front_of_the_datagram(
            wholes in prop::collection::vec((header(), 0usize..40), 0..4),
            tail in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut datagram = Vec::new();
            for (header, len) in &wholes {
                RecordHeader { len: *len, ..*header }.emit(&mut datagram);
                datagram.resize(datagram.len() + len, 0xAB);
            }
            datagram.extend(tail);

            let mut walked = Vec::new();
            let mut count = 0;
            for (header, body) in records(&datagram) {
                prop_assert_eq!(header.len, body.len());
                header.emit(&mut walked);
                walked.extend(body);
                count += 1;
            }

            prop_assert!(count >= wholes.len());
            prop_assert!(datagram.starts_with(&walked));
        }
    }

    #[test]
    fn the_fields_stand_where_rfc_6347_has_them() {
        let bytes = [
            22, 0xFE, 0xFD, 0x01, 0x02, 1, 2, 3, 4, 5, 6, 0x12, 0x34, 0xFF,
        ];

        assert_eq!(
            RecordHeader::parse(&bytes),
            Some(RecordHeader {
                content: ContentType::Handshake,
                version: DTLS_1_2,
                epoch: 0x0102,
                seq: 0x0102_0304_0506,
                len: 0x1234,
            })
        );
    }

    #[test]
    fn what_is_no_dtls_header_is_refused() {
        let good = [23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(RecordHeader::parse(&good).is_some());

        assert_eq!(RecordHeader::parse(&good[..12]), None);
        for (at, byte) in [
            (0, 19),
            (0, 24),  // A heartbeat.
            (1, 3),   // TLS.
            (2, 252), // DTLS 1.3.
            (2, 254), // Nothing.
            (11, 0x49),
        ] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(RecordHeader::parse(&bad), None, "byte {at} = {byte}");
        }
    }

    #[test]
    fn the_first_record_says_what_a_datagram_is() {
        let datagram = |content: u8, epoch: u8, first: u8| {
            [content, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 1, 0, 1, first]
        };

        assert_eq!(look(&datagram(22, 0, 1)), Look::Hello);
        assert_eq!(look(&datagram(22, 0, 16)), Look::Handshake);
        assert_eq!(look(&datagram(20, 0, 1)), Look::Handshake);
        assert_eq!(look(&datagram(21, 0, 1)), Look::Alert);
        assert_eq!(
            look(&datagram(23, 1, 0)),
            Look::Epoch1(ContentType::ApplicationData)
        );
        assert_eq!(
            look(&datagram(22, 1, 1)),
            Look::Epoch1(ContentType::Handshake)
        );
        assert_eq!(look(&datagram(23, 0, 0)), Look::Other);
        assert_eq!(look(&datagram(23, 2, 0)), Look::Other);
        assert_eq!(look(&datagram(22, 0, 1)[..13]), Look::Other); // Cut off.
        assert_eq!(look(&[]), Look::Other);
    }
}
