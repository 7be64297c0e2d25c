//! Packets that wait while a socket is full: a fair queue, so that a ping or
//! a name look-up overtakes the bulk that fills the link.
//!
//! Each flow has a queue; the queues take turns, a quantum of bytes each
//! (deficit round robin), and a flow that has just begun goes before those
//! that have used up a turn, as in RFC 8290, sections 4.1 and 4.2. In the same
//! way the owners of flows, a hub's spokes, take turns, so that nobody wins by
//! many connections. There is no CoDel: the bound in bytes is set to some tens
//! of milliseconds of the link, and beyond it the oldest packet of the longest
//! queue goes, which tells its sender soonest.
//!
//! An empty backlog owns no memory: links that are never full have one too.
//! Pure.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Waiting packets, each with a `B` that travels beside it.
#[derive(Debug)]
pub(super) struct Backlog<B> {
    /// Most that may wait, in bytes as [`cost`] counts them.
    limit: usize,
    owners: Turns<Turns<Fifo<B>>>,
}

impl<B> Backlog<B> {
    /// An empty backlog for at most `limit` bytes.
    #[must_use]
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            owners: Turns::default(),
        }
    }

    /// Appends `packet` to a flow of its owner's, and returns how many packets
    /// were dropped for it.
    pub(super) fn push(&mut self, owner: u64, flow: u64, beside: B, packet: &[u8]) -> usize {
        self.owners
            .push((owner, (flow, ())), (beside, packet.to_vec()));

        self.fit()
    }

    /// Takes the packet whose turn it is.
    pub(super) fn pop(&mut self) -> Option<(B, Vec<u8>)> {
        self.owners.pop()
    }

    /// Changes the bound, in bytes, and returns how many packets were dropped for it.
    pub(super) fn set_limit(&mut self, limit: usize) -> usize {
        self.limit = limit;

        self.fit()
    }

    /// What waits, in bytes, the outer headers included.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.owners.bytes
    }

    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.owners.bytes == 0
    }

    fn fit(&mut self) -> usize {
        let mut dropped = 0;
        while self.owners.bytes > self.limit && self.owners.shed().is_some() {
            dropped += 1;
        }

        dropped
    }
}

type Packet<B> = (B, Vec<u8>);

/// What can take turns: the packets of a flow, or turns themselves.
trait Queue: Default {
    type Beside;
    /// Where in it a packet belongs.
    type Place;

    fn push(&mut self, place: Self::Place, packet: Packet<Self::Beside>);

    /// Takes the packet whose turn it is.
    fn pop(&mut self) -> Option<Packet<Self::Beside>>;

    /// Takes the oldest packet of the longest flow of the longest owner.
    fn shed(&mut self) -> Option<Packet<Self::Beside>>;
}

/// One flow's packets, oldest first.
#[derive(Debug)]
struct Fifo<B>(VecDeque<Packet<B>>);

impl<B> Default for Fifo<B> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<B> Queue for Fifo<B> {
    type Beside = B;
    type Place = ();

    fn push(&mut self, (): (), packet: Packet<B>) {
        self.0.push_back(packet);
    }

    fn pop(&mut self) -> Option<Packet<B>> {
        self.0.pop_front()
    }

    fn shed(&mut self) -> Option<Packet<B>> {
        self.0.pop_front()
    }
}

/// Queues that take turns.
#[derive(Debug)]
struct Turns<Q> {
    bytes: usize,
    queues: HashMap<u64, Turn<Q>>,
    /// Queues that have not used up a turn since they came.
    fresh: VecDeque<u64>,
    settled: VecDeque<u64>,
    /// Every queue with packets, by what they cost.
    lengths: BTreeSet<(usize, u64)>,
}

/// One of the queues.
#[derive(Debug)]
struct Turn<Q> {
    queue: Q,
    bytes: usize,
    /// Bytes that it may still send in this turn; below zero, what it owes.
    deficit: isize,
}

impl<Q> Default for Turns<Q> {
    fn default() -> Self {
        Self {
            bytes: 0,
            queues: HashMap::new(),
            fresh: VecDeque::new(),
            settled: VecDeque::new(),
            lengths: BTreeSet::new(),
        }
    }
}

impl<Q: Queue> Queue for Turns<Q> {
    type Beside = Q::Beside;
    type Place = (u64, Q::Place);

    fn push(&mut self, (id, place): Self::Place, packet: Packet<Q::Beside>) {
        let cost = cost(&packet.1);
        let turn = self.queues.entry(id).or_insert_with(|| {
            self.fresh.push_back(id);
            Turn {
                queue: Q::default(),
                bytes: 0,
                deficit: QUANTUM,
            }
        });
        turn.queue.push(place, packet);
        self.lengths.remove(&(turn.bytes, id));
        turn.bytes += cost;
        self.lengths.insert((turn.bytes, id));
        self.bytes += cost;
    }

    fn pop(&mut self) -> Option<Packet<Q::Beside>> {
        loop {
            let fresh = !self.fresh.is_empty();
            let turns = if fresh {
                &mut self.fresh
            } else {
                &mut self.settled
            };
            let id = *turns.front()?;
            let turn = self.queues.get_mut(&id).expect("a turn belongs to a queue");

            if turn.deficit <= 0 {
                turn.deficit += QUANTUM;
                turns.pop_front();
                self.settled.push_back(id);
            } else if let Some(packet) = turn.queue.pop() {
                turn.deficit -= cost(&packet.1) as isize;
                self.shorten(id, cost(&packet.1));
                return Some(packet);
            } else {
                turns.pop_front();
                // A fresh queue that could come back fresh at once would always go first.
                if fresh && !self.settled.is_empty() {
                    self.settled.push_back(id);
                } else {
                    self.queues.remove(&id);
                }
            }
        }
    }

    fn shed(&mut self) -> Option<Packet<Q::Beside>> {
        let (_, id) = *self.lengths.last()?;
        let packet = self.queues.get_mut(&id)?.queue.shed()?;
        self.shorten(id, cost(&packet.1));

        Some(packet)
    }
}

impl<Q> Turns<Q> {
    /// A packet of so many bytes has left a queue; with the last one of all,
    /// the memory goes too.
    fn shorten(&mut self, id: u64, cost: usize) {
        self.bytes -= cost;
        if self.bytes == 0 {
            *self = Self::default();
            return;
        }
        if let Some(turn) = self.queues.get_mut(&id) {
            self.lengths.remove(&(turn.bytes, id));
            turn.bytes -= cost;
            if turn.bytes > 0 {
                self.lengths.insert((turn.bytes, id));
            }
        }
    }
}

/// Names the flow of an inner IP packet: addresses, protocol and, where the
/// protocol has them, ports (of a fragment: not, so that a datagram stays in
/// one flow). Anything else is one flow.
#[must_use]
pub(super) fn flow_hash(packet: &[u8]) -> u64 {
    let (addresses, protocol, transport) = match packet.first().map(|first| first >> 4) {
        Some(4) => ip4(packet),
        Some(6) => ip6(packet),
        _ => None,
    }
    .unwrap_or_default();
    let ports = transport
        .filter(|_| WITH_PORTS.contains(&protocol))
        .and_then(|at| packet.get(at..at + 4));

    let mut hasher = DefaultHasher::new();
    (addresses, protocol, ports).hash(&mut hasher);
    hasher.finish()
}

/// Addresses, protocol, and where the transport header stands if it is there.
type Parts<'a> = (&'a [u8], u8, Option<usize>);

/// IPv4 (RFC 791, section 3.1).
fn ip4(packet: &[u8]) -> Option<Parts<'_>> {
    let header = usize::from(packet[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff != 0;

    Some((
        packet.get(12..20)?,
        packet[9],
        (!fragment).then_some(header),
    ))
}

/// IPv6 and its extension headers (RFC 8200, section 4).
fn ip6(packet: &[u8]) -> Option<Parts<'_>> {
    let addresses = packet.get(8..40)?;
    let mut next = packet[6];
    let mut at = 40;
    for _ in 0..MOST_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let Some(&[following, length]) = packet.get(at..at + 2) else {
                    break;
                };
                next = following;
                at += (usize::from(length) + 1) * 8;
            }
            FRAGMENT => return Some((addresses, FRAGMENT, None)),
            _ => return Some((addresses, next, Some(at))),
        }
    }

    Some((addresses, next, None))
}

/// What a packet costs the link, in bytes: itself and about what the record
/// and the outer headers add. It also bounds how many tiny packets may wait.
fn cost(packet: &[u8]) -> usize {
    packet.len() + 64
}

/// Bytes of a turn: an ordinary packet. A flow of super-packets waits for as
/// many turns as its packet is long.
const QUANTUM: isize = 1500;

/// TCP, UDP, DCCP, SCTP, UDP-Lite; ESP has its SPI in the same place.
const WITH_PORTS: [u8; 6] = [6, 17, 33, 132, 136, 50];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Real packets have two at most; an endless chain is an attack.
const MOST_EXTENSIONS: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLENTY: usize = usize::MAX;
    const OWNER: u64 = 7;

    fn pops<B>(backlog: &mut Backlog<B>) -> Vec<B> {
        std::iter::from_fn(|| backlog.pop())
            .map(|(beside, _)| beside)
            .collect()
    }

    #[test]
    fn a_ping_overtakes_the_bulk() {
        let mut backlog = Backlog::new(PLENTY);
        for _ in 0..100 {
            backlog.push(OWNER, 1, "bulk", &[0; 1400]);
        }
        for _ in 0..10 {
            backlog.pop();
        }

        backlog.push(OWNER, 2, "ping", &[0; 84]);

        assert_eq!(backlog.pop().unwrap().0, "ping");
    }

    #[test]
    fn small_and_large_packets_share_the_link_by_bytes() {
        let mut backlog = Backlog::new(PLENTY);
        for _ in 0..100 {
            backlog.push(OWNER, 1, 'l', &[0; 12_000]);
        }
        for _ in 0..5000 {
            backlog.push(OWNER, 2, 's', &[0; 436]);
        }

        let mut bytes = HashMap::from([('l', 0), ('s', 0)]);
        for _ in 0..1000 {
            let (flow, packet) = backlog.pop().unwrap();
            *bytes.get_mut(&flow).unwrap() += cost(&packet);
        }

        let ratio = bytes[&'l'] as f64 / bytes[&'s'] as f64;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_flow_that_empties_and_comes_back_is_not_always_first() {
        let mut backlog = Backlog::new(PLENTY);
        for _ in 0..40 {
            backlog.push(OWNER, 1, 1, &[0; 1400]);
        }
        backlog.push(OWNER, 2, 2, &[0; 1400]);

        let mut seconds = 0;
        for _ in 0..20 {
            if backlog.pop().unwrap().0 == 2 {
                seconds += 1;
                backlog.push(OWNER, 2, 2, &[0; 1400]);
            }
        }

        assert!((9..=11).contains(&seconds), "{seconds} of 20");
    }

    #[test]
    fn an_owner_of_many_flows_gets_no_more_than_one_of_one() {
        let mut backlog = Backlog::new(PLENTY);
        for packet in 0..400 {
            backlog.push(1, packet % 20, 1, &[0; 1400]);
            backlog.push(2, 0, 2, &[0; 1400]);
        }

        let seconds = (0..400).filter(|_| backlog.pop().unwrap().0 == 2).count();

        assert!((195..=205).contains(&seconds), "{seconds} of 400");
    }

    #[test]
    fn another_owners_ping_overtakes_all_and_the_longest_owner_loses() {
        let mut backlog = Backlog::new(100 * 1064);
        for packet in 0..97 {
            backlog.push(1, packet % 20, "many", &[0; 1000]);
        }
        for _ in 0..50 {
            backlog.pop();
        }
        for packet in 0..50 {
            backlog.push(1, packet % 20, "many", &[0; 1000]);
        }

        // Longer than any flow of the other's.
        let dropped: usize = (0..8).map(|_| backlog.push(2, 0, "few", &[0; 1000])).sum();

        assert_eq!(dropped, 5);
        assert_eq!(backlog.pop().unwrap().0, "few");
        let few = pops(&mut backlog).iter().filter(|it| **it == "few").count();
        assert_eq!(few, 7);
    }

    #[test]
    fn the_oldest_packet_of_the_longest_flow_goes_first() {
        let mut backlog = Backlog::new(5 * 1064);
        for name in ["a1", "a2", "a3"] {
            assert_eq!(backlog.push(OWNER, 1, name, &[0; 1000]), 0);
        }
        for name in ["b1", "b2"] {
            assert_eq!(backlog.push(OWNER, 2, name, &[0; 1000]), 0);
        }

        assert_eq!(backlog.push(OWNER, 2, "b3", &[0; 1000]), 1);
        assert_eq!(backlog.set_limit(4 * 1064), 1);

        let mut left = pops(&mut backlog);
        left.sort_unstable();
        assert_eq!(left, ["a2", "a3", "b2", "b3"]);
    }

    #[test]
    fn an_empty_backlog_owns_no_memory() {
        let mut backlog = Backlog::new(PLENTY);
        for flow in 0..100 {
            backlog.push(OWNER, flow, (), &[0; 1400]);
        }
        pops(&mut backlog);

        let owners = &backlog.owners;
        assert_eq!(owners.queues.capacity(), 0);
        assert_eq!(owners.fresh.capacity() + owners.settled.capacity(), 0);
    }

    proptest! {
        #[test]
        fn keeps_the_order_of_each_flow_and_the_bound(
            steps in prop::collection::vec(
                prop_oneof![
                    3 => (0..6_u64, 1..3000_usize).prop_map(Some),
                    2 => Just(None),
                ],
                1..400,
            ),
        ) {
            const LIMIT: usize = 20_000;
            let mut backlog = Backlog::new(LIMIT);
            let mut inside = 0;
            let mut newest = HashMap::new();

            for (order, step) in steps.into_iter().enumerate() {
                match step {
                    Some((flow, len)) => {
                        inside += 1;
                        inside -= backlog.push(flow % 2, flow, (flow, order), &vec![flow as u8; len]);
                    }
                    None => {
                        let popped = backlog.pop();
                        prop_assert_eq!(popped.is_some(), inside > 0);
                        let Some(((flow, order), packet)) = popped else { continue };
                        inside -= 1;
                        prop_assert!(packet.iter().all(|&byte| u64::from(byte) == flow));
                        prop_assert!(newest.insert(flow, order) < Some(order));
                    }
                }
                prop_assert!(backlog.bytes() <= LIMIT);
                prop_assert_eq!(backlog.is_empty(), inside == 0);
            }
            prop_assert_eq!(pops(&mut backlog).len(), inside);
        }

        #[test]
        fn any_bytes_have_a_flow(packet in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = flow_hash(&packet); // Must not panic.
        }
    }

    fn udp4(port: u16, fragment: u16) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = 17;
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn ports_tell_flows_apart_but_in_fragments() {
        const DF: u16 = 0x4000;
        const MORE: u16 = 0x2000;

        assert_eq!(flow_hash(&udp4(53, DF)), flow_hash(&udp4(53, 0)));
        assert_ne!(flow_hash(&udp4(53, 0)), flow_hash(&udp4(54, 0)));
        assert_eq!(flow_hash(&udp4(53, MORE)), flow_hash(&udp4(54, MORE)));
        assert_eq!(flow_hash(&udp4(53, 7)), flow_hash(&udp4(54, MORE)));
    }

    #[test]
    fn ports_are_found_behind_extension_headers() {
        let with_port = |port: u8| {
            let mut packet = vec![0; 40 + 8 + 8];
            packet[0] = 0x60;
            packet[6] = DESTINATION;
            packet[40] = 17;
            packet[48 + 3] = port;
            packet
        };

        assert_ne!(flow_hash(&with_port(1)), flow_hash(&with_port(2)));
    }
}
