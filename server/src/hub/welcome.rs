//! What the hub says at start: what it serves, what is missing on the machine,
//! and the line to run on the laptop.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use dtun_shared::link::{self, Netlink};
use tokio::process::Command;
use tokio::time::timeout;

use crate::hub::admission::FAR6;
use crate::pool::Pools;

/// Looks around and says it.
pub(super) async fn say(netlink: Netlink, listen: SocketAddr, pools: Pools) {
    let hub = pools.hub();
    let pool4 = hub.ip4.trunc();
    let pool6 = hub
        .ip6
        .map_or("none".to_owned(), |net| net.trunc().to_string());
    tracing::info!(%pool4, pool6, hub = %hub.ip4.addr(), "serving");

    let rules = Rules::read().await;
    let uplink4 = uplink(&netlink, IpAddr::V4(FAR4)).await;
    advise(
        &rules,
        Family::Ip4,
        &pool4.to_string(),
        link::forwarding4(),
        uplink4.as_ref(),
    );
    let uplink6 = uplink(&netlink, IpAddr::V6(FAR6)).await;
    if hub.ip6.is_some() && uplink6.is_some() {
        let forwarding = link::forwarding6();
        advise(&rules, Family::Ip6, &pool6, forwarding, uplink6.as_ref());
    }
    if hub.ip6.is_some() {
        match (&uplink6, link::forwarding6()) {
            (Some(uplink), true) => {
                tracing::info!(device = uplink.device, "IPv6 to the outside: spokes get it");
            }
            (Some(_), false) => {
                tracing::warn!("IPv6 to the outside: spokes get none without forwarding");
            }
            (None, _) => {
                tracing::info!("IPv6 to the outside: this machine has none, nor have spokes")
            }
        }
    }

    let address = public(listen, [uplink4, uplink6]);
    let server = address.map_or_else(
        || format!("ADDRESS:{}", listen.port()),
        |ip| SocketAddr::new(ip, listen.port()).to_string(),
    );
    let run = format!("dtun -connect {server} -key-file FILE -route default");
    if address.is_some() {
        tracing::info!(run, "on the laptop");
    } else {
        tracing::info!(
            run,
            "on the laptop, with this server's public address for ADDRESS"
        );
    }
}

/// The way to the internet.
struct Uplink {
    device: String,
    source: Option<IpAddr>,
}

async fn uplink(netlink: &Netlink, far: IpAddr) -> Option<Uplink> {
    let hop = netlink.route_to(far).await.ok().flatten()?;
    let device = netlink.link_by_index(hop.oif).await.ok().flatten()?.name;

    Some(Uplink {
        device,
        source: hop.source,
    })
}

/// The address that spokes dial, if the machine can know it: it can't behind a NAT.
fn public(listen: SocketAddr, uplinks: [Option<Uplink>; 2]) -> Option<IpAddr> {
    if !listen.ip().is_unspecified() {
        return Some(listen.ip());
    }

    uplinks
        .into_iter()
        .flatten()
        .filter_map(|uplink| uplink.source)
        .filter(|ip| listen.is_ipv6() || ip.is_ipv4())
        .find(is_public)
}

fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_private() || ip.is_link_local() || ip.is_loopback() || shared)
        }
        IpAddr::V6(ip) => !(ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Ip4,
    Ip6,
}

impl Family {
    fn pick<T>(self, ip4: T, ip6: T) -> T {
        match self {
            Self::Ip4 => ip4,
            Self::Ip6 => ip6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pick("IPv4", "IPv6"))
    }
}

/// Says whether spokes get out by one family, and the commands that let them.
fn advise(rules: &Rules, family: Family, pool: &str, forwarding: bool, uplink: Option<&Uplink>) {
    let masquerade = rules.masquerade(family);
    if forwarding {
        tracing::info!(%family, %masquerade, "forwarding is on");
    } else {
        let run = family.pick(
            "sysctl -w net.ipv4.ip_forward=1",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        );
        tracing::warn!(%family, run, "forwarding is off: spokes reach this machine only");
    }
    if masquerade == Masquerade::Missing {
        let device = uplink.map_or("UPLINK", |uplink| &uplink.device);
        let run = rules.command(family, pool, device);
        tracing::warn!(%family, run, "no masquerade rule found: the internet can't answer spokes; -nat would do it");
    }
}

/// Whether the machine translates addresses, as far as its tools tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masquerade {
    Found,
    Missing,
    /// No tool is there to ask.
    Unknown,
}

impl fmt::Display for Masquerade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Found => "found",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        })
    }
}

/// What the machine's firewall tools print; none of a tool that is missing.
#[derive(Debug, Default)]
struct Rules {
    nft: Option<String>,
    iptables: Option<String>,
    ip6tables: Option<String>,
}

impl Rules {
    async fn read() -> Self {
        Self {
            // What is in sets may be a hundred thousand networks.
            nft: output("nft", &["-t", "list", "ruleset"]).await,
            // Asked for one table alone, the older iptables makes it.
            iptables: output("iptables-save", &[]).await.as_deref().map(nat_of),
            ip6tables: output("ip6tables-save", &[]).await.as_deref().map(nat_of),
        }
    }

    /// A rule of any kind counts: which packets it takes is its owner's affair.
    fn masquerade(&self, family: Family) -> Masquerade {
        let tables = family.pick(&self.iptables, &self.ip6tables).as_deref();
        if self.nft.is_none() && tables.is_none() {
            return Masquerade::Unknown;
        }
        let nft = self.nft.as_deref().unwrap_or_default();
        if nft_translates(nft, family) || tables.is_some_and(translates) {
            return Masquerade::Found;
        }

        Masquerade::Missing
    }

    fn command(&self, family: Family, pool: &str, device: &str) -> String {
        if self.iptables.is_some() || self.nft.is_none() {
            let iptables = family.pick("iptables", "ip6tables");
            return format!("{iptables} -t nat -A POSTROUTING -s {pool} -o {device} -j MASQUERADE");
        }
        let ip = family.pick("ip", "ip6");

        format!(
            "nft 'add table {ip} dtun; \
             add chain {ip} dtun nat {{ type nat hook postrouting priority 100; }}; \
             add rule {ip} dtun nat {ip} saddr {pool} oifname {device} masquerade'"
        )
    }
}

/// Looks into the tables of one family, and into those of both.
fn nft_translates(ruleset: &str, family: Family) -> bool {
    let name = family.pick("ip", "ip6");
    let mut concerned = false;
    ruleset.lines().any(|line| {
        if let Some(table) = line.strip_prefix("table ") {
            let of = table.split(' ').next();
            concerned = of == Some(name) || of == Some("inet");
        }
        concerned && translates(line)
    })
}

/// The rules of the table `nat` among all that are saved.
fn nat_of(saved: &str) -> String {
    let from = saved.lines().skip_while(|line| *line != "*nat");

    from.take_while(|line| *line != "COMMIT")
        .map(|line| format!("{line}\n"))
        .collect()
}

fn translates(rules: &str) -> bool {
    let rules = rules.to_ascii_lowercase();

    rules.contains("masquerade") || rules.contains("snat")
}

async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let run = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, run).await.ok()?.ok()?;

    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

const PATIENCE: Duration = Duration::from_secs(5);

/// An address of the public internet; nothing is sent to it.
const FAR4: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);

#[cfg(test)]
mod tests {
    use super::*;

    const RULESET: &str = "table inet filter {\n\tchain input {\n\t}\n}\n\
        table ip nat {\n\tchain postrouting {\n\t\toifname \"eth0\" masquerade\n\t}\n}\n";

    #[test]
    fn a_masquerade_of_one_family_is_none_of_the_other() {
        let rules = Rules {
            nft: Some(RULESET.to_owned()),
            ..Rules::default()
        };

        assert_eq!(rules.masquerade(Family::Ip4), Masquerade::Found);
        assert_eq!(rules.masquerade(Family::Ip6), Masquerade::Missing);
    }

    #[test]
    fn a_rule_of_iptables_counts_and_a_machine_without_tools_is_unknown() {
        let rules = Rules {
            iptables: Some("-A POSTROUTING -o eth0 -j MASQUERADE".to_owned()),
            ..Rules::default()
        };

        assert_eq!(rules.masquerade(Family::Ip4), Masquerade::Found);
        assert_eq!(rules.masquerade(Family::Ip6), Masquerade::Unknown);
    }

    #[test]
    fn an_address_behind_a_nat_is_not_offered_to_spokes() {
        for (ip, offered) in [
            ("203.0.113.9", true),
            ("2001:db8::1", true),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_public(&ip.parse().unwrap()), offered, "{ip}");
        }
    }
}
