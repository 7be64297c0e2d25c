//! Whether the far end of a tunnel passes packets on, asked as traceroute asks:
//! a datagram that may make so many hops dies there, and the router that it dies
//! at says so ("time exceeded", RFC 792). One that dies at the far end shows that
//! it forwards at all; one that dies beyond it, that its firewall lets packets
//! through and its translation brings the answers back.
//!
//! The datagrams go no further than some routers, so they trouble nobody outside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::control;
use crate::sys;

/// What the first machine behind a device does with packets for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstHop {
    /// They go on, and answers come back.
    Passes,
    /// It forwards, but nothing comes back from beyond it.
    Mute,
    /// It says that it does not let them through.
    Refuses,
    /// It would, but knows no way to the outside.
    NoRoute,
    /// It drops them, or its answers are lost.
    Silent,
}

/// Asks the machine behind the device, whose address there is `peer`, in the
/// name of `local`; takes some seconds where nothing answers.
///
/// # Errors
///
/// When the machine itself does not send what is asked.
pub async fn first_hop(device: &str, local: Ipv4Addr, peer: Ipv4Addr) -> io::Result<FirstHop> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.bind(&SockAddr::from(SocketAddr::from((local, 0))))?;
    // Or what routers say of it is kept from us.
    sys::socket::set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
    socket.connect(&SockAddr::from(SocketAddr::from((OUTSIDE, TRACEROUTE))))?;
    let socket = UdpSocket::from_std(socket.into())?;

    let mut forwards = false;
    for wait in WAITS {
        match ask(&socket, 1, wait).await? {
            Some(told) if told.kind == TIME_EXCEEDED => {
                forwards = true;
                break;
            }
            Some(_) => return Ok(FirstHop::NoRoute),
            None => {}
        }
    }
    if !forwards {
        return Ok(FirstHop::Silent);
    }
    for hops in 2..=FAR {
        match ask(&socket, hops, WAIT).await? {
            Some(told) if told.by == peer => return Ok(FirstHop::Refuses),
            Some(_) => return Ok(FirstHop::Passes),
            None => {}
        }
    }

    Ok(FirstHop::Mute)
}

/// What a router said of a datagram (RFC 792).
struct Told {
    by: Ipv4Addr,
    /// The ICMP type.
    kind: u8,
}

/// Sends a datagram that may make so many hops; none where nobody says a word.
async fn ask(socket: &UdpSocket, hops: u8, wait: Duration) -> io::Result<Option<Told>> {
    socket.set_ttl(hops.into())?;
    while let Err(error) = socket.send(b"dtun").await {
        // Of the datagram before this one, or of this machine.
        if told(socket)?.is_none() {
            return Err(error);
        }
    }
    match timeout(wait, socket.recv(&mut [0; 16])).await {
        Ok(_) => told(socket),
        Err(_) => Ok(None),
    }
}

/// The newest word in the socket's error queue, which it empties.
fn told(socket: &UdpSocket) -> io::Result<Option<Told>> {
    let mut newest = None;
    let mut bytes = [0; CONTROL];
    loop {
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        let socket = SockRef::from(socket);
        let filled = match sys::socket::recvmsg(&socket, &mut [0; 1], &mut bytes, flags) {
            Ok((_, _, filled)) => filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(newest),
            Err(error) => return Err(error),
        };
        if let Some((IpAddr::V4(by), kind)) = control::parse_icmp(&bytes[..filled]) {
            newest = Some(Told { by, kind });
        }
    }
}

/// Nobody's (TEST-NET-1, RFC 5737).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Where traceroute's datagrams go.
const TRACEROUTE: u16 = 33_434;

/// The ICMP type (RFC 792).
const TIME_EXCEEDED: u8 = 11;

/// The kernel says such things to one host once a second.
const WAITS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
];

/// Routers that may be silent before one is not.
const FAR: u8 = 6;
const WAIT: Duration = Duration::from_secs(1);

/// Room for an error with its sender's address.
const CONTROL: usize = 256;
