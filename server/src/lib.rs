//! The hub: listener, its side of the handshake, leases, pools, peernet policy.

pub mod handshake;
mod hub;
mod lease;
mod peernet;
mod pool;
mod session;
