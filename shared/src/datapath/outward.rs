//! From a device to the peer: packets are cut, sealed where they will be sent
//! from, and gathered into messages.

mod fit;
mod gather;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::lane::{Lane, NotFull, Queued};
use super::outbox::{MAX_MESSAGES, Outbox};
use super::side::{Dropped, Side};
use super::worker::Found;
use crate::association::Association;
use crate::packet::ecn::Ecn;
use crate::packet::segment::{NotCut, Segments};
use crate::packet::vnet::{Gso, VnetHeader};
use crate::packet::{mss, shorten};
use crate::tun::Tun;
use crate::udp::Path;
use crate::udp::send::{SendOutcome, Transmit};
use fit::{answer, way};

/// A worker's buffers for this direction.
#[derive(Debug)]
pub(super) struct Outward {
    packet: Box<[u8]>,
    outbox: Outbox,
    piece: Vec<u8>,
    /// What a lane's queue gave goes out now, past what waits there.
    is_resuming: bool,
    /// The socket said no: what follows has to wait.
    is_blocked: bool,
}

/// Where a packet of a device goes.
struct Route<'a, S: Side> {
    side: &'a S,
    tun: &'a Tun,
    session: &'a Arc<S::Session>,
}

impl Outward {
    pub(super) fn new() -> Self {
        Self {
            packet: vec![0; MAX_PACKET].into_boxed_slice(),
            outbox: Outbox::new(),
            piece: Vec::new(),
            is_resuming: false,
            is_blocked: false,
        }
    }

    /// Forgets what a panic left behind.
    pub(super) fn reset(&mut self) {
        self.packet = vec![0; MAX_PACKET].into_boxed_slice();
        self.outbox.clear();
    }

    /// Sends what waits in the device, up to a fair share.
    pub(super) fn device<S: Side>(
        &mut self,
        side: &S,
        tun: &Tun,
        port: &S::Port,
        now: Instant,
    ) -> Found {
        (self.is_resuming, self.is_blocked) = (false, false);
        let session = side.session_for(port);
        let (mut is_there, mut largest) = (true, 0);
        let mut bytes = 0;
        let mut buffer = std::mem::take(&mut self.packet);
        let mut count = 0;
        while count < SHARE {
            let (header, packet) = match tun.try_recv(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                    tracing::debug!(device = tun.name(), "device deleted");
                    side.device_gone(port);
                    is_there = false;
                    break;
                }
                // One packet that the kernel cannot describe, or we.
                Err(error) => {
                    tracing::debug!(device = tun.name(), %error, "packet unreadable");
                    side.count(Dropped::NotCut, 1);
                    count += 1;
                    continue;
                }
            };
            count += 1;
            bytes += packet.len();
            match &session {
                Some(session) => {
                    let passed = self.packet(&Route { side, tun, session }, header, packet);
                    largest = largest.max(passed);
                }
                None => side.homeless(port, packet),
            }
        }
        self.packet = buffer;

        if let Some(session) = &session {
            let association = session.as_ref().as_ref();
            self.send(side, association);
            if largest > 0 && association.handle_sent(now, largest) {
                side.unwatched(session);
            }
        }

        if is_there {
            Found::of(count, bytes)
        } else {
            Found::Gone
        }
    }

    /// Sends what waits in the queue of a lane that has room again.
    pub(super) fn lane<S: Side>(&mut self, side: &S, lane: &Lane) {
        let room = lane.resume();
        count_lost(side, lane);
        let Some(mut room) = room else {
            return;
        };
        (self.is_resuming, self.is_blocked) = (true, false);
        let mut last: Option<Queued> = None;
        while room > 0 && !self.is_blocked {
            let Some((queued, mut packet)) = lane.next() else {
                break;
            };
            room = room.saturating_sub(packet.len());
            if let Some(last) = &last
                && !Arc::ptr_eq(&last.session, &queued.session)
            {
                self.send(side, last.session.association());
            }
            let association = queued.session.association();
            if let Err(why) = self.gather(side, association, queued.header, &mut packet) {
                side.count(dropped(why), 1);
            }
            last = Some(queued);
        }
        if let Some(last) = &last {
            self.send(side, last.session.association());
        }
        lane.settle();
    }

    /// One packet of the device. Returns how many bytes of it pass.
    fn packet<S: Side>(
        &mut self,
        route: &Route<'_, S>,
        header: VnetHeader,
        packet: &mut [u8],
    ) -> usize {
        let Route { side, session, .. } = *route;
        if !side.admits_out(session, packet) {
            return 0;
        }
        let association: &Association = session.as_ref().as_ref();
        let limit = association.limit();
        if header.gso == Gso::None {
            mss::clamp(packet, limit, header.needs_csum);
        }
        // Neither would a message help, nor does anybody fragment.
        let header = if packet.len() > limit && association.is_over_ip6() {
            shorten::as_run(header, packet).unwrap_or(header)
        } else {
            header
        };
        // First: nobody is told of what is found too big in a queue.
        let passed = way(header, packet, association).and_then(|_| {
            if association.lane().is_full() {
                // What was sealed before it stays before it.
                self.send(side, association);
                if self.queue(side, session, header, packet).is_ok() {
                    return Ok(());
                }
            }
            self.gather(side, association, header, packet)
        });
        match passed {
            Ok(()) => return packet.len(),
            Err(NotCut::TooBig) => answer(route, packet, limit),
            Err(why @ NotCut::Malformed) => side.count(dropped(why), 1),
        }

        0
    }

    /// Sends what was gathered, or lets it wait behind what waits already.
    fn send<S: Side>(&mut self, side: &S, association: &Association) {
        if self.outbox.messages().is_empty() {
            return;
        }
        let lane = association.lane();
        if self.is_blocked || (!self.is_resuming && lane.is_full()) {
            self.hold(association, 0, 0);
            self.outbox.clear();
            return;
        }
        let path = association.path();
        let messages = self.outbox.messages();
        let transmits: [Transmit<'_>; MAX_MESSAGES] =
            std::array::from_fn(|at| self.transmit(&path, at));

        let mut blocked = false;
        let mut at = 0;
        while at < messages.len() {
            match lane.socket().try_send_batch(&transmits[at..messages.len()]) {
                SendOutcome::Sent => break,
                SendOutcome::Blocked { sent, part } => {
                    self.hold(association, at + sent, part);
                    blocked = true;
                    break;
                }
                SendOutcome::Refused { sent, part } => {
                    at += sent;
                    if lane.refused() {
                        self.hold(association, at, part);
                        blocked = true;
                        break;
                    }
                    side.count(Dropped::SocketFull, messages[at].count);
                    at += 1;
                }
                SendOutcome::Failed {
                    at: failed,
                    error,
                    too_big,
                } => {
                    at += failed;
                    side.count(Dropped::Unsent, messages[at].count);
                    if too_big {
                        side.path_mtu(path.peer, None);
                    } else {
                        side.socket_error(Some(association), &error);
                    }
                    at += 1;
                }
            }
        }
        if let Some(error) = lane.socket().take_error() {
            side.socket_error(Some(association), &error);
        }
        self.is_blocked = blocked;
        if !blocked {
            lane.sent(self.outbox.bytes(), Instant::now());
        }
        count_lost(side, lane);
        self.outbox.clear();
    }

    /// A message as the socket takes it; an empty one past the last.
    fn transmit<'a>(&'a self, path: &'a Path, at: usize) -> Transmit<'a> {
        let Some(message) = self.outbox.messages().get(at) else {
            return Transmit {
                path,
                contents: &[],
                segment: 1,
                ecn: Ecn::NotEct,
                df: false,
            };
        };

        Transmit {
            path,
            contents: self.outbox.contents(message),
            segment: message.segment,
            ecn: message.outer.ecn,
            df: message.outer.df,
        }
    }

    /// Lets the messages from the given one on wait in the lane, without the
    /// first bytes of it that went.
    fn hold(&self, association: &Association, from: usize, part: usize) {
        let path = association.path();
        let mut skip = part;
        for message in &self.outbox.messages()[from..] {
            let contents = &self.outbox.contents(message)[skip..];
            association
                .lane()
                .hold(&path, contents, message.segment, message.outer);
            skip = 0;
        }
    }

    /// Lets a packet wait; a super-packet that would hold up others for long
    /// is cut first.
    fn queue<S: Side>(
        &mut self,
        side: &S,
        session: &Arc<S::Session>,
        header: VnetHeader,
        packet: &mut [u8],
    ) -> Result<(), NotFull> {
        let association: &Association = session.as_ref().as_ref();
        let lane = association.lane();
        let mut queued = Queued {
            session: Arc::clone(session) as _,
            header,
        };
        if header.gso == Gso::None || packet.len() <= lane.longest() {
            let overflow = lane.queue(&queued, packet)?;
            side.count(Dropped::SocketFull, overflow);
            return Ok(());
        }

        let cut = way(header, packet, association)
            .and_then(|way| Segments::new(header, packet, way.limit));
        let mut segments = match cut {
            Ok(segments) => segments,
            Err(why) => {
                side.count(dropped(why), 1);
                return Ok(());
            }
        };
        queued.header = VnetHeader::PLAIN;
        while let Some(len) = segments.next_len() {
            self.piece.resize(len, 0);
            segments.write_next(&mut self.piece);
            // The worker that empties the queue may just have done so.
            match lane.queue(&queued, &self.piece) {
                Ok(overflow) => side.count(Dropped::SocketFull, overflow),
                Err(NotFull) => {
                    let mut piece = std::mem::take(&mut self.piece);
                    if let Err(why) = self.gather(side, association, VnetHeader::PLAIN, &mut piece)
                    {
                        side.count(dropped(why), 1);
                    }
                    self.piece = piece;
                }
            }
        }

        Ok(())
    }
}

/// Has what a lane lost counted.
pub(super) fn count_lost<S: Side>(side: &S, lane: &Lane) {
    for (why, packets) in lane.take_lost() {
        side.count(why, packets);
    }
}

fn dropped(why: NotCut) -> Dropped {
    match why {
        NotCut::Malformed => Dropped::NotCut,
        NotCut::TooBig => Dropped::TooBig,
    }
}

/// The longest packet that a TUN gives: 64 KiB with its headers.
const MAX_PACKET: usize = 65_536 + 256;

/// Packets read from one device before another source has its turn.
const SHARE: usize = 64;
