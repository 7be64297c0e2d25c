//! ClientHello, HelloVerifyRequest, ServerHello, and their extensions.

use super::super::reader::{Reader, put_vec8, put_vec16};
use super::super::{DTLS_1_0, DTLS_1_2};

/// RFC 6347, section 4.2.1. Borrows all that it holds: a hello without a
/// cookie must cost no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    pub random: [u8; 32],
    pub session_id: &'a [u8],
    pub cookie: &'a [u8],
    pub suites: Suites<'a>,
    /// RFC 7627.
    pub extended_master_secret: bool,
    /// RFC 5746, offered by extension or as [`RENEGOTIATION_SCSV`].
    pub renegotiation_info: bool,
}

impl<'a> ClientHello<'a> {
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        // Versions count downwards; a newer client also takes DTLS 1.2.
        let version = reader.u16()?;
        if version >> 8 != DTLS_1_2 >> 8 || version > DTLS_1_2 {
            return None;
        }
        let random = reader.array()?;
        let session_id = session_id(&mut reader)?;
        let cookie = reader.vec8()?;
        let suites = Suites::parse(reader.vec16()?)?;
        if !reader.vec8()?.contains(&NULL_COMPRESSION) {
            return None;
        }
        let extensions = Extensions::parse(reader)?;

        Some(Self {
            random,
            session_id,
            cookie,
            suites,
            extended_master_secret: extensions.extended_master_secret,
            renegotiation_info: extensions.renegotiation_info
                || suites.contains(RENEGOTIATION_SCSV),
        })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&DTLS_1_2.to_be_bytes());
        out.extend_from_slice(&self.random);
        put_vec8(self.session_id, out);
        put_vec8(self.cookie, out);
        put_vec16(self.suites.0, out);
        put_vec8(&[NULL_COMPRESSION], out);
        let extensions = Extensions {
            extended_master_secret: self.extended_master_secret,
            renegotiation_info: self.renegotiation_info,
        };
        extensions.emit(out);
    }
}

/// The suites that a client offers, as the bytes they came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suites<'a>(&'a [u8]);

impl<'a> Suites<'a> {
    /// Takes big-endian code points, at least one.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len().is_multiple_of(2)).then_some(Self(bytes))
    }

    pub fn iter(self) -> impl Iterator<Item = u16> + use<'a> {
        self.0
            .chunks_exact(2)
            .map(|code| u16::from_be_bytes([code[0], code[1]]))
    }

    #[must_use]
    pub fn contains(self, code: u16) -> bool {
        self.iter().any(|offered| offered == code)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloVerifyRequest<'a> {
    pub cookie: &'a [u8],
}

impl<'a> HelloVerifyRequest<'a> {
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let version = reader.u16()?;
        if version != DTLS_1_0 && version != DTLS_1_2 {
            return None;
        }
        let cookie = reader.vec8()?;
        reader.end()?;

        Some(Self { cookie })
    }

    /// Says DTLS 1.0, as RFC 6347, section 4.2.1 wants whatever is negotiated.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&DTLS_1_0.to_be_bytes());
        put_vec8(self.cookie, out);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello<'a> {
    pub random: [u8; 32],
    pub session_id: &'a [u8],
    /// The code point chosen; one of ours or not.
    pub suite: u16,
    pub extended_master_secret: bool,
    pub renegotiation_info: bool,
}

impl<'a> ServerHello<'a> {
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        if reader.u16()? != DTLS_1_2 {
            return None;
        }
        let random = reader.array()?;
        let session_id = session_id(&mut reader)?;
        let suite = reader.u16()?;
        if reader.u8()? != NULL_COMPRESSION {
            return None;
        }
        let extensions = Extensions::parse(reader)?;

        Some(Self {
            random,
            session_id,
            suite,
            extended_master_secret: extensions.extended_master_secret,
            renegotiation_info: extensions.renegotiation_info,
        })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&DTLS_1_2.to_be_bytes());
        out.extend_from_slice(&self.random);
        put_vec8(self.session_id, out);
        out.extend_from_slice(&self.suite.to_be_bytes());
        out.push(NULL_COMPRESSION);
        let extensions = Extensions {
            extended_master_secret: self.extended_master_secret,
            renegotiation_info: self.renegotiation_info,
        };
        extensions.emit(out);
    }
}

/// The two extensions that matter to a PSK handshake; others are skipped.
#[derive(Default)]
struct Extensions {
    extended_master_secret: bool,
    renegotiation_info: bool,
}

impl Extensions {
    /// Parses the rest of a hello. No block at all is well-formed.
    fn parse(mut reader: Reader<'_>) -> Option<Self> {
        let mut extensions = Self::default();
        if reader.0.is_empty() {
            return Some(extensions);
        }
        let mut block = Reader(reader.vec16()?);
        reader.end()?;

        let mut seen = [0; MAX_EXTENSIONS];
        for count in 0.. {
            if block.0.is_empty() {
                break;
            }
            let kind = block.u16()?;
            let content = block.vec16()?;
            if seen[..count].contains(&kind) {
                return None;
            }
            *seen.get_mut(count)? = kind;

            match kind {
                EXTENDED_MASTER_SECRET if content.is_empty() => {
                    extensions.extended_master_secret = true;
                }
                // In a first handshake there is no earlier connection to name.
                RENEGOTIATION_INFO if content == [0] => extensions.renegotiation_info = true,
                EXTENDED_MASTER_SECRET | RENEGOTIATION_INFO => return None,
                _ => {}
            }
        }

        Some(extensions)
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let mut block = Vec::new();
        if self.extended_master_secret {
            block.extend_from_slice(&EXTENDED_MASTER_SECRET.to_be_bytes());
            put_vec16(&[], &mut block);
        }
        if self.renegotiation_info {
            block.extend_from_slice(&RENEGOTIATION_INFO.to_be_bytes());
            put_vec16(&[0], &mut block);
        }
        if !block.is_empty() {
            put_vec16(&block, out);
        }
    }
}

fn session_id<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    reader.vec8().filter(|id| id.len() <= 32)
}

/// "renegotiation_info" said as a cipher suite (RFC 5746, section 3.3).
pub const RENEGOTIATION_SCSV: u16 = 0x00FF;

const EXTENDED_MASTER_SECRET: u16 = 0x0017;
const RENEGOTIATION_INFO: u16 = 0xFF01;
const NULL_COMPRESSION: u8 = 0;

/// More than any client sends, and few enough that looking for duplicates
/// stays cheap however long the hello.
const MAX_EXTENSIONS: usize = 64;
