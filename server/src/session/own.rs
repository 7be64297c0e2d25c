//! Which packets are a spoke's own: one spoke can't speak for another.

use std::net::IpAddr;
use std::sync::{PoisonError, RwLock};

use dtun_shared::packet::Ends;
use dtun_shared::packet::too_big::FarEnd;
use ipnet::IpNet;

use crate::pool::Addresses;

/// The addresses a session's spoke may send from.
#[derive(Debug)]
pub(crate) struct Own {
    lease: Addresses,
    hub: Addresses,
    peernet: RwLock<Vec<IpNet>>,
}

impl Own {
    pub(crate) fn new(lease: Addresses, hub: Addresses) -> Self {
        Self {
            lease,
            hub,
            peernet: RwLock::default(),
        }
    }

    /// Whether a packet from `source` is the spoke's to send.
    pub(crate) fn holds(&self, source: IpAddr) -> bool {
        let leased = match source {
            IpAddr::V4(ip) => ip == self.lease.ip4.addr(),
            IpAddr::V6(ip) => self.lease.ip6.is_some_and(|net| net.addr() == ip),
        };
        if leased {
            return true;
        }
        let peernet = self.peernet.read().unwrap_or_else(PoisonError::into_inner);

        peernet.iter().any(|net| net.contains(&source))
    }

    pub(crate) fn set_peernet(&self, peernet: Vec<IpNet>) {
        *self.peernet.write().unwrap_or_else(PoisonError::into_inner) = peernet;
    }

    /// The spoke, as those who send to it through its device know it.
    pub(crate) fn far_end(&self) -> FarEnd {
        FarEnd {
            ip4: self.lease.ip4.addr(),
            ip6: self.lease.ip6.map(|net| net.addr()),
        }
    }

    /// The way of our own echo: from the hub's address to the lease's.
    pub(crate) fn echo_ends(&self) -> Ends {
        Ends {
            source: IpAddr::V4(self.hub.ip4.addr()),
            destination: IpAddr::V4(self.lease.ip4.addr()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ip4: &str, ip6: &str) -> Addresses {
        Addresses {
            ip4: ip4.parse().unwrap(),
            ip6: Some(ip6.parse().unwrap()),
        }
    }

    #[test]
    fn a_spoke_speaks_for_its_lease_and_its_peernet_alone() {
        let own = Own::new(
            addresses("10.0.0.2/24", "fc00::2/120"),
            addresses("10.0.0.1/24", "fc00::1/120"),
        );
        own.set_peernet(vec!["192.168.1.0/24".parse().unwrap()]);
        let holds = |ip: &str| own.holds(ip.parse().unwrap());

        for ip in ["10.0.0.2", "fc00::2", "192.168.1.77"] {
            assert!(holds(ip), "{ip}");
        }
        for ip in ["10.0.0.3", "10.0.0.1", "fc00::3", "192.168.2.1", "1.1.1.1"] {
            assert!(!holds(ip), "{ip}");
        }
        own.set_peernet(Vec::new());
        assert!(!holds("192.168.1.77"));
    }
}
