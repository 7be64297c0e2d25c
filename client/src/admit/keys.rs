//! The session's keys, computed from the messages that passed (pure).

use dtun_shared::dtls::header::ContentType;
use dtun_shared::dtls::message::{
    ClientHello, Finished, Fragment, HandshakeType, MESSAGE_HEADER, fragments,
};
use dtun_shared::dtls::schedule::{
    Psk, Secrets, Transcript, extended_master_secret, master_secret,
};

use dtun_shared::record::Opener;

use super::flight::Flight;

/// Tells the server's records from forged ones.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) secrets: Secrets,
    /// Whether the server's Finished has come.
    pub(super) finished: bool,
    opener: Opener,
    finished_seq: usize,
}

impl Keys {
    /// Computes the keys when the library sends its ClientKeyExchange.
    pub(super) fn new(
        psk: &Psk,
        client_hello: &[u8],
        flight: &Flight,
        key_exchange: &Fragment<'_>,
    ) -> Option<Self> {
        let client_random = ClientHello::parse(client_hello.get(MESSAGE_HEADER..)?)?.random;
        let server_random = flight.server_random;
        let master_secret = if flight.extended_master_secret {
            let mut transcript = Transcript::default();
            transcript.add(client_hello);
            for message in &flight.messages {
                transcript.add(message);
            }
            transcript.add_message(
                key_exchange.kind,
                key_exchange.message_seq,
                key_exchange.body,
            );
            extended_master_secret(psk, &transcript.hash())
        } else {
            master_secret(psk, &client_random, &server_random)
        };
        let secrets = Secrets {
            suite: flight.suite,
            master_secret,
            client_random,
            server_random,
        };

        Some(Self {
            opener: Opener::new(secrets.suite, &secrets.keys().server, EPOCH),
            secrets,
            finished: false,
            finished_seq: flight.next_message_seq(),
        })
    }

    /// Looks into a copy of a record: whoever it is for opens it again.
    pub(super) fn open(&mut self, record: &[u8]) -> Opened {
        let mut copy = record.to_vec();
        match self.opener.open(&mut copy) {
            Ok((ContentType::Handshake, content)) if self.is_finished(content) => Opened::Finished,
            Ok((ContentType::ApplicationData | ContentType::Alert, _)) => Opened::ForTheSession,
            Ok((ContentType::Handshake | ContentType::ChangeCipherSpec, _)) | Err(_) => {
                Opened::Useless
            }
        }
    }

    fn is_finished(&self, content: &[u8]) -> bool {
        let mut messages = fragments(content);
        let (Some(message), None) = (messages.next(), messages.next()) else {
            return false;
        };

        message.kind == HandshakeType::Finished
            && message.is_whole()
            && usize::from(message.message_seq) == self.finished_seq
            && Finished::parse(message.body).is_some()
    }
}

/// What a protected record turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Finished,
    ForTheSession,
    Useless,
}

/// The epoch of the first and only keys.
const EPOCH: u16 = 1;
