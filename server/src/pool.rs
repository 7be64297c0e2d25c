//! The pools: which addresses the hub hands out, and which networks may serve.
//!
//! An address is named by its slot, its distance from the pool's network
//! address: slot 1 is the hub's end on every device, a lease has one slot in
//! both families. One pair of pools therefore has one set of slots, as many as
//! the smaller pool holds.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The IPv4 pool and, unless switched off, the IPv6 pool of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pools {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

impl Pools {
    /// The networks must have passed [`check`].
    pub(crate) fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Self {
        Self {
            v4: v4.trunc(),
            v6: v6.map(|net| net.trunc()),
        }
    }

    /// Every network that addresses are taken from.
    pub(crate) fn networks(&self) -> impl Iterator<Item = IpNet> {
        [Some(IpNet::V4(self.v4)), self.v6.map(IpNet::V6)]
            .into_iter()
            .flatten()
    }

    /// The hub's own end, the same on every device.
    pub(crate) fn hub(&self) -> Addresses {
        self.addresses(HUB)
    }

    /// The addresses of a slot, with the pools' prefix lengths.
    pub(crate) fn addresses(&self, slot: u32) -> Addresses {
        let ip4 = Ipv4Addr::from_bits(self.v4.network().to_bits().wrapping_add(slot));
        let ip6 = self.v6.map(|net| {
            let ip = Ipv6Addr::from_bits(net.network().to_bits() + u128::from(slot));
            with_prefix6(ip, net.prefix_len())
        });

        Addresses {
            ip4: with_prefix4(ip4, self.v4.prefix_len()),
            ip6,
        }
    }

    /// The slot of a leased address; none outside the pool and for the hub's.
    pub(crate) fn slot(&self, ip: Ipv4Addr) -> Option<u32> {
        let slot = ip.to_bits().checked_sub(self.v4.network().to_bits())?;

        self.slots().contains(&slot).then_some(slot)
    }

    /// The slots that can be leased.
    pub(crate) fn slots(&self) -> std::ops::RangeInclusive<u32> {
        HUB + 1..=last_slot(self.smaller())
    }

    /// The error for a spoke that finds no slot free.
    pub(crate) fn full(&self) -> Full {
        Full(self.smaller())
    }

    fn smaller(&self) -> IpNet {
        match self.v6 {
            Some(v6) if last_slot(IpNet::V6(v6)) < last_slot(IpNet::V4(self.v4)) => IpNet::V6(v6),
            Some(_) | None => IpNet::V4(self.v4),
        }
    }
}

/// One end's addresses with the pools' prefix lengths, as the meta has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) ip4: Ipv4Net,
    pub(crate) ip6: Option<Ipv6Net>,
}

/// Every address is leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address pool {0} is full")]
pub(crate) struct Full(IpNet);

/// A network of the machine that a pool must keep clear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) net: IpNet,
    pub(crate) device: String,
}

/// Why a network can't be a pool. Each text ends with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PoolError {
    #[error("{net} is too small for a hub and a spoke: use a /{least} or larger")]
    TooSmall { net: IpNet, least: u8 },
    #[error("{0} holds no unicast addresses: use a private network such as {1}")]
    NotUnicast(IpNet, IpNet),
    #[error("{net} overlaps {taken} on {device} of this machine: choose a network that is free")]
    Clash {
        net: IpNet,
        taken: IpNet,
        device: String,
    },
    #[error("every default pool overlaps a network of this machine: choose one with {0}")]
    NoDefault(&'static str),
}

/// Returns why the owner's network can't be a pool, if it can't.
///
/// Host bits are skipped: `10.0.0.1/24` is how many people write a network.
pub(crate) fn check(net: IpNet, taken: &[Taken]) -> Result<(), PoolError> {
    let network = net.trunc();
    let least = net.max_prefix_len() - 2;
    if net.prefix_len() > least {
        return Err(PoolError::TooSmall {
            net: network,
            least,
        });
    }
    if !is_unicast(network) {
        return Err(PoolError::NotUnicast(network, default_pool(network)));
    }
    if let Some(clash) = clash(network, taken) {
        return Err(PoolError::Clash {
            net: network,
            taken: clash.net,
            device: clash.device.clone(),
        });
    }

    Ok(())
}

/// The IPv4 pool of a hub whose owner named none: the one it used before, else
/// the first default that is clear of the machine's networks.
pub(crate) fn choose4(used: Option<Ipv4Net>, taken: &[Taken]) -> Result<Ipv4Net, PoolError> {
    used.into_iter()
        .chain(defaults4())
        .find(|net| check(IpNet::V4(*net), taken).is_ok())
        .ok_or(PoolError::NoDefault("-pool4"))
}

/// The IPv6 kin of [`choose4`].
pub(crate) fn choose6(used: Option<Ipv6Net>, taken: &[Taken]) -> Result<Ipv6Net, PoolError> {
    used.into_iter()
        .chain(defaults6())
        .find(|net| check(IpNet::V6(*net), taken).is_ok())
        .ok_or(PoolError::NoDefault("-pool6"))
}

/// The network of the machine that `net` overlaps, if there is one.
pub(crate) fn clash(net: IpNet, taken: &[Taken]) -> Option<&Taken> {
    taken.iter().find(|taken| overlap(taken.net, net))
}

/// Whether two networks share an address.
pub(crate) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Whether every address of `net` can be one machine's, seen from a router.
pub(crate) fn is_unicast(net: IpNet) -> bool {
    !NOT_UNICAST4
        .iter()
        .map(|net| IpNet::V4(*net))
        .chain(NOT_UNICAST6.iter().map(|net| IpNet::V6(*net)))
        .any(|special| overlap(special, net))
}

/// The default pool of the program this one is compatible with comes first;
/// the others avoid what home routers and container networks use.
fn defaults4() -> impl Iterator<Item = Ipv4Net> {
    std::iter::once(Ipv4Addr::new(10, 0, 0, 0))
        .chain((77..=254).map(|n| Ipv4Addr::new(10, n, 0, 0)))
        .chain((77..=254).map(|n| Ipv4Addr::new(172, 30, n, 0)))
        .chain((177..=254).map(|n| Ipv4Addr::new(192, 168, n, 0)))
        .map(|ip| with_prefix4(ip, 24))
}

/// After the compatible default, unique local networks (RFC 4193).
fn defaults6() -> impl Iterator<Item = Ipv6Net> {
    std::iter::once(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0))
        .chain((0..=0xff).map(|n| Ipv6Addr::new(0xfd64, 0x7475, 0x6e00 | n, 0, 0, 0, 0, 0)))
        .map(|ip| with_prefix6(ip, 120))
}

/// The first default of the family of `net`.
pub(crate) fn default_pool(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(_) => IpNet::V4(with_prefix4(Ipv4Addr::new(10, 0, 0, 0), 24)),
        IpNet::V6(_) => IpNet::V6(with_prefix6(
            Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0),
            120,
        )),
    }
}

/// The highest slot: all ones is the broadcast address in IPv4 alone.
fn last_slot(net: IpNet) -> u32 {
    let host_bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let all_ones = 1_u32
        .checked_shl(host_bits)
        .map_or(u32::MAX, |size| size - 1);

    match net {
        IpNet::V4(_) => all_ones.saturating_sub(1),
        IpNet::V6(_) => all_ones,
    }
}

fn with_prefix4(ip: Ipv4Addr, prefix_len: u8) -> Ipv4Net {
    Ipv4Net::new(ip, prefix_len).expect("a prefix length taken from a network is valid")
}

fn with_prefix6(ip: Ipv6Addr, prefix_len: u8) -> Ipv6Net {
    Ipv6Net::new(ip, prefix_len).expect("a prefix length taken from a network is valid")
}

/// The hub's slot, the first address of a pool.
const HUB: u32 = 1;

/// "This network", loopback, link-local, multicast and reserved (RFC 6890).
const NOT_UNICAST4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Unspecified, loopback and mapped; discard-only; link-local; multicast.
const NOT_UNICAST6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0), 8),
    Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn taken(text: &str) -> Taken {
        Taken {
            net: net(text),
            device: "eth0".to_owned(),
        }
    }

    fn pools(v4: &str, v6: Option<&str>) -> Pools {
        Pools::new(v4.parse().unwrap(), v6.map(|v6| v6.parse().unwrap()))
    }

    #[test]
    fn the_first_address_is_the_hubs_and_the_last_but_broadcast_is_leased() {
        let pools = pools("10.0.0.0/24", Some("fc00::/120"));

        assert_eq!(IpNet::V4(pools.hub().ip4), net("10.0.0.1/24"));
        assert_eq!(pools.hub().ip6.map(IpNet::V6), Some(net("fc00::1/120")));
        assert_eq!(pools.slots(), 2..=254);
        assert_eq!(IpNet::V4(pools.addresses(254).ip4), net("10.0.0.254/24"));
    }

    #[test]
    fn the_smaller_pool_limits_and_is_named_in_the_error() {
        assert_eq!(pools("10.0.0.0/16", Some("fc00::/120")).slots(), 2..=255);
        assert_eq!(
            pools("10.0.0.0/16", Some("fc00::/120")).full().to_string(),
            "address pool fc00::/120 is full"
        );
        assert_eq!(
            pools("10.0.0.0/24", None).full().to_string(),
            "address pool 10.0.0.0/24 is full"
        );
    }

    #[test]
    fn the_smallest_pools_hold_one_spoke() {
        assert_eq!(pools("10.0.0.0/30", None).slots(), 2..=2);
        assert_eq!(check(net("10.0.0.0/30"), &[]), Ok(()));
        assert_eq!(check(net("fc00::/126"), &[]), Ok(()));
        for small in ["10.0.0.0/31", "10.0.0.0/32", "fc00::/127"] {
            assert!(matches!(
                check(net(small), &[]),
                Err(PoolError::TooSmall { .. })
            ));
        }
    }

    #[test]
    fn a_pool_over_an_address_of_the_machine_is_refused() {
        for other in ["10.0.0.5/32", "10.0.0.5/16", "10.0.0.0/8"] {
            assert!(matches!(
                check(net("10.0.0.0/24"), &[taken(other)]),
                Err(PoolError::Clash { .. })
            ));
        }
        assert_eq!(check(net("10.0.0.0/24"), &[taken("10.0.1.5/24")]), Ok(()));
    }

    #[test]
    fn multicast_loopback_and_link_local_are_no_pools() {
        for special in ["224.0.0.0/24", "127.0.0.0/24", "fe80::/64", "ff00::/64"] {
            assert!(matches!(
                check(net(special), &[]),
                Err(PoolError::NotUnicast(..))
            ));
        }
    }

    #[test]
    fn a_default_that_clashes_gives_way_to_the_next_free_one() {
        let eth0 = [taken("10.0.0.7/24"), taken("fc00::7/64")];

        assert_eq!(choose4(None, &[]), Ok("10.0.0.0/24".parse().unwrap()));
        assert_eq!(choose4(None, &eth0), Ok("10.77.0.0/24".parse().unwrap()));
        assert_eq!(
            choose6(None, &eth0),
            Ok("fd64:7475:6e00::/120".parse().unwrap())
        );
        assert_eq!(
            choose4(None, &[taken("10.1.1.1/8")]),
            Ok("172.30.77.0/24".parse().unwrap())
        );
    }

    #[test]
    fn a_default_once_chosen_stays_while_it_is_free() {
        let used = Some("10.78.0.0/24".parse().unwrap());

        assert_eq!(choose4(used, &[]), Ok("10.78.0.0/24".parse().unwrap()));
        assert_eq!(
            choose4(used, &[taken("10.78.0.9/24")]),
            Ok("10.0.0.0/24".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn a_leased_address_lies_in_the_pool_and_leads_back_to_its_slot(
            bits: u32, prefix_len in 8_u8..=30, pick: u32,
        ) {
            let v4 = Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix_len).unwrap().trunc();
            let pools = Pools::new(v4, None);
            let slots = pools.slots();
            let slot = slots.start() + pick % (slots.end() - slots.start() + 1);
            let ip = pools.addresses(slot).ip4.addr();

            prop_assert!(v4.contains(&ip));
            prop_assert!(ip != v4.network() && ip != v4.broadcast());
            prop_assert!(ip != pools.hub().ip4.addr());
            prop_assert_eq!(pools.slot(ip), Some(slot));
        }

        #[test]
        fn the_whole_address_space_has_no_slot_but_the_pools(ip: u32) {
            let pools = pools("10.7.0.0/29", None);
            let inside = (0x0a07_0002..=0x0a07_0006).contains(&ip);

            prop_assert_eq!(pools.slot(Ipv4Addr::from_bits(ip)).is_some(), inside);
        }
    }
}
