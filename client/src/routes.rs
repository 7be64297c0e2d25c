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
pub(crate) use install::{LeftRoutes, NotRouted, Place, Routes};
pub(crate) use plan::Plan;

/// Removes what is left of any run that no longer runs, but for what leads into
/// the devices that are `awaited`.
pub(crate) async fn remove_leftovers(
    netlink: &Netlink,
    place: Place,
    awaited: &[u32],
) -> io::Result<()> {
    leftover::remove(netlink, place, awaited).await
}

/// Removes what a run has left standing for the next.
pub(crate) async fn discard_routes(netlink: &Netlink, left: LeftRoutes) -> io::Result<()> {
    leftover::discard(netlink, left.block).await
}

/// What is routed into the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteWhat {
    /// All that leaves this machine, but for the networks it is in.
    Everything,
    Nets(Vec<IpNet>),
}
