//! Putting the server's flight together: ServerHello, a ServerKeyExchange if it
//! likes, ServerHelloDone (pure).
//!
//! It is shown to the library only as a whole. Until then a newer ServerHello
//! takes the place of an older, so that a stale one does no harm.

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::fragment::Reassembly;
use dtun_shared::dtls::message::{
    Fragment, HandshakeType, ServerHello, ServerHelloDone, ServerKeyExchange, emit_message,
};

/// The flight as far as it has come.
#[derive(Debug)]
pub(super) struct ServerFlight {
    /// The message number of its ServerHello.
    first: u16,
    hello: Option<Hello>,
    /// Behind the ServerHello: whole messages, by their distance from it.
    whole: [Option<(HandshakeType, Vec<u8>)>; BEHIND],
    /// One message that is coming in pieces.
    partial: Option<Reassembly>,
}

impl ServerFlight {
    pub(super) fn new(first: u16) -> Self {
        Self {
            first,
            hello: None,
            whole: [const { None }; BEHIND],
            partial: None,
        }
    }

    /// Takes a message or a piece of one; says whether it belongs here.
    pub(super) fn add(&mut self, fragment: &Fragment<'_>, offered: &[CipherSuite]) -> bool {
        let Some(place) = fragment
            .message_seq
            .checked_sub(self.first)
            .map(usize::from)
        else {
            return false;
        };
        if !expected(place, fragment.kind) || (place > 0 && self.hello.is_none()) {
            return false;
        }
        if fragment.is_whole() {
            return self.take(place, fragment.kind, fragment.body, offered);
        }

        let continued = self
            .partial
            .as_mut()
            .is_some_and(|partial| partial.add(fragment).is_ok());
        if !continued {
            self.partial = Reassembly::begin(fragment);
        }
        let Some(body) = self.partial.as_ref().and_then(Reassembly::body) else {
            return self.partial.is_some();
        };
        let body = body.to_vec();
        self.partial = None;

        self.take(place, fragment.kind, &body, offered)
    }

    /// The flight, when nothing of it is missing.
    pub(super) fn whole(&self) -> Option<Flight> {
        let hello = self.hello.as_ref()?;
        let mut messages = vec![(HandshakeType::ServerHello, &hello.body)];
        for message in &self.whole {
            let (kind, body) = message.as_ref()?;
            messages.push((*kind, body));
            if *kind == HandshakeType::ServerHelloDone {
                break;
            }
        }

        Some(Flight {
            suite: hello.suite,
            server_random: hello.random,
            extended_master_secret: hello.extended_master_secret,
            messages: (self.first..)
                .zip(messages)
                .map(|(message_seq, (kind, body))| {
                    let mut message = Vec::new();
                    emit_message(kind, message_seq, body, &mut message);
                    message
                })
                .collect(),
            first: self.first,
        })
    }

    fn take(
        &mut self,
        place: usize,
        kind: HandshakeType,
        body: &[u8],
        offered: &[CipherSuite],
    ) -> bool {
        if place == 0 {
            let Some(hello) = Hello::parse(body, offered) else {
                return false;
            };
            if self.hello.as_ref() != Some(&hello) {
                *self = Self::new(self.first);
                self.hello = Some(hello);
            }
            return true;
        }

        let well_formed = if kind == HandshakeType::ServerKeyExchange {
            ServerKeyExchange::parse(body).is_some()
        } else {
            ServerHelloDone::parse(body).is_some()
        };
        if well_formed {
            self.whole[place - 1] = Some((kind, body.to_vec()));
        }

        well_formed
    }
}

/// A whole flight and what the keys depend on.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) suite: CipherSuite,
    pub(super) server_random: [u8; 32],
    pub(super) extended_master_secret: bool,
    /// Each with its header, unfragmented.
    pub(super) messages: Vec<Vec<u8>>,
    first: u16,
}

impl Flight {
    /// The number of the message behind the flight: the server's Finished.
    pub(super) fn next_message_seq(&self) -> usize {
        usize::from(self.first) + self.messages.len()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Hello {
    body: Vec<u8>,
    suite: CipherSuite,
    random: [u8; 32],
    extended_master_secret: bool,
}

impl Hello {
    fn parse(body: &[u8], offered: &[CipherSuite]) -> Option<Self> {
        let hello = ServerHello::parse(body)?;
        let suite = CipherSuite::from_code(hello.suite).filter(|suite| offered.contains(suite))?;
        let extensions = &body[FIXED + hello.session_id.len()..];
        if !extensions.is_empty() && !asked_for(&extensions[2..]) {
            return None;
        }

        Some(Self {
            body: body.to_vec(),
            suite,
            random: hello.random,
            extended_master_secret: hello.extended_master_secret,
        })
    }
}

/// Whether a well-formed extension block answers only what the library asked
/// for; it would read others, and not all of them with care.
fn asked_for(mut block: &[u8]) -> bool {
    while let [kind_high, kind_low, high, low, rest @ ..] = block {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let known = match u16::from_be_bytes([*kind_high, *kind_low]) {
            SERVER_NAME => len == 0,
            EXTENDED_MASTER_SECRET | RENEGOTIATION_INFO => true,
            _ => false,
        };
        if !known {
            return false;
        }
        block = rest.get(len..).unwrap_or_default();
    }

    true
}

/// What may stand at a place of the flight.
fn expected(place: usize, kind: HandshakeType) -> bool {
    matches!(
        (place, kind),
        (0, HandshakeType::ServerHello)
            | (1, HandshakeType::ServerKeyExchange)
            | (1 | 2, HandshakeType::ServerHelloDone)
    )
}

/// Messages behind the ServerHello.
const BEHIND: usize = 2;

/// A ServerHello without session id and extensions: version, random, the id's
/// length, suite, compression.
const FIXED: usize = 2 + 32 + 1 + 2 + 1;

const SERVER_NAME: u16 = 0;
const EXTENDED_MASTER_SECRET: u16 = 23;
const RENEGOTIATION_INFO: u16 = 0xFF01;
