//! What goes through the tunnel without a script: rules and tables of our own.

mod bypass;
mod from;
mod install;
mod leftover;
mod plan;

use ipnet::IpNet;

pub(crate) use bypass::Bypass;
pub use bypass::{BypassSource, BypassWord, NotABypass};
pub use from::RouteFrom;
pub(crate) use install::{NotRouted, Place, Routes};
pub(crate) use plan::Plan;

/// What is routed into the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteWhat {
    /// All that leaves this machine, but for the networks it is in.
    Everything,
    Nets(Vec<IpNet>),
}
