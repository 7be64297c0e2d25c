//! Puts packets that follow each other in a flow together into runs, as the
//! kernel's GRO would (its `inet_gro_receive`, `tcp_gro_receive` and
//! `udp_gro_receive_segment`), so that a TUN takes up to 64 in one write. Pure,
//! and allocates nothing for a packet.
//!
//! A run keeps all that its packets said: cut again it gives the same packets,
//! but for the identification of IPv4 packets that must not be fragmented and
//! all carried the same one, which means nothing (RFC 6864, section 4.1).
//! Within a flow packets keep their order, and what is no whole packet of TCP or
//! UDP keeps its place among all of its address pair; packets of different flows
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::reference::{Model, extensions, model};
    use super::super::segment::Segments;
    use super::*;

    #[derive(Default)]
    struct Writes(Vec<(VnetHeader, Vec<u8>)>);

    impl Sink for Writes {
        fn write(&mut self, header: VnetHeader, parts: &[IoSlice<'_>]) {
            // Cut from its parts, a run is what it is from one buffer.
            let mut buffer = Vec::new();
            assert!(Segments::of_parts(header, parts, &mut buffer).is_ok());
            self.0.push((header, parts.concat_bytes()));
        }
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl ConcatBytes for [IoSlice<'_>] {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|part| part.to_vec()).collect()
        }
    }

    impl Writes {
        /// Every packet as the kernel would have it after its own GSO.
        fn cut(self) -> Vec<Vec<u8>> {
            let mut packets = Vec::new();
            for (header, mut packet) in self.0 {
                let mut segments = Segments::new(header, &mut packet, usize::MAX).unwrap();
                while let Some(len) = segments.next_len() {
                    let mut out = vec![0; len];
                    segments.write_next(&mut out);
                    packets.push(out);
                }
            }
            packets
        }
    }

    fn coalesce(offloads: Offloads, packets: &[Vec<u8>]) -> Writes {
        let mut arena = vec![0xee; 7];
        let mut coalescer = Coalescer::new(offloads);
        let mut writes = Writes::default();
        let ranges: Vec<_> = packets
            .iter()
            .map(|packet| {
                let start = arena.len() + 3;
                arena.resize(start, 0xee);
                arena.extend(packet);
                start..arena.len()
            })
            .collect();
        for range in ranges {
            coalescer.push(&mut arena, range, &mut writes);
        }
        coalescer.flush(&mut arena, &mut writes);
        let before = writes.0.len();
        coalescer.flush(&mut arena, &mut writes);
        assert_eq!(writes.0.len(), before);
        writes
    }

    fn singles(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
        packets
            .iter()
            .map(|packet| (VnetHeader::PLAIN, packet.clone()))
            .collect()
    }

    fn lens(writes: &[(VnetHeader, Vec<u8>)]) -> Vec<(Gso, usize)> {
        writes
            .iter()
            .map(|(header, packet)| (header.gso, packet.len()))
            .collect()
    }

    /// A packet of some flow, and whether it arrives damaged or without a checksum.
    #[derive(Clone, Debug)]
    struct Step {
        model: Model,
        harm: Harm,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Harm {
        None,
        Payload,
        IpHeader,
        NoChecksum,
        Padding,
    }

    impl Step {
        fn emit(&self) -> Vec<u8> {
            let mut packet = self.model.emit();
            let head = self.model.head();
            match self.harm {
                Harm::None => {}
                Harm::Payload => *packet.last_mut().unwrap() ^= 1,
                Harm::IpHeader => packet[10] ^= 1,
                Harm::NoChecksum => packet[head - 2..head].fill(0),
                Harm::Padding => packet.push(0),
            }
            packet
        }

        /// Whether a run cannot hold it, whatever came before.
        fn is_unfit(&self) -> bool {
            let model = &self.model;
            self.is_strange()
                || model.payload.is_empty()
                || (model.tcp && model.flags & 0xa6 != 0)
                || (model.tcp && model.flags & 0x10 == 0)
                || self.harm == Harm::NoChecksum
        }

        /// No plain TCP or UDP packet.
        fn is_strange(&self) -> bool {
            !self.model.extra.is_empty()
                || (self.model.ip4 && self.model.fragment & 0xbfff != 0)
                || self.harm == Harm::Padding
        }

        fn is_right(&self) -> bool {
            match self.harm {
                Harm::None => true,
                Harm::IpHeader => !self.model.ip4,
                Harm::Payload | Harm::NoChecksum | Harm::Padding => false,
            }
        }

        fn pair(&self) -> (bool, (u8, u8)) {
            (self.model.ip4, self.model.hosts)
        }
    }

    /// A pair, whether TCP, ports, and whether neither TCP nor UDP.
    type Flow = ((bool, (u8, u8)), bool, (u16, u16), bool);

    /// The rules of the kernel's GRO, over the models instead of the bytes.
    fn may_follow(run: &[Step], next: &Step) -> bool {
        let (first, last) = (&run[0].model, &run[run.len() - 1].model);
        let bytes: usize = run.iter().map(|step| step.model.payload.len()).sum();
        let size = first.payload.len();
        let model = &next.model;
        let ids: Vec<u16> = run.iter().chain([next]).map(|step| step.model.id).collect();
        let rising = ids
            .windows(2)
            .all(|pair| pair[1] == pair[0].wrapping_add(1));
        let fixed = ids.windows(2).all(|pair| pair[1] == pair[0]);
        let atomic = model.fragment == 0x4000;
        let network = (model.class, model.ttl) == (first.class, first.ttl)
            && if model.ip4 {
                model.fragment == first.fragment && (rising || (fixed && atomic))
            } else {
                model.label == first.label
            };
        let tcp = !model.tcp
            || (model.seq == first.seq.wrapping_add(bytes as u32)
                && (model.ack, model.window, model.urgent)
                    == (first.ack, first.window, first.urgent)
                && model.options == first.options
                && model.flags & 0xf6 == first.flags & 0xf6);

        network
            && tcp
            && !next.is_unfit()
            && last.payload.len() == size
            && model.payload.len() <= size
            && (last.flags & 0x09 == 0 || !last.tcp)
            && run.len() < 64
            && first.head() + bytes + model.payload.len() <= 65_535
            && next.is_right()
            && run[0].is_right()
    }

    /// What comes out, whole flows at a time: runs of one or more.
    fn reference(steps: &[Step]) -> Vec<Vec<Step>> {
        let mut flows: HashMap<Flow, Vec<Vec<Step>>> = HashMap::new();
        for step in steps {
            let model = &step.model;
            if step.is_strange() {
                for (_, runs) in flows
                    .iter_mut()
                    .filter(|((pair, ..), _)| *pair == step.pair())
                {
                    runs.push(Vec::new());
                }
                flows
                    .entry((step.pair(), true, (0, 0), true))
                    .or_default()
                    .push(vec![step.clone()]);
                continue;
            }
            let runs = flows
                .entry((step.pair(), model.tcp, model.ports, false))
                .or_default();
            match runs.last_mut() {
                Some(run) if !run.is_empty() && !run[0].is_unfit() && may_follow(run, step) => {
                    run.push(step.clone());
                }
                _ => runs.push(vec![step.clone()]),
            }
        }
        flows
            .into_values()
            .flatten()
            .filter(|run| !run.is_empty())
            .collect()
    }

    fn write_of(run: &[Step]) -> (VnetHeader, Vec<u8>) {
        if run.len() == 1 {
            return (VnetHeader::PLAIN, run[0].emit());
        }
        let mut whole = run[0].model.clone();
        whole.payload = run
            .iter()
            .flat_map(|step| step.model.payload.clone())
            .collect();
        whole.flags |= run[run.len() - 1].model.flags & 9;
        whole.run(run[0].model.payload.len() as u16)
    }

    /// Packets of few flows that mostly continue each other.
    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let odd = prop_oneof![40 => Just(0u8), 1 => 1..=21u8];
        let step = (
            0usize..6,
            odd,
            prop_oneof![Just(100usize), Just(100), Just(100), 0..130usize],
        );
        prop::collection::vec(step, 1..150).prop_map(|picks| {
            let mut flows: Vec<Model> = (0..6u8)
                .map(|flow| {
                    let mut model = Model::new(flow % 2 == 0, flow < 4, Vec::new());
                    // Two flows of one pair, and one beside.
                    model.ports.0 += u16::from(flow / 2 % 2);
                    model.hosts.0 = 2 + flow / 4;
                    model.seq = u32::MAX - 3_000;
                    model.id = u16::MAX - 10;
                    model.options = if flow < 2 { vec![1; 12] } else { Vec::new() };
                    model
                })
                .collect();
            let mut steps = Vec::new();
            for (flow, odd, len) in picks {
                let flow = &mut flows[flow];
                let mut harm = Harm::None;
                let mut model = flow.clone();
                model.payload = (0..len).map(|at| at as u8 ^ model.id as u8).collect();
                match odd {
                    0 => {}
                    1 => model.flags |= 0x08,
                    2 => model.flags |= 0x01,
                    3 => model.flags |= 0x80,
                    4 => model.flags |= 0x20,
                    5 => model.flags |= 0x02,
                    6 => model.flags |= 0x04,
                    7 => model.flags &= !0x10,
                    8 => flow.flags ^= 0x40,
                    9 => flow.window += 1,
                    10 => flow.ack += 1,
                    11 => model.class ^= 3,
                    12 => model.ttl -= 1,
                    13 => flow.fragment ^= 0x4000,
                    14 => model.id = model.id.wrapping_sub(1),
                    15 => model.seq = model.seq.wrapping_add(1),
                    16 if model.ip4 => model.fragment |= 0x2000,
                    16 => model.label ^= 1,
                    17 => harm = Harm::Payload,
                    18 => harm = Harm::IpHeader,
                    19 => harm = Harm::NoChecksum,
                    20 => model.urgent = 1,
                    _ => harm = Harm::Padding,
                }
                if harm == Harm::Payload && model.payload.is_empty() {
                    harm = Harm::None;
                }
                let meaningless = match harm {
                    Harm::IpHeader => !model.ip4,
                    Harm::NoChecksum => model.tcp,
                    Harm::None | Harm::Payload | Harm::Padding => false,
                };
                if meaningless {
                    harm = Harm::None;
                }
                flow.seq = flow.seq.wrapping_add(len as u32);
                // Some senders leave it alone where it means nothing.
                if flow.ports.0.is_multiple_of(2) {
                    flow.id = flow.id.wrapping_add(1);
                }
                steps.push(Step { model, harm });
            }
            steps
        })
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        (1usize..6000).prop_map(|len| (0..len).map(|at| (at * 7) as u8).collect())
    }

    proptest! {
        #[test]
        fn agrees_with_the_rules_of_the_kernel(steps in steps()) {
            let packets: Vec<_> = steps.iter().map(Step::emit).collect();
            let mut writes = coalesce(Offloads::ALL, &packets).0;
            let mut expected: Vec<_> = reference(&steps).iter().map(|run| write_of(run)).collect();

            let order = |write: &(VnetHeader, Vec<u8>)| (write.1.clone(), write.0.emit());
            writes.sort_by_key(order);
            expected.sort_by_key(order);
            prop_assert!(writes == expected, "{:?}", (lens(&writes), lens(&expected)));
        }

        #[test]
        fn cut_again_each_pair_has_its_packets_in_order(steps in steps()) {
            let packets: Vec<_> = steps.iter().map(Step::emit).collect();
            let cut = coalesce(Offloads::ALL, &packets).cut();

            let of_pair = |packets: &[Vec<u8>], pair: Pair| -> Vec<Vec<u8>> {
                packets.iter().filter(|packet| Pair::of(packet) == Some(pair)).cloned().collect()
            };
            prop_assert_eq!(cut.len(), packets.len());
            for packet in &packets {
                let pair = Pair::of(packet).unwrap();
                let (before, after) = (of_pair(&packets, pair), of_pair(&cut, pair));
                let flow = |packets: &[Vec<u8>], ports: &[u8]| -> Vec<Vec<u8>> {
                    packets.iter().filter(|packet| ports_of(packet) == ports).map(|packet| without_id(packet)).collect()
                };
                let ports = ports_of(packet);
                prop_assert_eq!(flow(&after, ports), flow(&before, ports));
            }
        }

        #[test]
        fn what_a_sender_cut_becomes_one_run_again(
            model in model(payload()),
            size in 100u16..1500,
        ) {
            let mut model = model;
            model.extra.clear();
            model.flags = model.flags & 0x49 | 0x10;
            model.fragment &= 0x4000;
            let packets = model.pieces(size.into());
            let (header, run) = model.run(size.min(model.payload.len() as u16));
            let expected = if packets.len() == 1 {
                (VnetHeader::PLAIN, packets[0].clone())
            } else {
                (header, run)
            };

            let writes = coalesce(Offloads::ALL, &packets);
            prop_assert_eq!(&writes.0, &vec![expected]);
            prop_assert_eq!(writes.cut(), packets);
        }

        #[test]
        fn arbitrary_bytes_pass_unchanged(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..10),
            first in prop::sample::select(vec![0x45u8, 0x60, 0x46, 0]),
            protocol in prop::sample::select(vec![6u8, 17]),
        ) {
            let mut packets = packets;
            for packet in &mut packets {
                let len = packet.len() as u8;
                if len > 40 {
                    packet[0] = first;
                    let (at, value) = if first == 0x60 { (4, len - 40) } else { (2, len) };
                    packet[at..at + 2].copy_from_slice(&[0, value]);
                    packet[if first == 0x60 { 6 } else { 9 }] = protocol;
                    packet[6] = if first == 0x45 { 0x40 } else { packet[6] };
                }
            }
            let mut sorted = coalesce(Offloads::ALL, &packets).0;
            let mut expected = singles(&packets);
            sorted.sort_by(|a, b| a.1.cmp(&b.1));
            expected.sort_by(|a, b| a.1.cmp(&b.1));
            prop_assert_eq!(sorted, expected);
        }
    }

    fn ports_of(packet: &[u8]) -> &[u8] {
        let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
        &packet[at..at + 4]
    }

    /// Without what means nothing where fragmenting is forbidden.
    fn without_id(packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        if packet[0] == 0x45 && packet[6] == 0x40 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        packet
    }

    /// Three segments of a flow, and the flow.
    fn three(ip4: bool, tcp: bool) -> (Model, Vec<Vec<u8>>) {
        let model = Model::new(ip4, tcp, vec![5; 3000]);
        let packets = model.pieces(1000);
        (model, packets)
    }

    #[test]
    fn an_offload_that_is_off_leaves_its_packets_alone() {
        for (ip4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
            let (model, packets) = three(ip4, tcp);
            let only = Offloads {
                csum: true,
                tso4: tcp && ip4,
                tso6: tcp && !ip4,
                uso4: !tcp && ip4,
                uso6: !tcp && !ip4,
            };
            let without = Offloads {
                csum: true,
                tso4: !only.tso4,
                tso6: !only.tso6,
                uso4: !only.uso4,
                uso6: !only.uso6,
            };
            let unsummed = Offloads {
                csum: false,
                ..Offloads::ALL
            };

            assert_eq!(coalesce(only, &packets).0, [model.run(1000)]);
            assert_eq!(coalesce(without, &packets).0, singles(&packets));
            assert_eq!(coalesce(unsummed, &packets).0, singles(&packets));
        }
    }

    #[test]
    fn a_run_has_at_most_64_packets_and_64_kib() {
        for (size, most) in [(500, 64), (1400, 46)] {
            let model = Model::new(true, true, vec![3; size]);
            let packets: Vec<_> = (0..=most)
                .map(|at| {
                    let mut model = model.clone();
                    model.seq += (at * size) as u32;
                    model.id += at as u16;
                    model.emit()
                })
                .collect();
            let writes = coalesce(Offloads::ALL, &packets).0;

            assert_eq!(writes[0].1.len(), 40 + most * size);
            assert_eq!(writes.len(), 2);
        }
    }

    #[test]
    fn acknowledgements_stay_single_and_keep_their_place() {
        let (mut model, mut packets) = three(false, true);
        model.seq += 3000;
        model.payload.clear();
        packets.push(model.emit());
        packets.push(model.emit());

        let writes = coalesce(Offloads::ALL, &packets).0;
        assert_eq!(writes[0].1.len(), 60 + 3000);
        assert_eq!(writes[1..], singles(&packets[3..]));
    }

    #[test]
    fn a_fragment_and_icmp_come_after_what_they_followed() {
        let (mut model, mut packets) = three(true, false);
        model.fragment = 0x2000;
        packets.push(model.emit());
        let mut icmp = packets[0].clone();
        icmp[9] = 1;
        packets.extend(three(true, false).1);
        packets.push(icmp);

        let writes = coalesce(Offloads::ALL, &packets).0;
        let lens: Vec<_> = writes.iter().map(|(_, packet)| packet.len()).collect();
        assert_eq!(lens, [3028, 3028, 3028, 1028]);
        assert_eq!(writes[1].0, VnetHeader::PLAIN);
    }

    #[test]
    fn extension_headers_and_options_pass_alone() {
        for ip4 in [true, false] {
            let (mut model, _) = three(ip4, true);
            model.extra = if ip4 {
                vec![1; 8]
            } else {
                extensions(16, true)
            };
            model.first_extension = 60;
            let packets = model.pieces(1000);
            assert_eq!(coalesce(Offloads::ALL, &packets).0, singles(&packets));
        }
    }

    #[test]
    fn more_flows_than_fit_close_the_oldest() {
        let mut packets = Vec::new();
        for round in 0..2 {
            for flow in 0..=RUNS as u16 {
                let mut model = Model::new(true, true, vec![1; 2000]);
                model.ports.0 = flow;
                packets.push(model.pieces(1000)[round].clone());
            }
        }

        // Each pushes out the one that is to come next.
        let writes = coalesce(Offloads::ALL, &packets);
        assert_eq!(writes.0, singles(&packets));

        let kept: Vec<_> = packets
            .iter()
            .filter(|packet| ports_of(packet)[1] != 0)
            .cloned()
            .collect();
        assert_eq!(coalesce(Offloads::ALL, &kept).0.len(), RUNS);
    }
}
