//! Whether what the hub gives collides with networks that the spoke has
//! already. Pure.
//!
//! The hub's owner mends it, so the text names both networks and the flag for
//! the hub. An address that stands on both sides of the tunnel, or that is
//! the machine's own way out, cannot be used at all; a mere overlap can.

use std::fmt;
use std::net::IpAddr;

use dtun_shared::meta::Addresses;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What the spoke's machine has beside the tunnel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// Addresses with their networks, and the device's name.
    pub(crate) own: Vec<(IpNet, String)>,
    /// The next hops of its routes.
    pub(crate) gateways: Vec<IpAddr>,
    /// What it announces to the hub.
    pub(crate) peernet: Vec<IpNet>,
}

/// One collision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    pool: IpNet,
    with: With,
    instead: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum With {
    Address(IpAddr, String),
    Gateway(IpAddr),
    Network(IpNet, String),
    Peernet(IpNet),
}

impl Surroundings {
    /// The collisions with the tunnel's addresses and their pools, the worst first.
    pub(crate) fn clashes(&self, addresses: &Addresses) -> Vec<Clash> {
        let mut ends = vec![(
            IpNet::V4(addresses.local4),
            IpAddr::V4(addresses.peer4.addr()),
        )];
        if let Some((local, peer)) = addresses.ip6 {
            ends.push((IpNet::V6(local), IpAddr::V6(peer.addr())));
        }

        ends.into_iter()
            .filter_map(|(local, peer)| {
                let with = self.worst(local, peer)?;
                Some(Clash {
                    pool: local.trunc(),
                    with,
                    instead: self.free(local),
                })
            })
            .collect()
    }

    fn worst(&self, local: IpNet, peer: IpAddr) -> Option<With> {
        let ends = [local.addr(), peer];
        let pool = local.trunc();

        if let Some((net, device)) = self.own.iter().find(|(net, _)| ends.contains(&net.addr())) {
            return Some(With::Address(net.addr(), device.clone()));
        }
        if let Some(gateway) = self.gateways.iter().find(|ip| ends.contains(ip)) {
            return Some(With::Gateway(*gateway));
        }
        if let Some((net, device)) = self.own.iter().find(|(net, _)| overlap(*net, pool)) {
            return Some(With::Network(net.trunc(), device.clone()));
        }
        self.peernet
            .iter()
            .find(|net| overlap(**net, pool))
            .map(|net| With::Peernet(net.trunc()))
    }

    /// A pool of the same family that collides with nothing here.
    fn free(&self, local: IpNet) -> IpNet {
        let candidates: Vec<IpNet> = match local {
            IpNet::V4(_) => (77..=255)
                .map(|n| Ipv4Net::new_assert([10, n, 0, 0].into(), 24).into())
                .chain((0..=255).map(|n| Ipv4Net::new_assert([172, 31, n, 0].into(), 24).into()))
                .collect(),
            IpNet::V6(_) => (0x77..=0xff)
                .map(|n| Ipv6Net::new_assert([0xfd00, n, 0, 0, 0, 0, 0, 0].into(), 120).into())
                .collect(),
        };
        let taken = |net: &IpNet| {
            self.own.iter().any(|(own, _)| overlap(*own, *net))
                || self.peernet.iter().any(|own| overlap(*own, *net))
        };

        *candidates
            .iter()
            .find(|net| !taken(net))
            .unwrap_or(&candidates[0])
    }
}

impl Clash {
    /// Whether the tunnel would cut the machine off from what it has.
    pub(crate) fn is_fatal(&self) -> bool {
        match self.with {
            With::Address(..) | With::Gateway(_) => true,
            With::Network(..) | With::Peernet(_) => false,
        }
    }

    /// Whether a route of the whole pool would take over a network that is
    /// attached here.
    pub(crate) fn forbids_route(&self, pool: IpNet) -> bool {
        self.pool == pool.trunc()
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hub's pool {} ", self.pool)?;
        match &self.with {
            With::Address(ip, device) => {
                write!(f, "gives an address that {device} has here, {ip}")?;
            }
            With::Gateway(ip) => write!(f, "gives the address of this machine's gateway, {ip}")?,
            With::Network(net, device) => {
                write!(f, "overlaps the network {net} of {device} here")?;
            }
            With::Peernet(net) => write!(f, "overlaps the peernet {net}")?,
        }
        let flag = match self.pool {
            IpNet::V4(_) => "-pool4",
            IpNet::V6(_) => "-pool6",
        };
        write!(f, "; start the hub with {flag} {}", self.instead)
    }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    // The whole address space overlaps everything and says nothing.
    if a.prefix_len() == 0 || b.prefix_len() == 0 {
        return false;
    }
    let (a, b) = (a.trunc(), b.trunc());
    a.contains(&b) || b.contains(&a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            local4: "10.0.0.2/24".parse().unwrap(),
            peer4: "10.0.0.1/24".parse().unwrap(),
            ip6: Some((
                "fc00::2/120".parse().unwrap(),
                "fc00::1/120".parse().unwrap(),
            )),
        }
    }

    fn lan(net: &str) -> Surroundings {
        Surroundings {
            own: vec![(net.parse().unwrap(), "eth0".to_owned())],
            ..Surroundings::default()
        }
    }

    fn texts(surroundings: &Surroundings) -> Vec<String> {
        surroundings
            .clashes(&addresses())
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_originals_picture_is_named_with_its_remedy() {
        let surroundings = lan("10.0.3.7/16");

        assert_eq!(
            texts(&surroundings),
            [
                "the hub's pool 10.0.0.0/24 overlaps the network 10.0.0.0/16 of eth0 here; \
              start the hub with -pool4 10.77.0.0/24"
            ]
        );
        assert!(!surroundings.clashes(&addresses())[0].is_fatal());
    }

    #[test]
    fn a_remedy_is_free_here() {
        let mut surroundings = lan("10.64.0.1/10");
        surroundings.peernet = vec!["10.0.0.0/20".parse().unwrap()];

        assert_eq!(
            texts(&surroundings),
            [
                "the hub's pool 10.0.0.0/24 overlaps the peernet 10.0.0.0/20; \
              start the hub with -pool4 10.128.0.0/24"
            ]
        );
    }

    #[test]
    fn a_peernet_of_everything_is_not_the_pools_fault() {
        let surroundings = Surroundings {
            peernet: vec!["0.0.0.0/0".parse().unwrap()],
            ..Surroundings::default()
        };

        assert!(surroundings.clashes(&addresses()).is_empty());
    }

    #[test]
    fn an_address_of_our_own_or_of_the_gateway_is_fatal() {
        let mut surroundings = lan("10.0.0.2/8");
        let clash = &surroundings.clashes(&addresses())[0];
        assert!(clash.is_fatal(), "{clash}");

        surroundings = lan("10.0.0.9/24");
        surroundings.gateways = vec!["10.0.0.1".parse().unwrap()];
        let clash = &surroundings.clashes(&addresses())[0];
        assert!(clash.is_fatal(), "{clash}");
        assert!(clash.to_string().contains("gateway, 10.0.0.1"), "{clash}");
    }

    #[test]
    fn ipv6_has_a_flag_of_its_own() {
        assert_eq!(
            texts(&lan("fc00::77/64")),
            [
                "the hub's pool fc00::/120 overlaps the network fc00::/64 of eth0 here; \
              start the hub with -pool6 fd00:77::/120"
            ]
        );
    }

    #[test]
    fn other_networks_do_not_clash() {
        assert_eq!(texts(&lan("192.168.1.7/24")), Vec::<String>::new());
    }
}
