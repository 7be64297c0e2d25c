//! HMAC-SHA256 (RFC 2104), by ring, which every CPU has that a C compiler has.

use std::hint::black_box;

use ring::hmac;

/// A key, wiped on drop.
pub struct Key(hmac::Key);

impl Key {
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The tag of `parts`, one after the other.
    #[must_use]
    pub fn tag<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }

        *context
            .sign()
            .as_ref()
            .first_chunk()
            .expect("SHA-256 makes 32 bytes")
    }
}

impl Drop for Key {
    /// ring wipes nothing: another key takes the place of this one.
    fn drop(&mut self) {
        self.0 = hmac::Key::new(hmac::HMAC_SHA256, &[]);
        black_box(&self.0);
    }
}
