//! AES-128-GCM (RFC 5288), by ring.
//!
//! Of the two libraries at hand ring is the faster one where the processor has
//! VAES but no AVX-512: a record of 1400 bytes took 335 ns against 560 ns by
//! aws-lc-rs, one of 100 bytes 145 ns against 205 ns (Zen 3, `cargo bench -p
//! dtun-shared --bench records aead`). It also builds with a C compiler alone.

use std::hint::black_box;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{AAD, Refused};

/// "Less safe" because the nonce is the caller's: `record.rs` makes it unique.
pub(super) struct Gcm(LessSafeKey);

impl Gcm {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(expand(key))
    }

    pub(super) fn seal(&self, nonce: [u8; 12], aad: [u8; AAD], text: &mut [u8], tag: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let made = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
            .expect("a record is far below the cipher's limit");
        tag.copy_from_slice(made.as_ref());
    }

    pub(super) fn open(
        &self,
        nonce: [u8; 12],
        aad: [u8; AAD],
        sealed: &mut [u8],
    ) -> Result<(), Refused> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        match self.0.open_in_place(nonce, Aad::from(aad), sealed) {
            Ok(_) => Ok(()),
            Err(ring::error::Unspecified) => Err(Refused::Forged),
        }
    }
}

impl Drop for Gcm {
    /// ring wipes nothing: another key's schedule takes the place of this one's.
    fn drop(&mut self) {
        self.0 = expand(&[0; 16]);
        black_box(&self.0);
    }
}

fn expand(key: &[u8; 16]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_128_GCM, key).expect("the key has the cipher's length");

    LessSafeKey::new(key)
}
