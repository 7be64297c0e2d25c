//! The outer socket, which answers from the address it was asked at.
//!
//! A hub with several addresses must reply from the one a spoke sent to, or
//! the spoke's NAT drops the reply; so every datagram comes with its
//! [`Path`], and goes out along one. IPv4 peers of the dual-stack socket
//! appear as IPv4: no mapped address leaves this module.

mod control;
mod dial;
#[cfg(test)]
mod fixture;
pub mod hop;
mod path_mtu;
pub mod recv;
pub mod send;
pub mod socket;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

pub use dial::{DialSocket, is_hearsay};

/// Where a datagram came from, and which of our addresses it was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub peer: SocketAddr,
    /// `None` leaves the choice to the kernel.
    pub local: Option<LocalAddr>,
}

/// An address of this machine and the interface a datagram came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddr {
    pub ip: IpAddr,
    pub ifindex: u32,
}

/// A socket of the address's family, with every option set but not bound.
fn open(addr: SocketAddr) -> io::Result<(Socket, Domain)> {
    let domain = Domain::for_address(addr);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;

    // IPv4 options hold for the IPv4 side of a dual-stack socket too.
    set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    set(
        &socket,
        libc::IPPROTO_IP,
        libc::IP_MTU_DISCOVER,
        libc::IP_PMTUDISC_DONT,
    )?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set(
            &socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    enlarge(&socket)?;

    Ok((socket, domain))
}

/// Asks for large buffers: beyond the machine's limit where that is allowed.
fn enlarge(socket: &Socket) -> io::Result<()> {
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        if set(socket, libc::SOL_SOCKET, force, BUFFER).is_err() {
            set(socket, libc::SOL_SOCKET, plain, BUFFER)?;
        }
    }

    Ok(())
}

fn set(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    sys::socket::set_int(socket.as_fd(), level, name, value)
}

/// Writes a mapped address as the IPv4 address it is.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
        IpAddr::V6(_) => addr,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

/// Holds a burst of some 30 ms at 1 Gb/s.
const BUFFER: libc::c_int = 4 << 20;
