//! A ClientKeyExchange and the keys that it leads to. Whether the spoke sent it
//! only its Finished can tell.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use dtun_shared::dtls::header::ContentType;
use dtun_shared::dtls::message::{Finished, HandshakeType, fragments};
use dtun_shared::dtls::schedule::{
    CLIENT_FINISHED, Psk, Secrets, SessionKeys, extended_master_secret, master_secret, verify_data,
};
use dtun_shared::record::Opener;

use super::entropy::Entropy;
use super::half_open::Offer;
use super::hint;

pub(super) struct Candidate {
    /// `None` for an unknown one.
    pub(super) hint: Option<Box<str>>,
    pub(super) secrets: Secrets,
    pub(super) keys: SessionKeys,
    /// The transcript's hash up to the ClientKeyExchange.
    session_hash: [u8; 32],
}

impl Candidate {
    /// Takes as long for an unknown hint as for a known one.
    pub(super) fn new(
        offer: &Offer,
        server_random: &[u8; 32],
        identity: &[u8],
        session_hash: [u8; 32],
        keyring: &Keyring,
    ) -> Self {
        let hint = hint::parse(identity);
        let psk = match hint {
            Some(_) => &keyring.psk,
            None => &keyring.decoy,
        };
        let secrets = Secrets {
            suite: offer.suite,
            master_secret: if offer.extended_master_secret {
                extended_master_secret(psk, &session_hash)
            } else {
                master_secret(psk, &offer.client_random, server_random)
            },
            client_random: offer.client_random,
            server_random: *server_random,
        };

        Self {
            hint: hint.map(Box::from),
            keys: secrets.keys(),
            secrets,
            session_hash,
        }
    }

    /// Whether this is the ClientKeyExchange that leads to `session_hash`.
    pub(super) fn is_of(&self, session_hash: &[u8; 32]) -> bool {
        self.session_hash == *session_hash
    }

    /// The spoke's Finished message in `record`, if these keys open it and the
    /// transcript explains it; and the opener that has seen its number.
    pub(super) fn open_finished(
        &self,
        message_seq: u16,
        record: &[u8],
    ) -> Option<(Opener, Vec<u8>)> {
        let mut record = record.to_vec();
        let mut opener = Opener::new(self.secrets.suite, &self.keys.client, 1);
        let (content, plain) = opener.open(&mut record).ok()?;
        if content != ContentType::Handshake {
            return None;
        }

        let mut messages = fragments(plain);
        let (Some(message), None) = (messages.next(), messages.next()) else {
            return None;
        };
        if message.kind != HandshakeType::Finished
            || message.message_seq != message_seq
            || !message.is_whole()
        {
            return None;
        }
        let said = Finished::parse(message.body)?.verify_data;
        let expected = verify_data(
            &self.secrets.master_secret,
            CLIENT_FINISHED,
            &self.session_hash,
        );
        verify_slices_are_equal(&said, &expected).ok()?;

        Some((opener, plain.to_vec()))
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
