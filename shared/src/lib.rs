//! What the hub and the spoke both speak: DTLS messages and key schedule,
//! records, the meta, views of inner packets, devices, sockets and routes.
//!
//! Nothing in this crate knows which role it serves.

pub mod association;
pub mod claim;
pub mod datapath;
pub mod dtls;
pub mod files;
pub mod gauge;
#[cfg(test)]
mod hex;
pub mod hook;
pub mod leaving;
pub mod limits;
pub mod link;
pub mod mark;
pub mod meta;
#[cfg(test)]
mod netns;
pub mod nft;
pub mod packet;
pub mod parts;
pub mod places;
pub mod pmtu;
pub mod record;
pub mod repairs;
pub mod replay;
mod rest;
pub mod service;
pub mod signal;
pub mod sleep;
pub mod status;
pub mod stop;
mod sys;
pub mod timer;
pub mod tun;
pub mod udp;
