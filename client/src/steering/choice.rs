//! Which uplink `-bind` means, as the machine is now.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use dtun_shared::leaving::{Bind, Leaving};
use dtun_shared::link::{Family, Link, Netlink, Rule};

use super::Steering;

/// What `-bind` names is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoUplink {
    #[error("-bind {0}: this machine has no such device")]
    Device(String),
    #[error("-bind {0}: this machine has no such address")]
    Address(IpAddr),
}

/// A reverse-path filter that takes what comes in by the chosen uplink for
/// forged: the way back to the hub is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filtered {
    /// The uplink that was chosen.
    pub(crate) device: String,
    /// The one that the machine would take.
    pub(crate) usual: String,
}

impl Steering {
    /// Finds the uplink anew: an address may have come, gone or moved.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) async fn choose_uplink(&mut self) -> Result<(), NoUplink> {
        let Some(wanted) = &self.bind else {
            return Ok(());
        };
        match choose(&self.netlink, wanted).await {
            Ok(chosen) => self.leaving.bind = Some(chosen?),
            Err(error) => tracing::debug!(%error, "the uplink is not looked for"),
        }

        Ok(())
    }

    /// Why nothing may come back by the chosen uplink.
    pub(crate) async fn filtered(&self, hub: IpAddr) -> Option<Filtered> {
        let device = self.leaving.device()?;
        let hub = match hub.to_canonical() {
            IpAddr::V4(hub) if is_strict(device) => hub,
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };

        filtered(&self.netlink, hub, device, &self.leaving)
            .await
            .unwrap_or_default()
    }
}

async fn choose(netlink: &Netlink, wanted: &Bind) -> io::Result<Result<Bind, NoUplink>> {
    let ip = match wanted {
        Bind::Device(name) => {
            let link = netlink.link(name).await?;
            let missing = || NoUplink::Device(name.clone());
            return Ok(link.map(|_| wanted.clone()).ok_or_else(missing));
        }
        Bind::Address(ip) | Bind::Both(ip, _) => *ip,
    };
    let all = netlink.all_addresses().await?;
    let Some((index, _)) = all.into_iter().find(|(_, net)| net.addr() == ip) else {
        return Ok(Err(NoUplink::Address(ip)));
    };
    let family = if ip.is_ipv4() {
        Family::Ip4
    } else {
        Family::Ip6
    };
    let rules = netlink.rules(family).await?;
    let link = netlink.link_by_index(index).await?;
    let link = link.filter(|link| is_uplink(link) && !rules.iter().any(|rule| names(rule, ip)));

    Ok(Ok(match link {
        Some(link) => Bind::Both(ip, link.name),
        None => Bind::Address(ip),
    }))
}

/// Whether packets leave the machine by it.
fn is_uplink(link: &Link) -> bool {
    link.name != "lo" && link.kind.as_deref() != Some("dummy")
}

/// Whether the machine's owner says where what has this address goes.
fn names(rule: &Rule, ip: IpAddr) -> bool {
    let is_of_it = rule
        .from
        .is_some_and(|net| net.prefix_len() > 0 && net.contains(&ip));

    is_of_it && !rule.invert
}

/// Looks the way back up as the filter does: for the address of ours that the
/// hub answers.
async fn filtered(
    netlink: &Netlink,
    hub: Ipv4Addr,
    device: &str,
    leaving: &Leaving,
) -> io::Result<Option<Filtered>> {
    let Some(hop) = netlink.route_to_by(hub.into(), leaving).await? else {
        return Ok(None);
    };
    let back = Leaving {
        mark: None,
        bind: hop.source.map(Bind::Address),
    };
    let Some(usual) = netlink.route_to_by(hub.into(), &back).await? else {
        return Ok(None);
    };
    if usual.oif == hop.oif {
        return Ok(None);
    }
    let usual = netlink.link_by_index(usual.oif).await?;

    Ok(usual.map(|usual| Filtered {
        device: device.to_owned(),
        usual: usual.name,
    }))
}

/// The stricter of both values counts, but for 2, which is loose
/// (Documentation/networking/ip-sysctl.rst).
fn is_strict(device: &str) -> bool {
    let value = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().parse::<u32>().unwrap_or_default()
    };

    value("all").max(value(device)) == 1
}
