//! One DTLS association, as the data path sees it: the keys of both
//! directions, the way to the peer, and when something was last heard and sent.
//!
//! All of it is shared: workers seal and open in batches, control messages
//! pass beside them, and whoever keeps watch over the peer reads the clocks.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;

use crate::datapath::Lane;
use crate::dtls::CipherSuite;
use crate::dtls::header::ContentType;
use crate::parts::Joiner;
use crate::record::{NotSealed, Opener, Refused, Sealer};
use crate::udp::Path;

/// Keys, path and clocks of one peer.
#[derive(Debug)]
pub struct Association {
    suite: CipherSuite,
    /// A session is its peer's address, so this stays.
    is_over_ip6: bool,
    sealer: Arc<Sealer>,
    opener: Mutex<Opener>,
    path: Mutex<Path>,
    lane: Arc<Lane>,
    clocks: Clocks,
    limit: AtomicUsize,
    batch: AtomicUsize,
    /// When a sender was last told that its packet is too big.
    answered: AtomicU64,
    takes_parts: AtomicBool,
    /// Of the next packet that goes in several records.
    number: AtomicU32,
    joiner: Mutex<Joiner>,
}

impl Association {
    /// `lane` is the socket that the peer is spoken to by.
    #[must_use]
    pub fn new(
        suite: CipherSuite,
        sealer: Arc<Sealer>,
        opener: Opener,
        path: Path,
        lane: Arc<Lane>,
        now: Instant,
    ) -> Self {
        Self {
            suite,
            is_over_ip6: path.peer.is_ipv6(),
            sealer,
            opener: Mutex::new(opener),
            path: Mutex::new(path),
            lane,
            clocks: Clocks::new(now),
            limit: AtomicUsize::new(MAX_PACKET),
            batch: AtomicUsize::new(FOREIGN_BATCH),
            answered: AtomicU64::new(NEVER),
            takes_parts: AtomicBool::new(false),
            number: AtomicU32::new(0),
            joiner: Mutex::default(),
        }
    }

    pub fn suite(&self) -> CipherSuite {
        self.suite
    }

    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Whether the peer is spoken to over IPv6.
    pub fn is_over_ip6(&self) -> bool {
        self.is_over_ip6
    }

    /// Where to send: the path of the last authenticated record.
    pub fn path(&self) -> Path {
        *lock(&self.path)
    }

    /// Opens one whole record in place.
    pub fn open<'a>(&self, record: &'a mut [u8]) -> Result<(ContentType, &'a mut [u8]), Refused> {
        self.opener().open(record)
    }

    /// How many records have been sealed under one key, the other end's or
    /// ours, whichever is more.
    pub fn used(&self) -> u64 {
        self.sealer.sealed().max(self.opener().newest())
    }

    /// The receiving side, for a run of records; never kept over a system call.
    pub(crate) fn opener(&self) -> MutexGuard<'_, Opener> {
        lock(&self.opener)
    }

    /// Seals each content and sends the records in one datagram.
    ///
    /// # Errors
    ///
    /// The socket's, or that the keys are used up; nothing was sent then.
    pub fn send(&self, content: ContentType, contents: &[&[u8]]) -> Result<(), NotSent> {
        let mut datagram = Vec::new();
        for plain in contents {
            self.sealer.seal(content, plain, &mut datagram)?;
        }
        self.lane.send(&datagram, &self.path())?;

        Ok(())
    }

    /// As [`Self::send`], in one datagram that nobody may fragment.
    pub(crate) fn send_whole(&self, plain: &[u8]) -> Result<(), NotSent> {
        let mut datagram = Vec::new();
        self.sealer
            .seal(ContentType::ApplicationData, plain, &mut datagram)?;
        self.lane.send_whole(&datagram, &self.path())?;

        Ok(())
    }

    /// A datagram came from the peer's address; anyone may have sent it.
    pub fn handle_datagram(&self, now: Instant) {
        self.clocks.set(&self.clocks.datagram, now);
    }

    /// A record of the peer's authenticated: answers go back along `path`.
    pub fn handle_record(&self, now: Instant, path: &Path) {
        self.clocks.set(&self.clocks.datagram, now);
        self.clocks.set(&self.clocks.record, now);
        self.clocks.owed.store(NEVER, Ordering::Relaxed);

        let mut known = lock(&self.path);
        if *known != *path {
            *known = *path;
        }
    }

    /// Packets went out that the peer may answer, the largest of them of so
    /// many bytes. True when the caller is to see to it that somebody looks at
    /// [`Self::heard`] in time: nobody does since the last [`Self::unwatch`].
    pub fn handle_sent(&self, now: Instant, largest: usize) -> bool {
        let clocks = &self.clocks;
        clocks.set(&clocks.sent, now);
        if largest > LEAST_LINK {
            clocks.set(&clocks.large, now);
            if clocks.stalled.load(Ordering::Relaxed) == NEVER {
                clocks.set(&clocks.stalled, now);
            }
        }
        if clocks.owed.load(Ordering::Relaxed) == NEVER {
            clocks.set(&clocks.owed, now);
            // With its twin in `unwatch`: one of the two sees the other's store.
            fence(Ordering::SeqCst);
        }

        !clocks.watched.load(Ordering::Relaxed) && !clocks.watched.swap(true, Ordering::AcqRel)
    }

    /// A packet of the peer's has come, which may be an answer.
    pub fn handle_packet(&self) {
        let stalled = &self.clocks.stalled;
        if stalled.load(Ordering::Relaxed) != NEVER {
            stalled.store(NEVER, Ordering::Relaxed);
        }
    }

    /// Nobody watches over answers from now on. A look at [`Self::heard`]
    /// after it sees what was sent before; what is sent later is told of.
    pub fn unwatch(&self) {
        self.clocks.watched.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    pub fn heard(&self) -> Heard {
        let clocks = &self.clocks;

        Heard {
            datagram: clocks.get(&clocks.datagram).unwrap_or(clocks.zero),
            record: clocks.get(&clocks.record).unwrap_or(clocks.zero),
            sent: clocks.get(&clocks.sent),
            large: clocks.get(&clocks.large),
            stalled: clocks.get(&clocks.stalled),
            owed: clocks.get(&clocks.owed),
        }
    }

    /// Largest inner packet in bytes that the path carries in one piece.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Records that may be under way between sealing and sending: few enough
    /// for the peer's replay window.
    pub fn batch(&self) -> usize {
        self.batch.load(Ordering::Relaxed)
    }

    /// Whether a sender may be told now that its packet is too big. True at
    /// most once in [`ANSWER_EVERY`]: ICMP errors have a limited rate (RFC 4443,
    /// section 2.4 (f); RFC 1812, section 4.3.2.8).
    pub(crate) fn may_answer(&self, now: Instant) -> bool {
        let last = self.answered.load(Ordering::Relaxed);
        let now = self.clocks.nanos(now);
        let is_due = last == NEVER || now.saturating_sub(last) >= ANSWER_EVERY.as_nanos() as u64;

        // Of workers that come at once, one answers.
        is_due
            && self
                .answered
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Whether the peer puts packets in several records together.
    pub(crate) fn takes_parts(&self) -> bool {
        self.takes_parts.load(Ordering::Relaxed)
    }

    /// The peer has said that it does.
    pub fn allow_parts(&self) {
        self.takes_parts.store(true, Ordering::Relaxed);
    }

    /// Another one for each packet that goes in several records.
    pub(crate) fn next_number(&self) -> u32 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Where the peer's parts wait for each other; never kept over a system call.
    pub(crate) fn joiner(&self) -> MutexGuard<'_, Joiner> {
        lock(&self.joiner)
    }

    /// The peer is one of ours: its replay window takes any batch.
    pub fn widen(&self) {
        self.batch.store(usize::MAX, Ordering::Relaxed);
    }
}

/// What was last heard of a peer, and sent to it.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// Any datagram from the peer's address.
    pub datagram: Instant,
    /// An authenticated record.
    pub record: Instant,
    /// A packet to the peer, if there was one.
    pub sent: Option<Instant>,
    /// The same of one that a path may be too small for.
    pub large: Option<Instant>,
    /// The first such packet since the last that came from the peer.
    pub stalled: Option<Instant>,
    /// The first packet to the peer since its last record.
    pub owed: Option<Instant>,
}

/// Why a message did not go out.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    #[error(transparent)]
    NotSealed(#[from] NotSealed),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Points in time that threads share, in nanoseconds since `zero`.
#[derive(Debug)]
struct Clocks {
    zero: Instant,
    datagram: AtomicU64,
    record: AtomicU64,
    sent: AtomicU64,
    large: AtomicU64,
    stalled: AtomicU64,
    owed: AtomicU64,
    watched: AtomicBool,
}

impl Clocks {
    fn new(now: Instant) -> Self {
        Self {
            zero: now,
            datagram: AtomicU64::new(0),
            record: AtomicU64::new(0),
            sent: AtomicU64::new(NEVER),
            large: AtomicU64::new(NEVER),
            stalled: AtomicU64::new(NEVER),
            owed: AtomicU64::new(NEVER),
            watched: AtomicBool::new(false),
        }
    }

    fn set(&self, clock: &AtomicU64, now: Instant) {
        clock.store(self.nanos(now), Ordering::Relaxed);
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.zero).as_nanos() as u64
    }

    fn get(&self, clock: &AtomicU64) -> Option<Instant> {
        match clock.load(Ordering::Relaxed) {
            NEVER => None,
            nanos => Some(self.zero + Duration::from_nanos(nanos)),
        }
    }
}

/// A poisoned lock means that a thread panicked between two plain assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const NEVER: u64 = u64::MAX;

/// The longest packet that IP knows.
const MAX_PACKET: usize = 65_535;

/// What every host takes, in bytes (RFC 791, section 3.1).
const LEAST_LINK: usize = 576;

/// Half of the Go program's window of 64: a control message may overtake a
/// batch.
const FOREIGN_BATCH: usize = 32;

/// Often enough for the senders of one spoke to find out within a round trip or two.
const ANSWER_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::schedule::DirectionKey;
    use crate::udp::socket::UdpSocket;

    fn association(now: Instant) -> Association {
        let key = DirectionKey::new([1; 16], [2; 4]);
        let socket = UdpSocket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let path = Path {
            peer: "127.0.0.1:9".parse().unwrap(),
            local: None,
        };

        Association::new(
            CipherSuite::Gcm,
            Arc::new(Sealer::new(CipherSuite::Gcm, &key, 1, 0)),
            Opener::new(CipherSuite::Gcm, &key, 1),
            path,
            Arc::new(Lane::new(socket).unwrap()),
            now,
        )
    }

    #[test]
    fn an_answer_is_owed_from_the_first_packet_to_the_next_record() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let association = association(now);
        assert_eq!(association.heard().owed, None);

        association.handle_sent(at(1), 577);
        association.handle_sent(at(2), 576);
        let heard = association.heard();
        assert_eq!((heard.owed, heard.sent), (Some(at(1)), Some(at(2))));
        assert_eq!(heard.large, Some(at(1)));

        association.handle_record(at(3), &association.path());
        let heard = association.heard();
        assert_eq!((heard.owed, heard.record), (None, at(3)));
        assert_eq!(heard.stalled, Some(at(1)), "a record need not be an answer");
        association.handle_packet();
        assert_eq!(association.heard().stalled, None);
    }

    #[test]
    fn one_sender_is_asked_to_call_the_watch() {
        let now = Instant::now();
        let association = association(now);

        assert!(association.handle_sent(now, 20));
        assert!(!association.handle_sent(now, 20));
        association.unwatch();
        assert!(association.handle_sent(now, 20));
    }

    #[test]
    fn too_big_is_said_once_in_ten_milliseconds() {
        let now = Instant::now();
        let association = association(now);
        let answers = |from: u64, to: u64| {
            (from..to)
                .filter(|&micros| association.may_answer(now + Duration::from_micros(micros)))
                .count()
        };

        assert_eq!(answers(0, 10_000), 1);
        assert_eq!(answers(10_000, 110_000), 10);
    }
}
