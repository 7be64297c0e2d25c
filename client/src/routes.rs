//! What goes through the tunnel without a script: rules and tables of our own.

mod bypass;
mod from;
mod install;
mod leftover;
mod plan;
mod unmarked;

use std::fmt::{self, Display, Formatter};
use std::io;

use dtun_shared::link::Netlink;
use ipnet::IpNet;

pub(crate) use bypass::Bypass;
pub use bypass::{BypassSource, BypassWord, NotABypass};
pub use from::RouteFrom;
pub(crate) use install::{LeftRoutes, NotRouted, Place, Routes};
pub(crate) use plan::{Plan, Unmarked};

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
    /// All that leaves this machine, but for the networks it is in; and those
    /// that are named here, whatever a list keeps out or the hub has no way to.
    Everything(Vec<IpNet>),
    Nets(Vec<IpNet>),
}

impl RouteWhat {
    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Self::Everything(_))
    }
}

/// As the command line has it.
impl Display for RouteWhat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (first, nets) = match self {
            Self::Everything(nets) => (Some("default".to_owned()), nets),
            Self::Nets(nets) => (None, nets),
        };
        let words: Vec<_> = first
            .into_iter()
            .chain(nets.iter().map(ToString::to_string))
            .collect();

        f.write_str(&words.join(","))
    }
}
