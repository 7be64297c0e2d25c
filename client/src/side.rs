//! What the spoke decides for the data path, and what the data path has for
//! the spoke's loop.
//!
//! Messages wait in a bounded queue, since they are the hub's alone. What
//! anyone can bring about, a forged alert or a packet of a user, is a flag
//! that is raised at most once a second: a flood of it costs the loop nothing
//! more.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Instant;

use dtun_shared::association::Association;
use dtun_shared::datapath::{Dropped, Lane, Side};
use dtun_shared::dtls::header::ContentType;
use dtun_shared::packet::too_big::FarEnd;
use dtun_shared::packet::vnet::VnetHeader;
use dtun_shared::tun::Tun;
use dtun_shared::udp::Path;
use portable_atomic::AtomicU64;
use tokio::sync::{Notify, mpsc};

use crate::session::{Outward, Session, split_record};

/// The session that packets belong to.
#[derive(Debug)]
pub(crate) struct SpokeSide {
    sessions: RwLock<Sessions>,
    /// Packets of the device while there was no session.
    homeless: AtomicU64,
    messages: mpsc::Sender<Message>,
    flags: Flags,
}

#[derive(Debug, Default)]
struct Sessions {
    current: Option<Arc<Session>>,
    /// The one before: what the hub sent in it may still be on its way.
    former: Option<Arc<Session>>,
}

/// What the data path has for the loop.
#[derive(Debug)]
pub(crate) enum Note {
    Message(Message),
    /// Somebody says, unauthenticated, that the session is over.
    Suspect,
    /// Packets went out, and nobody watches for an answer.
    Unwatched,
    /// Our own datagrams are routed into our own device.
    Looped,
    /// A datagram was too large for the path: see [`Side::path_mtu`].
    PathMtu(Option<u32>),
}

/// What the hub said.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) session: Arc<Session>,
    /// When it was opened.
    pub(crate) at: Instant,
    pub(crate) said: Said,
}

#[derive(Debug)]
pub(crate) enum Said {
    /// A record without a packet.
    Record(ContentType, Vec<u8>),
    /// The echo that answers the probe of this number.
    Echo(u64),
}

/// The loop's end of a [`SpokeSide`].
#[derive(Debug)]
pub(crate) struct Notes {
    side: Arc<SpokeSide>,
    messages: mpsc::Receiver<Message>,
}

impl SpokeSide {
    pub(crate) fn new() -> (Arc<Self>, Notes) {
        let (sender, messages) = mpsc::channel(QUEUE);
        let side = Arc::new(Self {
            sessions: RwLock::default(),
            homeless: AtomicU64::new(0),
            messages: sender,
            flags: Flags::new(Instant::now()),
        });
        let notes = Notes {
            side: Arc::clone(&side),
            messages,
        };

        (side, notes)
    }

    /// Has packets go to `session`. Those that come in the one before, if there
    /// is one, still count.
    pub(crate) fn set(&self, session: Arc<Session>) {
        let mut sessions = self.sessions_mut();
        sessions.former = sessions.current.replace(session);
        self.flags.lower();
    }

    /// Forgets every session.
    pub(crate) fn clear(&self) {
        *self.sessions_mut() = Sessions::default();
        self.flags.lower();
    }

    /// Forgets the session before the one that packets go to.
    pub(crate) fn forget_former(&self) {
        self.sessions_mut().former = None;
    }

    /// How many packets found no session since the last call.
    pub(crate) fn take_homeless(&self) -> u64 {
        self.homeless.swap(0, Ordering::Relaxed)
    }

    fn session(&self) -> Option<Arc<Session>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);

        sessions.current.clone()
    }

    /// The session that has this socket.
    fn session_on(&self, lane: &Arc<Lane>) -> Option<Arc<Session>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let Sessions { current, former } = &*sessions;
        let has_it = |session: &&Arc<Session>| {
            let association: &Association = session.as_ref().as_ref();
            Arc::ptr_eq(association.lane(), lane)
        };

        current.iter().chain(former).find(has_it).cloned()
    }

    fn sessions_mut(&self) -> RwLockWriteGuard<'_, Sessions> {
        self.sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, session: &Arc<Session>, said: Said) {
        let message = Message {
            session: Arc::clone(session),
            at: Instant::now(),
            said,
        };
        if self.messages.try_send(message).is_err() {
            session.counters().unread.add(1);
        }
    }
}

impl Side for SpokeSide {
    type Port = ();
    type Session = Session;

    fn session_for(&self, (): &()) -> Option<Arc<Session>> {
        self.session()
    }

    fn admits_out(&self, session: &Session, packet: &[u8]) -> bool {
        match session.admits_out(packet) {
            Outward::Admitted => true,
            Outward::Dropped => false,
            Outward::NoRoute => {
                refuse(session, packet);
                false
            }
            Outward::Looped => {
                self.flags.raise_looped(Instant::now());
                false
            }
        }
    }

    fn homeless(&self, (): &(), _packet: &[u8]) {
        self.homeless.fetch_add(1, Ordering::Relaxed);
    }

    /// The loop watches the machine's links itself.
    fn device_gone(&self, (): &()) {}

    fn unwatched(&self, _session: &Arc<Session>) {
        self.flags.raise_unwatched();
    }

    /// The sockets are connected: whatever comes is the hub's.
    fn session_of(&self, _path: &Path, lane: &Arc<Lane>) -> Option<Arc<Session>> {
        self.session_on(lane)
    }

    fn device<'a>(&self, session: &'a Session) -> Option<&'a Arc<Tun>> {
        session.device()
    }

    fn admits_in(&self, session: &Arc<Session>, packet: &[u8]) -> bool {
        let answered = session.echo_answered(packet);
        if let Some(id) = answered {
            self.say(session, Said::Echo(id));
        }

        answered.is_none()
    }

    fn message(&self, session: &Arc<Session>, content: ContentType, plain: &[u8]) -> bool {
        match content {
            ContentType::ApplicationData | ContentType::Alert => {
                self.say(session, Said::Record(content, plain.to_vec()));
            }
            // The hub's last flight, again.
            ContentType::Handshake | ContentType::ChangeCipherSpec => {}
        }

        true
    }

    /// Alerts, and what is left of the handshake.
    fn stray(&self, mut datagram: &mut [u8], path: &Path, lane: &Arc<Lane>) {
        let Some(session) = self.session_on(lane) else {
            return;
        };
        let now = Instant::now();
        while let Some((header, record, rest)) = split_record(datagram) {
            datagram = rest;
            if header.epoch == 0 {
                // Anyone can send one; a hub that lost the session does.
                if header.content == ContentType::Alert {
                    self.flags.raise_suspect(now);
                }
                continue;
            }
            let association: &Association = (*session).as_ref();
            match association.open(record) {
                Ok((ContentType::ApplicationData, _)) => self.count(Dropped::OutOfPlace, 1),
                Ok((content, plain)) => {
                    association.handle_record(now, path);
                    self.message(&session, content, plain);
                }
                Err(refused) => self.count(Dropped::Record(refused), 1),
            }
        }
    }

    fn socket_error(&self, _association: Option<&Association>, error: &io::Error) {
        if self.flags.raise_suspect(Instant::now()) {
            tracing::debug!(%error, "socket error");
        }
    }

    fn path_mtu(&self, _peer: SocketAddr, mtu: Option<u32>) {
        self.flags.raise_path_mtu(Instant::now(), mtu);
    }

    fn far_end(&self, session: &Session) -> Option<FarEnd> {
        let addresses = session.addresses();

        Some(FarEnd {
            ip4: addresses.peer4.addr(),
            ip6: addresses.ip6.map(|(_, peer)| peer.addr()),
        })
    }

    fn count(&self, dropped: Dropped, packets: usize) {
        if let Some(session) = self.session() {
            session.counters().count(dropped, packets);
        }
    }
}

/// Tells the sender of a packet that it goes nowhere.
fn refuse(session: &Session, packet: &[u8]) {
    let answer = session.refusal(packet, Instant::now());
    if let (Some(answer), Some(tun)) = (answer, session.device())
        && let Err(error) = tun.try_send(VnetHeader::PLAIN, &[IoSlice::new(&answer)])
    {
        tracing::debug!(%error, "sender not told that there is no route");
    }
}

impl Notes {
    /// Waits for what comes next. Cancelling the wait loses nothing.
    pub(crate) async fn recv(&mut self) -> Note {
        loop {
            if let Some(note) = self.try_recv() {
                return note;
            }
            tokio::select! {
                Some(message) = self.messages.recv() => return Note::Message(message),
                () = self.side.flags.raised.notified() => {}
            }
        }
    }

    /// What has come, if anything has.
    pub(crate) fn try_recv(&mut self) -> Option<Note> {
        // Messages first: one may contradict a suspicion.
        if let Ok(message) = self.messages.try_recv() {
            return Some(Note::Message(message));
        }

        self.side.flags.take()
    }
}

/// What the loop is to look at; any thread raises, the loop takes.
#[derive(Debug)]
struct Flags {
    zero: Instant,
    raised: Notify,
    unwatched: AtomicBool,
    suspect: AtomicBool,
    looped: AtomicBool,
    path_mtu: AtomicBool,
    /// What came with it; zero for none.
    mtu: AtomicU32,
    /// When each of the last three may be raised again, in milliseconds since
    /// `zero`.
    next_suspect: AtomicU64,
    next_looped: AtomicU64,
    next_path_mtu: AtomicU64,
}

impl Flags {
    fn new(zero: Instant) -> Self {
        Self {
            zero,
            raised: Notify::new(),
            unwatched: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            looped: AtomicBool::new(false),
            path_mtu: AtomicBool::new(false),
            mtu: AtomicU32::new(0),
            next_suspect: AtomicU64::new(0),
            next_looped: AtomicU64::new(0),
            next_path_mtu: AtomicU64::new(0),
        }
    }

    fn raise_unwatched(&self) {
        self.unwatched.store(true, Ordering::Release);
        self.raised.notify_one();
    }

    /// Whether it was not too soon to raise it.
    fn raise_suspect(&self, now: Instant) -> bool {
        self.raise(&self.suspect, &self.next_suspect, now)
    }

    fn raise_looped(&self, now: Instant) -> bool {
        self.raise(&self.looped, &self.next_looped, now)
    }

    fn raise_path_mtu(&self, now: Instant, mtu: Option<u32>) {
        // A hint more or less: which of two is taken is all the same.
        self.mtu.store(mtu.unwrap_or(0), Ordering::Relaxed);
        self.raise(&self.path_mtu, &self.next_path_mtu, now);
    }

    fn raise(&self, flag: &AtomicBool, next: &AtomicU64, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.zero).as_millis() as u64;
        let due = next.load(Ordering::Relaxed);
        let is_due = now >= due
            && next
                .compare_exchange(due, now + PAUSE, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_due {
            flag.store(true, Ordering::Release);
            self.raised.notify_one();
        }

        is_due
    }

    fn take(&self) -> Option<Note> {
        let taken = |flag: &AtomicBool| flag.swap(false, Ordering::Acquire);
        if taken(&self.unwatched) {
            return Some(Note::Unwatched);
        }
        if taken(&self.suspect) {
            return Some(Note::Suspect);
        }

        if taken(&self.looped) {
            return Some(Note::Looped);
        }

        taken(&self.path_mtu).then(|| {
            let mtu = self.mtu.load(Ordering::Relaxed);
            Note::PathMtu((mtu != 0).then_some(mtu))
        })
    }

    /// Forgets what was said of the session before.
    fn lower(&self) {
        for flag in [&self.unwatched, &self.suspect, &self.looped, &self.path_mtu] {
            flag.store(false, Ordering::Relaxed);
        }
        for next in [&self.next_suspect, &self.next_looped, &self.next_path_mtu] {
            next.store(0, Ordering::Relaxed);
        }
    }
}

/// The hub's messages are few: an answer, a refusal, a goodbye.
const QUEUE: usize = 64;

/// How long a flag stays down once it was raised, in milliseconds.
const PAUSE: u64 = 1000;
