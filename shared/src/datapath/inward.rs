//! From the peer to a device: records are opened where they were received, and
//! packets that belong together are written in one piece.

mod delivery;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::lane::Lane;
use super::side::{Dropped, Side};
use super::worker::Found;
use crate::association::Association;
use crate::dtls::RECORD_HEADER;
use crate::dtls::header::{ContentType, Look, RecordHeader, look};
use crate::meta::Content;
use crate::packet::coalesce::{Coalescer, Sink};
use crate::packet::ecn::{self, Ecn};
use crate::packet::mss;
use crate::packet::vnet::{Offloads, VnetHeader};
use crate::parts::Added;
use crate::record::Sealer;
use crate::tun::Tun;
use crate::udp::recv::{Message, RecvBatch};
use delivery::{Delivery, Writer};

/// A worker's buffers for this direction.
#[derive(Debug)]
pub(super) struct Inward {
    batch: RecvBatch,
    work: Work,
}

/// Passes on what routers said, if they did.
fn path_mtus<S: Side>(side: &S, lane: &Lane) {
    let read = lane
        .socket()
        .path_mtu_events(|peer, mtu| side.path_mtu(peer, u32::try_from(mtu).ok()));
    if let Err(error) = read {
        tracing::debug!(%error, "error queue unreadable");
    }
}

/// What one batch is worked on with.
#[derive(Debug)]
struct Work {
    coalescer: Coalescer,
    /// Records of one message that authenticated.
    opened: Vec<Opened>,
    /// Whose packets the coalescer holds.
    tun: Option<Arc<Tun>>,
    writer: Writer,
}

/// A record that authenticated.
#[derive(Clone, Debug)]
struct Opened {
    content: ContentType,
    /// In the arena.
    plain: Range<usize>,
    /// Which datagram of its message it came in.
    datagram: usize,
}

impl Inward {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            batch: RecvBatch::new(BATCH)?,
            work: Work::new(),
        })
    }

    /// Forgets what a panic left behind.
    pub(super) fn reset(&mut self) {
        self.work = Work::new();
    }

    /// Nothing has come for a while.
    pub(super) fn rest(&mut self) {
        if let Err(error) = self.batch.give_back() {
            tracing::debug!(%error, "memory not given back");
        }
    }

    /// Takes what waits in the socket, up to a fair share.
    pub(super) fn socket<S: Side>(&mut self, side: &S, lane: &Arc<Lane>, now: Instant) -> Found {
        match lane.socket().try_recv_batch(&mut self.batch) {
            Ok(_) => return self.batch(side, lane, now),
            // An error of the descriptor is all that there is.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => path_mtus(side, lane),
            // Of some earlier datagram, or of memory: it may pass.
            Err(error) => side.socket_error(None, &error),
        }

        Found::Nothing
    }

    fn batch<S: Side>(&mut self, side: &S, lane: &Arc<Lane>, now: Instant) -> Found {
        let (messages, arena) = self.batch.split();
        let mut bytes = 0;
        let mut known: Option<(&Message, Option<Arc<S::Session>>)> = None;
        for message in messages {
            bytes += message.range.len();
            let session = match &known {
                Some((last, session)) if last.path == message.path => session.clone(),
                _ => side.session_of(&message.path, lane),
            };
            match &session {
                Some(session) => {
                    let has_strays = self.work.open(side, session, message, arena, now);
                    if has_strays {
                        strays(side, message, arena, lane, |datagram| !is_data(datagram));
                    }
                    self.work.dispatch(side, session, message, arena, now);
                }
                None => strays(side, message, arena, lane, |_| true),
            }
            known = Some((message, session));
        }
        self.work.flush(side, arena);
        self.work.tun = None;

        Found::of(messages.len(), bytes)
    }
}

impl Work {
    fn new() -> Self {
        Self {
            coalescer: Coalescer::new(Offloads::NONE),
            opened: Vec::with_capacity(64),
            tun: None,
            writer: Writer::default(),
        }
    }

    /// Opens the records of a message. True when it has datagrams that are
    /// none of the session's.
    fn open<S: Side>(
        &mut self,
        side: &S,
        session: &Arc<S::Session>,
        message: &Message,
        arena: &mut [u8],
        now: Instant,
    ) -> bool {
        let association: &Association = session.as_ref().as_ref();
        let mut opener = association.opener();
        let mut has_strays = false;

        for (number, range) in datagrams(message).enumerate() {
            if !is_data(&arena[range.clone()]) {
                has_strays = true;
                continue;
            }
            let mut at = range.start;
            while let Some(header) = RecordHeader::parse(&arena[at..range.end]) {
                let end = at + RECORD_HEADER + header.len;
                if end > range.end {
                    break;
                }
                if header.epoch == 0 || header.content == ContentType::Handshake {
                    side.count(Dropped::OutOfPlace, 1);
                } else {
                    match opener.open(&mut arena[at..end]) {
                        Ok((content, plain)) => {
                            let start = at + Sealer::PLAIN_AT;
                            self.opened.push(Opened {
                                content,
                                plain: start..start + plain.len(),
                                datagram: number,
                            });
                        }
                        Err(refused) => side.count(Dropped::Record(refused), 1),
                    }
                }
                at = end;
            }
            if at < range.end {
                side.count(Dropped::Malformed, 1);
            }
        }
        drop(opener);

        if self.opened.is_empty() {
            association.handle_datagram(now);
        } else {
            association.handle_record(now, &message.path);
        }
        has_strays
    }

    /// Passes on what the records of a message carried.
    fn dispatch<S: Side>(
        &mut self,
        side: &S,
        session: &Arc<S::Session>,
        message: &Message,
        arena: &mut [u8],
        now: Instant,
    ) {
        let mut opened = std::mem::take(&mut self.opened);
        let (mut skipped, mut has_packets) = (None, false);
        for Opened {
            content,
            plain,
            datagram,
        } in opened.drain(..)
        {
            if skipped == Some(datagram) {
                continue;
            }
            let bytes = &arena[plain.clone()];
            let kind = match content {
                ContentType::ApplicationData => Content::of(bytes),
                ContentType::Alert | ContentType::Handshake | ContentType::ChangeCipherSpec => {
                    Content::Control
                }
            };
            match kind {
                Content::Ip4 | Content::Ip6 => {
                    has_packets = true;
                    self.packet(side, session, message.ecn, arena, plain);
                }
                Content::Control => {
                    if !side.message(session, content, bytes) {
                        skipped = Some(datagram);
                    }
                }
                Content::Part => {
                    let part = (message.ecn, bytes);
                    if let Some((packet, ecn)) = joined(side, session, part, now) {
                        has_packets = true;
                        self.whole(side, session, ecn, arena, packet);
                    }
                }
                Content::Other => side.count(Dropped::NotIp, 1),
            }
        }
        self.opened = opened;
        if has_packets {
            session.as_ref().as_ref().handle_packet();
        }
    }

    fn packet<S: Side>(
        &mut self,
        side: &S,
        session: &Arc<S::Session>,
        outer: Ecn,
        arena: &mut [u8],
        plain: Range<usize>,
    ) {
        let Some(tun) = admitted(side, session, outer, &mut arena[plain.clone()]) else {
            return;
        };
        if !self.tun.as_ref().is_some_and(|old| Arc::ptr_eq(old, tun)) {
            self.flush(side, arena);
            self.coalescer.set_offloads(tun.offloads());
            self.tun = Some(Arc::clone(tun));
        }
        let mut sink = Delivery {
            side,
            tun,
            writer: &mut self.writer,
        };
        self.coalescer.push(arena, plain, &mut sink);
    }

    /// A packet that came in several records, behind what came before it.
    fn whole<S: Side>(
        &mut self,
        side: &S,
        session: &Arc<S::Session>,
        outer: Ecn,
        arena: &mut [u8],
        mut packet: Vec<u8>,
    ) {
        let Some(tun) = admitted(side, session, outer, &mut packet) else {
            return;
        };
        self.flush(side, arena);
        let mut sink = Delivery {
            side,
            tun,
            writer: &mut self.writer,
        };
        sink.write(VnetHeader::PLAIN, &[IoSlice::new(&packet)]);
    }

    fn flush<S: Side>(&mut self, side: &S, arena: &mut [u8]) {
        if let Some(tun) = &self.tun {
            let mut sink = Delivery {
                side,
                tun,
                writer: &mut self.writer,
            };
            self.coalescer.flush(arena, &mut sink);
        }
    }
}

/// Where a packet of the session's goes, made ready for it; none where it may
/// not, which is counted.
fn admitted<'a, S: Side>(
    side: &S,
    session: &'a Arc<S::Session>,
    outer: Ecn,
    packet: &mut [u8],
) -> Option<&'a Arc<Tun>> {
    if !side.admits_in(session, packet) {
        return None;
    }
    let Some(tun) = side.device(session) else {
        side.count(Dropped::NoDevice, 1);
        return None;
    };
    if !ecn::decapsulate(packet, outer) {
        side.count(Dropped::Congestion, 1);
        return None;
    }
    let association: &Association = session.as_ref().as_ref();
    mss::clamp(packet, association.limit(), false);

    Some(tun)
}

/// The packet that a part makes whole, with the mark of its datagrams.
fn joined<S: Side>(
    side: &S,
    session: &Arc<S::Session>,
    (mark, part): (Ecn, &[u8]),
    now: Instant,
) -> Option<(Vec<u8>, Ecn)> {
    let association: &Association = session.as_ref().as_ref();
    let added = association.joiner().add(now, mark, part);
    let Ok(Added { whole, dropped }) = added else {
        side.count(Dropped::NotIp, 1);
        return None;
    };
    side.count(Dropped::Torn, dropped);
    let is_packet = |packet: &[u8]| matches!(Content::of(packet), Content::Ip4 | Content::Ip6);
    if whole.as_ref().is_some_and(|(packet, _)| !is_packet(packet)) {
        side.count(Dropped::NotIp, 1);
        return None;
    }

    whole
}

/// Hands over the datagrams of a message that are no session's data.
fn strays<S: Side>(
    side: &S,
    message: &Message,
    arena: &mut [u8],
    lane: &Arc<Lane>,
    is_stray: impl Fn(&[u8]) -> bool,
) {
    for range in datagrams(message) {
        let datagram = &mut arena[range];
        if is_stray(datagram) {
            side.stray(datagram, &message.path, lane);
        }
    }
}

/// The datagrams of a message, as ranges in the arena.
fn datagrams(message: &Message) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, end) = (message.range.start, message.range.end);
    let step = message.segment.max(1);

    (start..end)
        .step_by(step)
        .map(move |at| at..(at + step).min(end))
}

fn is_data(datagram: &[u8]) -> bool {
    look(datagram) == Look::Epoch1(ContentType::ApplicationData)
}

/// Messages of one `recvmmsg`: each is up to 64 datagrams. Where each is only
/// one, that many make two full runs or more.
const BATCH: usize = 128;
