//! What a spoke is told.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::schedule::Psk;
use dtun_shared::hook::Lines;
use dtun_shared::leaving::Bind;
use dtun_shared::mark::Mark;
use ipnet::IpNet;

use crate::routes::{BypassSource, RouteFrom, RouteWhat};

/// A spoke's settings; the command line has made sure that they make sense.
#[derive(Debug)]
pub struct SpokeConfig {
    /// The hub as `host:port`, host a name or an address.
    pub connect: String,
    pub psk: Psk,
    /// The hint; none for the machine's default.
    pub hint: Option<String>,
    /// Networks behind the spoke.
    pub peernet: Vec<IpNet>,
    /// Hook for the tunnel's beginning.
    pub up: Option<PathBuf>,
    /// Hook for its end.
    pub down: Option<PathBuf>,
    /// Lines of the shell for both.
    pub lines: Lines,
    /// The device's name; none for the next free one.
    pub tun: Option<String>,
    pub keepalive: Duration,
    /// How long the hub may stay away before the machine has its own network
    /// back; none for ever.
    pub fallback: Option<Duration>,
    /// End with the first failed dial.
    pub once: bool,
    /// Inner MTU; none for the default.
    pub mtu: Option<u16>,
    /// Let the kernel hand over and take many packets in one piece.
    pub offload: bool,
    /// Directory for what must outlive the process.
    pub state: Option<PathBuf>,
    /// Offered to the hub, in this order.
    pub suites: Vec<CipherSuite>,
    /// What goes through the tunnel; none to leave that to scripts.
    pub route: Option<RouteWhat>,
    /// Whose packets do; none for everybody's.
    pub route_from: Vec<RouteFrom>,
    /// What stays out of it all the same.
    pub bypass: Option<BypassSource>,
    /// Borne by our own datagrams; none for the default where one is needed.
    pub fwmark: Option<Mark>,
    /// The uplink that our own datagrams take; none for the kernel's choice.
    pub bind: Option<Bind>,
    /// The first of three routing tables that are ours; none for the default.
    pub table: Option<u32>,
    /// The first of sixteen preferences of rules that are ours; none for the
    /// default.
    pub rule_pref: Option<u32>,
    /// The machine's resolvers for the time of the tunnel; none to leave them
    /// as they are.
    pub dns: Vec<IpAddr>,
    /// Nothing leaves the machine by another way than the tunnel.
    pub strict: bool,
}

/// What `dtun lock` is told.
#[derive(Debug)]
pub struct LockConfig {
    /// Networks that the lock leaves open.
    pub bypass: Option<BypassSource>,
    /// Whether questions for names will go into the tunnel only.
    pub names: bool,
    /// As the spoke's.
    pub fwmark: Option<Mark>,
}

/// What `dtun clean` is told: where a spoke of those flags would have left
/// anything.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CleanConfig {
    pub state: Option<PathBuf>,
    pub table: Option<u32>,
    pub rule_pref: Option<u32>,
}
