//! The hub: listener, its side of the handshake, leases, pools, peernet policy.

#[doc(hidden)]
pub mod bench;
mod config;
pub mod handshake;
mod hub;
mod lease;
mod left;
mod nat;
mod peernet;
mod pool;
mod session;

pub use config::{HubConfig, NatConfig, Pool6};
pub use hub::run;
pub use left::clean;
