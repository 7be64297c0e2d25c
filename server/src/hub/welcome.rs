//! What the hub says at start: what it serves, what is missing on the machine,
//! and the line to run on the laptop.

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

    let uplink = uplink(&netlink, IpAddr::V4(FAR4)).await;
    let masquerade = masquerade().await;
    if link::forwarding4() {
        tracing::info!(masquerade = %masquerade, "IPv4 forwarding is on");
    } else {
        let run = "sysctl -w net.ipv4.ip_forward=1";
        tracing::warn!(
            run,
            "IPv4 forwarding is off: spokes reach this machine only"
        );
    }
    if masquerade == Masquerade::Missing {
        let device = uplink.as_ref().map_or("UPLINK", |uplink| &uplink.device);
        let run = format!("iptables -t nat -A POSTROUTING -s {pool4} -o {device} -j MASQUERADE");
        tracing::warn!(
            run,
            "no masquerade rule found: the internet can't answer spokes"
        );
    }
    let uplink6 = self::uplink(&netlink, IpAddr::V6(FAR6)).await;
    if hub.ip6.is_some() && uplink6.is_some() && !link::forwarding6() {
        let run = "sysctl -w net.ipv6.conf.all.forwarding=1";
        tracing::info!(run, "IPv6 forwarding is off: spokes keep their own IPv6");
    }

    let address = public(listen, [uplink, uplink6]);
    let server = address.map_or_else(
        || format!("ADDRESS:{}", listen.port()),
        |ip| SocketAddr::new(ip, listen.port()).to_string(),
    );
    let run = format!("dtun -connect {server} -key-file FILE -up scripts/up-split.sh");
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

/// Whether the machine translates addresses, as far as its tools tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Masquerade {
    Found,
    Missing,
    /// Neither tool is there to ask.
    Unknown,
}

impl std::fmt::Display for Masquerade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Found => "found",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        })
    }
}

/// A rule of any kind counts: which packets it takes is its owner's affair.
async fn masquerade() -> Masquerade {
    let rulesets = [
        output("nft", &["list", "ruleset"]).await,
        output("iptables-save", &["-t", "nat"]).await,
    ];
    if rulesets.iter().all(Option::is_none) {
        return Masquerade::Unknown;
    }
    let translates = |rules: &String| {
        let rules = rules.to_ascii_lowercase();
        rules.contains("masquerade") || rules.contains("snat")
    };
    if rulesets.iter().flatten().any(translates) {
        return Masquerade::Found;
    }

    Masquerade::Missing
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
