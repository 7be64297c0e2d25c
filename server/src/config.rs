//! What the owner of a hub may choose.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::schedule::Psk;
use dtun_shared::hook::Lines;
use dtun_shared::mark::Mark;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Everything a hub is told at start.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// `None`: port 443 of every address, IPv6 and IPv4.
    pub listen: Option<SocketAddr>,
    pub psk: Psk,
    /// `None`: the default, or the next free network where it clashes.
    pub pool4: Option<Ipv4Net>,
    pub pool6: Pool6,
    /// How long a hint keeps its device and addresses after its session ended.
    pub lease: Duration,
    /// The directory that outlives the process; `None`: `/var/lib/dtun`.
    pub state: Option<PathBuf>,
    /// Accepted as peernet beyond private and ULA ranges.
    pub allow_peernet: Vec<IpNet>,
    pub spoke_to_spoke: bool,
    /// Let spokes out under the machine's own addresses; `None`: the owner does.
    pub nat: Option<NatConfig>,
    pub mtu: Option<u16>,
    /// Let the kernel hand over and take many packets in one piece.
    pub offload: bool,
    /// Runs for each lease.
    pub up: Option<PathBuf>,
    pub down: Option<PathBuf>,
    pub lines: Lines,
    /// Borne by the hub's own datagrams.
    pub fwmark: Option<Mark>,
    pub keepalive: Duration,
    /// In order of preference.
    pub suites: Vec<CipherSuite>,
}

/// How spokes are let out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatConfig {
    /// Networks that know the way back: they see the spokes' own addresses.
    pub except: Vec<IpNet>,
}

/// The IPv6 addresses a hub leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pool6 {
    /// The default, or the next free network where it clashes.
    #[default]
    Default,
    /// IPv4 only.
    None,
    Net(Ipv6Net),
}
