//! What a ClientHello brings: a cookie to come back with, or a handshake.

use std::net::SocketAddr;
use std::time::Instant;

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::alert;
use dtun_shared::dtls::header::{ContentType, emit_plaintext};
use dtun_shared::dtls::message::{
    ClientHello, Fragment, HandshakeType, HelloVerifyRequest, RENEGOTIATION_SCSV, emit_message,
};

use super::half_open::{HalfOpen, Terms};
use super::{Handshakes, plaintext_alert};

impl Handshakes {
    pub(super) fn handle_hello(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        record: u64,
        fragment: &Fragment<'_>,
    ) {
        if !fragment.is_whole() {
            self.counters.fragmented_hellos += 1;
            return;
        }
        let Some(hello) = ClientHello::parse(fragment.body) else {
            self.counters.malformed += 1;
            return;
        };
        // The flights count on from the hello's numbers.
        if fragment.message_seq > LAST_MESSAGE_SEQ || record > LAST_RECORD {
            self.counters.malformed += 1;
            return;
        }

        if !self.cookies.verify(
            now,
            self.entropy.as_mut(),
            peer,
            &hello.random,
            hello.cookie,
        ) {
            self.ask_for_cookie(now, peer, record, fragment.message_seq, &hello);
            return;
        }
        self.counters.cookies_returned += 1;

        let repeated = self.table.of(peer).iter().copied().find(|id| {
            self.table
                .get(*id)
                .is_some_and(|half_open| half_open.came_from(&hello.random, fragment.message_seq))
        });
        if let Some(id) = repeated {
            let flight = self
                .table
                .update(id, |half_open| half_open.handle_hello_again(now));
            self.transmits.extend(flight.map(|flight| (peer, flight)));
            self.counters.resent += 1;
        } else if self
            .final_flights
            .get(&peer)
            .is_some_and(|flight| flight.came_from(&hello.random))
        {
            self.counters.out_of_turn += 1;
        } else {
            self.open(now, peer, record, fragment, &hello);
        }
    }

    fn ask_for_cookie(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        record: u64,
        message_seq: u16,
        hello: &ClientHello<'_>,
    ) {
        let cookie = self
            .cookies
            .issue(now, self.entropy.as_mut(), peer, &hello.random);
        let mut body = Vec::with_capacity(3 + cookie.len());
        HelloVerifyRequest { cookie: &cookie }.emit(&mut body);
        let mut message = Vec::with_capacity(48);
        emit_message(
            HandshakeType::HelloVerifyRequest,
            message_seq,
            &body,
            &mut message,
        );
        let mut datagram = Vec::with_capacity(64);
        emit_plaintext(ContentType::Handshake, record, &message, &mut datagram);

        self.counters.cookies_issued += 1;
        self.transmits.push_back((peer, datagram));
    }

    fn open(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        record: u64,
        fragment: &Fragment<'_>,
        hello: &ClientHello<'_>,
    ) {
        let Some(&suite) = self
            .suites
            .iter()
            .find(|suite| hello.suites.contains(suite.code()))
        else {
            self.counters.no_common_suite += 1;
            let alert = plaintext_alert(record, alert::HANDSHAKE_FAILURE);
            self.transmits.push_back((peer, alert));
            return;
        };
        for id in self.table.victims(peer) {
            self.remove(id);
            self.counters.displaced += 1;
        }

        let mut server_random = [0; 32];
        self.entropy.fill(&mut server_random);
        let terms = Terms {
            client_random: hello.random,
            server_random,
            message_seq: fragment.message_seq,
            suite,
            only_ccm8: hello
                .suites
                .iter()
                .all(|code| code == CipherSuite::Ccm8.code() || code == RENEGOTIATION_SCSV),
            extended_master_secret: hello.extended_master_secret,
            renegotiation_info: hello.renegotiation_info,
        };
        let mut half_open = HalfOpen::new(now, peer, terms, record, fragment.body);
        self.transmits.push_back((peer, half_open.hello_flight()));
        self.table.insert(half_open);
    }
}

/// The Finished is two messages after the hello.
const LAST_MESSAGE_SEQ: u16 = u16::MAX - 2;

/// Far from the end of the 48 bits, and farther than any client counts.
const LAST_RECORD: u64 = 1 << 32;
