//! Sealing and opening records of a protected epoch (RFC 6347, section 4.1.2;
//! RFC 5288; RFC 6655).
//!
//! `header(13) explicit_nonce(8) ciphertext tag(16 or 8)`. The explicit nonce of
//! our records is epoch and sequence number, so it repeats only if those do; a
//! foreign peer's may be random and is taken from the record.

mod ccm;
mod gcm;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use crate::dtls::header::{ContentType, RecordHeader};
use crate::dtls::schedule::DirectionKey;
use crate::dtls::{CipherSuite, DTLS_1_2, MAX_PLAINTEXT, RECORD_HEADER};
use crate::replay::{self, ReplayWindow};

/// Seals one direction of one epoch. Shared by reference between threads: each
/// record takes the next number of one counter.
pub struct Sealer {
    cipher: Cipher,
    salt: Zeroizing<[u8; 4]>,
    epoch: u16,
    next: AtomicU64,
}

impl Sealer {
    /// `next_seq` is the first number that nobody has used under this key.
    #[must_use]
    pub fn new(suite: CipherSuite, key: &DirectionKey, epoch: u16, next_seq: u64) -> Self {
        Self {
            cipher: Cipher::new(suite, &key.key),
            salt: key.salt.clone(),
            epoch,
            next: AtomicU64::new(next_seq),
        }
    }

    /// Appends one whole record to `out`, or leaves `out` alone.
    pub fn seal(
        &self,
        content: ContentType,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), NotSealed> {
        if plain.len() > MAX_PLAINTEXT {
            return Err(NotSealed::TooLong);
        }
        // Past the end the counter goes on counting, 64 bits wide: no call
        // brings it back to a used number.
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        if seq > MAX_SEQ {
            return Err(NotSealed::Exhausted);
        }

        let header = RecordHeader {
            content,
            version: DTLS_1_2,
            epoch: self.epoch,
            seq,
            len: EXPLICIT_NONCE + plain.len() + self.cipher.tag_len(),
        };
        let explicit = explicit_nonce(self.epoch, seq);
        header.emit(out);
        out.extend_from_slice(&explicit);
        let start = out.len();
        out.extend_from_slice(plain);
        self.cipher.seal(
            nonce(&self.salt, explicit),
            aad(&header, plain.len()),
            start,
            out,
        );

        Ok(())
    }

    /// How many sequence numbers of this epoch are used up, by whomever.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(MAX_SEQ + 1)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("epoch", &self.epoch)
            .field("sealed", &self.sealed())
            .finish_non_exhaustive()
    }
}

/// Opens one direction of one epoch.
pub struct Opener {
    cipher: Cipher,
    salt: Zeroizing<[u8; 4]>,
    epoch: u16,
    window: ReplayWindow,
}

impl Opener {
    #[must_use]
    pub fn new(suite: CipherSuite, key: &DirectionKey, epoch: u16) -> Self {
        Self {
            cipher: Cipher::new(suite, &key.key),
            salt: key.salt.clone(),
            epoch,
            window: ReplayWindow::default(),
        }
    }

    /// Opens one whole record, header included, in place. What is refused
    /// leaves no trace in `self`; `record` is then garbage.
    pub fn open<'a>(
        &mut self,
        record: &'a mut [u8],
    ) -> Result<(ContentType, &'a mut [u8]), Refused> {
        let header = RecordHeader::parse(record).ok_or(Refused::Malformed)?;
        if header.version != DTLS_1_2 || record.len() != RECORD_HEADER + header.len {
            return Err(Refused::Malformed);
        }
        let plain_len = header
            .len
            .checked_sub(EXPLICIT_NONCE + self.cipher.tag_len())
            .filter(|&len| len <= MAX_PLAINTEXT)
            .ok_or(Refused::Malformed)?;
        if header.epoch != self.epoch {
            return Err(Refused::WrongEpoch);
        }
        self.window.check(header.seq)?;

        let (explicit, sealed) = record[RECORD_HEADER..]
            .split_first_chunk_mut::<EXPLICIT_NONCE>()
            .ok_or(Refused::Malformed)?;
        self.cipher.open(
            nonce(&self.salt, *explicit),
            aad(&header, plain_len),
            sealed,
        )?;
        self.window.accept(header.seq)?;

        Ok((header.content, &mut sealed[..plain_len]))
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Why a record was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSealed {
    #[error("every sequence number of the epoch is used")]
    Exhausted,
    #[error("content is longer than a record")]
    TooLong,
}

/// Why a record was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    #[error("not one well-formed record")]
    Malformed,
    #[error("record belongs to another epoch")]
    WrongEpoch,
    #[error("sequence number was already received")]
    Duplicate,
    #[error("sequence number is older than the window")]
    Stale,
    #[error("record does not authenticate")]
    Forged,
}

impl From<replay::Refused> for Refused {
    fn from(refused: replay::Refused) -> Self {
        match refused {
            replay::Refused::Duplicate => Self::Duplicate,
            replay::Refused::Stale => Self::Stale,
        }
    }
}

/// One key in the suite that was negotiated.
enum Cipher {
    Gcm(gcm::Gcm),
    Ccm(ccm::Ccm),
    Ccm8(ccm::Ccm8),
}

impl Cipher {
    fn new(suite: CipherSuite, key: &[u8; 16]) -> Self {
        match suite {
            CipherSuite::Gcm => Self::Gcm(gcm::Gcm::new(key)),
            CipherSuite::Ccm => Self::Ccm(ccm::Ccm::new(key)),
            CipherSuite::Ccm8 => Self::Ccm8(ccm::Ccm8::new(key)),
        }
    }

    fn tag_len(&self) -> usize {
        match self {
            Self::Gcm(_) => CipherSuite::Gcm,
            Self::Ccm(_) => CipherSuite::Ccm,
            Self::Ccm8(_) => CipherSuite::Ccm8,
        }
        .tag_len()
    }

    /// Encrypts `out[start..]` and appends the tag.
    fn seal(&self, nonce: [u8; 12], aad: [u8; AAD], start: usize, out: &mut Vec<u8>) {
        match self {
            Self::Gcm(gcm) => gcm.seal(nonce, aad, start, out),
            Self::Ccm(ccm) => ccm.seal(nonce, aad, start, out),
            Self::Ccm8(ccm8) => ccm8.seal(nonce, aad, start, out),
        }
    }

    /// Decrypts ciphertext and tag; the plaintext stands in front.
    fn open(&self, nonce: [u8; 12], aad: [u8; AAD], sealed: &mut [u8]) -> Result<(), Refused> {
        match self {
            Self::Gcm(gcm) => gcm.open(nonce, aad, sealed),
            Self::Ccm(ccm) => ccm.open(nonce, aad, sealed),
            Self::Ccm8(ccm8) => ccm8.open(nonce, aad, sealed),
        }
    }
}

fn explicit_nonce(epoch: u16, seq: u64) -> [u8; EXPLICIT_NONCE] {
    (u64::from(epoch) << 48 | seq).to_be_bytes()
}

fn nonce(salt: &[u8; 4], explicit: [u8; EXPLICIT_NONCE]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(salt);
    nonce[4..].copy_from_slice(&explicit);

    nonce
}

/// RFC 5246, section 6.2.3.3: `epoch+seq(8) type(1) version(2) plaintext_length(2)`.
fn aad(header: &RecordHeader, plain_len: usize) -> [u8; AAD] {
    let len = u16::try_from(plain_len).expect("content is at most 2^14 bytes long");
    let mut aad = [0; AAD];
    aad[..8].copy_from_slice(&explicit_nonce(header.epoch, header.seq));
    aad[8] = header.content.byte();
    aad[9..11].copy_from_slice(&header.version.to_be_bytes());
    aad[11..].copy_from_slice(&len.to_be_bytes());

    aad
}

const MAX_SEQ: u64 = (1 << 48) - 1;
const EXPLICIT_NONCE: usize = 8;
const AAD: usize = 13;
