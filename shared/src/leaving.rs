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
    /// The one that this address of the machine belongs to, if the machine's
    /// rules see to that.
    Address(IpAddr),
    Device(String),
    /// The device that has that address, whatever the rules say.
    Both(IpAddr, String),
}

impl Leaving {
    /// Whether a peer of that address can be reached so.
    #[must_use]
    pub fn reaches(&self, peer: IpAddr) -> bool {
        match self.bind {
            Some(Bind::Address(own) | Bind::Both(own, _)) => {
                own.is_ipv4() == peer.to_canonical().is_ipv4()
            }
            Some(Bind::Device(_)) | None => true,
        }
    }

    /// Prepares a socket that is neither bound nor connected.
    pub fn apply(&self, socket: &Socket) -> io::Result<()> {
        if let Some(mark) = self.mark {
            socket.set_mark(mark.value())?;
        }
        if let Some(name) = self.device() {
            socket.bind_device(Some(name.as_bytes()))?;
        }
        match self.address() {
            Some(ip) => socket.bind(&SockAddr::from(SocketAddr::new(ip, 0))),
            None => Ok(()),
        }
    }

    /// The device that the datagrams must leave by.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        match &self.bind {
            Some(Bind::Device(name) | Bind::Both(_, name)) => Some(name),
            Some(Bind::Address(_)) | None => None,
        }
    }

    /// The address that they must have.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.bind {
            Some(Bind::Address(ip) | Bind::Both(ip, _)) => Some(ip),
            Some(Bind::Device(_)) | None => None,
        }
    }
}
