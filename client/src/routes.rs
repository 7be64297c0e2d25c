//! What goes through the tunnel without a script: rules and tables of our own.

mod bypass;
mod from;
mod install;
mod leftover;
mod plan;

use std::io;

use dtun_shared::link::Netlink;
use ipnet::IpNet;

pub(crate) use bypass::Bypass;
pub use bypass::{BypassSource, BypassWord, NotABypass};
pub use from::RouteFrom;
pub(crate) use install::{NotRouted, Place, Routes};
pub(crate) use plan::Plan;

/// Removes what is left of any run that no longer runs.
pub(crate) async fn remove_leftovers(netlink: &Netlink) -> io::Result<()> {
    leftover::remove(netlink, Place::default()).await
}

/// What is routed into the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteWhat {
    /// All that leaves this machine, but for the networks it is in.
    Everything,
    Nets(Vec<IpNet>),
}
