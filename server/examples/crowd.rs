//! Many spokes in one process, for measuring a hub: `scripts/bench/hub.sh` runs it.
//!
//! ```text
//! crowd idle HUB:PORT KEY COUNT                      COUNT spokes
//! crowd handshakes HUB:PORT KEY RATE SECONDS         so many a second, no spoke stays
//! ```
//!
//! `idle` sends one ping through each tunnel, so that every device has carried
//! packets, prints `ready COUNT` when all are answered, and keeps the sessions
//! alive until it is ended. `handshakes` prints how many were completed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and fails where it stands"
)]
#![allow(dead_code, reason = "the spoke has more than a crowd needs")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the test spoke drops the rest"
)]

#[path = "../tests/handshake/spoke.rs"]
mod spoke;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::{ContentType, records};
use dtun_shared::meta::{Content, Control, HubMeta, SpokeMeta};
use spoke::{FLIGHT_INTERVAL, Spoke};
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{interval, timeout};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["idle", hub, key, count] => {
            idle(hub.parse().unwrap(), key, count.parse().unwrap()).await;
        }
        ["handshakes", hub, key, rate, seconds] => {
            let time = Duration::from_secs(seconds.parse().unwrap());
            handshakes(hub.parse().unwrap(), key, rate.parse().unwrap(), time).await;
        }
        _ => panic!(
            "use: crowd idle HUB:PORT KEY COUNT, or crowd handshakes HUB:PORT KEY RATE SECONDS"
        ),
    }
}

async fn idle(hub: SocketAddr, key: &str, count: usize) {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let (ready, mut answered) = mpsc::channel(count);
    for n in 0..count {
        let (gate, ready, key) = (Arc::clone(&gate), ready.clone(), key.to_owned());
        tokio::spawn(async move {
            let permit = gate.acquire().await.unwrap();
            let mut member = Member::connect(hub, &key, &format!("crowd-{n}")).await;
            member.ping().await;
            drop(permit);
            ready.send(()).await.unwrap();
            loop {
                member.answer().await;
            }
        });
    }

    for _ in 0..count {
        answered.recv().await.unwrap();
    }
    println!("ready {count}");
    std::future::pending::<()>().await;
}

async fn handshakes(hub: SocketAddr, key: &str, rate: u64, time: Duration) {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let done = Arc::new(AtomicUsize::new(0));
    let end = Instant::now() + time;
    let mut tick = interval(TICK);
    let mut owed = 0.0;
    let mut n = 0_u64;
    while Instant::now() < end {
        tick.tick().await;
        // What the gate holds back now is not made up for later.
        owed = f64::min(owed, AT_ONCE as f64) + rate as f64 * TICK.as_secs_f64();
        while owed >= 1.0 {
            let Ok(permit) = Arc::clone(&gate).try_acquire_owned() else {
                break;
            };
            owed -= 1.0;
            n += 1;
            let (done, key, hint) = (
                Arc::clone(&done),
                key.to_owned(),
                format!("crowd-{}", n % HINTS),
            );
            tokio::spawn(async move {
                Member::connect(hub, &key, &hint).await;
                done.fetch_add(1, Ordering::Relaxed);
                drop(permit);
            });
        }
    }
    println!("{} handshakes", done.load(Ordering::Relaxed));
}

/// One spoke with a session.
struct Member {
    socket: UdpSocket,
    spoke: Spoke,
}

impl Member {
    async fn connect(hub: SocketAddr, key: &str, hint: &str) -> Self {
        static SEED: AtomicU32 = AtomicU32::new(0);

        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        socket.connect(hub).await.unwrap();
        // Another process has other randoms, or its cookies would be taken for these.
        let seed =
            (u64::from(std::process::id()) << 32) + u64::from(SEED.fetch_add(1, Ordering::Relaxed));
        let mut spoke = Spoke::new(seed)
            .with_suite(CipherSuite::Gcm)
            .with_key(key)
            .with_hint(hint.as_bytes());

        let mut buf = [0; 2048];
        let mut send = true;
        while spoke.session.is_none() {
            if send {
                send_to(&socket, &spoke.flight(Instant::now())).await;
            }
            send = match timeout(FLIGHT_INTERVAL, socket.recv(&mut buf)).await {
                Ok(Ok(len)) => spoke.handle_datagram(&buf[..len]),
                Ok(Err(_)) => false,
                Err(_) => true,
            };
        }
        let meta = SpokeMeta {
            ext: true,
            mtu: Some(1400),
            ..SpokeMeta::default()
        };
        send_to(&socket, &spoke.application(&meta.emit())).await;

        Self { socket, spoke }
    }

    /// An echo through the tunnel to the hub's address and back.
    async fn ping(&mut self) {
        let mut echo: Option<Vec<u8>> = None;
        loop {
            if let Some(request) = &echo {
                send_to(&self.socket, &self.spoke.application(request)).await;
            }
            // The hub's meta comes again after 3 s.
            let Ok(contents) = timeout(PATIENCE, self.receive()).await else {
                continue;
            };
            for content in contents {
                match Content::of(&content) {
                    Content::Ip4 if content[9] == ICMP => return,
                    Content::Control => match HubMeta::parse(&content) {
                        Ok(meta) => {
                            let addresses = meta.addresses.unwrap();
                            echo = Some(echo_request(
                                addresses.local4.addr(),
                                addresses.peer4.addr(),
                            ));
                        }
                        Err(_) => self.reply(&content).await,
                    },
                    _ => {}
                }
            }
        }
    }

    async fn answer(&mut self) {
        for content in self.receive().await {
            if Content::of(&content) == Content::Control {
                self.reply(&content).await;
            }
        }
    }

    async fn reply(&mut self, message: &[u8]) {
        let reply = match Control::parse(message) {
            Ok(Control::Ping(id)) => Control::Pong(id),
            Ok(Control::Probe(id)) => Control::Probed(id),
            _ => return,
        };
        let record = self.spoke.application(&reply.emit());
        send_to(&self.socket, &record).await;
    }

    /// What the next datagram carries.
    async fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut buf = vec![0; 2048];
        let Ok(len) = self.socket.recv(&mut buf).await else {
            return Vec::new();
        };
        let opener = &mut self.spoke.session.as_mut().unwrap().opener;
        let lens: Vec<_> = records(&buf[..len])
            .map(|(header, _)| 13 + header.len)
            .collect();
        let mut contents = Vec::new();
        let mut rest = &mut buf[..len];
        for len in lens {
            let (record, after) = rest.split_at_mut(len);
            rest = after;
            if let Ok((ContentType::ApplicationData, plain)) = opener.open(record) {
                contents.push(plain.to_vec());
            }
        }
        contents
    }
}

/// A datagram that is lost comes again; one that the hub refused was for an old session.
async fn send_to(socket: &UdpSocket, datagram: &[u8]) {
    drop(socket.send(datagram).await);
}

/// IPv4 and ICMP without a payload (RFC 791, RFC 792).
fn echo_request(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, ICMP, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend([8, 0, 0, 0, 0, 1, 0, 1]);
    for (range, at) in [(0..20, 10), (20..28, 22)] {
        let sum = checksum(&packet[range]);
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);

    !u16::try_from(folded).unwrap()
}

const ICMP: u8 = 1;

const PATIENCE: Duration = Duration::from_secs(1);

const TICK: Duration = Duration::from_millis(5);

/// Leases that handshakes take turns with.
const HINTS: u64 = 200;

/// The hub keeps 64 half-open handshakes for one address.
const AT_ONCE: usize = 60;
