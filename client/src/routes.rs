//! What goes through the tunnel without a script: rules and tables of our own.

mod bypass;

use ipnet::IpNet;

pub use bypass::{BypassSource, BypassWord, NotABypass};

/// What is routed into the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteWhat {
    /// All that leaves this machine, but for the networks it is in.
    Everything,
    Nets(Vec<IpNet>),
}
