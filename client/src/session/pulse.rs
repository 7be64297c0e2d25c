//! The loop's half of a session: whether the hub is there, and what the two
//! say to each other beside the packets.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dtun_shared::association::NotSent;
use dtun_shared::dtls::alert::{Alert, CLOSE_NOTIFY, Level};
use dtun_shared::dtls::header::ContentType;
use dtun_shared::gauge::Gauge;
use dtun_shared::meta::{Control, HubMeta, Refusal};

use super::Session;
use crate::liveness::{Act, Death, Liveness, SILENCE};

/// The watch over a session.
#[derive(Debug)]
pub(crate) struct Pulse {
    session: Arc<Session>,
    live: Liveness,
    /// When to say our meta again, until the hub is known to have it.
    announce: Option<Instant>,
    /// Until then the data path need not say that an answer is owed.
    watched: Option<Instant>,
    rtt: Option<Duration>,
    /// What the path carries, while packets pass.
    gauge: Option<Box<Gauge>>,
}

/// What a message of the hub calls for.
#[derive(Debug)]
pub(crate) enum Event {
    /// The hub said goodbye.
    Goodbye,
    /// The hub does not route these networks to us.
    Refused(Vec<Refusal>),
    /// A round-trip time, the first of the session or a later one.
    Rtt(Duration),
}

impl Pulse {
    pub(super) fn new(now: Instant, session: Session, keepalive: Duration) -> Self {
        Self {
            live: Liveness::new(now, keepalive, session.meta.ext),
            session: Arc::new(session),
            announce: None,
            watched: None,
            rtt: None,
            gauge: None,
        }
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// How long the hub may be idle from now on.
    pub(crate) fn set_keepalive(&mut self, keepalive: Duration) {
        self.live.set_keepalive(keepalive);
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Takes an authenticated record without a packet, received `at`.
    pub(crate) fn handle_record(
        &mut self,
        at: Instant,
        content: ContentType,
        plain: &[u8],
    ) -> Option<Event> {
        self.sync();
        match content {
            ContentType::ApplicationData if self.session.meta.ext => self.handle_message(at, plain),
            // Whatever the answer, it would end a hub without extensions.
            ContentType::ApplicationData => {
                self.session.counters.unknown.add(1);
                None
            }
            ContentType::Alert => Alert::parse(plain)
                .is_some_and(ends_session)
                .then_some(Event::Goodbye),
            // The hub's last flight, again.
            ContentType::Handshake | ContentType::ChangeCipherSpec => None,
        }
    }

    /// The answer to a probe came `at`.
    pub(crate) fn handle_answer(&mut self, at: Instant, id: u64) -> Option<Event> {
        self.sync();
        // Our meta stood in the same datagram as the first probes.
        self.announce = None;
        let rtt = self.live.answered(at, id)?;
        self.rtt = Some(rtt);

        Some(Event::Rtt(rtt))
    }

    /// Something that anyone could have forged speaks of an end: a plaintext
    /// alert, an error of the socket.
    pub(crate) fn suspect(&mut self, now: Instant) {
        self.sync();
        self.live.suspect(now);
    }

    /// Packets went out while nobody watched for an answer.
    pub(crate) fn watch(&mut self, now: Instant) {
        self.sync();
        self.watched.get_or_insert(now + SILENCE);
    }

    /// Packets pass from now on: the path is measured.
    pub(crate) fn measure(&mut self, now: Instant) {
        let session = &self.session;
        let gauge = Gauge::new(now, &session.association, session.mtu, session.meta.ext);
        self.gauge = Some(Box::new(gauge));
    }

    /// A datagram was too large for the path: see [`Side::path_mtu`].
    ///
    /// [`Side::path_mtu`]: dtun_shared::datapath::Side::path_mtu
    pub(crate) fn path_mtu(&mut self, now: Instant, outer: Option<u32>) {
        if let Some(gauge) = &mut self.gauge {
            gauge.path_mtu(now, &self.session.association, outer);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let at = self.live.poll_timeout();

        let association = &self.session.association;
        let gauge = self.gauge.as_ref();
        let probe = gauge.and_then(|gauge| gauge.poll_timeout(association));

        [self.announce, self.watched, probe]
            .into_iter()
            .flatten()
            .fold(at, Instant::min)
    }

    /// Sends the probes that are due; the session is over when it returns a death.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Death> {
        if self.watched.is_some_and(|at| now >= at) {
            self.watched = None;
            // First, so that what is sent meanwhile is seen or told of.
            self.session.association.unwatch();
        }
        self.sync();
        if let Some(gauge) = &mut self.gauge {
            gauge.handle_timeout(now, &self.session.association);
        }
        if self.announce.is_some_and(|at| now >= at) {
            self.announce(now);
        }
        while let Some(act) = self.live.handle_timeout(now) {
            match act {
                Act::Probe(id) => self.probe(now, id),
                Act::Dead(death) => return Some(death),
            }
        }

        None
    }

    /// Says goodbye to the hub.
    pub(crate) fn close(&mut self, now: Instant) {
        self.send(now, ContentType::Alert, &[&Alert::CLOSE_NOTIFY.emit()]);
    }

    fn sync(&mut self) {
        self.live.sync(&self.session.association.heard());
    }

    /// Answers the hub's meta and starts measuring: the hub lets go of the
    /// session before this one.
    pub(crate) fn greet(&mut self, now: Instant) {
        if self.session.echo.is_none() {
            return self.announce(now);
        }
        let session = Arc::clone(&self.session);
        self.message(now, &session.answer);
        // An echo that overtook the meta would be taken for it.
        self.announce = Some(now + AFTER_META);
    }

    fn handle_message(&mut self, at: Instant, message: &[u8]) -> Option<Event> {
        match Control::parse(message) {
            Ok(Control::Ping(id)) => {
                self.message(at, &Control::Pong(id).emit());
                None
            }
            Ok(Control::Pong(id)) => self.handle_answer(at, id),
            Ok(Control::Probe(id)) => {
                self.message(at, &Control::Probed(id).emit());
                None
            }
            Ok(Control::Probed(id)) => {
                if let Some(gauge) = &mut self.gauge {
                    gauge.answered(at, &self.session.association, id);
                }
                None
            }
            Ok(Control::Refused(refused)) => Some(Event::Refused(refused)),
            Err(_) => {
                let session = Arc::clone(&self.session);
                if HubMeta::parse(message).is_ok_and(|copy| copy == session.meta) {
                    self.message(at, &session.answer);
                } else {
                    session.counters.unknown.add(1);
                }
                None
            }
        }
    }

    fn probe(&mut self, now: Instant, id: u64) {
        let session = Arc::clone(&self.session);
        let Some(heartbeat) = &session.echo else {
            return self.message(now, &Control::Ping(id).emit());
        };
        if let Some(packet) = session.echo_request(heartbeat, id) {
            self.message(now, &packet);
        }
    }

    /// Says our meta, and in the same datagram what shows that it came.
    fn announce(&mut self, now: Instant) {
        let id = self.live.probe(now);
        if self.session.echo.is_some() {
            // The meta went out first and once: a second would end this hub.
            self.announce = None;
            return self.probe(now, id);
        }

        self.announce = Some(now + ANNOUNCE_EVERY);
        let session = Arc::clone(&self.session);
        let ping = Control::Ping(id).emit();
        self.send(now, ContentType::ApplicationData, &[&session.answer, &ping]);
    }

    fn message(&mut self, now: Instant, message: &[u8]) {
        self.live.record_sent(now);
        self.send(now, ContentType::ApplicationData, &[message]);
    }

    fn send(&mut self, now: Instant, content: ContentType, plains: &[&[u8]]) {
        let association = &self.session.association;
        let result = association.send(content, plains);
        if let Some(error) = association.lane().socket().take_error() {
            tracing::debug!(%error, "an earlier datagram was refused");
            self.live.suspect(now);
        }
        let Err(error) = result else {
            return;
        };
        self.session.counters.unsent.add(1);
        let is_full =
            matches!(&error, NotSent::Io(error) if error.kind() == io::ErrorKind::WouldBlock);
        if !is_full {
            tracing::debug!(%error, "message not sent");
            self.live.suspect(now);
        }
    }
}

/// Every authenticated fatal alert ends a session as well as a goodbye does.
pub(super) fn ends_session(alert: Alert) -> bool {
    alert.description == CLOSE_NOTIFY || alert.level == Level::Fatal
}

/// An echo behind our meta, by so much.
const AFTER_META: Duration = Duration::from_millis(200);

pub(super) const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
