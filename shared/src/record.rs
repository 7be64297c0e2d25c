//! Sealing and opening records of a protected epoch (RFC 6347, section 4.1.2;
//! RFC 5288; RFC 6655).
//!
//! `header(13) explicit_nonce(8) ciphertext tag(16 or 8)`. The explicit nonce of
//! our records is epoch and sequence number, so it repeats only if those do; a
//! foreign peer's may be random and is taken from the record.

mod ccm;
mod gcm;

use std::fmt;
use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;
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
        let start = out.len();
        let at = start + Self::PLAIN_AT;
        out.resize(start + plain.len() + self.overhead(), 0);
        out[at..at + plain.len()].copy_from_slice(plain);

        self.seal_in_place(content, &mut out[start..])
            .inspect_err(|_| out.truncate(start))
    }

    /// Makes a record of the content that stands in `record` from
    /// [`Self::PLAIN_AT`] on, [`Self::overhead`] bytes shorter than `record`;
    /// what surrounds it is written over.
    pub fn seal_in_place(&self, content: ContentType, record: &mut [u8]) -> Result<(), NotSealed> {
        let plain_len = record.len() - self.overhead();
        if plain_len > MAX_PLAINTEXT {
            return Err(NotSealed::TooLong);
        }
        // The only place that takes numbers. Each call gets another one,
        // whatever the thread and the batch, and a record that is then lost
        // takes its number along: no nonce is used twice under one key. Past
        // the end the counter goes on, 64 bits wide: it comes back to none.
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        if seq > MAX_SEQ {
            return Err(NotSealed::Exhausted);
        }

        let header = RecordHeader {
            content,
            version: DTLS_1_2,
            epoch: self.epoch,
            seq,
            len: record.len() - RECORD_HEADER,
        };
        let explicit = explicit_nonce(self.epoch, seq);
        let (head, rest) = record.split_at_mut(Self::PLAIN_AT);
        head[..RECORD_HEADER].copy_from_slice(&header.bytes());
        head[RECORD_HEADER..].copy_from_slice(&explicit);
        let (plain, tag) = rest.split_at_mut(plain_len);
        self.cipher.seal(
            nonce(&self.salt, explicit),
            aad(&header, plain_len),
            plain,
            tag,
        );

        Ok(())
    }

    /// Bytes that a record adds to its content.
    #[must_use]
    pub fn overhead(&self) -> usize {
        Self::PLAIN_AT + self.cipher.tag_len()
    }

    /// Where in a record its content stands: after header and explicit nonce.
    pub const PLAIN_AT: usize = RECORD_HEADER + EXPLICIT_NONCE;

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

    /// The highest sequence number of what was opened; 0 before.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.window.newest()
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

    /// Encrypts `text` in place; `tag` has the suite's length.
    fn seal(&self, nonce: [u8; 12], aad: [u8; AAD], text: &mut [u8], tag: &mut [u8]) {
        match self {
            Self::Gcm(gcm) => gcm.seal(nonce, aad, text, tag),
            Self::Ccm(ccm) => ccm.seal(nonce, aad, text, tag),
            Self::Ccm8(ccm8) => ccm8.seal(nonce, aad, text, tag),
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::dtls::header::records;
    use crate::hex::unhex;

    fn key() -> DirectionKey {
        DirectionKey::new(
            [
                0x20, 0x23, 0x6C, 0x9E, 0x90, 0x61, 0xAC, 0x98, 0xBE, 0x50, 0x41, 0x32, 0xC6, 0x64,
                0xFC, 0x7B,
            ],
            [0x6D, 0xA8, 0x06, 0x36],
        )
    }

    fn sealed(sealer: &Sealer, content: ContentType, plain: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        sealer.seal(content, plain, &mut record).unwrap();

        record
    }

    fn suites() -> impl Strategy<Value = CipherSuite> {
        prop::sample::select(&CipherSuite::ALL[..])
    }

    /// Number 0x0102030405 of epoch 1, "attack at dawn", made with Python's
    /// `cryptography`: with our explicit nonce, and with a random one.
    const VECTORS: [(CipherSuite, &str, &str); 3] = [
        (
            CipherSuite::Gcm,
            "17fefd000100010203040500260001000102030405bd59dc9842bdc3768e79ef7a92f17f964a148785e5e8\
             480efc475e531950",
            "17fefd00010001020304050026a1b2c3d4e5f6071892e3e1ef4f487f032b1f77af950c72f1ac1e87fd8579\
             e407a5844412bee3",
        ),
        (
            CipherSuite::Ccm,
            "17fefd000100010203040500260001000102030405df06921d8981e389d084c6bd9a40549cb601cd3bdafd\
             01b09f560f3035d9",
            "17fefd00010001020304050026a1b2c3d4e5f6071834d8dc74b1e5c50082a98e5fa1fe9ddccca685579b4c\
             1b177f9ab159ab1c",
        ),
        (
            CipherSuite::Ccm8,
            "17fefd0001000102030405001e0001000102030405df06921d8981e389d084c6bd9a40c3b7fb7ba7083084",
            "17fefd0001000102030405001ea1b2c3d4e5f6071834d8dc74b1e5c50082a98e5fa1fe01fea3377e54d17b",
        ),
    ];

    #[test]
    fn records_agree_with_another_implementation() {
        for (suite, ours, random_nonce) in VECTORS {
            let sealer = Sealer::new(suite, &key(), 1, 0x01_0203_0405);
            let record = sealed(&sealer, ContentType::ApplicationData, b"attack at dawn");
            assert_eq!(record, unhex(ours), "{suite}");
            assert_eq!(record.len(), 14 + suite.overhead());

            for vector in [ours, random_nonce] {
                let mut record = unhex(vector);
                let mut opener = Opener::new(suite, &key(), 1);
                let (content, plain) = opener.open(&mut record).unwrap();
                assert_eq!(content, ContentType::ApplicationData);
                assert_eq!(plain, b"attack at dawn", "{suite}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_once(
            suite in suites(),
            content in 20u8..24,
            epoch: u16,
            seq in 0..=MAX_SEQ,
            plain in prop::collection::vec(any::<u8>(), 0..2000),
            before in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let content = ContentType::from_byte(content).unwrap();
            let sealer = Sealer::new(suite, &key(), epoch, seq);
            let mut opener = Opener::new(suite, &key(), epoch);
            let mut out = before.clone();
            sealer.seal(content, &plain, &mut out).unwrap();

            let (front, record) = out.split_at_mut(before.len());
            prop_assert_eq!(&*front, &before[..]);
            prop_assert_eq!(record.len(), plain.len() + suite.overhead());
            let mut copy = record.to_vec();
            let (opened, text) = opener.open(record).unwrap();
            prop_assert_eq!(opened, content);
            prop_assert_eq!(text, &plain[..]);
            prop_assert_eq!(opener.open(&mut copy).err(), Some(Refused::Duplicate));
        }

        #[test]
        fn arbitrary_bytes_are_refused(
            suite in suites(),
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            framed: bool,
        ) {
            if framed && bytes.len() >= RECORD_HEADER {
                let len = (bytes.len() - RECORD_HEADER) as u16;
                bytes[..5].copy_from_slice(&[23, 0xFE, 0xFD, 0, 1]);
                bytes[11..13].copy_from_slice(&len.to_be_bytes());
            }

            prop_assert!(Opener::new(suite, &key(), 1).open(&mut bytes).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused_and_leaves_no_trace() {
        for suite in CipherSuite::ALL {
            let sealer = Sealer::new(suite, &key(), 1, 5000);
            let record = sealed(&sealer, ContentType::ApplicationData, b"attack at dawn");
            let mut opener = Opener::new(suite, &key(), 1);

            for bit in 0..record.len() * 8 {
                let mut forged = record.clone();
                forged[bit / 8] ^= 1 << (bit % 8);
                let refused = opener.open(&mut forged).unwrap_err();
                let expected: &[Refused] = match bit / 8 {
                    0 => &[Refused::Malformed, Refused::Forged],
                    1 | 2 | 11 | 12 => &[Refused::Malformed],
                    3 | 4 => &[Refused::WrongEpoch],
                    _ => &[Refused::Forged],
                };
                assert!(expected.contains(&refused), "{suite} bit {bit}: {refused}");
            }

            // The forgeries with a high number would have left this one stale.
            let mut record = record;
            let (_, plain) = opener.open(&mut record).unwrap();
            assert_eq!(plain, b"attack at dawn");
        }
    }

    #[test]
    fn a_record_cut_short_or_followed_by_more_is_malformed() {
        for suite in CipherSuite::ALL {
            let sealer = Sealer::new(suite, &key(), 1, 0);
            let record = sealed(&sealer, ContentType::ApplicationData, b"");
            let mut opener = Opener::new(suite, &key(), 1);

            for len in 0..record.len() {
                let mut cut = record[..len].to_vec();
                assert_eq!(opener.open(&mut cut).unwrap_err(), Refused::Malformed);
                if len >= RECORD_HEADER {
                    let body = (len - RECORD_HEADER) as u16;
                    cut[11..13].copy_from_slice(&body.to_be_bytes());
                    assert_eq!(opener.open(&mut cut).unwrap_err(), Refused::Malformed);
                }
            }
            let mut longer = [&record[..], &[0]].concat();
            assert_eq!(opener.open(&mut longer).unwrap_err(), Refused::Malformed);
            assert!(opener.open(&mut record.clone()).is_ok());
        }
    }

    #[test]
    fn a_replay_costs_no_cryptography() {
        for suite in CipherSuite::ALL {
            let sealer = Sealer::new(suite, &key(), 1, 5);
            let mut record = sealed(&sealer, ContentType::ApplicationData, b"x");
            let mut replay = record.clone();
            let mut opener = Opener::new(suite, &key(), 1);
            opener.open(&mut record).unwrap();

            // Told apart before the tag is looked at.
            *replay.last_mut().unwrap() ^= 1;
            assert_eq!(opener.open(&mut replay).unwrap_err(), Refused::Duplicate);
        }
    }

    #[test]
    fn a_record_behind_the_window_is_stale() {
        let mut opener = Opener::new(CipherSuite::Gcm, &key(), 1);
        let record = |seq| {
            let sealer = Sealer::new(CipherSuite::Gcm, &key(), 1, seq);
            sealed(&sealer, ContentType::ApplicationData, b"x")
        };
        opener.open(&mut record(10_000)).unwrap();

        assert!(opener.open(&mut record(10_000 - 2047)).is_ok());
        assert_eq!(opener.open(&mut record(1)).unwrap_err(), Refused::Stale);
    }

    #[test]
    fn the_other_direction_and_another_suite_open_nothing() {
        let sealer = Sealer::new(CipherSuite::Ccm, &key(), 1, 0);
        let record = sealed(&sealer, ContentType::ApplicationData, b"attack at dawn");
        let other_key = DirectionKey::new([1; 16], *key().salt);
        let other_salt = DirectionKey::new(*key().key, [1; 4]);

        for (suite, key) in [
            (CipherSuite::Ccm, other_key),
            (CipherSuite::Ccm, other_salt),
            (CipherSuite::Gcm, key()),
            (CipherSuite::Ccm8, key()),
        ] {
            let mut opener = Opener::new(suite, &key, 1);
            let refused = opener.open(&mut record.clone()).unwrap_err();
            assert_eq!(refused, Refused::Forged, "{suite}");
        }
    }

    #[test]
    fn the_last_number_is_used_and_none_after_it() {
        for suite in CipherSuite::ALL {
            let sealer = Sealer::new(suite, &key(), 1, MAX_SEQ);
            let mut out = Vec::new();
            sealer
                .seal(ContentType::ApplicationData, b"last", &mut out)
                .unwrap();
            let last = out.clone();

            for _ in 0..3 {
                let refused = sealer.seal(ContentType::ApplicationData, b"more", &mut out);
                assert_eq!(refused, Err(NotSealed::Exhausted));
            }
            assert_eq!(out, last);
            assert_eq!(sealer.sealed(), 1 << 48);
        }
    }

    #[test]
    fn content_longer_than_a_record_takes_no_number() {
        let sealer = Sealer::new(CipherSuite::Gcm, &key(), 1, 3);
        let mut out = Vec::new();
        let longest = vec![0; MAX_PLAINTEXT];
        sealer
            .seal(ContentType::ApplicationData, &longest, &mut out)
            .unwrap();
        assert_eq!(sealer.sealed(), 4);
        let mut opener = Opener::new(CipherSuite::Gcm, &key(), 1);
        assert!(opener.open(&mut out).is_ok());

        let mut out = Vec::new();
        let longer = vec![0; MAX_PLAINTEXT + 1];
        let refused = sealer.seal(ContentType::ApplicationData, &longer, &mut out);
        assert_eq!(refused, Err(NotSealed::TooLong));
        assert_eq!(sealer.sealed(), 4);
        assert!(out.is_empty());
    }

    #[test]
    fn threads_never_share_a_number() {
        const EACH: usize = 5000;
        let sealer = Sealer::new(CipherSuite::Gcm, &key(), 1, 7);

        let outs: Vec<Vec<u8>> = thread::scope(|scope| {
            let seal = || {
                let mut out = Vec::new();
                for _ in 0..EACH {
                    sealer
                        .seal(ContentType::ApplicationData, b"x", &mut out)
                        .unwrap();
                }
                out
            };
            let threads = [scope.spawn(seal), scope.spawn(seal), scope.spawn(seal)];
            threads.map(|thread| thread.join().unwrap()).into()
        });

        let mut numbers = HashSet::new();
        for (header, body) in outs.iter().flat_map(|out| records(out)) {
            assert!(numbers.insert(header.seq));
            assert_eq!(body[..EXPLICIT_NONCE], explicit_nonce(1, header.seq));
        }
        assert_eq!(numbers.len(), 3 * EACH);
        assert_eq!(sealer.sealed(), 7 + 3 * EACH as u64);
    }
}
