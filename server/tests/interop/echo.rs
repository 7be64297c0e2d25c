//! The hub's core on a loopback socket, with sessions that echo.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dtun_server::handshake::{Established, HandshakeCounters, Handshakes, SystemEntropy, Verdict};
use dtun_shared::dtls::header::{ContentType, records};
use dtun_shared::dtls::schedule::Psk;
use dtun_shared::dtls::{CipherSuite, RECORD_HEADER};

pub(crate) const KEY: &str = "correct horse";

/// Stands before what is echoed, so that no client's own copy passes for it.
pub(crate) const ECHO: &str = "echo: ";

pub(crate) struct EchoHub {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    sessions: Vec<(String, CipherSuite)>,
    counters: HandshakeCounters,
}

impl EchoHub {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || Loop::new(socket).run(&seen, &stop)
        });

        Self {
            address,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Hint and suite of every session that was established.
    pub(crate) fn sessions(&self) -> Vec<(String, CipherSuite)> {
        self.seen.lock().unwrap().sessions.clone()
    }

    pub(crate) fn counters(&self) -> HandshakeCounters {
        self.seen.lock().unwrap().counters
    }
}

impl Drop for EchoHub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(
            std::thread::panicking() || ended.is_ok(),
            "the hub panicked"
        );
    }
}

struct Loop {
    socket: UdpSocket,
    core: Handshakes,
    sessions: HashMap<SocketAddr, Established>,
}

impl Loop {
    fn new(socket: UdpSocket) -> Self {
        socket
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let psk = Psk::new(KEY).unwrap();

        Self {
            socket,
            core: Handshakes::new(psk, CipherSuite::ALL.to_vec(), SystemEntropy),
            sessions: HashMap::new(),
        }
    }

    fn run(mut self, seen: &Mutex<Seen>, stop: &AtomicBool) {
        let mut buf = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((len, peer)) = self.socket.recv_from(&mut buf) {
                let verdict = self.core.handle_datagram(Instant::now(), peer, &buf[..len]);
                self.poll(seen);
                if verdict == Verdict::NotMine {
                    self.echo(peer, &mut buf[..len]);
                }
            }
            self.core.handle_timeout(Instant::now());
            self.poll(seen);
        }
    }

    fn poll(&mut self, seen: &Mutex<Seen>) {
        let mut seen = seen.lock().unwrap();
        while let Some((peer, datagram)) = self.core.poll_transmit() {
            self.socket.send_to(&datagram, peer).unwrap();
        }
        while let Some(established) = self.core.poll_event() {
            seen.sessions
                .push((established.hint.clone(), established.secrets.suite));
            self.sessions.insert(established.peer, established);
        }
        seen.counters = self.core.counters();
    }

    fn echo(&mut self, peer: SocketAddr, datagram: &mut [u8]) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let lengths: Vec<usize> = records(datagram)
            .map(|(header, _)| RECORD_HEADER + header.len)
            .collect();
        let mut rest = datagram;
        for len in lengths {
            let (record, after) = rest.split_at_mut(len);
            rest = after;
            if let Ok((ContentType::ApplicationData, content)) = session.opener.open(record) {
                self.core.confirmed(peer);
                let echo = [ECHO.as_bytes(), content].concat();
                let mut answer = Vec::new();
                session
                    .sealer
                    .seal(ContentType::ApplicationData, &echo, &mut answer)
                    .unwrap();
                self.socket.send_to(&answer, peer).unwrap();
            }
        }
    }
}
