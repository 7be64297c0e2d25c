//! What a ClientKeyExchange brings, whole or in fragments: the keys that the
//! Finished is to be verified with.

use std::net::SocketAddr;
use std::time::Instant;

use dtun_shared::dtls::fragment::{MAX_MESSAGE, Reassembly};
use dtun_shared::dtls::message::Fragment;

use super::Handshakes;
use super::table::Id;

impl Handshakes {
    /// Whether the message is whole: the datagram has no other.
    pub(super) fn handle_key_exchange(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        fragment: &Fragment<'_>,
    ) -> bool {
        let mut expected = false;
        let mut whole = false;
        for id in self.table.of(peer).to_vec() {
            if self
                .table
                .get(id)
                .is_some_and(|half_open| half_open.expects(fragment))
            {
                expected = true;
                whole |= self.advance(now, id, fragment);
            }
        }
        if !expected {
            self.counters.out_of_turn += 1;
        }

        whole
    }

    /// Takes a piece of the ClientKeyExchange that this handshake waits for;
    /// whether it is whole.
    fn advance(&mut self, now: Instant, id: Id, fragment: &Fragment<'_>) -> bool {
        let assembled;
        let body = if fragment.is_whole() && fragment.total <= MAX_MESSAGE {
            fragment.body
        } else {
            match self.assemble(id, fragment) {
                Some(body) => {
                    assembled = body;
                    &assembled
                }
                None => return false,
            }
        };

        let keyring = &self.keyring;
        let early = self.table.update(id, |half_open| {
            half_open
                .handle_key_exchange(now, body, keyring)
                .then(|| half_open.take_early())
        });
        match early.flatten() {
            None => self.counters.malformed += 1,
            Some(Some(record)) => {
                // Whether it was the spoke's cannot be said: no proof of a wrong key.
                if let Some(done) = self.table.get(id).and_then(|it| it.verify(now, &record)) {
                    self.finish(id, done);
                }
            }
            Some(None) => {}
        }

        true
    }

    /// Puts a fragment to the others of its message; the body once it is whole.
    fn assemble(&mut self, id: Id, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        if fragment.total > MAX_MESSAGE {
            self.counters.malformed += 1;
            return None;
        }
        let held = self.table.get(id)?.fragment_bytes();
        // Charged as if it began anew: one that does not fit the others is an
        // older message's or a forgery's, and takes the place over, so that the
        // spoke's next repeat mends what was forged.
        if self.fragment_bytes - held + Reassembly::cost(fragment) > FRAGMENT_BUDGET {
            self.counters.over_budget += 1;
            return None;
        }

        let (body, holds) = self.table.update(id, |half_open| {
            let body = half_open.assemble(fragment);
            (body, half_open.fragment_bytes())
        })?;
        self.fragment_bytes = self.fragment_bytes - held + holds;

        body
    }
}

/// For all fragments of all handshakes.
const FRAGMENT_BUDGET: usize = 1 << 20;
