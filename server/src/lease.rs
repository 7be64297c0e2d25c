//! Leases: what the hub keeps for a hint. Pure; time is wall-clock seconds,
//! because a lease outlives the process.
//!
//! A lease that has expired loses its device but not its slot: the slot is
//! given to another hint only when no other is free, the longest expired first,
//! so that a spoke that comes back after weeks mostly finds its old addresses.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

mod state;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::pool::{Addresses, Full, Pools};

pub(crate) use state::{Saved, State, Store, StoreError};

/// Every lease of a hub, by hint.
#[derive(Debug)]
pub(crate) struct Leases {
    pools: Pools,
    /// How long a lease lasts after its session's end, in seconds.
    lasts: u64,
    by_hint: HashMap<String, Lease>,
    by_slot: BTreeMap<u32, String>,
}

impl Leases {
    pub(crate) fn new(pools: Pools, lasts: Duration) -> Self {
        Self {
            pools,
            lasts: lasts.as_secs(),
            by_hint: HashMap::new(),
            by_slot: BTreeMap::new(),
        }
    }

    /// How long leases last from now on after their sessions.
    pub(crate) fn set_lasting(&mut self, lasts: Duration) {
        self.lasts = lasts.as_secs();
    }

    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    pub(crate) fn get(&self, hint: &str) -> Option<&Lease> {
        self.by_hint.get(hint)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.by_hint
            .iter()
            .map(|(hint, lease)| (hint.as_str(), lease))
    }

    /// Takes or renews the lease of `hint`; its end is open until [`Self::release`].
    pub(crate) fn acquire(&mut self, hint: &str, now: u64) -> Result<&Lease, Full> {
        if !self.by_hint.contains_key(hint) {
            let slot = self.free_slot(now).ok_or_else(|| self.pools.full())?;
            self.insert(hint, slot, None, None);
        }

        let lease = self
            .by_hint
            .get_mut(hint)
            .expect("a lease was there or has been inserted");
        lease.ended = None;

        Ok(lease)
    }

    /// The session of `hint` has ended: its lease runs from `now`.
    pub(crate) fn release(&mut self, hint: &str, now: u64) {
        if let Some(lease) = self.by_hint.get_mut(hint) {
            lease.ended = Some(now);
        }
    }

    /// Names the device of a lease; `None` once it is deleted.
    pub(crate) fn set_device(&mut self, hint: &str, device: Option<String>) {
        if let Some(lease) = self.by_hint.get_mut(hint) {
            lease.device = device;
        }
    }

    /// The name of the lowest number that no lease and none of `links` has.
    pub(crate) fn free_device(&self, links: &HashSet<String>) -> String {
        let named: HashSet<_> = self
            .by_hint
            .values()
            .filter_map(|lease| lease.device.as_deref())
            .collect();

        (0_u32..)
            .map(|number| format!("dtun{number}"))
            .find(|name| !named.contains(name.as_str()) && !links.contains(name))
            .expect("a machine has fewer links than there are numbers")
    }

    /// The hints whose lease is over while its device still exists.
    pub(crate) fn expired(&self, now: u64) -> Vec<String> {
        self.by_hint
            .iter()
            .filter(|(_, lease)| lease.device.is_some() && self.is_over(lease, now))
            .map(|(hint, _)| hint.clone())
            .collect()
    }

    /// When the next of [`Self::expired`] will be.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.by_hint
            .values()
            .filter(|lease| lease.device.is_some())
            .filter_map(|lease| Some(lease.ended?.saturating_add(self.lasts)))
            .min()
    }

    /// What has to survive a restart.
    pub(crate) fn save(&self) -> Vec<Saved> {
        self.by_slot
            .iter()
            .map(|(slot, hint)| {
                let lease = &self.by_hint[hint];
                let addresses = self.pools.addresses(*slot);
                Saved {
                    hint: hint.clone(),
                    ip4: addresses.ip4.addr(),
                    ip6: addresses.ip6.map(|net| net.addr()),
                    device: lease.device.clone(),
                    ended: lease.ended,
                }
            })
            .collect()
    }

    /// Takes over leases of an earlier run; returns the hints of those whose
    /// address is outside the pool or taken twice.
    ///
    /// A lease whose session was alive when the hub was killed ends `now`, and
    /// one that ended in the future (the clock was set back) as well.
    pub(crate) fn restore(&mut self, saved: Vec<Saved>, now: u64) -> Vec<String> {
        let mut lost = Vec::new();
        let mut devices = HashSet::new();

        for lease in saved {
            let slot = self
                .pools
                .slot(lease.ip4)
                .filter(|slot| !self.by_slot.contains_key(slot));
            let (Some(slot), false) = (slot, self.by_hint.contains_key(&lease.hint)) else {
                lost.push(lease.hint);
                continue;
            };
            let device = lease.device.filter(|name| devices.insert(name.clone()));
            let ended = lease.ended.map_or(now, |ended| ended.min(now));
            self.insert(&lease.hint, slot, device, Some(ended));
        }

        lost
    }

    fn insert(&mut self, hint: &str, slot: u32, device: Option<String>, ended: Option<u64>) {
        let lease = Lease {
            slot,
            addresses: self.pools.addresses(slot),
            device,
            ended,
        };
        self.by_slot.insert(slot, hint.to_owned());
        self.by_hint.insert(hint.to_owned(), lease);
    }

    /// The lowest slot never given out, else that of the lease longest over.
    fn free_slot(&mut self, now: u64) -> Option<u32> {
        let mut slots = self.pools.slots();
        let unused = self
            .by_slot
            .keys()
            .copied()
            .zip(slots.clone())
            .find(|(used, slot)| used != slot)
            .map(|(_, slot)| slot)
            .or_else(|| slots.nth(self.by_slot.len()));
        if unused.is_some() {
            return unused;
        }

        let (_, slot, hint) = self
            .by_hint
            .iter()
            .filter(|(_, lease)| lease.device.is_none() && self.is_over(lease, now))
            .map(|(hint, lease)| (lease.ended, lease.slot, hint.clone()))
            .min()?;
        self.by_hint.remove(&hint);

        Some(slot)
    }

    fn is_over(&self, lease: &Lease, now: u64) -> bool {
        lease
            .ended
            .is_some_and(|ended| now >= ended.saturating_add(self.lasts))
    }
}

/// What the hub keeps for one hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    slot: u32,
    pub(crate) addresses: Addresses,
    /// The name of its device, while it has one.
    pub(crate) device: Option<String>,
    /// When its last session ended; none while one is alive.
    ended: Option<u64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn leases(pool: &str) -> Leases {
        Leases::new(Pools::new(pool.parse().unwrap(), None), HOUR)
    }

    fn ip4(leases: &mut Leases, hint: &str, now: u64) -> String {
        let lease = leases.acquire(hint, now).unwrap();
        lease.addresses.ip4.addr().to_string()
    }

    #[test]
    fn a_hint_keeps_its_address_across_sessions_and_long_after() {
        let mut leases = leases("10.0.0.0/24");

        assert_eq!(ip4(&mut leases, "a", 0), "10.0.0.2");
        assert_eq!(ip4(&mut leases, "b", 0), "10.0.0.3");
        leases.release("a", 10);
        assert_eq!(ip4(&mut leases, "c", 20), "10.0.0.4");
        assert_eq!(ip4(&mut leases, "a", 1_000_000), "10.0.0.2");
    }

    #[test]
    fn a_full_pool_says_so_until_a_lease_is_over() {
        let mut leases = leases("10.0.0.0/29");
        for hint in ["a", "b", "c", "d", "e"] {
            leases.acquire(hint, 0).unwrap();
        }
        leases.release("b", 10);

        assert_eq!(
            leases.acquire("f", 10 + 3599).unwrap_err().to_string(),
            "address pool 10.0.0.0/29 is full"
        );
        assert_eq!(ip4(&mut leases, "f", 10 + 3600), "10.0.0.3");
        assert_eq!(leases.get("b"), None);
    }

    #[test]
    fn addresses_are_given_out_again_the_oldest_first() {
        let mut leases = leases("10.0.0.0/29");
        for hint in ["a", "b", "c", "d", "e"] {
            leases.acquire(hint, 0).unwrap();
        }
        for (hint, ended) in [("c", 30), ("a", 10), ("e", 20)] {
            leases.release(hint, ended);
        }

        assert_eq!(ip4(&mut leases, "x", 10_000), "10.0.0.2");
        assert_eq!(ip4(&mut leases, "y", 10_000), "10.0.0.6");
        assert_eq!(ip4(&mut leases, "z", 10_000), "10.0.0.4");
    }

    #[test]
    fn an_address_is_not_given_out_while_its_old_device_exists() {
        let mut leases = leases("10.0.0.0/30");
        leases.acquire("a", 0).unwrap();
        leases.set_device("a", Some("dtun0".to_owned()));
        leases.release("a", 0);

        assert!(leases.acquire("b", 10_000).is_err());
        assert_eq!(leases.expired(10_000), ["a"]);
        leases.set_device("a", None);
        assert_eq!(ip4(&mut leases, "b", 10_000), "10.0.0.2");
    }

    #[test]
    fn a_device_takes_the_lowest_number_that_is_free_on_the_machine() {
        let mut leases = leases("10.0.0.0/24");
        leases.acquire("a", 0).unwrap();
        leases.set_device("a", Some("dtun0".to_owned()));

        let links = HashSet::from(["dtun1".to_owned(), "eth0".to_owned()]);
        assert_eq!(leases.free_device(&links), "dtun2");
    }

    #[test]
    fn leases_outlive_a_kill_and_end_with_it() {
        let mut before = leases("10.0.0.0/24");
        before.acquire("a", 0).unwrap();
        before.acquire("b", 0).unwrap();
        before.set_device("b", Some("dtun1".to_owned()));
        before.release("a", 50);

        let mut after = leases("10.0.0.0/24");
        assert!(after.restore(before.save(), 100).is_empty());

        assert_eq!(after.get("a").unwrap().ended, Some(50));
        assert_eq!(after.get("b").unwrap().ended, Some(100));
        assert_eq!(after.get("b").unwrap().device.as_deref(), Some("dtun1"));
        assert_eq!(ip4(&mut after, "b", 100), "10.0.0.3");
    }

    #[test]
    fn leases_of_another_pool_and_doubled_ones_are_given_up() {
        let mut old = leases("10.9.0.0/24");
        old.acquire("a", 0).unwrap();
        let mut saved = old.save();
        saved.push(Saved {
            hint: "b".to_owned(),
            ..saved[0].clone()
        });

        assert_eq!(leases("10.0.0.0/24").restore(saved.clone(), 0), ["a", "b"]);
        assert_eq!(leases("10.9.0.0/24").restore(saved, 0), ["b"]);
    }

    proptest! {
        #[test]
        fn no_two_leases_share_an_address(
            steps in prop::collection::vec((0_u8..3, 0_u8..12, 0_u64..9000), 1..200),
        ) {
            let mut leases = leases("10.0.0.0/29");
            let mut now = 0;

            for (step, name, later) in steps {
                let hint = name.to_string();
                now += later;
                match step {
                    0 => drop(leases.acquire(&hint, now).ok()),
                    1 => leases.release(&hint, now),
                    _ => {
                        let saved = leases.save();
                        leases = Leases::new(*leases.pools(), HOUR);
                        prop_assert!(leases.restore(saved, now).is_empty());
                    }
                }

                let slots: HashSet<_> = leases.iter().map(|(_, lease)| lease.slot).collect();
                prop_assert_eq!(slots.len(), leases.by_hint.len());
                prop_assert_eq!(leases.by_slot.len(), leases.by_hint.len());
                prop_assert!(slots.iter().all(|slot| leases.pools.slots().contains(slot)));
            }
        }
    }
}
