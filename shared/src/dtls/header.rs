//! The record header (RFC 6347, section 4.1) and walking a datagram's records.

/// What a record carries (RFC 5246, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
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

/// Walks the records of a datagram; yields header and body, ends at the first malformed byte.
pub struct Records<'a> {
    pub(crate) rest: &'a [u8],
}
