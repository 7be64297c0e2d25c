//! The hub's core in virtual time, with one call for each thing a test does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dtun_server::handshake::{Established, Handshakes, SeededEntropy, Verdict};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::schedule::Psk;

use crate::spoke::{KEY, Spoke};

pub(crate) struct Hub {
    pub(crate) core: Handshakes,
    pub(crate) now: Instant,
    pub(crate) established: Vec<Established>,
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            core: Handshakes::new(
                Psk::new(KEY).unwrap(),
                CipherSuite::ALL.to_vec(),
                SeededEntropy::new(1),
            ),
            now: origin(),
            established: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Delivers a datagram and gives back what goes out for it.
    pub(crate) fn deliver(&mut self, peer: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.verdict(peer, datagram);
        self.sent.drain(..).map(|(_, datagram)| datagram).collect()
    }

    pub(crate) fn verdict(&mut self, peer: SocketAddr, datagram: &[u8]) -> Verdict {
        let verdict = self.core.handle_datagram(self.now, peer, datagram);
        self.drain();
        verdict
    }

    /// Lets time pass, with each timer at its time; gives back what goes out.
    pub(crate) fn pass(&mut self, time: Duration) -> Vec<(Duration, Vec<u8>)> {
        let (start, end) = (self.now, self.now + time);
        let mut out = Vec::new();
        while let Some(at) = self.core.poll_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now, "a timer lies in the past");
            self.now = at;
            self.core.handle_timeout(at);
            self.drain();
            out.extend(
                self.sent
                    .drain(..)
                    .map(|(_, datagram)| (at - start, datagram)),
            );
        }
        self.now = end;
        out
    }

    /// Takes a spoke as far as its own last flight, not sent yet.
    pub(crate) fn greet(&mut self, peer: SocketAddr, spoke: &mut Spoke) {
        for _ in 0..2 {
            let hello = spoke.flight(self.now);
            for answer in self.deliver(peer, &hello) {
                spoke.handle_datagram(&answer);
            }
        }
    }

    /// Takes a spoke through the whole handshake.
    pub(crate) fn shake(&mut self, peer: SocketAddr, spoke: &mut Spoke) -> Established {
        self.greet(peer, spoke);
        self.conclude(peer, spoke)
    }

    /// The spoke's last flight and the hub's.
    pub(crate) fn conclude(&mut self, peer: SocketAddr, spoke: &mut Spoke) -> Established {
        let flight = spoke.flight(self.now);
        for answer in self.deliver(peer, &flight) {
            spoke.handle_datagram(&answer);
        }
        assert!(spoke.session.is_some(), "the spoke has no session");
        self.established.pop().expect("the hub has no session")
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.core.poll_transmit() {
            self.sent.push(transmit);
        }
        while let Some(established) = self.core.poll_event() {
            self.established.push(established);
        }
    }
}

/// Both sides hold the same keys, in both directions.
pub(crate) fn talk(hub: &mut Established, spoke: &mut Spoke) {
    let mut up = spoke.application(b"up");
    assert_eq!(hub.opener.open(&mut up).unwrap().1, b"up");

    let mut down = Vec::new();
    let content = dtun_shared::dtls::header::ContentType::ApplicationData;
    hub.sealer.seal(content, b"down", &mut down).unwrap();
    let session = spoke.session.as_mut().unwrap();
    assert_eq!(session.opener.open(&mut down).unwrap().1, b"down");
}

pub(crate) fn peer(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 40000))
}

pub(crate) fn origin() -> Instant {
    Instant::now()
}
