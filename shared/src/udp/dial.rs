//! The spoke's socket while it dials, as the runtime waits for it.
//!
//! What ICMP messages say about its datagrams comes as errors of this socket,
//! and anyone can send some ([`is_hearsay`]).

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, SockAddr, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::socket::UdpSocket;
use super::{canonical, open};
use crate::leaving::Leaving;
use crate::sys;

/// A socket that sends to one peer and hears nobody else.
#[derive(Debug)]
pub struct DialSocket {
    io: AsyncFd<Socket>,
    domain: Domain,
}

impl DialSocket {
    /// A fresh socket; a closed port at the peer shows as `ECONNREFUSED`.
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        Self::connect_by(peer, &Leaving::default())
    }

    /// [`Self::connect`] with a say in how the datagrams leave this machine.
    pub fn connect_by(peer: SocketAddr, leaving: &Leaving) -> io::Result<Self> {
        let peer = canonical(peer);
        let (socket, domain) = open(peer)?;
        leaving.apply(&socket)?;
        socket.connect(&SockAddr::from(peer))?;

        Ok(Self {
            io: sys::readiness::register(socket)?,
            domain,
        })
    }

    /// Receives one datagram.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // A pending error alone does not make a socket readable.
            let mut ready = self.io.ready(Interest::READABLE | Interest::ERROR).await?;
            let received = ready.try_io(|io| sys::socket::recvmsg(io.get_ref(), buf, &mut [], 0));
            if let Ok(result) = received {
                return result.map(|(len, ..)| len);
            }
        }
    }

    /// Sends one datagram.
    ///
    /// `WouldBlock` means that it is lost, like any other error; one that is
    /// [hearsay](is_hearsay) may be about another datagram, and is then gone.
    pub fn try_send(&self, datagram: &[u8]) -> io::Result<()> {
        self.io.get_ref().send(datagram)?;

        Ok(())
    }

    /// The same socket for the threads that carry packets. This one must be
    /// dropped soon: as long as it lives, each datagram wakes the runtime.
    pub fn for_packets(&self) -> io::Result<UdpSocket> {
        let socket = self.io.get_ref().try_clone()?;

        UdpSocket::new(socket, self.domain, true)
    }

    /// The address of this end.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let local = self.io.get_ref().local_addr()?;

        local
            .as_socket()
            .map(canonical)
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    }
}

/// Whether an error is one that ICMP messages make. What this machine itself
/// refuses to send looks alike, and is refused again.
pub fn is_hearsay(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES
                | libc::ECONNREFUSED
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EMSGSIZE
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EPROTO
        )
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::netns::isolated;
    use crate::udp::fixture::{path, recv};

    #[test]
    fn a_closed_port_shows() {
        isolated(|_| async {
            let dial = DialSocket::connect("127.0.0.1:9".parse().unwrap()).unwrap();
            dial.try_send(b"question").unwrap();

            let soon = Duration::from_secs(5);
            let refused = timeout(soon, dial.recv(&mut [0; 16])).await.unwrap();

            assert_eq!(
                refused.unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
        });
    }

    #[test]
    fn the_socket_goes_on_for_packets() {
        isolated(|_| async {
            let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
            let dial = DialSocket::connect("127.0.0.1:443".parse().unwrap()).unwrap();
            let spoke = dial.for_packets().unwrap();
            drop(dial);

            spoke.try_send(b"question", &path("127.0.0.1:443")).unwrap();

            let (datagram, way) = recv(&hub);
            assert_eq!(datagram, b"question");
            assert_eq!(way.peer, spoke.local_addr().unwrap());
        });
    }
}
