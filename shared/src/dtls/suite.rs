//! The three suites dtun speaks (RFC 5487, RFC 6655).

/// A PSK cipher suite with AES-128. All three take two 16-byte keys and two
/// 4-byte salts from the key block and prefix the ciphertext with an 8-byte
/// explicit nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// `TLS_PSK_WITH_AES_128_GCM_SHA256`, 16-byte tag.
    Gcm,
    /// `TLS_PSK_WITH_AES_128_CCM`, 16-byte tag.
    Ccm,
    /// `TLS_PSK_WITH_AES_128_CCM_8`, 8-byte tag; the only one the Go program speaks.
    Ccm8,
}

impl CipherSuite {
    /// In order of preference.
    pub const ALL: [Self; 3] = [Self::Gcm, Self::Ccm, Self::Ccm8];

    /// The suite of an IANA code point, if it is one of ours.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.code() == code)
    }

    /// The IANA code point.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Gcm => 0x00A8,
            Self::Ccm => 0xC0A4,
            Self::Ccm8 => 0xC0A8,
        }
    }

    /// Length of the authentication tag in bytes.
    #[must_use]
    pub fn tag_len(self) -> usize {
        match self {
            Self::Gcm | Self::Ccm => 16,
            Self::Ccm8 => 8,
        }
    }

    /// Bytes a record adds to its content: header, explicit nonce, tag.
    #[must_use]
    pub fn overhead(self) -> usize {
        super::RECORD_HEADER + 8 + self.tag_len()
    }
}

impl std::fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gcm => "AES-128-GCM",
            Self::Ccm => "AES-128-CCM",
            Self::Ccm8 => "AES-128-CCM-8",
        })
    }
}
