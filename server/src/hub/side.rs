//! What the hub says to the data path: whose a packet is, and whether it may
//! pass.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use dtun_shared::association::Association;
use dtun_shared::datapath::{self, Lane, Side};
use dtun_shared::dtls::header::{ContentType, Look, look};
use dtun_shared::dtls::{MAX_CIPHERTEXT, RECORD_HEADER};
use dtun_shared::packet::Ends;
use dtun_shared::packet::too_big::FarEnd;
use dtun_shared::tun::Tun;
use dtun_shared::udp::Path;

use crate::hub::counters::Dropped;
use crate::hub::shared::Shared;
use crate::hub::wire::{Slow, Stray};
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

    fn device_gone(&self, hint: &String) {
        self.note_gone(hint.clone());
    }

    fn unwatched(&self, session: &Arc<Session>) {
        if !self.tell_wire(Slow::Unwatched(Arc::clone(session))) {
            session.association().unwatch();
        }
    }

    fn session_of(&self, path: &Path, _: &Arc<Lane>) -> Option<Arc<Session>> {
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
        if datagram.len() > LONGEST_STRAY || look(datagram) == Look::Other {
            self.counters.count(Dropped::Malformed);
            return;
        }
        // First, so that a flood is not copied.
        let Ok(place) = self.strays.try_reserve() else {
            self.counters.count(Dropped::Backlog);
            return;
        };
        place.send(Stray {
            datagram: datagram.to_vec(),
            path: *path,
            lane: Arc::clone(lane),
        });
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

/// One record, which may be data that a session's first flight overtook; every
/// flight of a handshake is shorter.
const LONGEST_STRAY: usize = RECORD_HEADER + MAX_CIPHERTEXT;

#[cfg(test)]
mod tests {
    use dtun_shared::dtls::header::{RecordHeader, emit_plaintext};
    use dtun_shared::udp::socket::UdpSocket;
    use std::sync::Mutex;

    use tokio::sync::{Notify, mpsc};

    use super::*;
    use crate::bench::established;
    use crate::hub::counters::Counters;
    use crate::session::Sessions;

    struct Hub {
        shared: Shared,
        slow: mpsc::Receiver<Slow>,
        strays: mpsc::Receiver<Stray>,
        lane: Arc<Lane>,
        path: Path,
    }

    impl Hub {
        fn new() -> Self {
            let (slow, of_sessions) = mpsc::channel(2);
            let (strays, of_anyone) = mpsc::channel(2);
            let socket = UdpSocket::listen("127.0.0.1:0".parse().unwrap()).unwrap();

            Self {
                shared: Shared {
                    sessions: Sessions::default(),
                    counters: Counters::default(),
                    fence: None,
                    slow,
                    strays,
                    missed: Notify::new(),
                    gone: Mutex::default(),
                },
                slow: of_sessions,
                strays: of_anyone,
                lane: Arc::new(Lane::new(socket).unwrap()),
                path: Path {
                    peer: "127.0.0.1:9".parse().unwrap(),
                    local: None,
                },
            }
        }

        fn session(&self) -> Arc<Session> {
            let lane = Arc::clone(&self.lane);

            Arc::new(Session::new(
                1,
                established(self.path.peer),
                self.path,
                lane,
                Instant::now(),
            ))
        }

        fn stray(&self, datagram: &[u8]) {
            self.shared
                .stray(&mut datagram.to_vec(), &self.path, &self.lane);
        }
    }

    fn hello() -> Vec<u8> {
        let mut datagram = Vec::new();
        emit_plaintext(ContentType::Handshake, 0, &[1; 60], &mut datagram);
        datagram
    }

    fn protected(len: usize) -> Vec<u8> {
        let header = RecordHeader {
            content: ContentType::ApplicationData,
            version: 0xFEFD,
            epoch: 1,
            seq: 7,
            len,
        };
        let mut datagram = header.bytes().to_vec();
        datagram.resize(RECORD_HEADER + len, 0);
        datagram
    }

    #[test]
    fn a_flood_of_strays_leaves_room_for_authenticated_records() {
        let mut hub = Hub::new();
        let session = hub.session();
        for _ in 0..5 {
            hub.stray(&hello());
        }

        assert!(
            hub.shared
                .message(&session, ContentType::ApplicationData, b"{}")
        );

        assert_eq!(hub.strays.len(), 2);
        assert!(matches!(hub.slow.try_recv(), Ok(Slow::Confirmed(_))));
        assert!(matches!(hub.slow.try_recv(), Ok(Slow::Record(..))));
        assert_eq!(hub.shared.counters.to_string(), "backlog=3");
    }

    #[test]
    fn what_is_no_record_of_ours_is_not_queued() {
        let hub = Hub::new();
        let cut_off = &hello()[..40];
        let mut padded = hello();
        padded.resize(65_507, 0);

        for datagram in [b"", &b"hello"[..], cut_off, &padded] {
            hub.stray(datagram);
        }

        assert!(hub.strays.is_empty());
        assert_eq!(hub.shared.counters.to_string(), "malformed=4");
    }

    #[test]
    fn the_longest_record_of_an_unknown_session_is_queued() {
        let mut hub = Hub::new();

        hub.stray(&protected(MAX_CIPHERTEXT));

        let stray = hub.strays.try_recv().unwrap();
        assert_eq!(stray.datagram, protected(MAX_CIPHERTEXT));
    }
}
