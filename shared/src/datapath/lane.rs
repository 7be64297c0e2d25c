//! A socket of the data path, and what waits while it is full.
//!
//! While the socket takes what comes, nothing is queued here. Once it says no,
//! later packets wait unsealed in a fair queue, so that a ping overtakes a
//! transfer; the socket's own buffer holds a few milliseconds of the rate that
//! the uplink was seen to have.

mod waiting;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::backlog::{Backlog, flow_hash};
use super::outbox::Outer;
use super::pace::Pace;
use super::side::Dropped;
use crate::packet::ecn::Ecn;
use crate::sys::epoll::{Epoll, Interest};
use crate::udp::Path;
use crate::udp::send::{SendOutcome, Transmit};
use crate::udp::socket::UdpSocket;
use waiting::{Held, Lost, Waiting};

pub(super) use waiting::Queued;

/// A socket, and what waits while it is full.
#[derive(Debug)]
pub struct Lane {
    socket: UdpSocket,
    /// The socket again: to wait for room is another matter than to wait for
    /// datagrams, and another worker's.
    room: OwnedFd,
    armed: OnceLock<Armed>,
    is_full: AtomicBool,
    longest: AtomicUsize,
    waiting: Mutex<Waiting>,
    /// No sealed message waits any more.
    flushed: Condvar,
    lost: Lost,
}

/// Where the data path waits for room.
#[derive(Debug)]
struct Armed {
    epoll: Arc<Epoll>,
    token: u64,
}

impl Lane {
    /// # Errors
    ///
    /// When no descriptor is left.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let room = socket.as_fd().try_clone_to_owned()?;
        let pace = Pace::new();
        socket.set_send_buffer(pace.limit())?;

        Ok(Self {
            socket,
            room,
            armed: OnceLock::new(),
            is_full: AtomicBool::new(false),
            longest: AtomicUsize::new(pace.message()),
            waiting: Mutex::new(Waiting {
                held: VecDeque::new(),
                backlog: Backlog::new(pace.backlog()),
                pace,
                is_watched: false,
                is_over: false,
            }),
            flushed: Condvar::new(),
            lost: Lost::default(),
        })
    }

    /// For what is not a packet of a device.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends a control message, past the packets that wait: a full socket only
    /// delays it.
    ///
    /// # Errors
    ///
    /// The socket's; that it is full only if many such messages wait already.
    pub fn send(&self, datagram: &[u8], path: &Path) -> io::Result<()> {
        if !self.is_full() {
            match self.socket.try_send(datagram, path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
        self.delay(datagram, path, false)
    }

    /// As [`Self::send`], in a datagram that nobody may fragment: one that is
    /// too large for the own link is an error, `EMSGSIZE`.
    pub(crate) fn send_whole(&self, datagram: &[u8], path: &Path) -> io::Result<()> {
        if !self.is_full() {
            let transmit = Transmit {
                path,
                contents: datagram,
                segment: datagram.len(),
                ecn: Ecn::NotEct,
                df: true,
            };
            match self.socket.try_send_batch(&[transmit]) {
                SendOutcome::Sent => return Ok(()),
                SendOutcome::Blocked { .. } | SendOutcome::Refused { .. } => {}
                SendOutcome::Failed { error, .. } => return Err(error),
            }
        }

        self.delay(datagram, path, true)
    }

    fn delay(&self, datagram: &[u8], path: &Path, df: bool) -> io::Result<()> {
        if self.waiting().held.len() >= MOST_HELD {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let outer = Outer {
            ecn: Ecn::NotEct,
            df,
        };
        self.hold(path, datagram, datagram.len(), outer);

        Ok(())
    }

    /// Lets the data path wait for room under `token`, when there is none.
    pub(super) fn arm(&self, epoll: &Arc<Epoll>, token: u64) {
        let epoll = Arc::clone(epoll);
        // A lane belongs to one data path.
        drop(self.armed.set(Armed { epoll, token }));
        let mut waiting = self.waiting();
        if self.is_full() {
            self.wait(&mut waiting);
        }
    }

    /// Ends the wait and forgets what waits; a message still goes if the socket
    /// takes it at once.
    pub(super) fn disarm(&self) {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        self.unwatch(&mut waiting);
        self.forget(&mut waiting);
        self.is_full.store(false, Ordering::Release);
        // For a last word.
        if let Err(error) = self.socket.set_send_buffer(LAST_BUFFER) {
            tracing::debug!(%error, "send buffer not set");
        }
    }

    /// Whether packets have to wait.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Most bytes of one message.
    pub(super) fn longest(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }

    /// Bytes went out without waiting.
    pub(super) fn sent(&self, bytes: usize, now: Instant) {
        let mut waiting = self.waiting();
        if waiting.pace.sent(bytes, now) {
            self.resize(&mut waiting);
        }
    }

    /// Queues a packet if packets have to wait; else it is the caller's to
    /// send. Returns how many had to be dropped.
    pub(super) fn queue(&self, queued: &Queued, packet: &[u8]) -> Result<usize, NotFull> {
        let mut waiting = self.waiting();
        if !self.is_full() {
            return Err(NotFull);
        }
        let owner = Arc::as_ptr(&queued.session).cast::<()>() as u64;
        let flow = flow_hash(packet);

        Ok(waiting.backlog.push(owner, flow, queued.clone(), packet))
    }

    /// The uplink's queue is full. True when a message can wait for room.
    pub(super) fn refused(&self) -> bool {
        let mut waiting = self.waiting();
        let can_wait = waiting.pace.refused(self.outstanding());
        if can_wait {
            self.resize(&mut waiting);
        }

        can_wait
    }

    /// Keeps a sealed message until there is room.
    pub(super) fn hold(&self, path: &Path, contents: &[u8], segment: usize, outer: Outer) {
        if contents.is_empty() {
            return;
        }
        let held = Held {
            path: *path,
            contents: contents.to_vec(),
            segment,
            outer,
        };
        let mut waiting = self.waiting();
        if waiting.is_over {
            self.lost.refused(held.count());
            return;
        }
        waiting.held.push_back(held);
        if !self.is_full.swap(true, Ordering::AcqRel) {
            self.wait(&mut waiting);
        }
    }

    /// There is room again: sends what was held. None when that filled it up;
    /// else how many bytes of the queue it may take now.
    pub(super) fn resume(&self) -> Option<usize> {
        let mut outstanding = self.outstanding();
        let mut waiting = self.waiting();
        if waiting.pace.writable(outstanding, Instant::now()) {
            self.resize(&mut waiting);
        }
        while let Some(mut held) = waiting.held.pop_front() {
            // Not under the lock: devices go on filling the queue.
            drop(waiting);
            let is_blocked = self.send_held(&mut held);
            waiting = self.waiting();
            if is_blocked {
                waiting.held.push_front(held);
                self.wait(&mut waiting);
                return None;
            }
            outstanding = self.outstanding();
        }
        self.flushed.notify_all();

        Some(waiting.pace.room(outstanding))
    }

    /// The next packet of the queue, unless something sealed goes before it.
    pub(super) fn next(&self) -> Option<(Queued, Vec<u8>)> {
        let mut waiting = self.waiting();
        if !waiting.held.is_empty() {
            return None;
        }

        waiting.backlog.pop()
    }

    /// Nothing waits any more, or the socket must have room for what does.
    pub(super) fn settle(&self) {
        let mut waiting = self.waiting();
        if waiting.backlog.is_empty() && waiting.held.is_empty() {
            self.unwatch(&mut waiting);
            self.is_full.store(false, Ordering::Release);
        } else {
            self.wait(&mut waiting);
        }
    }

    /// Waits until no sealed message waits any more; false if some do after all
    /// at the deadline.
    pub(super) fn flush(&self, deadline: Instant) -> bool {
        let patience = deadline.saturating_duration_since(Instant::now());
        let (waiting, _) = self
            .flushed
            .wait_timeout_while(self.waiting(), patience, |waiting| !waiting.held.is_empty())
            .unwrap_or_else(PoisonError::into_inner);

        waiting.held.is_empty()
    }

    /// What was lost here since the last call.
    pub(super) fn take_lost(&self) -> impl Iterator<Item = (Dropped, usize)> {
        self.lost.take()
    }

    /// False when there is nothing left of it to send.
    fn send_held(&self, held: &mut Held) -> bool {
        let message = Transmit {
            path: &held.path,
            contents: &held.contents,
            segment: held.segment,
            ecn: held.outer.ecn,
            df: held.outer.df,
        };

        match self.socket.try_send_batch(&[message]) {
            SendOutcome::Blocked { part, .. } => {
                held.contents.drain(..part);
                true
            }
            SendOutcome::Refused { part, .. } => {
                held.contents.drain(..part);
                let can_wait = self.refused();
                if !can_wait {
                    self.lost.for_want_of_room(held.count());
                }
                can_wait
            }
            SendOutcome::Sent => false,
            SendOutcome::Failed { .. } => {
                self.lost.refused(held.count());
                false
            }
        }
    }

    fn wait(&self, waiting: &mut Waiting) {
        waiting.pace.blocked(self.outstanding(), Instant::now());
        let Some(Armed { epoll, token }) = self.armed.get() else {
            return;
        };
        let (fd, interest) = (self.room.as_fd(), Interest::WRITE.once());
        let watched = if waiting.is_watched {
            epoll.rearm(fd, *token, interest)
        } else {
            epoll.add(fd, *token, interest)
        };
        waiting.is_watched = watched.is_ok();
        if let Err(error) = watched {
            tracing::debug!(%error, "socket not waited for: what waits is dropped");
            self.forget(waiting);
            self.is_full.store(false, Ordering::Release);
        }
    }

    fn forget(&self, waiting: &mut Waiting) {
        let held = waiting.held.drain(..).map(|held| held.count()).sum();
        let queued = std::iter::from_fn(|| waiting.backlog.pop()).count();
        self.lost.refused(held);
        self.lost.refused(queued);
        self.flushed.notify_all();
    }

    /// A socket that is not waited for costs nothing for each datagram of it
    /// that comes or has gone.
    fn unwatch(&self, waiting: &mut Waiting) {
        if let Some(armed) = self.armed.get()
            && std::mem::take(&mut waiting.is_watched)
            && let Err(error) = armed.epoll.remove(self.room.as_fd())
        {
            tracing::debug!(%error, "socket not taken out of the data path");
        }
    }

    fn resize(&self, waiting: &mut Waiting) {
        let pace = &waiting.pace;
        if let Err(error) = self.socket.set_send_buffer(pace.limit()) {
            tracing::debug!(%error, "send buffer not set");
        }
        self.longest.store(pace.message(), Ordering::Relaxed);
        let limit = pace.backlog();
        self.lost.for_want_of_room(waiting.backlog.set_limit(limit));
    }

    fn outstanding(&self) -> usize {
        self.socket.outstanding().unwrap_or(0)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for a goodbye behind whatever is on its way, in bytes.
const LAST_BUFFER: usize = 4 << 20;

/// The socket takes packets at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotFull;

/// Control messages that may wait: more than a busy hub has in a moment.
const MOST_HELD: usize = 1024;

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::association::Association;
    use crate::dtls::CipherSuite;
    use crate::dtls::schedule::DirectionKey;
    use crate::netns::isolated;
    use crate::packet::vnet::VnetHeader;
    use crate::record::{Opener, Sealer};
    use crate::sys::epoll::Event;

    /// A lane to `HUB` at a slow link, and what waits for room in it.
    fn slow_lane() -> (Arc<Lane>, Arc<Epoll>) {
        let slow = "qdisc add dev lo root tbf rate 5mbit burst 2kb limit 1mb";
        let tc = Command::new("tc").args(slow.split(' ')).status();
        assert!(tc.unwrap().success(), "tc is missing, or tbf in the kernel");
        let lane = Lane::new(UdpSocket::connect(HUB.parse().unwrap()).unwrap()).unwrap();
        let epoll = Arc::new(Epoll::new().unwrap());
        lane.arm(&epoll, 7);

        (Arc::new(lane), epoll)
    }

    /// Sends until the socket is full; returns how many datagrams of 1200 bytes.
    fn fill(lane: &Lane) -> usize {
        let mut count = 0;
        while !lane.is_full() {
            lane.send(&[0; 1200], &path()).unwrap();
            count += 1;
        }

        count
    }

    fn path() -> Path {
        Path {
            peer: HUB.parse().unwrap(),
            local: None,
        }
    }

    fn hub() -> std::net::UdpSocket {
        let hub = std::net::UdpSocket::bind(HUB).unwrap();
        hub.set_read_timeout(Some(Duration::from_secs(10))).unwrap();

        hub
    }

    #[test]
    fn a_control_message_waits_for_room_and_is_not_lost() {
        isolated(|_| async move {
            let hub = hub();
            let (lane, epoll) = slow_lane();

            let bulk = fill(&lane);
            lane.send(b"control", &path()).unwrap();
            while lane.is_full() {
                until_room(&lane, &epoll);
            }

            let mut buf = [0; 2000];
            for _ in 0..bulk {
                assert_eq!(hub.recv(&mut buf).unwrap(), 1200);
            }
            assert_eq!(hub.recv(&mut buf).unwrap(), b"control".len());
        });
    }

    #[test]
    fn what_was_sealed_goes_before_what_was_queued() {
        isolated(|_| async move {
            let _hub = hub();
            let (lane, _epoll) = slow_lane();
            fill(&lane);
            let session = session(&lane);

            assert_eq!(lane.queue(&session, &[0x45; 20]), Ok(0));

            assert!(lane.next().is_none());
            lane.waiting().held.clear();
            assert!(lane.next().is_some());
        });
    }

    #[test]
    fn a_lane_that_is_over_keeps_nothing_and_has_a_last_word() {
        isolated(|_| async move {
            let hub = hub();
            let (lane, _epoll) = slow_lane();
            let bulk = fill(&lane);
            let session = session(&lane);
            lane.queue(&session, &[0x45; 20]).unwrap();

            lane.disarm();

            assert_eq!(Arc::strong_count(&session.session), 1);
            assert_eq!(lost(&lane), [(Dropped::Unsent, 2)]);
            assert_eq!(lane.queue(&session, &[0x45; 20]), Err(NotFull));
            lane.send(b"goodbye", &path()).unwrap();
            let mut buf = [0; 2000];
            // The one that was held is gone.
            for _ in 0..bulk - 1 {
                assert_eq!(hub.recv(&mut buf).unwrap(), 1200);
            }
            assert_eq!(hub.recv(&mut buf).unwrap(), b"goodbye".len());
        });
    }

    #[test]
    fn what_a_slower_link_leaves_no_room_for_is_counted() {
        isolated(|_| async move {
            let _hub = hub();
            let (lane, epoll) = slow_lane();
            fill(&lane);
            let session = session(&lane);
            for _ in 0..600 {
                assert_eq!(lane.queue(&session, &[0x45; 1000]), Ok(0));
            }

            // The rate that is measured meanwhile allows for far fewer.
            while !lane.waiting().held.is_empty() {
                until_room(&lane, &epoll);
            }
            fill(&lane);
            until_room(&lane, &epoll);

            let lost: usize = lost(&lane).into_iter().map(|(_, packets)| packets).sum();
            let left = std::iter::from_fn(|| lane.next()).count();
            assert!(lost > 0);
            assert_eq!(lost + left, 600);
        });
    }

    #[test]
    fn a_message_that_fails_after_its_wait_is_counted() {
        isolated(|_| async move {
            let lane = Lane::new(UdpSocket::listen(HUB.parse().unwrap()).unwrap()).unwrap();
            let outer = Outer {
                ecn: Ecn::NotEct,
                df: true,
            };
            let nowhere = Path {
                peer: "192.0.2.1:443".parse().unwrap(),
                local: None,
            };
            lane.hold(&nowhere, &[0; 250], 100, outer);

            assert!(lane.resume().is_some());

            assert_eq!(lost(&lane), [(Dropped::Unsent, 3)]);
        });
    }

    #[test]
    fn a_flush_lasts_until_the_last_word_has_gone() {
        isolated(|_| async move {
            let _hub = hub();
            let (lane, epoll) = slow_lane();
            fill(&lane);
            lane.send(b"goodbye", &path()).unwrap();
            assert!(!lane.flush(Instant::now()));

            let flush = std::thread::spawn({
                let lane = Arc::clone(&lane);
                move || lane.flush(Instant::now() + Duration::from_secs(10))
            });
            while !lane.waiting().held.is_empty() {
                until_room(&lane, &epoll);
            }

            assert!(flush.join().unwrap());
        });
    }

    fn until_room(lane: &Lane, epoll: &Epoll) {
        let mut events = [Event::EMPTY];
        let patience = Duration::from_secs(10);
        assert_eq!(epoll.wait(&mut events, Some(patience)).unwrap(), 1);
        assert_eq!(events[0].token(), 7);
        if lane.resume().is_some() {
            lane.settle();
        }
    }

    fn lost(lane: &Lane) -> Vec<(Dropped, usize)> {
        lane.take_lost().collect()
    }

    fn session(lane: &Arc<Lane>) -> Queued {
        let suite = CipherSuite::Gcm;
        let key = DirectionKey::new([1; 16], [2; 4]);
        let association = Association::new(
            suite,
            Arc::new(Sealer::new(suite, &key, 1, 0)),
            Opener::new(suite, &key, 1),
            path(),
            Arc::clone(lane),
            Instant::now(),
        );

        Queued {
            session: Arc::new(Owner(association)),
            header: VnetHeader::PLAIN,
        }
    }

    struct Owner(Association);

    impl AsRef<Association> for Owner {
        fn as_ref(&self) -> &Association {
            &self.0
        }
    }

    const HUB: &str = "127.0.0.1:443";
}
