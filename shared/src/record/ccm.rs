//! AES-128-CCM with either tag length (RFC 6655), by RustCrypto: aws-lc has no
//! CCM with 12-byte nonces.

use aes::Aes128;
use ccm::aead::generic_array::ArrayLength;
use ccm::aead::{AeadInPlace, KeyInit};
use ccm::consts::{U8, U12, U16};

use super::{AAD, Refused};

pub(super) type Ccm = WithTag<U16>;
pub(super) type Ccm8 = WithTag<U8>;

pub(super) struct WithTag<Tag>(ccm::Ccm<Aes128, Tag, U12>)
where
    Tag: ArrayLength<u8> + ccm::TagSize;

impl<Tag> WithTag<Tag>
where
    Tag: ArrayLength<u8> + ccm::TagSize,
{
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(ccm::Ccm::new(key.into()))
    }

    pub(super) fn seal(&self, nonce: [u8; 12], aad: [u8; AAD], text: &mut [u8], tag: &mut [u8]) {
        let made = self
            .0
            .encrypt_in_place_detached(&nonce.into(), &aad, text)
            .expect("a record is far below the cipher's limit");
        tag.copy_from_slice(&made);
    }

    pub(super) fn open(
        &self,
        nonce: [u8; 12],
        aad: [u8; AAD],
        sealed: &mut [u8],
    ) -> Result<(), Refused> {
        let text_len = sealed
            .len()
            .checked_sub(Tag::USIZE)
            .ok_or(Refused::Malformed)?;
        let (text, tag) = sealed.split_at_mut(text_len);
        match self
            .0
            .decrypt_in_place_detached(&nonce.into(), &aad, text, (&*tag).into())
        {
            Ok(()) => Ok(()),
            Err(ccm::Error) => Err(Refused::Forged),
        }
    }
}
