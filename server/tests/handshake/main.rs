//! The hub's handshake in virtual time.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the test spoke drops the rest"
)]

mod attacks;
mod flights;
mod hub;
mod library;
mod limits;
mod link;
mod loss;
mod random;
mod spoke;
