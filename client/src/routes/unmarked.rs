//! Without a firewall: what is told by addresses instead of by marks, and what
//! cannot be told at all.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use dtun_shared::link::{GROUP_OF_HUBS, GROUP_OF_SPOKES, Netlink};

use super::install::{NotRouted, Routes, kernel};
use super::plan::Unmarked;
use super::{Plan, RouteFrom};
use crate::steering::Lease;

impl Routes {
    /// Leaves answers to the firewall's marks.
    pub(crate) async fn use_marks(&mut self) -> Result<(), NotRouted> {
        self.tell_by(Unmarked::default()).await
    }

    /// Tells answers by addresses, those of now.
    pub(crate) async fn do_without_marks(&mut self, lease: &Lease) -> Result<(), NotRouted> {
        self.plan
            .can_do_unmarked(|| filters_strictly(&lease.device))?;
        let addresses = addresses(&self.netlink, lease).await;

        self.tell_by(addresses.map_err(kernel("read this machine's addresses"))?)
            .await
    }

    async fn tell_by(&mut self, unmarked: Unmarked) -> Result<(), NotRouted> {
        if self.plan.unmarked == unmarked {
            return Ok(());
        }
        let before = self.wanted(&self.plan);
        let next = Plan {
            unmarked,
            ..self.plan.clone()
        };
        // Both until the old rules are gone: if this is broken off, whatever
        // stands is taken down later.
        self.plan.unmarked = self.plan.unmarked.with(&next.unmarked);
        let after = self.wanted(&next);
        self.add(&after).await?;
        for rule in before.iter().filter(|rule| !after.contains(rule)) {
            self.netlink
                .delete_rule(rule)
                .await
                .map_err(kernel("remove a rule"))?;
        }
        self.plan = next;

        Ok(())
    }
}

/// Whose answers are told by which address.
async fn addresses(netlink: &Netlink, lease: &Lease) -> io::Result<Unmarked> {
    let tunnels: HashSet<_> = netlink
        .links()
        .await?
        .into_iter()
        .filter(|link| [GROUP_OF_HUBS, GROUP_OF_SPOKES].contains(&link.group))
        .map(|link| link.index)
        .chain([lease.index])
        .collect();
    let is_outside = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let all = netlink.all_addresses().await?;
    let ends = [IpAddr::from(lease.addresses.local4.addr())];
    let ends6 = lease.addresses.ip6.map(|(local, _)| local.addr().into());

    Ok(Unmarked {
        outside: all
            .into_iter()
            .filter(|(index, _)| !tunnels.contains(index))
            .map(|(_, net)| net.addr())
            .filter(is_outside)
            .collect(),
        inside: ends.into_iter().chain(ends6).collect(),
    })
}

impl Plan {
    fn can_do_unmarked(&self, is_strict: impl Fn() -> bool) -> Result<(), NeedsFirewall> {
        for from in &self.from {
            match from {
                RouteFrom::Group(_) => return Err(NeedsFirewall::Group),
                // Answers for others are looked up without the device that the
                // questions came in by.
                RouteFrom::Device(_) | RouteFrom::Forwarded if is_strict() => {
                    return Err(NeedsFirewall::Forwarded);
                }
                RouteFrom::Device(_)
                | RouteFrom::Forwarded
                | RouteFrom::User(_)
                | RouteFrom::Net(_) => {}
            }
        }

        Ok(())
    }
}

/// What rules cannot do without a firewall's marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NeedsFirewall {
    #[error("-route-from with a group needs the firewall: install the package nftables")]
    Group,
    #[error(
        "-route-from with what comes in by a device needs the firewall where rp_filter is \
         strict: install the package nftables, or sysctl -w net.ipv4.conf.all.rp_filter=2"
    )]
    Forwarded,
}

/// Whether the kernel drops what comes in by a device which the way back does
/// not lead to (Documentation/networking/ip-sysctl.rst: the higher one of the
/// device's value and that of all counts; 1 is strict, 2 loose).
fn filters_strictly(device: &str) -> bool {
    let value = |conf| {
        let path = format!("/proc/sys/net/ipv4/conf/{conf}/rp_filter");
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse::<u8>().ok()
    };

    value("all").max(value(device)) == Some(1)
}

#[cfg(test)]
mod tests {
    use dtun_shared::mark::Mark;

    use super::super::RouteWhat;
    use super::*;

    #[test]
    fn what_only_a_firewall_tells_is_not_routed_without_one() {
        let can = |from: &[RouteFrom], is_strict| {
            let plan = Plan {
                what: RouteWhat::Everything(Vec::new()),
                mark: Mark::DEFAULT,
                dns: Vec::new(),
                from: from.to_vec(),
                unmarked: Unmarked::default(),
            };
            plan.can_do_unmarked(|| is_strict)
        };
        let net = RouteFrom::Net("192.0.2.0/24".parse().unwrap());

        assert_eq!(can(&[], true), Ok(()));
        assert_eq!(can(&[RouteFrom::User(7), net], true), Ok(()));
        assert_eq!(can(&[RouteFrom::Forwarded], false), Ok(()));
        assert_eq!(
            can(&[RouteFrom::Forwarded], true),
            Err(NeedsFirewall::Forwarded)
        );
        let group = [RouteFrom::User(7), RouteFrom::Group(7)];
        assert_eq!(can(&group, false), Err(NeedsFirewall::Group));
    }
}
