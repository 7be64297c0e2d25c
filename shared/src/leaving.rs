//! How our own datagrams leave this machine, past whatever is routed into the
//! tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{SockAddr, Socket};

use crate::mark::Mark;

/// What is set on a socket before it is bound or connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// By which the machine's rules tell our datagrams from the rest.
    pub mark: Option<Mark>,
    pub bind: Option<Bind>,
}

/// Which of several uplinks is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// The one that this address of the machine belongs to.
    Address(IpAddr),
    Device(String),
}

impl Leaving {
    /// Whether a peer of that address can be reached so.
    #[must_use]
    pub fn reaches(&self, peer: IpAddr) -> bool {
        match self.bind {
            Some(Bind::Address(own)) => own.is_ipv4() == peer.to_canonical().is_ipv4(),
            Some(Bind::Device(_)) | None => true,
        }
    }

    /// Prepares a socket that is neither bound nor connected.
    pub fn apply(&self, socket: &Socket) -> io::Result<()> {
        if let Some(mark) = self.mark {
            socket.set_mark(mark.value())?;
        }
        match &self.bind {
            Some(Bind::Address(ip)) => socket.bind(&SockAddr::from(SocketAddr::new(*ip, 0))),
            Some(Bind::Device(name)) => socket.bind_device(Some(name.as_bytes())),
            None => Ok(()),
        }
    }
}
