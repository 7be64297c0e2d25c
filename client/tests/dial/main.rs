//! The spoke's handshake against real servers, through a relay that loses and
//! forges, and against nobody.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod foreign;
mod forgery;
mod library;
mod lossy;
mod nobody;
mod relay;
mod server;
mod session;
mod take_over;
