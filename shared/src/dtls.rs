//! DTLS 1.2 with a plain pre-shared key (RFC 6347, 5246, 4279): the bytes of
//! records and handshake messages, and the key schedule. Pure.
//!
//! Parsing is strict: a message's fields fill it exactly, and what is not
//! well-formed is `None`, never an error, because anyone can send it.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

pub mod alert;
pub mod fragment;
pub mod header;
pub mod hmac;
pub mod message;
mod reader;
pub mod schedule;
mod suite;

pub use suite::CipherSuite;

/// Length of the explicit record header (RFC 6347, section 4.1).
pub const RECORD_HEADER: usize = 13;

/// DTLS 1.2 on the wire.
pub const DTLS_1_2: u16 = 0xFEFD;

/// DTLS 1.0: what a first record and a HelloVerifyRequest may still say.
pub const DTLS_1_0: u16 = 0xFEFF;

/// Longest content of a record (RFC 5246, section 6.2.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;

/// Longest body of a record: protection may add this much to the content
/// (RFC 5246, section 6.2.3).
pub const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 2048;
