//! What the hub says to the data path: whose a packet is, and whether it may
//! pass.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dtun_shared::association::Association;
use dtun_shared::datapath::{self, Lane, Side};
use dtun_shared::dtls::header::ContentType;
use dtun_shared::packet::Ends;
use dtun_shared::packet::too_big::FarEnd;
use dtun_shared::tun::Tun;
use dtun_shared::udp::Path;

use crate::hub::counters::Dropped;
use crate::hub::shared::Shared;
use crate::hub::wire::Slow;
use crate::session::Session;

impl Side for Shared {
    /// The hint of the device's lease.
    type Port = String;
    type Session = Session;

    // Only confirmed sessions speak for a hint: before the spoke's first record
    // nothing but the meta may go out.
    fn session_for(&self, hint: &String) -> Option<Arc<Session>> {
        self.sessions.of_hint(hint)
    }

    fn admits_out(&self, _: &Session, packet: &[u8]) -> bool {
        let passes = Ends::of(packet).is_some_and(|ends| !ends.link_scope());
        if !passes {
            self.counters.count(Dropped::LinkScope);
        }

        passes
    }

    fn homeless(&self, _: &String, packet: &[u8]) {
        self.counters.count(match Ends::of(packet) {
            Some(ends) if !ends.link_scope() => Dropped::NoSpoke,
            Some(_) | None => Dropped::LinkScope,
        });
    }

    /// A silent spoke is found by the keepalive alone.
    fn unwatched(&self, _: &Arc<Session>) {}

    fn session_of(&self, path: &Path) -> Option<Arc<Session>> {
        self.sessions.of_peer(path.peer)
    }

    fn device<'a>(&self, session: &'a Session) -> Option<&'a Arc<Tun>> {
        session.inner().map(|inner| &inner.tun)
    }

    fn admits_in(&self, session: &Arc<Session>, packet: &[u8]) -> bool {
        self.note_confirmed(session);
        match self.judge(session, packet) {
            Ok(Verdict::Deliver) => true,
            Ok(Verdict::OwnEcho) => false,
            Err(reason) => {
                self.counters.count(reason);
                false
            }
        }
    }

    fn message(&self, session: &Arc<Session>, content: ContentType, plain: &[u8]) -> bool {
        if content == ContentType::ApplicationData {
            self.note_confirmed(session);
        }

        self.tell_wire(Slow::Record(Arc::clone(session), content, plain.to_vec()))
    }

    fn stray(&self, datagram: &mut [u8], path: &Path, lane: &Arc<Lane>) {
        let datagram = datagram.to_vec();
        self.tell_wire(Slow::Datagram(datagram, *path, Arc::clone(lane)));
    }

    /// The data path counts what it could not send; one spoke's closed port is
    /// nothing about this socket.
    fn socket_error(&self, association: Option<&Association>, error: &io::Error) {
        tracing::trace!(peer = ?association.map(Association::path), %error, "socket error");
        if association.is_none() {
            self.counters.count(Dropped::Unsent);
        }
    }

    fn path_mtu(&self, peer: SocketAddr, mtu: Option<u32>) {
        if let Some(session) = self.sessions.of_peer(peer)
            && session.takes_path_mtu(Instant::now())
        {
            self.tell_wire(Slow::PathMtu(session, mtu));
        }
    }

    fn far_end(&self, session: &Session) -> Option<FarEnd> {
        session.inner().map(|inner| inner.own.far_end())
    }

    fn count(&self, dropped: datapath::Dropped, packets: usize) {
        self.counters.add(dropped.into(), packets);
    }
}

/// What becomes of a packet that is the spoke's to send.
enum Verdict {
    Deliver,
    OwnEcho,
}

impl Shared {
    /// The first application record of a session says that the spoke has its
    /// meta.
    pub(super) fn note_confirmed(&self, session: &Arc<Session>) {
        if session.is_confirmed() || !session.confirm() {
            return;
        }
        if !self.tell_wire(Slow::Confirmed(Arc::clone(session))) {
            self.missed.notify_one();
        }
    }

    fn judge(&self, session: &Session, packet: &[u8]) -> Result<Verdict, Dropped> {
        let inner = session.inner().ok_or(Dropped::NoLease)?;
        if session.takes_echo(packet) {
            return Ok(Verdict::OwnEcho);
        }
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

        Ok(Verdict::Deliver)
    }

    /// False when the wire task is too far behind.
    fn tell_wire(&self, slow: Slow) -> bool {
        let is_taken = self.slow.try_send(slow).is_ok();
        if !is_taken {
            self.counters.count(Dropped::Backlog);
        }

        is_taken
    }
}
