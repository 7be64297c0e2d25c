//! A relay that loses handshake datagrams by their number.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use dtun_server::handshake::{Entropy, SeededEntropy};
use dtun_shared::dtls::header::{ContentType, Look, look};

/// One client's way to the hub.
pub(crate) struct Relay {
    port: u16,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Loses `percent` of the datagrams of each direction, the same ones for
    /// the same seed. Application data comes through: nobody repeats it.
    pub(crate) fn start(hub: u16, percent: u8, seed: u64) -> Self {
        let front = Arc::new(bind());
        let back = Arc::new(bind());
        back.connect((Ipv4Addr::LOCALHOST, hub)).unwrap();
        let port = front.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let client = Arc::new(OnceLock::<SocketAddr>::new());

        let mut relay = Self {
            port,
            stop,
            threads: Vec::new(),
        };
        relay.spawn(Loss::new(percent, 2 * seed), {
            let (front, back, client) =
                (Arc::clone(&front), Arc::clone(&back), Arc::clone(&client));
            move |buf, loss| {
                let (len, from) = front.recv_from(buf)?;
                client.get_or_init(|| from);
                loss.pass(&buf[..len], |datagram| back.send(datagram))
            }
        });
        relay.spawn(Loss::new(percent, 2 * seed + 1), move |buf, loss| {
            let len = back.recv(buf)?;
            let client = client.get().expect("the hub only answers");
            loss.pass(&buf[..len], |datagram| front.send_to(datagram, client))
        });

        relay
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn spawn(
        &mut self,
        mut loss: Loss,
        step: impl Fn(&mut [u8], &mut Loss) -> std::io::Result<()> + Send + 'static,
    ) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut buf = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                // Nothing came within the socket's timeout, or the client has gone.
                let _quiet = step(&mut buf, &mut loss);
            }
        }));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

struct Loss {
    percent: u8,
    dice: SeededEntropy,
}

impl Loss {
    fn new(percent: u8, seed: u64) -> Self {
        Self {
            percent,
            dice: SeededEntropy::new(seed),
        }
    }

    fn pass(
        &mut self,
        datagram: &[u8],
        send: impl FnOnce(&[u8]) -> std::io::Result<usize>,
    ) -> std::io::Result<()> {
        if look(datagram) != Look::Epoch1(ContentType::ApplicationData) {
            let mut roll = [0; 4];
            self.dice.fill(&mut roll);
            if u32::from_be_bytes(roll) % 100 < u32::from(self.percent) {
                return Ok(());
            }
        }

        send(datagram).map(drop)
    }
}

fn bind() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();

    socket
}
