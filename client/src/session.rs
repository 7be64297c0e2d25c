//! One session with the hub: what is sealed and sent, what is received and
//! opened, and the heartbeat between.
//!
//! To a hub that did not announce `Ext` nothing but the meta and IP packets is
//! ever sent: a control message would end it.

mod counters;
mod opening;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::alert::{Alert, CLOSE_NOTIFY, Level};
use dtun_shared::dtls::header::ContentType;
use dtun_shared::meta::{Addresses, Content, Control, HubMeta, Refusal};
use dtun_shared::packet::{Echo, Ends, is_udp_to};

use crate::liveness::{Act, Death, Liveness};

use wire::{Wire, split_record};

pub(crate) use counters::Counters;
pub(crate) use opening::{NotOpened, Terms};

/// A session that stands.
#[derive(Debug)]
pub(crate) struct Session {
    wire: Wire,
    live: Liveness,
    heartbeat: Heartbeat,
    meta: HubMeta,
    addresses: Addresses,
    /// Our meta's bytes, sent for each copy of the hub's.
    answer: Vec<u8>,
    /// When to say our meta again, until the hub is known to have it.
    announce: Option<Instant>,
    since: Instant,
    rtt: Option<Duration>,
    counters: Counters,
}

/// What a datagram of the hub calls for.
#[derive(Debug)]
pub(crate) enum Event {
    /// The hub said goodbye.
    Goodbye,
    /// The hub does not route these networks to us.
    Refused(Vec<Refusal>),
    /// A round-trip time, the first of the session or a later one.
    Rtt(Duration),
}

/// What became of a packet from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It went out, or was dropped and counted.
    Done,
    /// It is a datagram of this very session.
    Looped,
}

/// How the hub is asked whether it is there.
#[derive(Clone, Copy, Debug)]
enum Heartbeat {
    Control,
    Echo { id: u16, newest: u64 },
}

impl Session {
    /// The hub's address.
    pub(crate) fn hub(&self) -> SocketAddr {
        self.wire.hub
    }

    /// Our end of the path.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.wire.socket.local_addr()
    }

    pub(crate) fn suite(&self) -> CipherSuite {
        self.wire.suite
    }

    pub(crate) fn meta(&self) -> &HubMeta {
        &self.meta
    }

    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Waits for a datagram of the hub.
    pub(crate) async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.wire.socket.recv(buf).await.map(|(len, _)| len)
    }

    /// The next datagram, if one waits.
    pub(crate) fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.wire.socket.try_recv(buf).map(|(len, _)| len)
    }

    /// Whether the keys have been used enough: a session of ours is replaced
    /// long before a limit of RFC 8446, section 5.5.
    pub(crate) fn is_worn(&self, now: Instant) -> bool {
        self.meta.ext
            && (self.wire.sealer.sealed() >= KEY_RECORDS
                || self.wire.opened >= KEY_RECORDS
                || now.duration_since(self.since) >= KEY_AGE)
    }

    /// Seals and sends a packet of the device.
    pub(crate) fn handle_packet(&mut self, now: Instant, packet: &[u8]) -> Sent {
        let Some(ends) = Ends::of(packet) else {
            self.counters.unknown += 1;
            return Sent::Done;
        };
        if ends.link_scope() {
            self.counters.link_scope += 1;
            return Sent::Done;
        }
        if ends.destination == self.hub().ip() && is_udp_to(packet, self.hub()) {
            self.counters.looped += 1;
            return Sent::Looped;
        }

        self.live.packet_sent(now);
        self.send(now, ContentType::ApplicationData, packet);
        Sent::Done
    }

    /// Opens a datagram; inner packets go to `deliver`. A device that is full
    /// or down drops, as any link does.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        mut datagram: &mut [u8],
        mut deliver: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((header, record, rest)) = split_record(datagram) {
            datagram = rest;
            if header.epoch == 0 {
                // Anyone can send one; a hub that lost the session does.
                if header.content == ContentType::Alert {
                    self.live.suspect(now);
                }
                continue;
            }
            let Ok((content, plain)) = self.wire.open(record) else {
                self.counters.refused += 1;
                continue;
            };
            self.live.received(now);
            match content {
                ContentType::ApplicationData => {
                    events.extend(self.handle_content(now, plain, &mut deliver));
                }
                ContentType::Alert => {
                    if Alert::parse(plain).is_some_and(ends_session) {
                        events.push(Event::Goodbye);
                    }
                }
                // The hub's last flight, again.
                ContentType::Handshake | ContentType::ChangeCipherSpec => {}
            }
        }

        events
    }

    /// Notes that the socket said an error: a closed port, or no way there.
    pub(crate) fn handle_socket_error(&mut self, now: Instant, error: &io::Error) {
        tracing::debug!(%error, "socket error");
        self.live.suspect(now);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let at = self.live.poll_timeout();

        self.announce.map_or(at, |announce| at.min(announce))
    }

    /// Sends the probes that are due; the session is over when it returns a death.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Death> {
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
        self.send(now, ContentType::Alert, &Alert::CLOSE_NOTIFY.emit());
    }

    fn handle_content(
        &mut self,
        now: Instant,
        plain: &[u8],
        deliver: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Option<Event> {
        match Content::of(plain) {
            Content::Ip4 | Content::Ip6 => {
                if let Some(id) = self.echo_answered(plain) {
                    return self.answered(now, id);
                }
                if let Err(error) = deliver(plain) {
                    self.counters.undelivered += 1;
                    tracing::trace!(%error, "packet dropped at the device");
                }
                None
            }
            Content::Control if self.meta.ext => self.handle_message(now, plain),
            // Whatever the answer, it would end a hub without extensions.
            Content::Control | Content::Other => {
                self.counters.unknown += 1;
                None
            }
        }
    }

    fn handle_message(&mut self, now: Instant, message: &[u8]) -> Option<Event> {
        match Control::parse(message) {
            Ok(Control::Ping(id)) => {
                self.message(now, &Control::Pong(id).emit());
                None
            }
            Ok(Control::Pong(id)) => self.answered(now, id),
            Ok(Control::Probe(id)) => {
                self.message(now, &Control::Probed(id).emit());
                None
            }
            Ok(Control::Probed(_)) => None,
            Ok(Control::Refused(refused)) => Some(Event::Refused(refused)),
            Err(_) => {
                if HubMeta::parse(message).is_ok_and(|copy| copy == self.meta) {
                    let answer = self.answer.clone();
                    self.message(now, &answer);
                } else {
                    self.counters.unknown += 1;
                }
                None
            }
        }
    }

    fn answered(&mut self, now: Instant, id: u64) -> Option<Event> {
        // Our meta stood in the same datagram as the first probes.
        self.announce = None;
        let rtt = self.live.answered(now, id)?;
        self.rtt = Some(rtt);

        Some(Event::Rtt(rtt))
    }

    /// The number of our probe that `packet` answers; a user's own ping has
    /// another identifier.
    fn echo_answered(&self, packet: &[u8]) -> Option<u64> {
        let Heartbeat::Echo { id, newest } = self.heartbeat else {
            return None;
        };
        let (echo, ends) = Echo::reply(packet)?;
        let ours = echo.id == id
            && ends.source == IpAddr::V4(self.addresses.peer4.addr())
            && ends.destination == IpAddr::V4(self.addresses.local4.addr())
            && echo.seq == newest as u16;

        ours.then_some(newest)
    }

    fn probe(&mut self, now: Instant, id: u64) {
        match &mut self.heartbeat {
            Heartbeat::Control => self.message(now, &Control::Ping(id).emit()),
            Heartbeat::Echo { id: echo, newest } => {
                *newest = id;
                let echo = Echo {
                    id: *echo,
                    seq: id as u16,
                };
                let ends = Ends {
                    source: self.addresses.local4.addr().into(),
                    destination: self.addresses.peer4.addr().into(),
                };
                if let Some(packet) = echo.request(ends) {
                    self.send(now, ContentType::ApplicationData, &packet);
                }
            }
        }
    }

    /// Says our meta, and in the same datagram what shows that it came.
    fn announce(&mut self, now: Instant) {
        let id = self.live.probe(now);
        match self.heartbeat {
            Heartbeat::Control => {
                self.announce = Some(now + ANNOUNCE_EVERY);
                let (answer, ping) = (self.answer.clone(), Control::Ping(id).emit());
                self.send_all(now, ContentType::ApplicationData, &[&answer, &ping]);
            }
            // The meta went out first and once: a second would end this hub.
            Heartbeat::Echo { .. } => {
                self.announce = None;
                self.probe(now, id);
            }
        }
    }

    fn message(&mut self, now: Instant, message: &[u8]) {
        self.live.record_sent(now);
        self.send(now, ContentType::ApplicationData, message);
    }

    fn send(&mut self, now: Instant, content: ContentType, plain: &[u8]) {
        self.send_all(now, content, &[plain]);
    }

    fn send_all(&mut self, now: Instant, content: ContentType, plains: &[&[u8]]) {
        match self.wire.send(content, plains) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.counters.unsent += 1,
            Err(error) => {
                self.counters.unsent += 1;
                self.handle_socket_error(now, &error);
            }
        }
    }
}

/// Every authenticated fatal alert ends a session as well as a goodbye does.
fn ends_session(alert: Alert) -> bool {
    alert.description == CLOSE_NOTIFY || alert.level == Level::Fatal
}

const KEY_RECORDS: u64 = 1 << 28;
const KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
