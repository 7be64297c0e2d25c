//! The wire task: what the socket brings goes to a handshake, to a session's
//! device, or to the hub's loop.
//!
//! Nothing here waits for the loop, which may be busy with netlink: a loop that
//! is behind costs counted events, never packets of live sessions.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dtun_shared::dtls::RECORD_HEADER;
use dtun_shared::dtls::alert::{Alert, Level};
use dtun_shared::dtls::header::{ContentType, Look, look, records};
use dtun_shared::meta::{Content, Control, SpokeMeta};
use dtun_shared::packet::Ends;
use dtun_shared::udp::Path;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use crate::handshake::{Handshakes, Verdict};
use crate::hub::counters::Dropped;
use crate::hub::reset::Resets;
use crate::hub::shared::Shared;
use crate::session::{Inner, Session};

/// What the wire task tells the hub's loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A handshake is done; the second session had the peer's address before.
    Established(Arc<Session>, Option<Arc<Session>>),
    /// The first application record of a session authenticated.
    Confirmed(Arc<Session>),
    Meta(Arc<Session>, SpokeMeta),
    /// An authenticated close_notify or fatal alert.
    Closed(Arc<Session>),
}

/// State of the task.
pub(super) struct Wire {
    shared: Arc<Shared>,
    handshakes: Handshakes,
    /// The way back to peers in a handshake, which the core knows by address only.
    paths: HashMap<SocketAddr, Path>,
    resets: Resets,
    serial: u64,
    events: mpsc::Sender<Event>,
}

impl Wire {
    pub(super) fn new(
        shared: Arc<Shared>,
        handshakes: Handshakes,
        events: mpsc::Sender<Event>,
        now: Instant,
    ) -> Self {
        Self {
            shared,
            handshakes,
            paths: HashMap::new(),
            resets: Resets::new(now),
            serial: 0,
            events,
        }
    }

    /// Runs until the hub's loop takes no more events.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut datagram = vec![0; MAX_DATAGRAM];
        let mut failures = 0;

        loop {
            let due = self.handshakes.poll_timeout();
            let idle = Instant::now() + IDLE;
            tokio::select! {
                received = self.shared.socket.recv(&mut datagram) => match received {
                    Ok((len, path)) => {
                        failures = 0;
                        self.handle_datagram(Instant::now(), &mut datagram[..len], path);
                    }
                    // An ICMP error of some peer: nothing about this socket.
                    Err(error) if is_peers(&error) => {
                        self.shared.counters.count(Dropped::Unsent);
                    }
                    Err(error) if failures == MAX_FAILURES => return Err(error),
                    // Memory is short, or a link is going: it may pass.
                    Err(error) => {
                        failures += 1;
                        if failures == 1 {
                            tracing::warn!(%error, "failed to read the socket, trying on");
                        }
                        sleep(FAILURE_PAUSE).await;
                    }
                },
                () = self.events.closed() => break,
                () = sleep_until(due.unwrap_or(idle).min(idle).into()) => {
                    self.handle_timeout(Instant::now());
                }
            }
        }
        let counters = self.handshakes.counters();
        tracing::debug!(?counters, "handshakes");

        Ok(())
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.handshakes.handle_timeout(now);
        self.transmit(None);
        self.paths
            .retain(|peer, _| self.handshakes.in_progress(*peer));
    }

    fn handle_datagram(&mut self, now: Instant, datagram: &mut [u8], path: Path) {
        let peer = path.peer;
        let session = self.shared.sessions.of_peer(peer);
        if let Some(session) = &session {
            session.handle_datagram(now);
            if look(datagram) == Look::Epoch1(ContentType::ApplicationData) {
                self.handle_records(now, session, datagram, path);
                return;
            }
        }

        let verdict = self.handshakes.handle_datagram(now, peer, datagram);
        self.transmit(Some(path));
        self.establish(now, path);
        if self.handshakes.in_progress(peer) {
            self.paths.insert(peer, path);
        }
        if verdict == Verdict::NotMine {
            self.handle_strays(now, datagram, path);
        }
    }

    /// Records that no handshake wanted: a session's, perhaps one that the
    /// same datagram has just established.
    fn handle_strays(&mut self, now: Instant, datagram: &mut [u8], path: Path) {
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
            self.shared.send(&alert, &path);
        }
    }

    fn establish(&mut self, now: Instant, path: Path) {
        while let Some(established) = self.handshakes.poll_event() {
            self.serial += 1;
            let session = Arc::new(Session::new(self.serial, established, path, now));
            let displaced = self.shared.sessions.insert(&session);
            let event = Event::Established(Arc::clone(&session), displaced);
            if self.tell(event).is_err() {
                // The spoke will find its records refused and dial again.
                self.shared.sessions.remove(&session);
            }
        }
    }

    fn handle_records(
        &mut self,
        now: Instant,
        session: &Arc<Session>,
        datagram: &mut [u8],
        path: Path,
    ) {
        let mut rest = datagram;
        while let Some((header, _)) = records(rest).next() {
            let (record, after) = rest.split_at_mut(RECORD_HEADER + header.len);
            rest = after;
            if header.epoch == 0 || header.content == ContentType::Handshake {
                self.shared.counters.count(Dropped::OutOfPlace);
                continue;
            }
            match session.open(record) {
                Ok((content, plain)) => {
                    session.handle_record(now, path);
                    if let Err(Behind) = self.handle_content(session, content, plain) {
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

    fn handle_content(
        &mut self,
        session: &Arc<Session>,
        content: ContentType,
        plain: &[u8],
    ) -> Result<(), Behind> {
        match content {
            ContentType::ApplicationData => {
                if session.confirm() {
                    self.handshakes.confirmed(session.peer);
                    // The loop's next tick finds one that it was not told of.
                    drop(self.tell(Event::Confirmed(Arc::clone(session))));
                }
                match Content::of(plain) {
                    Content::Ip4 | Content::Ip6 => self.shared.deliver(session, plain),
                    Content::Control => return self.handle_control(session, plain),
                    Content::Other => self.shared.counters.count(Dropped::NotIp),
                }
            }
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
            Ok(Control::Pong(_) | Control::Probed(_)) => {}
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
    /// go back along its path.
    fn transmit(&mut self, came: Option<Path>) {
        while let Some((peer, datagram)) = self.handshakes.poll_transmit() {
            let path = came
                .filter(|path| path.peer == peer)
                .or_else(|| self.paths.get(&peer).copied())
                .unwrap_or(Path { peer, local: None });
            self.shared.send(&datagram, &path);
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
    fn deliver(&self, session: &Session, packet: &[u8]) {
        let Some(inner) = session.inner() else {
            self.counters.count(Dropped::NoLease);
            return;
        };
        if session.takes_echo(packet) {
            return;
        }
        if let Err(reason) = self.admits(session, inner, packet) {
            self.counters.count(reason);
            return;
        }
        if inner.tun.try_send(packet).is_err() {
            self.counters.count(Dropped::Device);
        }
    }

    fn admits(&self, session: &Session, inner: &Inner, packet: &[u8]) -> Result<(), Dropped> {
        let ends = Ends::of(packet).ok_or(Dropped::NotIp)?;
        if ends.link_scope() {
            return Err(Dropped::LinkScope);
        }
        if !inner.own.holds(ends.source) {
            return Err(Dropped::ForeignSource);
        }
        if let Some(fence) = &self.fence
            && fence.parts(&session.hint, ends.destination)
        {
            return Err(Dropped::SpokeToSpoke);
        }

        Ok(())
    }
}

fn names_routes(message: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"Routes\"";
    message.windows(FIELD.len()).any(|window| window == FIELD)
}

fn is_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidData
    )
}

/// With the pause: half a minute without one datagram read.
const MAX_FAILURES: u32 = 300;
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

const MAX_DATAGRAM: usize = 65_535;

/// How long paths of past handshakes are kept at most.
const IDLE: Duration = Duration::from_secs(10);
