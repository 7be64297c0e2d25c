//! AES-128-GCM (RFC 5288), by aws-lc.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{AAD, Refused};

/// "Less safe" because the nonce is the caller's: `record.rs` makes it unique.
pub(super) struct Gcm(LessSafeKey);

impl Gcm {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, key).expect("the key has the cipher's length");

        Self(LessSafeKey::new(key))
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
            Err(aws_lc_rs::error::Unspecified) => Err(Refused::Forged),
        }
    }
}
