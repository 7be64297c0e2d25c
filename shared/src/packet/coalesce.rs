//! Puts packets that follow each other in a flow together into runs, as the
//! kernel's GRO would (its `inet_gro_receive`, `tcp_gro_receive` and
//! `udp_gro_receive_segment`), so that a TUN takes up to 64 in one write. Pure,
//! and allocates nothing for a packet.
//!
//! A run keeps all that its packets said: cut again it gives the same packets,
//! but for the identification of IPv4 packets that must not be fragmented and
//! all carried the same one, which means nothing (RFC 6864, section 4.1).
//! Within an address pair packets keep their order; those of different pairs
//! may change theirs, as they may in the kernel.
//!
//! The surprising choice: a packet's checksum is verified only when a second
//! one wants to join it. A packet that stays alone goes out as it came, and its
//! receiver verifies it; but a run gets a checksum of its own, which would hide
//! a wrong one in it.

use std::io::IoSlice;
use std::ops::Range;

use super::checksum;
use super::segment::{FIN, PSH, TCP_CHECKSUM, UDP_CHECKSUM};
use super::vnet::{Gso, Offloads, VnetHeader};
use found::{Found, Pair};

mod found;

/// Where closed runs and single packets go.
pub trait Sink {
    /// `parts` together are the packet; the header travels beside it.
    fn write(&mut self, header: VnetHeader, parts: &[IoSlice<'_>]);
}

/// The open runs of one device.
#[derive(Debug)]
pub struct Coalescer {
    offloads: Offloads,
    runs: Box<[Run; RUNS]>,
    /// Indices into `runs`: the open ones, oldest first, then the free ones.
    order: [u8; RUNS],
    /// How many are open.
    open: usize,
}

impl Coalescer {
    #[must_use]
    pub fn new(offloads: Offloads) -> Self {
        Self {
            offloads,
            runs: Box::new([const { Run::EMPTY }; RUNS]),
            order: std::array::from_fn(|at| at as u8),
            open: 0,
        }
    }

    /// Holds for packets pushed from then on: to be called with no run open.
    pub fn set_offloads(&mut self, offloads: Offloads) {
        self.offloads = offloads;
    }

    /// Takes one IP packet, `arena[packet]`; what it closes goes to `sink`, and
    /// so does the packet when nothing can follow it. The arena keeps its
    /// contents until the next [`Self::flush`].
    pub fn push(&mut self, arena: &mut [u8], packet: Range<usize>, sink: &mut impl Sink) {
        let bytes = &arena[packet.clone()];
        let Some(found) = Found::of(bytes, packet.start) else {
            if let Some(pair) = Pair::of(bytes) {
                self.close_pair(arena, pair, sink);
            }
            alone(arena, packet, sink);
            return;
        };

        if let Some(place) = self.place(&found) {
            let run = &mut self.runs[usize::from(self.order[place])];
            if run.accepts(arena, &found) {
                if run.add(&found) {
                    self.close(arena, place, sink);
                }
                return;
            }
            self.close(arena, place, sink);
        }
        if found.begins && self.takes(&found) {
            self.begin(arena, found, sink);
        } else {
            alone(arena, packet, sink);
        }
    }

    /// Closes all runs, oldest first.
    pub fn flush(&mut self, arena: &mut [u8], sink: &mut impl Sink) {
        for place in 0..self.open {
            self.runs[usize::from(self.order[place])].write(arena, sink);
        }
        self.open = 0;
    }

    /// The open run of the packet's flow; the newest are the likeliest.
    fn place(&self, found: &Found) -> Option<usize> {
        (0..self.open).rev().find(|&place| {
            let first = &self.runs[usize::from(self.order[place])].first;
            first.ports == found.ports && first.pair == found.pair
        })
    }

    fn takes(&self, found: &Found) -> bool {
        let Offloads {
            csum,
            tso4,
            tso6,
            uso4,
            uso6,
        } = self.offloads;

        csum && match (found.is_tcp(), found.is_ip4()) {
            (true, true) => tso4,
            (true, false) => tso6,
            (false, true) => uso4,
            (false, false) => uso6,
        }
    }

    fn begin(&mut self, arena: &mut [u8], found: Found, sink: &mut impl Sink) {
        if self.open == RUNS {
            self.close(arena, 0, sink);
        }
        self.runs[usize::from(self.order[self.open])].begin(found);
        self.open += 1;
    }

    fn close(&mut self, arena: &mut [u8], place: usize, sink: &mut impl Sink) {
        self.runs[usize::from(self.order[place])].write(arena, sink);
        self.order[place..self.open].rotate_left(1);
        self.open -= 1;
    }

    fn close_pair(&mut self, arena: &mut [u8], pair: Pair, sink: &mut impl Sink) {
        let mut place = 0;
        while place < self.open {
            if self.runs[usize::from(self.order[place])].first.pair == pair {
                self.close(arena, place, sink);
            } else {
                place += 1;
            }
        }
    }
}

/// Packets of one flow, each beginning where the one before it ends.
#[derive(Debug)]
struct Run {
    first: Found,
    /// Where the packets start in the arena.
    starts: [u32; SEGMENTS],
    count: usize,
    /// Bytes of all payloads.
    payload: usize,
    /// FIN and PSH of the last packet.
    flags: u8,
    /// IPv4 packets of one identification rather than of successive ones.
    fixed_id: bool,
    /// The first packet's checksums are right.
    verified: bool,
}

impl Run {
    const EMPTY: Self = Self {
        first: Found::NONE,
        starts: [0; SEGMENTS],
        count: 0,
        payload: 0,
        flags: 0,
        fixed_id: false,
        verified: false,
    };

    fn begin(&mut self, first: Found) {
        self.starts[0] = first.start;
        self.count = 1;
        self.payload = first.payload();
        self.flags = 0;
        self.fixed_id = false;
        self.verified = false;
        self.first = first;
    }

    /// Whether the packet, of the same flow, continues the run.
    fn accepts(&mut self, arena: &[u8], next: &Found) -> bool {
        let first = &self.first;
        let fits = next.joins
            && next.is_like(first, arena)
            && (!next.is_tcp() || next.seq == first.seq.wrapping_add(self.payload as u32))
            && next.payload() <= first.payload()
            && first.head() + self.payload + next.payload() <= MAX_LEN
            && self.id_fits(next);
        if !fits {
            return false;
        }
        self.verified = self.verified || first.is_right(arena);

        self.verified && next.is_right(arena)
    }

    /// The rule of the kernel's `inet_gro_flush`.
    fn id_fits(&self, next: &Found) -> bool {
        if !next.is_ip4() {
            return true;
        }
        let ahead = next.id.wrapping_sub(self.first.id);
        if ahead == 0 {
            self.fixed_id || (self.count == 1 && next.is_atomic())
        } else {
            !self.fixed_id && usize::from(ahead) == self.count
        }
    }

    /// Appends the packet; whether nothing can follow it.
    fn add(&mut self, next: &Found) -> bool {
        if self.count == 1 {
            self.fixed_id = next.id == self.first.id;
        }
        self.starts[self.count] = next.start;
        self.count += 1;
        self.payload += next.payload();
        self.flags = next.flags & (FIN | PSH);

        next.payload() < self.first.payload() || self.flags != 0 || self.count == SEGMENTS
    }

    fn write(&self, arena: &mut [u8], sink: &mut impl Sink) {
        let first = &self.first;
        let at = first.start as usize;
        if self.count == 1 {
            alone(arena, at..at + first.head() + first.payload(), sink);
            return;
        }

        self.patch(&mut arena[at..at + first.head()]);
        let mut parts = [IoSlice::new(&[]); SEGMENTS];
        parts[0] = IoSlice::new(&arena[at..at + first.head() + first.payload()]);
        let mut left = self.payload - first.payload();
        for (part, start) in parts.iter_mut().zip(&self.starts[..self.count]).skip(1) {
            let at = *start as usize + first.head();
            let len = left.min(first.payload());
            *part = IoSlice::new(&arena[at..at + len]);
            left -= len;
        }
        sink.write(self.header(), &parts[..self.count]);
    }

    /// Turns the first packet's headers into the run's.
    fn patch(&self, head: &mut [u8]) {
        let first = &self.first;
        let len = first.head() + self.payload;
        let transport_len = (len - first.transport_at()) as u16;
        let (ip, transport) = head.split_at_mut(first.transport_at());
        if first.is_ip4() {
            let len = (len as u16).to_be_bytes();
            let old = [ip[2], ip[3]];
            ip[2..4].copy_from_slice(&len);
            let mut check = [ip[10], ip[11]];
            checksum::update(&mut check, old, len);
            ip[10..12].copy_from_slice(&check);
        } else {
            ip[4..6].copy_from_slice(&transport_len.to_be_bytes());
        }

        let field = if first.is_tcp() {
            transport[13] |= self.flags;
            TCP_CHECKSUM
        } else {
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
            UDP_CHECKSUM
        };
        let begun = checksum::fold(first.pseudo(ip, transport_len));
        transport[field..field + 2].copy_from_slice(&begun.to_ne_bytes());
    }

    fn header(&self) -> VnetHeader {
        let first = &self.first;
        let (gso, field) = match (first.is_tcp(), first.is_ip4()) {
            (true, true) => (Gso::Tcp4, TCP_CHECKSUM),
            (true, false) => (Gso::Tcp6, TCP_CHECKSUM),
            (false, _) => (Gso::Udp, UDP_CHECKSUM),
        };

        VnetHeader {
            needs_csum: true,
            gso,
            hdr_len: first.head() as u16,
            gso_size: first.payload() as u16,
            csum_start: first.transport_at() as u16,
            csum_offset: field as u16,
            ..VnetHeader::PLAIN
        }
    }
}

fn alone(arena: &[u8], packet: Range<usize>, sink: &mut impl Sink) {
    sink.write(VnetHeader::PLAIN, &[IoSlice::new(&arena[packet])]);
}

/// Flows whose runs are open at once; one more closes the oldest.
const RUNS: usize = 16;

/// Packets in a run: as many datagrams as older kernels take in one
/// (`UDP_MAX_SEGMENTS`).
const SEGMENTS: usize = 64;

/// Bytes of a run: as many as an IPv4 header can say.
const MAX_LEN: usize = 0xffff;
