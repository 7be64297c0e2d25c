//! A session: keys shared with one peer, and what may pass under them. No I/O.
//!
//! All of it is shared: the data path opens records and seals packets, the wire
//! task answers control messages, and the hub's loop decides about the
//! session's life.

mod own;
mod upkeep;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::handshake::Established;
use dashmap::DashMap;
use dtun_shared::association::{Association, Heard};
use dtun_shared::datapath::Lane;
use dtun_shared::packet::Echo;
use dtun_shared::tun::Tun;
use dtun_shared::udp::Path;

pub(crate) use own::Own;
pub(crate) use upkeep::{Due, Ended, Upkeep};

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Rises with every session of this hub: of two, the higher is the newer.
    pub(crate) serial: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) hint: String,
    /// The peer offered nothing but CCM_8, as the Go program does.
    pub(crate) only_ccm8: bool,
    association: Association,
    confirmed: AtomicBool,
    /// The echo that waits for its reply.
    echo: Mutex<Option<Echo>>,
    has_echo: AtomicBool,
    /// When the path's MTU was last told of.
    told_mtu: Mutex<Option<Instant>>,
    inner: OnceLock<Inner>,
}

impl Session {
    /// `path` and `lane` are those by which the handshake was done.
    pub(crate) fn new(
        serial: u64,
        established: Established,
        path: Path,
        lane: Arc<Lane>,
        now: Instant,
    ) -> Self {
        let association = Association::new(
            established.secrets.suite,
            established.sealer,
            established.opener,
            path,
            lane,
            now,
        );

        Self {
            serial,
            peer: established.peer,
            hint: established.hint,
            only_ccm8: established.only_ccm8,
            association,
            confirmed: AtomicBool::new(false),
            echo: Mutex::new(None),
            has_echo: AtomicBool::new(false),
            told_mtu: Mutex::new(None),
            inner: OnceLock::new(),
        }
    }

    pub(crate) fn association(&self) -> &Association {
        &self.association
    }

    pub(crate) fn heard(&self) -> Heard {
        self.association.heard()
    }

    /// The first application record authenticated; false when it isn't the first.
    pub(crate) fn confirm(&self) -> bool {
        !self.confirmed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Gives the session its lease, once.
    pub(crate) fn admit(&self, inner: Inner) {
        // A second call would mean two leases for one session; the first stays.
        let first = self.inner.set(inner).is_ok();
        debug_assert!(first, "a session is admitted once");
    }

    pub(crate) fn inner(&self) -> Option<&Inner> {
        self.inner.get()
    }

    /// Whether to look into what somebody says of the path's MTU: a flood of it
    /// costs one look a second.
    pub(crate) fn takes_path_mtu(&self, now: Instant) -> bool {
        let mut told = lock(&self.told_mtu);
        let is_due = told.is_none_or(|at| now >= at + PATH_MTU_EVERY);
        if is_due {
            *told = Some(now);
        }

        is_due
    }

    /// Remembers the echo sent, whose reply is ours to swallow.
    pub(crate) fn expect_echo(&self, echo: Echo) {
        *lock(&self.echo) = Some(echo);
        self.has_echo.store(true, Ordering::Release);
    }

    /// Whether `packet` is the reply to our own echo, rather than a user's.
    pub(crate) fn takes_echo(&self, packet: &[u8]) -> bool {
        if !self.has_echo.load(Ordering::Acquire) {
            return false;
        }
        let mut expected = lock(&self.echo);
        let (Some(waiting), Some(inner)) = (*expected, self.inner.get()) else {
            return false;
        };
        let Some((echo, ends)) = Echo::reply(packet) else {
            return false;
        };
        let asked = inner.own.echo_ends();
        if echo != waiting || ends.source != asked.destination || ends.destination != asked.source {
            return false;
        }
        *expected = None;
        self.has_echo.store(false, Ordering::Release);

        true
    }
}

impl AsRef<Association> for Session {
    fn as_ref(&self) -> &Association {
        &self.association
    }
}

/// The inside of an admitted session.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) tun: Arc<Tun>,
    pub(crate) own: Own,
}

/// The sessions, as the data path looks them up.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_peer: DashMap<SocketAddr, Arc<Session>>,
    /// The session that speaks for a hint; confirmed ones only.
    by_hint: DashMap<String, Arc<Session>>,
}

impl Sessions {
    pub(crate) fn of_peer(&self, peer: SocketAddr) -> Option<Arc<Session>> {
        self.by_peer.get(&peer).map(|entry| Arc::clone(&entry))
    }

    pub(crate) fn of_hint(&self, hint: &str) -> Option<Arc<Session>> {
        self.by_hint.get(hint).map(|entry| Arc::clone(&entry))
    }

    /// Returns the session that had the peer's address before.
    pub(crate) fn insert(&self, session: &Arc<Session>) -> Option<Arc<Session>> {
        self.by_peer.insert(session.peer, Arc::clone(session))
    }

    /// Makes `session` speak for its hint; returns the one that did.
    pub(crate) fn make_current(&self, session: &Arc<Session>) -> Option<Arc<Session>> {
        self.by_hint
            .insert(session.hint.clone(), Arc::clone(session))
    }

    /// Forgets the session, not one that has taken its address or hint.
    pub(crate) fn remove(&self, session: &Arc<Session>) {
        self.by_peer
            .remove_if(&session.peer, |_, other| Arc::ptr_eq(other, session));
        self.by_hint
            .remove_if(&session.hint, |_, other| Arc::ptr_eq(other, session));
    }

    /// Outer addresses of the sessions that speak for a hint.
    pub(crate) fn outer(&self) -> Vec<IpAddr> {
        self.by_hint
            .iter()
            .map(|session| session.peer.ip())
            .collect()
    }
}

const PATH_MTU_EVERY: Duration = Duration::from_secs(1);

/// A poisoned lock means that a task panicked between two plain assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
