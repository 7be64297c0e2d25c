//! The library's client over the same link: an implementation that shares no
//! line with ours, in virtual time too.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::Config;
use webrtc_dtls::conn::DTLSConn;
use webrtc_util::conn::Conn;

use crate::hub::{Hub, peer};
use crate::link::{Link, To};
use crate::spoke::{FLIGHT_INTERVAL, KEY};

#[test]
fn the_library_s_client_ends_within_5_s_at_20_percent_loss() {
    let mut slowest = Duration::ZERO;
    let mut failed = Vec::new();
    for seed in 0..200 {
        match shake(seed) {
            Some(took) => slowest = slowest.max(took),
            None => failed.push(seed),
        }
    }
    println!("slowest of 200: {slowest:?}");
    assert!(failed.is_empty(), "seeds {failed:?} did not end within 5 s");
}

fn shake(seed: u64) -> Option<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (to_hub, from_spoke) = mpsc::unbounded_channel();
        let (to_spoke, from_hub) = mpsc::unbounded_channel();
        let (done, established) = mpsc::unbounded_channel();
        tokio::spawn(run_hub(seed, from_spoke, to_spoke, done));

        let start = Instant::now();
        let both = async {
            let mut established: mpsc::UnboundedReceiver<()> = established;
            let end = End {
                to_hub,
                from_hub: Mutex::new(from_hub),
            };
            let conn = DTLSConn::new(Arc::new(end), config(), true, None)
                .await
                .ok();
            established.recv().await;
            conn.map(|_| start.elapsed())
        };
        tokio::time::timeout(Duration::from_secs(5), both)
            .await
            .ok()
            .flatten()
    })
}

/// The hub's core and the link in front of it.
async fn run_hub(
    seed: u64,
    mut from_spoke: mpsc::UnboundedReceiver<Vec<u8>>,
    to_spoke: mpsc::UnboundedSender<Vec<u8>>,
    done: mpsc::UnboundedSender<()>,
) {
    let mut hub = Hub::new();
    hub.now = Instant::now().into_std();
    let mut link = Link::new(seed);
    loop {
        let next = link
            .next_arrival()
            .into_iter()
            .chain(hub.core.poll_timeout())
            .min();
        let wait = next.map_or(Duration::from_secs(60), |at| {
            at.saturating_duration_since(Instant::now().into_std())
        });
        tokio::select! {
            datagram = from_spoke.recv() => match datagram {
                Some(datagram) => link.send(Instant::now().into_std(), To::Hub, datagram),
                None => return,
            },
            () = tokio::time::sleep(wait) => {}
        }

        hub.now = Instant::now().into_std();
        for (to, datagram) in link.arrivals(hub.now) {
            match to {
                To::Hub => {
                    hub.verdict(peer(1), &datagram);
                }
                To::Spoke => {
                    // A spoke that has its session no longer listens.
                    let _closed = to_spoke.send(datagram);
                }
            }
        }
        for (_, datagram) in hub.pass(Duration::ZERO) {
            link.send(hub.now, To::Spoke, datagram);
        }
        for (_, datagram) in hub.sent.drain(..) {
            link.send(hub.now, To::Spoke, datagram);
        }
        for _ in hub.established.drain(..) {
            done.send(()).unwrap();
        }
    }
}

fn config() -> Config {
    Config {
        cipher_suites: vec![CipherSuiteId::Tls_Psk_With_Aes_128_Gcm_Sha256],
        psk: Some(Arc::new(|_| {
            Box::pin(async { Ok(KEY.as_bytes().to_vec()) })
        })),
        psk_identity_hint: Some(b"laptop".to_vec()),
        flight_interval: FLIGHT_INTERVAL,
        ..Config::default()
    }
}

/// The spoke's end of the link.
struct End {
    to_hub: mpsc::UnboundedSender<Vec<u8>>,
    from_hub: Mutex<mpsc::UnboundedReceiver<Vec<u8>>>,
}

#[async_trait]
impl Conn for End {
    async fn connect(&self, _: SocketAddr) -> Result<(), webrtc_util::Error> {
        Ok(())
    }

    async fn recv(&self, buf: &mut [u8]) -> Result<usize, webrtc_util::Error> {
        let datagram = self.from_hub.lock().await.recv().await;
        let datagram = datagram.ok_or(webrtc_util::Error::ErrClosedListener)?;
        buf[..datagram.len()].copy_from_slice(&datagram);

        Ok(datagram.len())
    }

    async fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr), webrtc_util::Error> {
        Ok((self.recv(buf).await?, peer(99)))
    }

    async fn send(&self, buf: &[u8]) -> Result<usize, webrtc_util::Error> {
        self.to_hub
            .send(buf.to_vec())
            .map_err(|_| webrtc_util::Error::ErrClosedListener)?;

        Ok(buf.len())
    }

    async fn send_to(&self, buf: &[u8], _: SocketAddr) -> Result<usize, webrtc_util::Error> {
        self.send(buf).await
    }

    fn local_addr(&self) -> Result<SocketAddr, webrtc_util::Error> {
        Ok(peer(1))
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        Some(peer(99))
    }

    async fn close(&self) -> Result<(), webrtc_util::Error> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
