//! DTLS 1.2 with a plain pre-shared key (RFC 6347, 5246, 4279): the bytes of
//! records and handshake messages, and the key schedule. Pure.

pub mod fragment;
pub mod header;
pub mod message;
pub mod schedule;
mod suite;

pub use suite::CipherSuite;

/// Length of the explicit record header (RFC 6347, section 4.1).
pub const RECORD_HEADER: usize = 13;
