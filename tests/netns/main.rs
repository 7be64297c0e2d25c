//! Whole programs in network namespaces.
//!
//! Every test builds a small internet of its own and drops it again, so all of
//! them run at the same time. They need root, and what `scripts/test.sh`
//! installs; whatever is missing fails the test that needs it, with its name.

#![allow(
    clippy::unwrap_used,
    reason = "in a fixture, too, a failed assumption is a failed test"
)]

mod daemon;
mod go_peer;
mod laptop;
mod namespace;
mod network;
mod nobody;
mod relay;
mod resolver;
mod scratch;
mod systemd;
mod traffic;
mod tunnel;
mod wait;
mod watch;
mod wire;

mod answers;
mod bypass_set;
mod carry;
mod config;
mod device;
mod dns;
mod ecn;
mod errors;
mod firewalld;
mod firewalls;
mod forged;
mod hooks;
mod interop;
mod leases;
mod lines;
mod lock;
mod lock_edges;
mod lossy;
mod mtu;
mod nat;
mod natives;
mod outside;
mod peernets;
mod picture;
mod policy;
mod pools;
mod recipes;
mod reconnect;
mod reload;
mod restart;
mod route_from;
mod routes;
mod service;
mod split;
mod spokes;
mod unmarked;
mod via;
