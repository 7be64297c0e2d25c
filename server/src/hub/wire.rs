//! The wire task: what the data path has no answer to goes to a handshake or to
//! the hub's loop.
//!
//! Nothing here waits for the loop, which may be busy with netlink: a loop that
//! is behind costs counted events, never packets of live sessions.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dtun_shared::datapath::{Lane, Side};
use dtun_shared::dtls::RECORD_HEADER;
use dtun_shared::dtls::alert::{Alert, Level};
use dtun_shared::dtls::header::{ContentType, Look, look, records};
use dtun_shared::meta::{Content, Control, SpokeMeta};
use dtun_shared::packet::vnet::VnetHeader;
use dtun_shared::timer::at;
use dtun_shared::udp::Path;
use tokio::sync::mpsc;

use crate::handshake::{Handshakes, Verdict};
use crate::hub::counters::Dropped;
use crate::hub::reset::Resets;
use crate::hub::shared::Shared;
use crate::session::Session;

/// What the wire task tells the hub's loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A handshake is done; the second session had the peer's address before.
    Established(Arc<Session>, Option<Arc<Session>>),
    /// The first application record of a session authenticated.
    Confirmed(Arc<Session>),
    Meta(Arc<Session>, SpokeMeta),
    /// The spoke has got this probe of the path.
    Probed(Arc<Session>, u64),
    /// A datagram was too large for the path: see [`Side::path_mtu`].
    PathMtu(Arc<Session>, Option<u32>),
    /// Packets go to the spoke, and nobody watches for an answer.
    Unwatched(Arc<Session>),
    /// An authenticated close_notify or fatal alert.
    Closed(Arc<Session>),
}

/// A datagram that is not a session's data: anyone may have sent it.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) datagram: Vec<u8>,
    pub(super) path: Path,
    pub(super) lane: Arc<Lane>,
}

/// What the data path has no answer to in a session.
#[derive(Debug)]
pub(super) enum Slow {
    /// What an authenticated record carried that is no packet.
    Record(Arc<Session>, ContentType, Vec<u8>),
    /// The first application record of a session authenticated.
    Confirmed(Arc<Session>),
    /// A datagram was too large for the path.
    PathMtu(Arc<Session>, Option<u32>),
    /// Packets go to the spoke, and nobody watches for an answer.
    Unwatched(Arc<Session>),
}

/// State of the task.
pub(super) struct Wire {
    shared: Arc<Shared>,
    handshakes: Handshakes,
    /// The way back to peers in a handshake, which the core knows by address only.
    ways: HashMap<SocketAddr, Way>,
    resets: Resets,
    serial: u64,
    inbox: Inbox,
    events: mpsc::Sender<Event>,
}

/// What the data path has for the task.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) slow: mpsc::Receiver<Slow>,
    pub(super) strays: mpsc::Receiver<Stray>,
}

/// The way back to a peer.
#[derive(Clone, Debug)]
struct Way {
    path: Path,
    lane: Arc<Lane>,
}

impl Wire {
    pub(super) fn new(
        shared: Arc<Shared>,
        handshakes: Handshakes,
        inbox: Inbox,
        events: mpsc::Sender<Event>,
        now: Instant,
    ) -> Self {
        Self {
            shared,
            handshakes,
            ways: HashMap::new(),
            resets: Resets::new(now),
            serial: 0,
            inbox,
            events,
        }
    }

    /// Runs until the hub's loop takes no more events.
    pub(super) async fn run(mut self) {
        loop {
            let due = self.handshakes.poll_timeout();
            tokio::select! {
                // Sessions before strangers.
                biased;
                () = self.events.closed() => break,
                () = at(due) => self.handle_timeout(Instant::now()),
                Some(slow) = self.inbox.slow.recv() => self.handle(slow),
                Some(stray) = self.inbox.strays.recv() => self.handle_stray(stray),
                else => break,
            }
        }
        let counters = self.handshakes.counters();
        tracing::debug!(?counters, "handshakes");
    }

    fn handle(&mut self, slow: Slow) {
        match slow {
            Slow::Record(session, content, plain) => {
                // A loop that is behind takes the spoke's next copy.
                drop(self.handle_record(&session, content, &plain));
            }
            Slow::Confirmed(session) => self.handle_confirmed(&session),
            // Another comes while it is too large.
            Slow::PathMtu(session, outer) => drop(self.tell(Event::PathMtu(session, outer))),
            Slow::Unwatched(session) => {
                if let Err(Behind) = self.tell(Event::Unwatched(Arc::clone(&session))) {
                    session.association().unwatch();
                }
            }
        }
    }

    fn handle_stray(&mut self, stray: Stray) {
        let Stray {
            mut datagram,
            path,
            lane,
        } = stray;
        let way = Way { path, lane };
        self.handle_datagram(Instant::now(), &mut datagram, &way);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handshakes.handle_timeout(now);
        self.transmit(None);
        self.ways
            .retain(|peer, _| self.handshakes.in_progress(*peer));
    }

    fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8], way: &Way) {
        let peer = way.path.peer;
        let session = self.shared.sessions.of_peer(peer);
        if let Some(session) = &session {
            session.association().handle_datagram(now);
            if look(datagram) == Look::Epoch1(ContentType::ApplicationData) {
                self.handle_records(now, session, datagram, &way.path);
                return;
            }
        }

        let verdict = self.handshakes.handle_datagram(now, peer, datagram);
        self.transmit(Some(way));
        self.establish(now, way);
        if self.handshakes.in_progress(peer) {
            self.ways.insert(peer, way.clone());
        }
        if verdict == Verdict::NotMine {
            self.handle_unwanted(now, datagram, way);
        }
    }

    /// Records that no handshake wanted: a session's, perhaps one that the
    /// same datagram has just established.
    fn handle_unwanted(&mut self, now: Instant, datagram: &mut [u8], way: &Way) {
        let Way { path, lane } = way;
        if let Some(session) = self.shared.sessions.of_peer(path.peer) {
            self.handle_records(now, &session, datagram, path);
            return;
        }
        self.shared.counters.count(Dropped::NoSession);
        // A spoke in a handshake would take the alert for its end.
        if self.handshakes.in_progress(path.peer) {
            return;
        }
        if let Some(alert) = self.resets.answer(now, datagram) {
            self.shared.send(&alert, path, lane);
        }
    }

    fn establish(&mut self, now: Instant, way: &Way) {
        while let Some(established) = self.handshakes.poll_event() {
            self.serial += 1;
            let lane = Arc::clone(&way.lane);
            let session = Session::new(self.serial, established, way.path, lane, now);
            let session = Arc::new(session);
            let displaced = self.shared.sessions.insert(&session);
            let event = Event::Established(Arc::clone(&session), displaced);
            if self.tell(event).is_err() {
                // The spoke will find its records refused and dial again.
                self.shared.sessions.remove(&session);
            }
        }
    }

    /// Records that came before the data path knew their session.
    fn handle_records(
        &mut self,
        now: Instant,
        session: &Arc<Session>,
        datagram: &mut [u8],
        path: &Path,
    ) {
        let mut rest = datagram;
        while let Some((header, _)) = records(rest).next() {
            let (record, after) = rest.split_at_mut(RECORD_HEADER + header.len);
            rest = after;
            if header.epoch == 0 || header.content == ContentType::Handshake {
                self.shared.counters.count(Dropped::OutOfPlace);
                continue;
            }
            match session.association().open(record) {
                Ok((content, plain)) => {
                    session.association().handle_record(now, path);
                    if let Err(Behind) = self.handle_plain(session, content, plain) {
                        // An answer to what follows would stop the peer from
                        // saying again what was lost.
                        return;
                    }
                }
                Err(refused) => self.shared.counters.count(refused.into()),
            }
        }
        if !rest.is_empty() {
            self.shared.counters.count(Dropped::Malformed);
        }
    }

    fn handle_plain(
        &mut self,
        session: &Arc<Session>,
        content: ContentType,
        plain: &[u8],
    ) -> Result<(), Behind> {
        if content == ContentType::ApplicationData {
            if session.confirm() {
                self.handle_confirmed(session);
            }
            if matches!(Content::of(plain), Content::Ip4 | Content::Ip6) {
                self.shared.deliver(session, plain);
                return Ok(());
            }
        }

        self.handle_record(session, content, plain)
    }

    fn handle_confirmed(&mut self, session: &Arc<Session>) {
        self.handshakes.confirmed(session.peer);
        if self.tell(Event::Confirmed(Arc::clone(session))).is_err() {
            self.shared.missed.notify_one();
        }
    }

    fn handle_record(
        &mut self,
        session: &Arc<Session>,
        content: ContentType,
        plain: &[u8],
    ) -> Result<(), Behind> {
        match content {
            ContentType::ApplicationData => match Content::of(plain) {
                Content::Control => return self.handle_control(session, plain),
                Content::Ip4 | Content::Ip6 | Content::Part | Content::Other => {
                    self.shared.counters.count(Dropped::NotIp);
                }
            },
            ContentType::Alert => match Alert::parse(plain) {
                Some(alert) if alert == Alert::CLOSE_NOTIFY || alert.level == Level::Fatal => {
                    return self.tell(Event::Closed(Arc::clone(session)));
                }
                Some(_) | None => self.shared.counters.count(Dropped::OutOfPlace),
            },
            ContentType::ChangeCipherSpec | ContentType::Handshake => {
                self.shared.counters.count(Dropped::OutOfPlace);
            }
        }

        Ok(())
    }

    fn handle_control(&mut self, session: &Arc<Session>, message: &[u8]) -> Result<(), Behind> {
        match Control::parse(message) {
            Ok(Control::Ping(id)) => self.shared.send_in(session, &Control::Pong(id).emit()),
            Ok(Control::Probe(id)) => self.shared.send_in(session, &Control::Probed(id).emit()),
            // That it came is all it says, and has been noted.
            Ok(Control::Pong(_)) => {}
            Ok(Control::Probed(id)) => return self.tell(Event::Probed(Arc::clone(session), id)),
            Ok(Control::Refused(_)) => self.shared.counters.count(Dropped::BadControl),
            Err(_) => match SpokeMeta::parse(message) {
                // Unknown fields are skipped, so any JSON object would pass.
                Ok(meta) if names_routes(message) => {
                    return self.tell(Event::Meta(Arc::clone(session), meta));
                }
                Ok(_) | Err(_) => self.shared.counters.count(Dropped::BadControl),
            },
        }

        Ok(())
    }

    /// Sends what the handshakes have ready; answers to the datagram at hand
    /// go back the way it came.
    fn transmit(&mut self, came: Option<&Way>) {
        while let Some((peer, datagram)) = self.handshakes.poll_transmit() {
            let way = came
                .filter(|way| way.path.peer == peer)
                .or_else(|| self.ways.get(&peer));
            if let Some(Way { path, lane }) = way {
                self.shared.send(&datagram, path, lane);
            }
        }
    }

    /// A spoke repeats its meta until it is answered, and a session whose
    /// goodbye was lost ends by silence.
    fn tell(&self, event: Event) -> Result<(), Behind> {
        self.events.try_send(event).map_err(|_| {
            self.shared.counters.count(Dropped::Backlog);
            Behind
        })
    }
}

/// The loop's queue is full.
#[derive(Debug)]
struct Behind;

impl Shared {
    /// Passes a spoke's packet to its device, if it is the spoke's to send.
    fn deliver(&self, session: &Arc<Session>, packet: &[u8]) {
        if !self.admits_in(session, packet) {
            return;
        }
        let Some(tun) = self.device(session) else {
            return;
        };
        if tun
            .try_send(VnetHeader::PLAIN, &[IoSlice::new(packet)])
            .is_err()
        {
            self.counters.count(Dropped::Device);
        }
    }
}

fn names_routes(message: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"Routes\"";
    message.windows(FIELD.len()).any(|window| window == FIELD)
}
