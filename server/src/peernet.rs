//! Which networks behind a spoke the hub routes to it.
//!
//! The spoke proposes, the hub's owner decides: a route taken here moves other
//! people's packets, so everything that isn't clearly the spoke's is refused,
//! with a reason that its user reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::pool;

/// What the hub's owner accepts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// `-allow-peernet`: accepted besides private and unique local networks.
    allowed: Vec<IpNet>,
}

impl Policy {
    pub(crate) fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Returns why `net` is not routed to the spoke, if it is not.
    pub(crate) fn judge(&self, net: IpNet, around: &Surroundings<'_>) -> Result<(), Refused> {
        if net.prefix_len() == 0 {
            return Err(Refused::Default);
        }
        if !pool::is_unicast(net) {
            return Err(Refused::NotUnicast);
        }
        if !self.allows(net) {
            return Err(Refused::NotPrivate);
        }
        if let Some(other) = overlapping(net, around.hub) {
            return Err(Refused::Hub(other));
        }
        if let Some(other) = overlapping(net, around.pools) {
            return Err(Refused::Pool(other));
        }
        if let Some(other) = overlapping(net, around.others) {
            return Err(Refused::Spoke(other));
        }
        if let Some(outer) = around.outer.iter().find(|outer| net.contains(*outer)) {
            return Err(Refused::Outer(*outer));
        }

        Ok(())
    }

    fn allows(&self, net: IpNet) -> bool {
        PRIVATE4
            .iter()
            .map(|net| IpNet::V4(*net))
            .chain([IpNet::V6(UNIQUE_LOCAL)])
            .chain(self.allowed.iter().copied())
            .any(|range| range.contains(&net))
    }
}

/// What a peernet must keep clear of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// Networks the hub's machine is in.
    pub(crate) hub: &'a [IpNet],
    pub(crate) pools: &'a [IpNet],
    /// Peernets of the other spokes.
    pub(crate) others: &'a [IpNet],
    /// Outer addresses of the spokes: a route over one would send the tunnel
    /// into itself.
    pub(crate) outer: &'a [IpAddr],
}

/// Why a network is not routed to a spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("a default route is never taken from a spoke")]
    Default,
    #[error("loopback, link-local and multicast networks can't be routed")]
    NotUnicast,
    #[error("not a private network, and the hub's -allow-peernet does not name it")]
    NotPrivate,
    #[error("overlaps the hub's own network {0}")]
    Hub(IpNet),
    #[error("overlaps the hub's address pool {0}")]
    Pool(IpNet),
    #[error("overlaps {0}, which another spoke announced")]
    Spoke(IpNet),
    #[error("contains {0}, the address a spoke's datagrams come from")]
    Outer(IpAddr),
}

/// Whether `route`, which exists on the hub, would lose packets to `net`.
///
/// A wider route is no reason: cloud machines have one for all of 10.0.0.0/8,
/// and a longer prefix beside it takes only what the spoke stands for.
pub(crate) fn would_take(net: IpNet, route: IpNet) -> bool {
    route.prefix_len() > 0 && net.contains(&route)
}

fn overlapping(net: IpNet, others: &[IpNet]) -> Option<IpNet> {
    others
        .iter()
        .find(|other| pool::overlap(net, **other))
        .map(IpNet::trunc)
}

/// RFC 1918.
const PRIVATE4: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// RFC 4193.
const UNIQUE_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn judge(policy: &Policy, text: &str) -> Result<(), Refused> {
        policy.judge(
            net(text),
            &Surroundings {
                hub: &[net("172.16.5.9/24"), net("203.0.113.4/24")],
                pools: &[net("10.0.0.0/24"), net("fc00::/120")],
                others: &[net("192.168.7.0/24")],
                outer: &[IpAddr::V4(Ipv4Addr::new(192, 168, 99, 2))],
            },
        )
    }

    #[test]
    fn private_networks_that_touch_nothing_are_taken() {
        let policy = Policy::default();

        for private in [
            "192.168.1.0/24",
            "10.8.0.0/16",
            "172.16.4.0/24",
            "fd00:1::/64",
        ] {
            assert_eq!(judge(&policy, private), Ok(()));
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let policy = Policy::default();

        for (text, why) in [
            ("0.0.0.0/0", Refused::Default),
            ("::/0", Refused::Default),
            ("127.0.0.0/8", Refused::NotUnicast),
            ("ff00::/8", Refused::NotUnicast),
            ("198.51.100.0/24", Refused::NotPrivate),
            ("128.0.0.0/1", Refused::NotUnicast),
            ("172.16.0.0/16", Refused::Hub(net("172.16.5.0/24"))),
            ("10.0.0.128/25", Refused::Pool(net("10.0.0.0/24"))),
            ("10.0.0.0/8", Refused::Pool(net("10.0.0.0/24"))),
            ("192.168.0.0/16", Refused::Spoke(net("192.168.7.0/24"))),
            (
                "192.168.99.0/24",
                Refused::Outer(IpAddr::V4(Ipv4Addr::new(192, 168, 99, 2))),
            ),
        ] {
            assert_eq!(judge(&policy, text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_owners_list_widens_but_not_over_the_hub_or_a_default_route() {
        let policy = Policy::new(vec![net("0.0.0.0/0"), net("::/0")]);

        assert_eq!(judge(&policy, "198.51.100.0/24"), Ok(()));
        assert_eq!(judge(&policy, "2001:db8::/32"), Ok(()));
        assert_eq!(judge(&policy, "0.0.0.0/0"), Err(Refused::Default));
        assert_eq!(
            judge(&policy, "203.0.113.0/25"),
            Err(Refused::Hub(net("203.0.113.0/24")))
        );
    }

    #[test]
    fn a_wider_route_of_the_hub_is_no_reason_and_one_inside_is() {
        assert!(!would_take(net("10.9.0.0/24"), net("10.0.0.0/8")));
        assert!(!would_take(net("10.9.0.0/24"), net("0.0.0.0/0")));
        assert!(would_take(net("10.9.0.0/24"), net("10.9.0.0/24")));
        assert!(would_take(net("10.9.0.0/24"), net("10.9.0.128/25")));
    }

    proptest! {
        #[test]
        fn what_is_taken_shares_no_address_with_what_is_there(
            bits: u32, prefix_len in 0_u8..=32, wide: bool,
        ) {
            let policy = Policy::new(if wide { vec![net("0.0.0.0/0")] } else { Vec::new() });
            let candidate = IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix_len).unwrap().trunc());

            if judge(&policy, &candidate.to_string()).is_ok() {
                for there in ["172.16.5.0/24", "203.0.113.0/24", "10.0.0.0/24", "192.168.7.0/24"] {
                    let IpNet::V4(there) = net(there) else { unreachable!() };
                    prop_assert!(!candidate.contains(&IpAddr::V4(there.network())));
                    let IpAddr::V4(start) = candidate.network() else { unreachable!() };
                    prop_assert!(!there.contains(&start));
                }
            }
        }
    }
}
