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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dtls::header::records;
    use crate::dtls::message::{HandshakeType, fragments};
    use crate::hex::unhex;

    /// A ClientHello with one extension block, whatever is in it.
    fn client_hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend([7; 32]);
        body.extend([0, 0, 0, 2, 0x00, 0xA8, 1, 0]);
        put_vec16(extensions, &mut body);

        body
    }

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..=max)
    }

    proptest! {
        #[test]
        fn a_client_hello_is_parsed_back_and_filled_exactly(
            random: [u8; 32],
            session_id in bytes(32),
            cookie in bytes(255),
            codes in prop::collection::vec(any::<u16>(), 1..40),
            extended_master_secret: bool,
            extension: bool,
            extra: u8,
        ) {
            let codes: Vec<u8> = codes.into_iter().flat_map(u16::to_be_bytes).collect();
            let suites = Suites::parse(&codes).unwrap();
            let hello = ClientHello {
                random,
                session_id: &session_id,
                cookie: &cookie,
                suites,
                extended_master_secret,
                renegotiation_info: extension || suites.contains(RENEGOTIATION_SCSV),
            };
            let mut body = Vec::new();
            hello.emit(&mut body);

            prop_assert_eq!(ClientHello::parse(&body), Some(hello));
            body.push(extra);
            prop_assert_eq!(ClientHello::parse(&body), None);
        }

        #[test]
        fn a_server_hello_is_parsed_back_and_filled_exactly(
            random: [u8; 32],
            session_id in bytes(32),
            suite: u16,
            extended_master_secret: bool,
            renegotiation_info: bool,
            extra: u8,
        ) {
            let hello = ServerHello {
                random,
                session_id: &session_id,
                suite,
                extended_master_secret,
                renegotiation_info,
            };
            let mut body = Vec::new();
            hello.emit(&mut body);

            prop_assert_eq!(ServerHello::parse(&body), Some(hello));
            body.push(extra);
            prop_assert_eq!(ServerHello::parse(&body), None);
        }

        #[test]
        fn a_verify_request_is_parsed_back_and_filled_exactly(cookie in bytes(255), extra: u8) {
            let request = HelloVerifyRequest { cookie: &cookie };
            let mut body = Vec::new();
            request.emit(&mut body);

            prop_assert_eq!(HelloVerifyRequest::parse(&body), Some(request));
            prop_assert_eq!(HelloVerifyRequest::parse(&body[..body.len() - 1]), None);
            body.push(extra);
            prop_assert_eq!(HelloVerifyRequest::parse(&body), None);
        }

        #[test]
        fn a_mutated_hello_is_parsed_without_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            len: prop::sample::Index,
        ) {
            let mut body = client_hello(&[0, 0x17, 0, 0, 0xFF, 1, 0, 1, 0]);
            for (at, byte) in changes {
                let at = at.index(body.len());
                body[at] = byte;
            }
            body.truncate(len.index(body.len() + 1));

            let _ = ClientHello::parse(&body);
            let _ = ServerHello::parse(&body);
            let _ = HelloVerifyRequest::parse(&body);
        }
    }

    #[test]
    fn the_hellos_of_openssl_and_gnutls_are_understood() {
        let hellos = [
            // OpenSSL 3.0: renegotiation as a suite.
            (
                "16feff000000000000000000760100006a000000000000006afefdfab0be4fc96bdfa1c98b5750\
                 4357dbafe38fb9daadfbc33f17079a981db736280000000600a8c0a800ff0100003a0023000000\
                 16000000170000000d002a0028040305030603080708080809080a080b08040805080604010501\
                 0601030303010302040205020602",
                &[0x00A8, 0xC0A8, 0x00FF][..],
            ),
            // GnuTLS 3.7: renegotiation as an extension.
            (
                "16fefd0000000000000000008a0100007e000000000000007efefd496a15bf81d126d3ec2c2d72\
                 d6e7df6ebb78ae8559f91eba311f0702ee18d0530000000e00a9ccabc0a5008d00a8c0a4008c01\
                 000046000500050100000000000d00220020040108090804040308070501080a08050503080806\
                 01080b0806060302010203001600000017000000230000ff01000100001c00024000",
                &[0x00A9, 0xCCAB, 0xC0A5, 0x008D, 0x00A8, 0xC0A4, 0x008C],
            ),
        ];

        for (datagram, suites) in hellos {
            let datagram = unhex(datagram);
            let (_, body) = records(&datagram).next().unwrap();
            let fragment = fragments(body).next().unwrap();
            assert_eq!(fragment.kind, HandshakeType::ClientHello);
            assert!(fragment.is_whole());

            let hello = ClientHello::parse(fragment.body).unwrap();
            assert_eq!(hello.suites.iter().collect::<Vec<_>>(), suites);
            assert!(hello.extended_master_secret);
            assert!(hello.renegotiation_info);
            assert!(hello.session_id.is_empty());
            assert!(hello.cookie.is_empty());
        }
    }

    #[test]
    fn extensions_are_wellformed_and_come_once() {
        let understood = |extensions: &[u8]| {
            ClientHello::parse(&client_hello(extensions))
                .map(|hello| (hello.extended_master_secret, hello.renegotiation_info))
        };

        assert_eq!(understood(&[]), Some((false, false)));
        assert_eq!(
            understood(&[0x12, 0x34, 0, 2, 9, 9]),
            Some((false, false)),
            "unknown"
        );
        assert_eq!(understood(&[0, 0x17, 0, 0]), Some((true, false)));
        assert_eq!(understood(&[0xFF, 1, 0, 1, 0]), Some((false, true)));

        assert_eq!(understood(&[0, 0x17, 0, 0, 0, 0x17, 0, 0]), None, "twice");
        assert_eq!(understood(&[5, 5, 0, 0, 0, 0x17, 0, 0, 5, 5, 0, 0]), None);
        assert_eq!(understood(&[0, 0x17, 0, 1, 0]), None, "with content");
        assert_eq!(
            understood(&[0xFF, 1, 0, 2, 1, 7]),
            None,
            "of another handshake"
        );
        assert_eq!(understood(&[0xFF, 1, 0, 0]), None);
        assert_eq!(understood(&[0x12, 0x34, 0, 3, 9, 9]), None, "too short");
        assert_eq!(understood(&[0x12]), None);
    }

    #[test]
    fn the_number_of_extensions_is_bounded() {
        let block = |count: u16| -> Vec<u8> {
            (0x1000..0x1000 + count)
                .flat_map(|kind| [(kind >> 8) as u8, kind as u8, 0, 0])
                .collect()
        };

        assert!(ClientHello::parse(&client_hello(&block(64))).is_some());
        assert_eq!(ClientHello::parse(&client_hello(&block(65))), None);
    }

    #[test]
    fn a_client_hello_that_breaks_a_rule_is_refused() {
        let hello = |version: [u8; 2], session_id: usize, suites: &[u8], compression: &[u8]| {
            let mut body = version.to_vec();
            body.extend([7; 32]);
            put_vec8(&vec![1; session_id], &mut body);
            put_vec8(&[], &mut body);
            put_vec16(suites, &mut body);
            put_vec8(compression, &mut body);
            ClientHello::parse(&body).is_some()
        };

        assert!(hello([0xFE, 0xFD], 32, &[0, 0xA8], &[1, 0]));
        assert!(hello([0xFE, 0xFC], 0, &[0, 0xA8], &[0])); // DTLS 1.3 and lower.

        assert!(!hello([0xFE, 0xFF], 0, &[0, 0xA8], &[0])); // DTLS 1.0 only.
        assert!(!hello([3, 3], 0, &[0, 0xA8], &[0])); // TLS.
        assert!(!hello([0xFE, 0xFD], 33, &[0, 0xA8], &[0]));
        assert!(!hello([0xFE, 0xFD], 0, &[0, 0xA8, 0], &[0]));
        assert!(!hello([0xFE, 0xFD], 0, &[], &[0]));
        assert!(!hello([0xFE, 0xFD], 0, &[0, 0xA8], &[1]));
        assert!(!hello([0xFE, 0xFD], 0, &[0, 0xA8], &[]));
    }

    #[test]
    fn a_server_hello_that_breaks_a_rule_is_refused() {
        let hello = |version: u8, session_id: usize, compression: u8| {
            let mut body = vec![0xFE, version];
            body.extend([7; 32]);
            put_vec8(&vec![1; session_id], &mut body);
            body.extend([0, 0xA8, compression]);
            ServerHello::parse(&body).is_some()
        };

        assert!(hello(0xFD, 32, 0));
        assert!(!hello(0xFF, 0, 0));
        assert!(!hello(0xFC, 0, 0));
        assert!(!hello(0xFD, 33, 0));
        assert!(!hello(0xFD, 0, 1));
    }
}
