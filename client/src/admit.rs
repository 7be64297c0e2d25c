//! What the library's client may see of the network (pure).
//!
//! The library trusts what it is shown: one alert, one record that does not
//! authenticate, one handshake message out of turn ends its attempt, and two
//! application records before the server's Finished hang it for ever. So it
//! sees three things only: a HelloVerifyRequest while it has no ServerHello; the
//! server's flight, put together and whole, in records that are numbered here;
//! and a ChangeCipherSpec with the server's Finished behind it, once that has
//! authenticated. The keys for this are computed from what passed, so that what
//! others send in a handshake is dropped, but for one thing: a whole flight of
//! theirs that comes before the server's own is taken for it, and that attempt
//! finds no Finished that fits until it times out. The next one starts anew.
//!
//! The ChangeCipherSpec that the server sends says nothing that its Finished
//! does not, and comes unprotected: the library is shown one of our own.

mod cookies;
mod flight;
mod keys;

use std::collections::VecDeque;

use dtun_shared::dtls::alert::Alert;
use dtun_shared::dtls::fragment::MAX_MESSAGE;
use dtun_shared::dtls::header::{ContentType, emit_plaintext, records};
use dtun_shared::dtls::message::{
    Fragment, HandshakeType, HelloVerifyRequest, emit_message, fragments,
};
use dtun_shared::dtls::schedule::{Psk, Secrets};
use dtun_shared::dtls::{CipherSuite, RECORD_HEADER};

use self::cookies::Cookies;
use self::flight::{Flight, ServerFlight};
use self::keys::{Keys, Opened};

/// The state of one handshake, seen from between the library and the network.
#[derive(Debug)]
pub(crate) struct Admit {
    psk: Psk,
    suites: Vec<CipherSuite>,
    stage: Stage,
    /// The newest ClientHello, with its header: the transcript starts with it.
    client_hello: Vec<u8>,
    deliver: VecDeque<Vec<u8>>,
    /// Number of the next epoch-0 record shown to the library.
    shown: u64,
    /// One more than the highest epoch-1 number the library has sent.
    next_seq: u64,
    early: Vec<Vec<u8>>,
    reached: Reached,
    alert: Option<u8>,
    dropped: u64,
}

impl Admit {
    pub(crate) fn new(psk: Psk, suites: Vec<CipherSuite>) -> Self {
        Self {
            psk,
            suites,
            stage: Stage::Hello {
                cookies: Cookies::default(),
                flight: ServerFlight::new(0),
            },
            client_hello: Vec::new(),
            deliver: VecDeque::new(),
            shown: 0,
            next_seq: 0,
            early: Vec::new(),
            reached: Reached::Nothing,
            alert: None,
            dropped: 0,
        }
    }

    /// Takes what came from the network.
    pub(crate) fn handle_incoming(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        for (header, body) in records(datagram) {
            let (record, behind) = rest.split_at(RECORD_HEADER + header.len);
            rest = behind;

            let used = match (header.epoch, header.content) {
                (0, ContentType::Handshake) => self.handle_messages(body),
                (0, ContentType::Alert) => self.note_alert(body),
                (1, ContentType::Handshake) => self.handle_finished(record),
                (1, ContentType::ApplicationData | ContentType::Alert) => self.keep(record),
                _ => false,
            };
            self.dropped += u64::from(!used);
        }
    }

    /// Takes what the library sends; says whether it may leave.
    pub(crate) fn handle_outgoing(&mut self, datagram: &[u8]) -> bool {
        let mut leaves = false;
        for (header, body) in records(datagram) {
            match (header.epoch, header.content) {
                (0, ContentType::Handshake) => {
                    for message in fragments(body) {
                        self.handle_sent(&message);
                    }
                }
                (0, ContentType::ChangeCipherSpec) => {}
                (1, ContentType::Handshake) => self.next_seq = self.next_seq.max(header.seq + 1),
                // An alert tells the server of a fault of the library's.
                _ => return false,
            }
            leaves = true;
        }

        leaves
    }

    /// The next datagram for the library.
    pub(crate) fn poll_deliver(&mut self) -> Option<Vec<u8>> {
        self.deliver.pop_front()
    }

    /// The description of the first plaintext alert: a hint, anyone can forge it.
    pub(crate) fn alert(&self) -> Option<u8> {
        self.alert
    }

    pub(crate) fn reached(&self) -> Reached {
        self.reached
    }

    /// Records that came and were of no use.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What the handshake leaves behind, once the server's Finished has passed.
    pub(crate) fn finish(self) -> Option<Passed> {
        match self.stage {
            Stage::Finished(keys) if keys.finished => Some(Passed {
                secrets: keys.secrets,
                next_seq: self.next_seq,
                early: self.early,
            }),
            Stage::Finished(_) | Stage::Hello { .. } | Stage::Answer(_) => None,
        }
    }

    fn handle_messages(&mut self, record_body: &[u8]) -> bool {
        let mut used = false;
        for fragment in fragments(record_body) {
            used |= if fragment.kind == HandshakeType::HelloVerifyRequest {
                self.handle_cookie(&fragment)
            } else {
                self.handle_flight(&fragment)
            };
        }

        used
    }

    fn handle_cookie(&mut self, fragment: &Fragment<'_>) -> bool {
        let Stage::Hello { cookies, .. } = &mut self.stage else {
            return false;
        };
        if !fragment.is_whole() || HelloVerifyRequest::parse(fragment.body).is_none() {
            return false;
        }
        self.reached = self.reached.max(Reached::HelloVerifyRequest);
        if let Some(next) = cookies.offer(fragment.body) {
            self.show_cookie(&next);
        }

        true
    }

    /// Shows the library a HelloVerifyRequest under the number it waits for:
    /// the message is no part of the transcript.
    fn show_cookie(&mut self, body: &[u8]) {
        let Stage::Hello { cookies, flight } = &mut self.stage else {
            return;
        };
        let message_seq = cookies.message_seq();
        *flight = ServerFlight::new(message_seq + 1);
        let mut message = Vec::new();
        emit_message(
            HandshakeType::HelloVerifyRequest,
            message_seq,
            body,
            &mut message,
        );
        self.show(&[message]);
    }

    fn handle_flight(&mut self, fragment: &Fragment<'_>) -> bool {
        let Stage::Hello { flight, .. } = &mut self.stage else {
            return false;
        };
        if !flight.add(fragment, &self.suites) {
            return false;
        }
        self.reached = Reached::ServerHello;
        if let Some(whole) = flight.whole() {
            self.show(&whole.messages);
            self.stage = Stage::Answer(whole);
        }

        true
    }

    fn handle_finished(&mut self, record: &[u8]) -> bool {
        let Stage::Finished(keys) = &mut self.stage else {
            return false;
        };
        if keys.finished || keys.open(record) != Opened::Finished {
            return false;
        }
        keys.finished = true;

        let mut datagram = Vec::new();
        emit_plaintext(
            ContentType::ChangeCipherSpec,
            self.shown,
            &[1],
            &mut datagram,
        );
        self.shown += 1;
        datagram.extend_from_slice(record);
        self.deliver.push_back(datagram);

        true
    }

    fn keep(&mut self, record: &[u8]) -> bool {
        let Stage::Finished(keys) = &mut self.stage else {
            return false;
        };
        if self.early.len() == MAX_EARLY || keys.open(record) != Opened::ForTheSession {
            return false;
        }
        self.early.push(record.to_vec());

        true
    }

    fn note_alert(&mut self, body: &[u8]) -> bool {
        let Some(alert) = Alert::parse(body) else {
            return false;
        };
        self.alert.get_or_insert(alert.description);

        true
    }

    fn handle_sent(&mut self, message: &Fragment<'_>) {
        match (&mut self.stage, message.kind) {
            (Stage::Hello { cookies, .. }, HandshakeType::ClientHello) => {
                self.client_hello.clear();
                message.emit(&mut self.client_hello);
                if let Some(next) = cookies.hello_sent() {
                    self.show_cookie(&next);
                }
            }
            (Stage::Answer(flight), HandshakeType::ClientKeyExchange) => {
                if let Some(keys) = Keys::new(&self.psk, &self.client_hello, flight, message) {
                    self.stage = Stage::Finished(Box::new(keys));
                }
            }
            // The same again.
            (Stage::Hello { .. } | Stage::Answer(_) | Stage::Finished(_), _) => {}
        }
    }

    fn show(&mut self, messages: &[Vec<u8>]) {
        let mut datagram = Vec::new();
        for message in messages {
            emit_plaintext(ContentType::Handshake, self.shown, message, &mut datagram);
            self.shown += 1;
        }
        self.deliver.push_back(datagram);
    }
}

/// What a finished handshake leaves behind.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) secrets: Secrets,
    pub(crate) next_seq: u64,
    pub(crate) early: Vec<Vec<u8>>,
}

/// How far the server has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    Nothing,
    HelloVerifyRequest,
    ServerHello,
}

#[derive(Debug)]
enum Stage {
    /// The library says hello.
    Hello {
        cookies: Cookies,
        flight: ServerFlight,
    },
    /// It has the server's flight and computes its answer.
    Answer(Flight),
    /// It waits for the server's Finished, or has it.
    Finished(Box<Keys>),
}

/// The meta, its copies, and the first packets behind it.
const MAX_EARLY: usize = 8;

/// Room for the largest datagram shown to the library: three messages, each
/// in a record of its own. The library's buffer is 8192 bytes long.
const _: () = assert!(MAX_MESSAGE + 2 * 512 < 8192);

#[cfg(test)]
mod tests;
