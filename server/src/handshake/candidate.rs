//! A ClientKeyExchange and the keys that it leads to. Whether the spoke sent it
//! only its Finished can tell.

use dtun_shared::dtls::header::ContentType;
use dtun_shared::dtls::message::{Finished, HandshakeType, fragments};
use dtun_shared::dtls::schedule::{
    CLIENT_FINISHED, DirectionKey, MasterSecret, Psk, Secrets, extended_master_secret,
    master_secret, verify_data,
};
use dtun_shared::record::Opener;
use subtle::ConstantTimeEq as _;

use super::entropy::Entropy;
use super::half_open::Terms;
use super::hint;

/// Four of them must fit in a small handshake, so this keeps no more than cannot
/// be had from the master secret cheaply.
pub(super) struct Candidate {
    /// `None` for an unknown one.
    pub(super) hint: Option<Box<str>>,
    master_secret: MasterSecret,
    client_key: DirectionKey,
    /// The transcript's hash up to the ClientKeyExchange.
    session_hash: [u8; 32],
}

impl Candidate {
    /// Takes as long for an unknown hint as for a known one.
    pub(super) fn new(
        terms: &Terms,
        identity: &[u8],
        session_hash: [u8; 32],
        keyring: &Keyring,
    ) -> Self {
        let hint = hint::parse(identity);
        let psk = match hint {
            Some(_) => &keyring.psk,
            None => &keyring.decoy,
        };
        let master_secret = if terms.extended_master_secret {
            extended_master_secret(psk, &session_hash)
        } else {
            master_secret(psk, &terms.client_random, &terms.server_random)
        };
        let secrets = secrets(terms, master_secret);

        Self {
            hint: hint.map(Box::from),
            client_key: secrets.keys().client,
            master_secret: secrets.master_secret,
            session_hash,
        }
    }

    pub(super) fn secrets(&self, terms: &Terms) -> Secrets {
        secrets(terms, self.master_secret.clone())
    }

    /// Whether this is the ClientKeyExchange that leads to `session_hash`.
    pub(super) fn is_of(&self, session_hash: &[u8; 32]) -> bool {
        self.session_hash == *session_hash
    }

    /// The spoke's Finished message in `record`, if these keys open it and the
    /// transcript explains it; and the opener that has seen its number.
    pub(super) fn open_finished(&self, terms: &Terms, record: &[u8]) -> Option<(Opener, Vec<u8>)> {
        let mut record = record.to_vec();
        let mut opener = Opener::new(terms.suite, &self.client_key, 1);
        let (content, plain) = opener.open(&mut record).ok()?;
        if content != ContentType::Handshake {
            return None;
        }

        let mut messages = fragments(plain);
        let (Some(message), None) = (messages.next(), messages.next()) else {
            return None;
        };
        if message.kind != HandshakeType::Finished
            || message.message_seq != terms.message_seq + 2
            || !message.is_whole()
        {
            return None;
        }
        let said = Finished::parse(message.body)?.verify_data;
        let expected = verify_data(&self.master_secret, CLIENT_FINISHED, &self.session_hash);
        if !bool::from(said[..].ct_eq(&expected)) {
            return None;
        }

        Some((opener, plain.to_vec()))
    }
}

fn secrets(terms: &Terms, master_secret: MasterSecret) -> Secrets {
    Secrets {
        suite: terms.suite,
        master_secret,
        client_random: terms.client_random,
        server_random: terms.server_random,
    }
}

/// The two keys a ClientKeyExchange can lead to.
pub(super) struct Keyring {
    psk: Psk,
    /// For unknown hints: random, of the same length, so that it takes as long.
    decoy: Psk,
}

impl Keyring {
    pub(super) fn new(psk: Psk, entropy: &mut dyn Entropy) -> Self {
        let mut decoy = vec![0; psk.as_bytes().len()];
        entropy.fill(&mut decoy);
        let decoy = Psk::new(decoy).expect("the key it is as long as is good");

        Self { psk, decoy }
    }
}
