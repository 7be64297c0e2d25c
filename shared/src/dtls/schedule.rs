//! From the pre-shared key to the keys of a session (RFC 5246, sections 5, 6.3
//! and 8.1; RFC 4279, section 2; RFC 7627, section 4).
//!
//! Secrets wipe their memory on drop and say nothing in `Debug`.

use std::fmt;

use ring::digest;
use zeroize::Zeroizing;

use super::message::{HandshakeType, MESSAGE_HEADER};
use super::{CipherSuite, hmac};

/// The bytes of `-key`.
#[derive(Clone)]
pub struct Psk(Zeroizing<Vec<u8>>);

impl Psk {
    pub fn new(key: impl Into<Vec<u8>>) -> Result<Self, BadPsk> {
        let key = Zeroizing::new(key.into());
        if key.is_empty() {
            return Err(BadPsk::Empty);
        }
        if key.len() > usize::from(u16::MAX) {
            return Err(BadPsk::TooLong);
        }

        Ok(Self(key))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// RFC 4279, section 2: as many zero bytes as the key has, and the key,
    /// each with its length.
    fn premaster(&self) -> Zeroizing<Vec<u8>> {
        let len = u16::try_from(self.0.len())
            .expect("`new` refuses longer keys")
            .to_be_bytes();
        let mut premaster = Zeroizing::new(Vec::with_capacity(2 * (2 + self.0.len())));
        premaster.extend_from_slice(&len);
        premaster.resize(2 + self.0.len(), 0);
        premaster.extend_from_slice(&len);
        premaster.extend_from_slice(&self.0);

        premaster
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPsk {
    #[error("the key is empty")]
    Empty,
    #[error("the key is longer than 65535 bytes")]
    TooLong,
}

/// What both sides share after a handshake.
#[derive(Clone)]
pub struct MasterSecret(Zeroizing<[u8; 48]>);

impl MasterSecret {
    #[must_use]
    pub fn new(bytes: [u8; 48]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 48] {
        &self.0
    }

    fn derive(psk: &Psk, label: &str, seed: &[&[u8]]) -> Self {
        let mut secret = Self::new([0; 48]);
        prf(&psk.premaster(), label, seed, secret.0.as_mut_slice());

        secret
    }
}

impl fmt::Debug for MasterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterSecret(..)")
    }
}

/// RFC 5246, section 8.1.
#[must_use]
pub fn master_secret(
    psk: &Psk,
    client_random: &[u8; 32],
    server_random: &[u8; 32],
) -> MasterSecret {
    MasterSecret::derive(psk, "master secret", &[client_random, server_random])
}

/// RFC 7627, section 4. The hash covers the messages from the ClientHello to
/// the ClientKeyExchange.
#[must_use]
pub fn extended_master_secret(psk: &Psk, session_hash: &[u8; 32]) -> MasterSecret {
    MasterSecret::derive(psk, "extended master secret", &[session_hash])
}

/// The content of a Finished message; `label` is [`CLIENT_FINISHED`] or
/// [`SERVER_FINISHED`].
#[must_use]
pub fn verify_data(secret: &MasterSecret, label: &str, transcript_hash: &[u8; 32]) -> [u8; 12] {
    let mut verify_data = [0; 12];
    prf(
        secret.as_bytes(),
        label,
        &[transcript_hash],
        &mut verify_data,
    );

    verify_data
}

/// All that a finished handshake leaves behind.
#[derive(Clone, Debug)]
pub struct Secrets {
    pub suite: CipherSuite,
    pub master_secret: MasterSecret,
    pub client_random: [u8; 32],
    pub server_random: [u8; 32],
}

impl Secrets {
    /// The key block (RFC 5246, section 6.3), cut the same way for all our suites.
    #[must_use]
    pub fn keys(&self) -> SessionKeys {
        let mut block = Zeroizing::new([0; 40]);
        prf(
            self.master_secret.as_bytes(),
            "key expansion",
            &[&self.server_random, &self.client_random],
            block.as_mut_slice(),
        );

        SessionKeys {
            client: DirectionKey::new(cut(&block[..], 0), cut(&block[..], 32)),
            server: DirectionKey::new(cut(&block[..], 16), cut(&block[..], 36)),
        }
    }
}

#[derive(Clone, Debug)]
pub struct SessionKeys {
    /// Seals what the client sends.
    pub client: DirectionKey,
    /// Seals what the server sends.
    pub server: DirectionKey,
}

/// The write key and the implicit part of the nonce of one direction.
#[derive(Clone)]
pub struct DirectionKey {
    pub key: Zeroizing<[u8; 16]>,
    pub salt: Zeroizing<[u8; 4]>,
}

impl DirectionKey {
    #[must_use]
    pub fn new(key: [u8; 16], salt: [u8; 4]) -> Self {
        Self {
            key: Zeroizing::new(key),
            salt: Zeroizing::new(salt),
        }
    }
}

impl fmt::Debug for DirectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectionKey(..)")
    }
}

/// The running hash of a handshake's messages. Each counts with its header, as
/// if it had come unfragmented (RFC 6347, section 4.2.6).
#[derive(Clone)]
pub struct Transcript(digest::Context);

impl Transcript {
    /// Adds messages as they stand on the wire, unfragmented.
    pub fn add(&mut self, messages: &[u8]) {
        self.0.update(messages);
    }

    /// Adds one message by its parts.
    pub fn add_message(&mut self, kind: HandshakeType, message_seq: u16, body: &[u8]) {
        let len = u32::try_from(body.len())
            .expect("a message is shorter than 16 MiB")
            .to_be_bytes();
        let mut header = [0; MESSAGE_HEADER];
        header[0] = kind.byte();
        header[1..4].copy_from_slice(&len[1..]);
        header[4..6].copy_from_slice(&message_seq.to_be_bytes());
        header[9..12].copy_from_slice(&len[1..]);
        self.0.update(&header);
        self.0.update(body);
    }

    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        cut(self.0.clone().finish().as_ref(), 0)
    }
}

impl Default for Transcript {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transcript(..)")
    }
}

/// `P_SHA256(secret, label + seed)` of RFC 5246, section 5.
fn prf(secret: &[u8], label: &str, seed: &[&[u8]], out: &mut [u8]) {
    let key = hmac::Key::new(secret);
    let seeded = |first: &[u8]| {
        let parts = [first, label.as_bytes()];
        Zeroizing::new(key.tag(parts.into_iter().chain(seed.iter().copied())))
    };

    let mut a = seeded(&[]);
    for block in out.chunks_mut(32) {
        block.copy_from_slice(&seeded(&*a)[..block.len()]);
        a = Zeroizing::new(key.tag([&a[..]]));
    }
}

fn cut<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    *bytes[from..]
        .first_chunk()
        .expect("the layout lies within the block")
}

pub const CLIENT_FINISHED: &str = "client finished";
pub const SERVER_FINISHED: &str = "server finished";

/// Expectations made with Python's `hmac` and `hashlib`.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::unhex;

    fn randoms() -> ([u8; 32], [u8; 32]) {
        (
            std::array::from_fn(|i| i as u8),
            std::array::from_fn(|i| i as u8 + 32),
        )
    }

    /// The vector that the TLS working group published for P_SHA256.
    #[test]
    fn the_prf_agrees_with_the_published_vector() {
        let secret = unhex("9bbe436ba940f017b17652849a71db35");
        let seed = unhex("a0ba9f936cda311827a6f796ffd5198c");
        let (head, tail) = seed.split_at(5);
        let mut out = [0; 100];
        prf(&secret, "test label", &[head, tail], &mut out);

        assert_eq!(
            out.to_vec(),
            unhex(
                "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35\
                 c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f7967\
                 89baa48082d122ee42c5a72e5a5110fff70187347b66"
            )
        );
    }

    #[test]
    fn the_premaster_secret_is_that_of_rfc_4279() {
        let psk = Psk::new("foo").unwrap();

        assert_eq!(psk.premaster()[..], *b"\0\x03\0\0\0\0\x03foo");
    }

    #[test]
    fn a_key_becomes_the_keys_of_a_session() {
        let psk = Psk::new("foo").unwrap();
        let (client_random, server_random) = randoms();

        let master_secret = master_secret(&psk, &client_random, &server_random);
        assert_eq!(
            master_secret.as_bytes().to_vec(),
            unhex(
                "cbc102d263e6e3927bbc7ed15e8b0501ab31745eb7d88ed14b8d00e45f3a88e3aef204fbae9b27\
                 c71b68623109ef3665"
            )
        );

        let secrets = Secrets {
            suite: CipherSuite::Gcm,
            master_secret,
            client_random,
            server_random,
        };
        let keys = secrets.keys();
        assert_eq!(
            keys.client.key[..],
            unhex("20236c9e9061ac98be504132c664fc7b")
        );
        assert_eq!(
            keys.server.key[..],
            unhex("67ca4c2c103795e5c631f0374c735373")
        );
        assert_eq!(keys.client.salt[..], unhex("6da80636"));
        assert_eq!(keys.server.salt[..], unhex("4a2b61f6"));
    }

    #[test]
    fn the_extended_master_secret_hangs_on_the_session_hash() {
        let psk = Psk::new("foo").unwrap();
        let mut transcript = Transcript::default();
        transcript.add(b"session");

        assert_eq!(
            extended_master_secret(&psk, &transcript.hash())
                .as_bytes()
                .to_vec(),
            unhex(
                "5a9520eb7b2f838b297d70dfbfa8b431c3a637230ca92dd7cb4ece240ae97836294d45ccd0f0f9\
                 353b0efb4623431a29"
            )
        );
    }

    #[test]
    fn each_side_finishes_with_its_own_label() {
        let psk = Psk::new("foo").unwrap();
        let (client_random, server_random) = randoms();
        let secret = master_secret(&psk, &client_random, &server_random);
        let mut transcript = Transcript::default();
        transcript.add(b"session");
        let hash = transcript.hash();

        assert_eq!(
            verify_data(&secret, CLIENT_FINISHED, &hash)[..],
            unhex("1e85b5707ab05a444749bfa6")
        );
        assert_eq!(
            verify_data(&secret, SERVER_FINISHED, &hash)[..],
            unhex("e032c4e37bc233cf25652920")
        );
    }

    #[test]
    fn a_message_counts_with_its_header() {
        let mut by_parts = Transcript::default();
        by_parts.add_message(HandshakeType::ClientKeyExchange, 0x0102, &[7; 300]);
        let mut by_bytes = Transcript::default();
        by_bytes.add(&[16, 0, 1, 44, 1, 2, 0, 0, 0, 0, 1, 44]);
        by_bytes.add(&[7; 300]);

        assert_eq!(by_parts.hash(), by_bytes.hash());
        assert_ne!(by_parts.hash(), Transcript::default().hash());
    }

    #[test]
    fn an_empty_or_endless_key_is_refused() {
        assert_eq!(Psk::new("").err(), Some(BadPsk::Empty));
        assert_eq!(Psk::new(vec![1; 65536]).err(), Some(BadPsk::TooLong));
        assert!(Psk::new(vec![1; 65535]).is_ok());
    }

    #[test]
    fn secrets_say_nothing_of_themselves() {
        let (client_random, server_random) = randoms();
        let secrets = Secrets {
            suite: CipherSuite::Gcm,
            master_secret: MasterSecret::new([222; 48]),
            client_random,
            server_random,
        };
        let said = format!(
            "{:?} {secrets:?} {:?}",
            Psk::new([222]).unwrap(),
            secrets.keys()
        );

        assert!(!said.contains("222"), "{said}");
        assert!(said.contains("DirectionKey(..)"), "{said}");
    }
}
