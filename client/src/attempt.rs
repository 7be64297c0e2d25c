//! One round of dialling: every address of the hub, each on a fresh socket.
//!
//! The next address is tried when one has failed, or has stayed silent for
//! two seconds; whichever has a session first wins, and the rest are dropped.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::schedule::Psk;
use dtun_shared::leaving::Leaving;
use dtun_shared::udp::DialSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::dial::{DialError, Seen, dial_seen};
use crate::report::{Report, Silence, SilenceKind};
use crate::session::{NotOpened, Pulse, Terms, open};

/// What every attempt brings along.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) psk: Psk,
    pub(crate) hint: String,
    pub(crate) suites: Vec<CipherSuite>,
    pub(crate) terms: Terms,
    pub(crate) leaving: Leaving,
}

/// A round in progress; dropping it ends its attempts.
#[derive(Debug)]
pub(crate) struct Round {
    credentials: Arc<Credentials>,
    waiting: VecDeque<SocketAddr>,
    tried: Vec<SocketAddr>,
    /// What the attempts met so far.
    seen: Vec<(SocketAddr, Arc<Seen>)>,
    running: JoinSet<(SocketAddr, Result<Pulse, Failure>)>,
    next: Instant,
    failures: Vec<(SocketAddr, Failure)>,
}

/// Why an attempt made no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
}

impl Round {
    pub(crate) fn new(credentials: Arc<Credentials>) -> Self {
        Self {
            credentials,
            waiting: VecDeque::new(),
            tried: Vec::new(),
            seen: Vec::new(),
            running: JoinSet::new(),
            next: Instant::now(),
            failures: Vec::new(),
        }
    }

    /// Adds addresses to try; those that the round has already are left out.
    pub(crate) fn add(&mut self, addrs: &[SocketAddr]) {
        for addr in addrs {
            if !self.tried.contains(addr) {
                self.tried.push(*addr);
                self.waiting.push_back(*addr);
            }
        }
    }

    /// Whether every address has been tried to its end.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Runs until there is a session, or every attempt has failed. Cancelling
    /// the wait loses nothing; a round without addresses waits for ever.
    pub(crate) async fn run(&mut self) -> Result<Pulse, Vec<(SocketAddr, Failure)>> {
        loop {
            if self.running.is_empty() || Instant::now() >= self.next {
                if let Some(addr) = self.waiting.pop_front() {
                    self.start(addr);
                } else if self.running.is_empty() && !self.failures.is_empty() {
                    return Err(std::mem::take(&mut self.failures));
                }
            }

            let done = tokio::select! {
                Some(done) = self.running.join_next(), if !self.running.is_empty() => done,
                () = sleep_until(self.next), if !self.waiting.is_empty() => continue,
                else => std::future::pending().await,
            };
            match done {
                Ok((_, Ok(pulse))) => return Ok(pulse),
                Ok((addr, Err(failure))) => {
                    tracing::debug!(%addr, %failure, "attempt failed");
                    self.failures.push((addr, failure));
                    self.next = Instant::now();
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// What is known while the round still runs; none if the hub answers.
    pub(crate) fn silence(&self) -> Option<Report> {
        if self.seen.is_empty() || self.seen.iter().any(|(_, seen)| seen.answered()) {
            return None;
        }
        let silence = |(addr, seen): &(SocketAddr, Arc<Seen>)| Silence {
            addr: *addr,
            kind: if seen.refused() {
                SilenceKind::Refused
            } else {
                SilenceKind::Silent
            },
        };

        Some(Report::Unreachable {
            hub: self.seen.iter().map(silence).collect(),
            unresolved: None,
            filtered: None,
        })
    }

    fn start(&mut self, addr: SocketAddr) {
        self.next = Instant::now() + STAGGER;
        let credentials = Arc::clone(&self.credentials);
        let seen = Arc::new(Seen::default());
        self.seen.push((addr, Arc::clone(&seen)));
        self.running
            .spawn(async move { (addr, attempt(addr, &credentials, &seen).await) });
    }
}

async fn attempt(
    addr: SocketAddr,
    credentials: &Credentials,
    seen: &Seen,
) -> Result<Pulse, Failure> {
    let socket = DialSocket::connect_by(addr, &credentials.leaving).map_err(DialError::Io)?;
    let dialled = dial_seen(
        &socket,
        &credentials.psk,
        &credentials.hint,
        &credentials.suites,
        seen,
    )
    .await?;

    Ok(open(socket, addr, dialled, &credentials.terms).await?)
}

/// How long an address may stay silent before the next is tried beside it.
const STAGGER: Duration = Duration::from_secs(2);
