//! The spoke's handshake against the hub's, in virtual time, over a network
//! that loses, reorders and duplicates by a seed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use dtun_client::dial::{DialError, Dialled, dial_over};
use dtun_server::handshake::{Established, Handshakes, SeededEntropy};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::{ContentType, emit_plaintext, records};
use dtun_shared::dtls::message::{HandshakeType, HelloVerifyRequest, emit_message};
use dtun_shared::dtls::schedule::Psk;
use dtun_shared::record::Sealer;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// 20 % lost each way, 10 % reordered, 5 % duplicated.
#[tokio::test(start_paused = true)]
async fn two_hundred_of_two_hundred_succeed_within_five_seconds() {
    let mut slowest = Duration::ZERO;
    for seed in 0..200 {
        let begun = Instant::now();
        let mut network = Network::new(seed, KEY);
        network.loss = 20;
        network.reordering = 10;
        network.duplication = 5;

        let dialled = network.dial(&CipherSuite::ALL).await;

        let dialled = dialled.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        network.agrees(&dialled);
        slowest = slowest.max(begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5), "seed {seed}");
    }
    assert!(slowest > Duration::from_millis(500), "nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn every_suite_that_both_have_is_taken() {
    for suite in CipherSuite::ALL {
        let mut network = Network::new(1, KEY);

        let dialled = network.dial(&[suite]).await.unwrap();

        assert_eq!(dialled.secrets.suite, suite);
        network.agrees(&dialled);
    }
}

#[tokio::test(start_paused = true)]
async fn the_wrong_key_is_not_accepted() {
    let mut network = Network::new(2, "another key");

    let error = network.dial(&CipherSuite::ALL).await.unwrap_err();

    assert!(
        matches!(error, DialError::NotAccepted { alert: Some(_) }),
        "{error:?}"
    );
}

/// A stranger's HelloVerifyRequest overtakes the hub's, again and again.
#[tokio::test(start_paused = true)]
async fn wrong_hello_verify_requests_do_not_stop_it() {
    let mut network = Network::new(3, KEY);
    network.forge_cookies = true;

    let dialled = network.dial(&CipherSuite::ALL).await.unwrap();

    network.agrees(&dialled);
}

/// One spoke, one hub, and what lies between them.
struct Network {
    hub: Handshakes,
    established: Option<Established>,
    /// What is on its way, by its time and order of sending.
    flying: BTreeMap<(Instant, u64), (Towards, Vec<u8>)>,
    sent: u64,
    random: u64,
    loss: u64,
    reordering: u64,
    duplication: u64,
    forge_cookies: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    Hub,
    Spoke,
}

impl Network {
    fn new(seed: u64, hub_key: &str) -> Self {
        Self {
            hub: Handshakes::new(
                Psk::new(hub_key).unwrap(),
                CipherSuite::ALL.to_vec(),
                SeededEntropy::new(seed),
            ),
            established: None,
            flying: BTreeMap::new(),
            sent: 0,
            random: seed,
            loss: 0,
            reordering: 0,
            duplication: 0,
            forge_cookies: false,
        }
    }

    async fn dial(&mut self, suites: &[CipherSuite]) -> Result<Dialled, DialError> {
        let psk = Psk::new(KEY).unwrap();
        let (to_spoke, inbound) = mpsc::channel(64);
        let (outbound, mut from_spoke) = mpsc::channel(64);
        let dialled = dial_over(inbound, outbound, &psk, "spoke", suites);
        tokio::pin!(dialled);

        loop {
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timeout = self.hub.poll_timeout().map(Instant::from_std);
            let next = arrival.into_iter().chain(timeout).min();
            tokio::select! {
                dialled = &mut dialled => return dialled,
                Some(datagram) = from_spoke.recv() => self.send(Towards::Hub, datagram),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.hub.handle_timeout(now());
                    while let Some(datagram) = self.arrived() {
                        match datagram {
                            (Towards::Hub, datagram) => {
                                self.hub.handle_datagram(now(), SPOKE, &datagram);
                            }
                            (Towards::Spoke, datagram) => to_spoke.send(datagram).await.unwrap(),
                        }
                    }
                    self.poll_hub();
                }
            }
        }
    }

    /// Seals a record with what the spoke has and opens it with what the hub has.
    fn agrees(&mut self, dialled: &Dialled) {
        let established = self.established.as_mut().expect("the hub is done too");
        let keys = dialled.secrets.keys();
        let sealer = Sealer::new(dialled.secrets.suite, &keys.client, 1, dialled.next_seq);
        let mut record = Vec::new();
        sealer
            .seal(ContentType::ApplicationData, b"{}", &mut record)
            .unwrap();

        let (_, plain) = established.opener.open(&mut record).unwrap();

        assert_eq!(plain, b"{}");
        assert_eq!(established.hint, "spoke");
    }

    fn poll_hub(&mut self) {
        while let Some((_, datagram)) = self.hub.poll_transmit() {
            if self.forge_cookies && is_cookie(&datagram) {
                self.send(Towards::Spoke, forged_cookie());
            }
            self.send(Towards::Spoke, datagram);
        }
        if let Some(established) = self.hub.poll_event() {
            self.established = Some(established);
        }
    }

    fn send(&mut self, towards: Towards, datagram: Vec<u8>) {
        let copies = 1 + u64::from(self.chance(self.duplication));
        for _ in 0..copies {
            if self.chance(self.loss) {
                continue;
            }
            let late = 4 * u32::from(self.chance(self.reordering));
            let at = Instant::now() + DELAY * (1 + late);
            self.sent += 1;
            self.flying
                .insert((at, self.sent), (towards, datagram.clone()));
        }
    }

    fn arrived(&mut self) -> Option<(Towards, Vec<u8>)> {
        let first = self.flying.first_entry()?;
        let (at, _) = *first.key();

        (at <= Instant::now()).then(|| first.remove())
    }

    /// Whether something of this probability in percent happens.
    fn chance(&mut self, percent: u64) -> bool {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);

        (self.random >> 33) % 100 < percent
    }
}

fn is_cookie(datagram: &[u8]) -> bool {
    records(datagram).any(|(header, body)| {
        header.content == ContentType::Handshake
            && body[0] == HandshakeType::HelloVerifyRequest.byte()
    })
}

fn forged_cookie() -> Vec<u8> {
    let (mut body, mut message, mut datagram) = (Vec::new(), Vec::new(), Vec::new());
    HelloVerifyRequest { cookie: &[7; 32] }.emit(&mut body);
    emit_message(HandshakeType::HelloVerifyRequest, 0, &body, &mut message);
    emit_plaintext(ContentType::Handshake, 0, &message, &mut datagram);

    datagram
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

const KEY: &str = "correct horse";

const SPOKE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);

/// One way; what is reordered takes five times as long.
const DELAY: Duration = Duration::from_millis(20);
