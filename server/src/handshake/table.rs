//! The handshakes in progress: by address, by age and by deadline, within the
//! limits that keep a flood of real addresses from taking the hub's memory.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::half_open::HalfOpen;

/// Grows with each handshake opened, so that a smaller one is an older one.
pub(super) type Id = u64;

#[derive(Default)]
pub(super) struct Table {
    next_id: Id,
    handshakes: HashMap<Id, Box<HalfOpen>>,
    by_age: BTreeSet<Id>,
    by_peer: HashMap<SocketAddr, Vec<Id>>,
    by_network: HashMap<Network, Vec<Id>>,
    /// Those without a ClientKeyExchange.
    waiting: BTreeSet<Id>,
    deadlines: BTreeSet<(Instant, Id)>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.handshakes.len()
    }

    /// The handshakes that must give way to one more with `peer`.
    pub(super) fn victims(&self, peer: SocketAddr) -> Vec<Id> {
        let mut victims = Vec::new();

        let same_peer = self.of(peer);
        if same_peer.len() >= PER_PEER {
            victims.extend(self.first_to_go(same_peer));
        }
        let same_network = self
            .by_network
            .get(&Network::of(peer))
            .map_or(&[][..], Vec::as_slice);
        if same_network.len() - victims.len() >= PER_NETWORK {
            victims.extend(self.first_to_go(same_network));
        }
        if self.handshakes.len() - victims.len() >= HALF_OPEN {
            victims.extend(self.waiting.first().or_else(|| self.by_age.first()));
        }

        victims
    }

    pub(super) fn insert(&mut self, half_open: HalfOpen) -> Id {
        let id = self.next_id;
        self.next_id += 1;

        let peer = half_open.peer();
        remember(&mut self.by_peer, peer, id);
        remember(&mut self.by_network, Network::of(peer), id);
        self.by_age.insert(id);
        self.waiting.insert(id);
        self.deadlines.insert((half_open.deadline(), id));
        self.handshakes.insert(id, Box::new(half_open));

        id
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Box<HalfOpen>> {
        let half_open = self.handshakes.remove(&id)?;

        let peer = half_open.peer();
        forget(&mut self.by_peer, &peer, id);
        forget(&mut self.by_network, &Network::of(peer), id);
        self.by_age.remove(&id);
        self.waiting.remove(&id);
        self.deadlines.remove(&(half_open.deadline(), id));

        Some(half_open)
    }

    /// The handshakes with `peer`, the oldest first.
    pub(super) fn of(&self, peer: SocketAddr) -> &[Id] {
        self.by_peer.get(&peer).map_or(&[], Vec::as_slice)
    }

    pub(super) fn get(&self, id: Id) -> Option<&HalfOpen> {
        self.handshakes.get(&id).map(Box::as_ref)
    }

    /// Changes a handshake and keeps the orders that hang on it.
    pub(super) fn update<R>(
        &mut self,
        id: Id,
        change: impl FnOnce(&mut HalfOpen) -> R,
    ) -> Option<R> {
        let half_open = self.handshakes.get_mut(&id)?;

        let before = half_open.deadline();
        let result = change(half_open);
        let after = half_open.deadline();
        if before != after {
            self.deadlines.remove(&(before, id));
            self.deadlines.insert((after, id));
        }
        if half_open.has_key_exchange() {
            self.waiting.remove(&id);
        }

        Some(result)
    }

    pub(super) fn next_deadline(&self) -> Option<(Instant, Id)> {
        self.deadlines.first().copied()
    }

    /// The oldest without a ClientKeyExchange; when all have one, the oldest: a
    /// flood that goes so far must not shut everybody else out until it expires.
    fn first_to_go(&self, ids: &[Id]) -> Option<Id> {
        ids.iter()
            .find(|id| self.waiting.contains(id))
            .or_else(|| ids.first())
            .copied()
    }
}

/// What one owner of addresses has at the least: an IPv4 address, or a /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    V6([u8; 8]),
}

impl Network {
    fn of(peer: SocketAddr) -> Self {
        match peer.ip().to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let mut prefix = [0; 8];
                prefix.copy_from_slice(&ip.octets()[..8]);
                Self::V6(prefix)
            }
        }
    }
}

fn remember<K: Hash + Eq>(index: &mut HashMap<K, Vec<Id>>, key: K, id: Id) {
    // Most have one; a `Vec` that grows makes room for four.
    index
        .entry(key)
        .and_modify(|ids| ids.push(id))
        .or_insert_with(|| vec![id]);
}

fn forget<K: Hash + Eq>(index: &mut HashMap<K, Vec<Id>>, key: &K, id: Id) {
    if let Some(ids) = index.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

/// In all: 8 MB at 2 kB each.
pub(super) const HALF_OPEN: usize = 4096;

/// Spokes behind one NAT share an address.
pub(super) const PER_NETWORK: usize = 64;

/// A late copy of an older hello must not end the handshake in progress, so
/// there is room beside it.
const PER_PEER: usize = 4;
