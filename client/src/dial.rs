//! webrtc-dtls behind one function: datagrams in and out, the secrets of a
//! session as the result.
//!
//! The library makes the handshake and nothing else. It sees a [`Conn`] of
//! ours, which carries what [`Admit`] lets through; when it is done its
//! secrets and the number of its last record are taken over, the `Conn` is
//! switched off and the library dropped, so it sends no close_notify.
//! Alerts and what ICMP messages say are noted for the user and never obeyed,
//! since anyone can forge them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::schedule::{Psk, Secrets};
use dtun_shared::udp::{DialSocket, is_hearsay};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::Config;
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::state::KeyLogData;
use zeroize::Zeroizing;

use crate::admit::{Admit, Passed, Reached};

mod conn;

/// What a handshake leaves to the session.
#[derive(Debug)]
pub struct Dialled {
    pub secrets: Secrets,
    /// The first epoch-1 number that no record has used.
    pub next_seq: u64,
    /// Application records that came during the handshake, whole and sealed;
    /// they have been authenticated but no replay window has seen them.
    pub early: Vec<Vec<u8>>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{}", if *refused { "port is closed" } else { "nothing answers" })]
    Unreachable { refused: bool },
    #[error("hub answers but does not accept the key or hint")]
    NotAccepted { alert: Option<u8> },
    #[error("socket failed: {0}")]
    Io(#[from] io::Error),
    #[error("handshake failed: {0}")]
    Library(#[from] webrtc_dtls::Error),
    #[error("handshake panicked: {0}")]
    Panicked(#[from] JoinError),
    #[error("session cannot be taken over: {0}")]
    TakeOver(&'static str),
}

/// What an attempt has met so far; shared with whoever looks on.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    answered: AtomicBool,
    refused: AtomicBool,
}

impl Seen {
    /// Whether any datagram came.
    pub(crate) fn answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the other end said that its port is closed.
    pub(crate) fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn note_hearsay(&self, error: &io::Error) {
        tracing::debug!(%error, "dial goes on");
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.refused.store(true, Ordering::Relaxed);
        }
    }
}

impl DialError {
    fn after_refusal(self, seen: bool) -> Self {
        if matches!(self, Self::Unreachable { .. }) {
            return Self::Unreachable { refused: seen };
        }

        self
    }
}

/// Makes a session with the hub at the other end of a connected socket.
///
/// The socket should be fresh: stale flights of a former handshake that are
/// still on their way to an older one can then not disturb this one.
pub async fn dial(
    socket: &DialSocket,
    psk: &Psk,
    hint: &str,
    suites: &[CipherSuite],
) -> Result<Dialled, DialError> {
    dial_seen(socket, psk, hint, suites, &Seen::default()).await
}

/// The same, noting what comes in for somebody who looks on.
pub(crate) async fn dial_seen(
    socket: &DialSocket,
    psk: &Psk,
    hint: &str,
    suites: &[CipherSuite],
    seen: &Seen,
) -> Result<Dialled, DialError> {
    let (received, inbound) = mpsc::channel(QUEUE);
    let (outbound, mut to_send) = mpsc::channel::<Vec<u8>>(QUEUE);
    let handshake = dial_over(inbound, outbound, psk, hint, suites);
    tokio::pin!(handshake);

    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            biased;
            dialled = &mut handshake => {
                return dialled.map_err(|error| error.after_refusal(seen.refused()));
            }
            Some(datagram) = to_send.recv() => send(socket, &datagram, seen)?,
            result = socket.recv(&mut buf) => match result {
                Ok(len) => {
                    seen.answered.store(true, Ordering::Relaxed);
                    // A full queue is a flood, and a lost datagram is sent again.
                    if received.try_send(buf[..len].to_vec()).is_err() {
                        tracing::trace!("datagram dropped: the handshake is busy");
                    }
                }
                Err(error) if is_hearsay(&error) => seen.note_hearsay(&error),
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// An error means that this machine does not let the datagram out.
fn send(socket: &DialSocket, datagram: &[u8], seen: &Seen) -> io::Result<()> {
    let sent = match socket.try_send(datagram) {
        Err(error) if is_hearsay(&error) => {
            seen.note_hearsay(&error);
            socket.try_send(datagram)
        }
        sent => sent,
    };

    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tracing::trace!("datagram dropped: the socket's buffer is full");
            Ok(())
        }
        // Said twice by those who are far away.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable
            ) =>
        {
            Ok(())
        }
        sent => sent,
    }
}

/// Makes a session over datagrams that the caller receives and sends.
pub async fn dial_over(
    mut inbound: mpsc::Receiver<Vec<u8>>,
    outbound: mpsc::Sender<Vec<u8>>,
    psk: &Psk,
    hint: &str,
    suites: &[CipherSuite],
) -> Result<Dialled, DialError> {
    let mut admit = Admit::new(psk.clone(), suites.to_vec());
    let (conn, to_library, mut from_library) = conn::pair(QUEUE);
    let mut library = JoinSet::new(); // Aborted when this future is dropped.
    library.spawn(handshake(Arc::new(conn), config(psk, hint, suites)));

    let mut deadline = Instant::now() + ATTEMPT;
    let mut alerted = false;
    let log = loop {
        tokio::select! {
            Some(done) = library.join_next() => break done??,
            Some(datagram) = inbound.recv() => admit.handle_incoming(&datagram),
            Some(datagram) = from_library.recv() => {
                if admit.handle_outgoing(&datagram) && outbound.try_send(datagram).is_err() {
                    tracing::trace!("datagram dropped: the socket is busy");
                }
            }
            () = tokio::time::sleep_until(deadline) => return Err(failure(&admit)),
        }
        while let Some(datagram) = admit.poll_deliver() {
            if to_library.try_send(datagram).is_err() {
                tracing::trace!("datagram dropped: the library is busy");
            }
        }
        if admit.alert().is_some() && !alerted {
            alerted = true;
            deadline = deadline.min(Instant::now() + AFTER_ALERT);
        }
    };

    // From here on the library's receive pends and nothing it sends goes out;
    // the channel ends when the last of its tasks has let go of the `Conn`.
    drop(to_library);
    let drained = async {
        while let Some(datagram) = from_library.recv().await {
            admit.handle_outgoing(&datagram);
        }
    };
    if tokio::time::timeout(TASKS_END, drained).await.is_err() {
        return Err(DialError::TakeOver("the library's tasks do not end"));
    }
    while let Ok(datagram) = inbound.try_recv() {
        admit.handle_incoming(&datagram);
    }

    tracing::debug!(dropped = admit.dropped(), "handshake done");

    let passed = admit
        .finish()
        .ok_or(DialError::TakeOver("the server's Finished did not pass"))?;
    take_over(passed, log)
}

/// Runs the library's client to the end of the handshake and lets go of it.
async fn handshake(
    conn: Arc<conn::Conn>,
    config: Config,
) -> Result<KeyLogData, webrtc_dtls::Error> {
    let connection = DTLSConn::new(conn, config, true, None).await?;
    connection.connection_state().await.key_log_data()
}

/// Takes the secrets from the library and holds them against what passed.
fn take_over(passed: Passed, log: KeyLogData) -> Result<Dialled, DialError> {
    let master_secret = Zeroizing::new(log.master_secret);
    let agreed = log.local_random == passed.secrets.client_random
        && log.remote_random == passed.secrets.server_random
        && *master_secret == passed.secrets.master_secret.as_bytes();
    if !agreed {
        return Err(DialError::TakeOver(
            "the library's secrets are not those of its messages",
        ));
    }
    if passed.next_seq == 0 {
        return Err(DialError::TakeOver("the library sent no Finished"));
    }

    Ok(Dialled {
        secrets: passed.secrets,
        next_seq: passed.next_seq,
        early: passed.early,
    })
}

/// Says what is known of an attempt whose time is up.
fn failure(admit: &Admit) -> DialError {
    match (admit.reached(), admit.alert()) {
        (Reached::ServerHello, alert) => DialError::NotAccepted { alert },
        (Reached::HelloVerifyRequest, alert @ Some(_)) => DialError::NotAccepted { alert },
        (Reached::HelloVerifyRequest, None) | (Reached::Nothing, _) => {
            DialError::Unreachable { refused: false }
        }
    }
}

fn config(psk: &Psk, hint: &str, suites: &[CipherSuite]) -> Config {
    let psk = psk.clone();

    Config {
        psk: Some(Arc::new(move |_server_hint: &[u8]| {
            let key = psk.as_bytes().to_vec();
            Box::pin(async move { Ok(key) })
        })),
        psk_identity_hint: Some(hint.as_bytes().to_vec()),
        cipher_suites: suites.iter().map(|suite| library_suite(*suite)).collect(),
        flight_interval: FLIGHT_INTERVAL,
        // Left empty the library would send the hub's address, and servers
        // refuse one that is not a host name.
        server_name: "localhost".to_owned(),
        ..Config::default()
    }
}

fn library_suite(suite: CipherSuite) -> CipherSuiteId {
    match suite {
        CipherSuite::Gcm => CipherSuiteId::Tls_Psk_With_Aes_128_Gcm_Sha256,
        CipherSuite::Ccm => CipherSuiteId::Tls_Psk_With_Aes_128_Ccm,
        CipherSuite::Ccm8 => CipherSuiteId::Tls_Psk_With_Aes_128_Ccm_8,
    }
}

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long an attempt goes on behind an alert: if it was forged the handshake
/// has a dozen retransmissions to end in, and a wrong key is said sooner.
const AFTER_ALERT: Duration = Duration::from_secs(3);

/// At 20 % loss each way this makes 100 % of handshakes succeed within 3 s.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(250);

/// The library's tasks have nothing to wait for when it is dropped.
const TASKS_END: Duration = Duration::from_secs(1);

/// Datagrams between two tasks; a handshake has two or three on their way.
const QUEUE: usize = 32;

/// Longest datagram that UDP carries.
const MAX_DATAGRAM: usize = 65_535;
