//! Whether the far end of a tunnel passes packets on, asked as traceroute asks:
//! a datagram that may make one hop dies there, and a machine that forwards
//! says so ("time exceeded", RFC 792); one that does not says nothing.
//!
//! The datagram goes no further, so it troubles nobody outside.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::sys;

/// What the first machine behind a device does with packets for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstHop {
    Forwards,
    /// It would, but knows no way to the outside.
    NoRoute,
    /// It drops them, or its answers are lost.
    Silent,
}

/// Asks the machine behind the device, in the name of `local`; takes some
/// seconds where nothing answers.
pub async fn first_hop(device: &str, local: Ipv4Addr) -> io::Result<FirstHop> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.bind(&SockAddr::from(SocketAddr::from((local, 0))))?;
    socket.set_ttl_v4(1)?;
    // Or what routers say of it is kept from us.
    sys::socket::set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
    socket.connect(&SockAddr::from(SocketAddr::from((OUTSIDE, TRACEROUTE))))?;
    let socket = UdpSocket::from_std(socket.into())?;

    let mut buf = [0; 16];
    for wait in WAITS {
        let asked = match socket.send(b"dtun").await {
            Ok(_) => timeout(wait, socket.recv(&mut buf)).await,
            // Of the datagram before this one.
            Err(error) => Ok(Err(error)),
        };
        match asked {
            Ok(Err(error)) if error.kind() == io::ErrorKind::HostUnreachable => {
                return Ok(FirstHop::Forwards);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkUnreachable => {
                return Ok(FirstHop::NoRoute);
            }
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) | Err(_) => {}
        }
    }

    Ok(FirstHop::Silent)
}

/// Nobody's (TEST-NET-1, RFC 5737).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Where traceroute's datagrams go.
const TRACEROUTE: u16 = 33_434;

/// The kernel says such things to one host once a second.
const WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
];
