//! What a handshake costs the hub beside the library's server, what a half-open
//! one holds, and what a flood of hellos costs: `cargo bench -p dtun-server --bench handshake`.
//!
//! Both servers run on one thread each, behind a loopback socket, with the same
//! client; the CPU time counted is that thread's, system calls included. Fails
//! when a limit is passed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and fails where it stands"
)]
#![allow(dead_code, reason = "the spoke has more than a bench needs")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the test spoke drops the rest"
)]

#[path = "../tests/handshake/spoke.rs"]
mod spoke;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use dtun_server::handshake::{Handshakes, SystemEntropy};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::schedule::Psk;
use spoke::{FLIGHT_INTERVAL, KEY, Spoke};
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::Config;
use webrtc_dtls::listener::listen;
use webrtc_util::conn::Listener;

fn main() {
    // First, and both kept, so that no freed memory is taken for none needed.
    let (usual, _kept) = half_open_bytes(1, "laptop-1234");
    let (most, _kept) = half_open_bytes(4, &"h".repeat(120));
    println!("half-open: {usual} bytes with one key exchange, {most} with four");

    let (flood, kept) = flood();
    println!("{FLOOD} hellos without a cookie: {flood:?}, {kept} bytes kept");

    // In turns, and the best of each: what else the machine does only adds.
    let rounds = (0..ROUNDS).map(|_| (time_a_handshake(run_ours), time_a_handshake(run_library)));
    let (ours, library): (Vec<_>, Vec<_>) = rounds.unzip();
    let (ours, library) = (*ours.iter().min().unwrap(), *library.iter().min().unwrap());
    let ratio = ours.as_secs_f64() / library.as_secs_f64();
    println!("a handshake: hub {ours:?}, library {library:?}, ratio {ratio:.2}");

    assert!(ratio <= 0.35, "a handshake costs too much");
    assert!(most < 2048, "a half-open handshake holds too much");
    assert!(flood < Duration::from_secs(1), "a flood keeps the hub busy");
    // Six bytes a hello: the kernel counts pages no better.
    assert!(kept < 300_000, "a flood leaves something behind");
}

/// CPU time of a server's thread for each of many handshakes.
fn time_a_handshake(server: fn(Sender<SocketAddr>) -> Duration) -> Duration {
    let (sender, receiver) = channel();
    let server = std::thread::spawn(move || server(sender));
    let address = receiver.recv().unwrap();
    // The library takes a port that comes again for the connection it had.
    let _sockets: Vec<UdpSocket> = (0..HANDSHAKES)
        .map(|seed| shake(address, seed.into()))
        .collect();

    server.join().unwrap() / HANDSHAKES
}

fn run_ours(ready: Sender<SocketAddr>) -> Duration {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut core = core();
    ready.send(socket.local_addr().unwrap()).unwrap();

    let start = cpu_time();
    let mut buf = [0; 2048];
    let mut sessions = Vec::new();
    while sessions.len() < HANDSHAKES as usize {
        let (len, peer) = socket.recv_from(&mut buf).unwrap();
        core.handle_datagram(now(), peer, &buf[..len]);
        while let Some((peer, datagram)) = core.poll_transmit() {
            socket.send_to(&datagram, peer).unwrap();
        }
        sessions.extend(std::iter::from_fn(|| core.poll_event()));
        core.handle_timeout(now());
    }

    cpu_time() - start
}

fn run_library(ready: Sender<SocketAddr>) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = Config {
            cipher_suites: vec![CipherSuiteId::Tls_Psk_With_Aes_128_Gcm_Sha256],
            psk: Some(Arc::new(|_| {
                Box::pin(async { Ok(KEY.as_bytes().to_vec()) })
            })),
            flight_interval: FLIGHT_INTERVAL,
            ..Config::default()
        };
        let listener = listen("127.0.0.1:0", config).await.unwrap();
        ready.send(listener.addr().await.unwrap()).unwrap();

        let start = cpu_time();
        let mut sessions = Vec::new();
        while sessions.len() < HANDSHAKES as usize {
            sessions.push(listener.accept().await.unwrap());
        }

        cpu_time() - start
    })
}

/// The client's side of one handshake, and its socket.
fn shake(hub: SocketAddr, seed: u64) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(hub).unwrap();
    socket.set_read_timeout(Some(FLIGHT_INTERVAL)).unwrap();
    let mut spoke = Spoke::new(seed).with_suite(CipherSuite::Gcm);

    let mut buf = [0; 2048];
    socket.send(&spoke.flight(now())).unwrap();
    while spoke.session.is_none() {
        let answered = socket
            .recv(&mut buf)
            .map(|len| spoke.handle_datagram(&buf[..len]));
        if answered.unwrap_or(true) {
            socket.send(&spoke.flight(now())).unwrap();
        }
    }

    socket
}

/// What the process grew by for each of 4,096 half-open handshakes with so many
/// key exchanges.
fn half_open_bytes(key_exchanges: usize, hint: &str) -> (usize, Handshakes) {
    let mut core = core();
    let before = resident_bytes();
    for n in 0..HALF_OPEN {
        let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, n, 0, 0, 0, 1);
        let peer = SocketAddr::from((ip, 1000));
        let mut spoke = Spoke::new(n.into());
        for _ in 0..2 {
            core.handle_datagram(now(), peer, &spoke.flight(now()));
            while let Some((_, datagram)) = core.poll_transmit() {
                spoke.handle_datagram(&datagram);
            }
        }
        for nth in 0..key_exchanges {
            let mut other = Spoke::new(n.into()).with_hint(format!("{hint}{nth}").as_bytes());
            core.handle_datagram(now(), peer, &other.forge_key_exchange());
        }
    }
    assert_eq!(core.counters().half_open, usize::from(HALF_OPEN));

    let grown = resident_bytes() - before;
    (grown / usize::from(HALF_OPEN), core)
}

/// CPU time of the hub's core for a second's flood of hellos from forged
/// addresses, and what the process grew by.
fn flood() -> (Duration, usize) {
    let mut core = core();
    let hellos: Vec<_> = (0..2 * FLOOD)
        .map(|n| {
            let peer = SocketAddr::from((Ipv4Addr::from_bits(n), 1000));
            (peer, Spoke::new(n.into()).flight(now()))
        })
        .collect();
    // The first half has its queues grow to their size.
    let (first, second) = hellos.split_at(FLOOD as usize);
    let mut run = |hellos: &[(SocketAddr, Vec<u8>)]| {
        for (peer, hello) in hellos {
            core.handle_datagram(now(), *peer, hello);
            let (to, answer) = core.poll_transmit().unwrap();
            assert!(to == *peer && answer.len() <= hello.len());
            assert!(core.poll_transmit().is_none());
            core.handle_timeout(now());
        }
    };
    run(first);

    let (start, before) = (cpu_time(), resident_bytes());
    run(second);

    let took = cpu_time() - start;
    (took, resident_bytes().saturating_sub(before))
}

fn core() -> Handshakes {
    let psk = Psk::new(KEY).unwrap();

    Handshakes::new(psk, CipherSuite::ALL.to_vec(), SystemEntropy)
}

/// CPU time that this thread has had.
fn cpu_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = schedstat.split_whitespace().next().unwrap();

    Duration::from_nanos(nanoseconds.parse().unwrap())
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();

    pages * 4096
}

fn now() -> Instant {
    Instant::now()
}

const ROUNDS: u32 = 5;
const HANDSHAKES: u32 = 500;
const HALF_OPEN: u16 = 4096;
const FLOOD: u32 = 50_000;
