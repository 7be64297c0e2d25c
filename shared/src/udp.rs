//! The outer socket, which answers from the address it was asked at.
//!
//! A hub with several addresses must reply from the one a spoke sent to, or
//! the spoke's NAT drops the reply; so every datagram comes with its
//! [`Path`], and goes out along one. IPv4 peers of the dual-stack socket
//! appear as IPv4: no mapped address leaves this module.

mod control;
mod path_mtu;
pub mod recv;
pub mod send;
pub mod socket;

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::leaving::Leaving;
use crate::sys;

/// A UDP socket that knows where a datagram came to and from.
#[derive(Debug)]
pub struct UdpSocket {
    io: AsyncFd<Socket>,
    domain: Domain,
    connected: bool,
}

impl UdpSocket {
    /// Listens on `addr`; `[::]` takes IPv4 too, and becomes `0.0.0.0` on a
    /// machine without IPv6.
    pub fn listen(addr: SocketAddr) -> io::Result<Self> {
        match Self::bind(addr) {
            Err(error) if addr.ip().is_unspecified() && addr.is_ipv6() && lacks_ipv6(&error) => {
                Self::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port())))
            }
            result => result,
        }
    }

    /// A fresh socket that sends to `peer` and hears nobody else; a closed
    /// port there shows as `ECONNREFUSED`.
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
            connected: true,
        })
    }

    /// Receives one datagram and the path it took.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<(usize, Path)> {
        loop {
            // A pending error alone does not make a socket readable.
            let mut ready = self.io.ready(Interest::READABLE | Interest::ERROR).await?;
            if let Ok(result) = ready.try_io(|io| recv(io.get_ref(), buf)) {
                return result;
            }
        }
    }

    /// Receives one datagram if there is one.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<(usize, Path)> {
        recv(self.io.get_ref(), buf)
    }

    /// Sends one datagram back along `path`; a connected socket sends to its
    /// peer whatever the path says.
    ///
    /// `WouldBlock` means that the datagram is lost, like any other error.
    pub fn try_send(&self, datagram: &[u8], path: &Path) -> io::Result<()> {
        if self.connected {
            self.io.get_ref().send(datagram)?;
            return Ok(());
        }

        let peer = SockAddr::from(self.outer(path.peer));
        let buffers = [IoSlice::new(datagram)];
        let mut control = control::Control::EMPTY;
        if let Some(local) = path.local {
            control.leave_from(local);
        }
        let message = MsgHdr::new()
            .with_addr(&peer)
            .with_buffers(&buffers)
            .with_control(control.bytes());
        self.io.get_ref().sendmsg(&message, 0)?;

        Ok(())
    }

    /// Sends one datagram to the peer of a connected socket.
    pub fn try_send_to_peer(&self, datagram: &[u8]) -> io::Result<()> {
        self.io.get_ref().send(datagram)?;

        Ok(())
    }

    /// The same socket for the threads that carry packets. This one must be
    /// dropped soon: as long as it lives, each datagram wakes the runtime.
    pub fn for_packets(&self) -> io::Result<socket::UdpSocket> {
        let socket = self.io.get_ref().try_clone()?;

        socket::UdpSocket::new(socket, self.domain, self.connected)
    }

    /// The address of this end; unspecified parts are what `listen` was given.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let local = self.io.get_ref().local_addr()?;

        local
            .as_socket()
            .map(canonical)
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    }

    fn bind(addr: SocketAddr) -> io::Result<Self> {
        let (socket, domain) = open(addr)?;
        socket.bind(&SockAddr::from(addr))?;

        Ok(Self {
            io: sys::readiness::register(socket)?,
            domain,
            connected: false,
        })
    }

    /// The peer's address as this socket's family writes it.
    fn outer(&self, peer: SocketAddr) -> SocketAddr {
        match peer {
            SocketAddr::V4(v4) if self.domain == Domain::IPV6 => {
                SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => peer,
        }
    }
}

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

fn recv(socket: &Socket, buf: &mut [u8]) -> io::Result<(usize, Path)> {
    let mut control = control::Control::EMPTY;
    let (len, peer, filled) = sys::socket::recvmsg(socket, buf, control.room(), 0)?;
    let peer = peer.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let local = control::parse(control.filled(filled)).local;

    Ok((
        len,
        Path {
            peer: canonical(peer),
            local,
        },
    ))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::link::{Netlink, Via};
    use crate::netns::isolated;

    #[test]
    fn a_reply_leaves_from_the_address_that_was_asked_in_both_families() {
        isolated(|netlink| async move {
            let addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
            add_to_lo(&netlink, &addresses).await;
            let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();

            for asked in addresses.map(|ip| ip.parse::<IpAddr>().unwrap()) {
                // Connected, so an answer from another address is not heard.
                let spoke = UdpSocket::connect((asked, 443).into()).unwrap();
                ask(&spoke).await;

                let path = answer(&hub).await;
                assert_eq!(path.local.map(|local| local.ip), Some(asked));
                assert_eq!(path.peer.port(), spoke.local_addr().unwrap().port());
                assert_eq!(path.peer.is_ipv4(), asked.is_ipv4());

                let (len, path) = recv_soon(&spoke).await.unwrap();
                assert_eq!((len, path.peer), (6, (asked, 443).into()));
            }
        });
    }

    #[test]
    fn a_link_local_peer_is_answered_on_its_link() {
        isolated(|netlink| async move {
            add_to_lo(&netlink, &["fe80::1"]).await;
            let lo = netlink.link("lo").await.unwrap().unwrap().index;
            let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
            let peer = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 443, 0, lo);

            let spoke = UdpSocket::connect(peer.into()).unwrap();
            ask(&spoke).await;
            let path = answer(&hub).await;

            assert_eq!(path.local.map(|local| local.ifindex), Some(lo));
            assert_eq!(recv_soon(&spoke).await.unwrap().0, 6);
        });
    }

    #[test]
    fn ipv4_is_served_where_ipv6_is_switched_off() {
        isolated(|_| async {
            let switch = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
            std::fs::write(switch, "1").unwrap();
            let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
            let spoke = UdpSocket::connect("127.0.0.1:443".parse().unwrap()).unwrap();

            ask(&spoke).await;
            answer(&hub).await;

            assert_eq!(recv_soon(&spoke).await.unwrap().0, 6);
        });
    }

    #[test]
    fn an_ipv4_only_listener_answers_too() {
        isolated(|netlink| async move {
            add_to_lo(&netlink, &["192.0.2.1"]).await;
            let hub = UdpSocket::listen("0.0.0.0:443".parse().unwrap()).unwrap();
            let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();

            ask(&spoke).await;
            answer(&hub).await;

            assert_eq!(recv_soon(&spoke).await.unwrap().0, 6);
        });
    }

    #[test]
    fn a_taken_port_is_an_error_even_for_the_other_family() {
        isolated(|_| async {
            let _first = UdpSocket::listen("0.0.0.0:443".parse().unwrap()).unwrap();

            let second = UdpSocket::listen("[::]:443".parse().unwrap());

            assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        });
    }

    #[test]
    fn a_closed_port_shows_on_a_connected_socket_only() {
        isolated(|_| async {
            let nobody = "127.0.0.1:9".parse().unwrap();
            let spoke = UdpSocket::connect(nobody).unwrap();
            ask(&spoke).await;
            let refused = recv_soon(&spoke).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

            let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
            let path = Path {
                peer: nobody,
                local: None,
            };
            hub.try_send(b"answer", &path).unwrap();
            hub.try_send(b"answer", &path).unwrap();
            let nothing = hub.try_recv(&mut [0; 16]).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        });
    }

    #[test]
    fn a_datagram_larger_than_the_path_is_fragmented_rather_than_refused() {
        isolated(|netlink| async move {
            add_to_lo(&netlink, &["192.0.2.1", "2001:db8::1"]).await;
            let lo = netlink.link("lo").await.unwrap().unwrap().index;
            netlink.set_mtu(lo, 1300).await.unwrap();
            let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();

            for asked in ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
                let spoke = UdpSocket::connect((asked, 443).into()).unwrap();
                let path = Path {
                    peer: (asked, 443).into(),
                    local: None,
                };
                spoke.try_send(&[7; 1450], &path).unwrap();
                let (len, back) = recv_soon(&hub).await.unwrap();
                assert_eq!(len, 1450);
                hub.try_send(&[7; 1450], &back).unwrap();
                assert_eq!(recv_soon(&spoke).await.unwrap().0, 1450);
            }
        });
    }

    #[test]
    fn an_address_that_went_away_is_an_error_of_that_datagram() {
        isolated(|netlink| async move {
            add_to_lo(&netlink, &["192.0.2.1"]).await;
            let lo = netlink.link("lo").await.unwrap().unwrap().index;
            netlink
                .add_route("198.51.100.0/24".parse().unwrap(), Via::Device(lo))
                .await
                .unwrap();
            let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
            let path = Path {
                peer: "198.51.100.1:7".parse().unwrap(),
                local: Some(LocalAddr {
                    ip: "192.0.2.99".parse().unwrap(),
                    ifindex: 0,
                }),
            };

            hub.try_send(b"answer", &path).unwrap_err();

            let fresh = Path {
                local: None,
                ..path
            };
            hub.try_send(b"answer", &fresh).unwrap();
        });
    }

    async fn add_to_lo(netlink: &Netlink, addresses: &[&str]) {
        let lo = netlink.link("lo").await.unwrap().unwrap().index;
        for address in addresses {
            match address.parse().unwrap() {
                IpAddr::V4(ip) => netlink.add_address_ptp4(lo, ip, ip).await.unwrap(),
                IpAddr::V6(ip) => netlink.add_address6(lo, ip, None).await.unwrap(),
            }
        }
        netlink.settle(lo).await.unwrap();
    }

    async fn ask(spoke: &UdpSocket) {
        let path = Path {
            peer: spoke.local_addr().unwrap(),
            local: None,
        };
        spoke.try_send(b"question", &path).unwrap();
    }

    /// Answers one question along the path it came by.
    async fn answer(hub: &UdpSocket) -> Path {
        let (len, path) = recv_soon(hub).await.unwrap();
        assert_eq!(len, 8);
        hub.try_send(b"answer", &path).unwrap();

        path
    }

    async fn recv_soon(socket: &UdpSocket) -> io::Result<(usize, Path)> {
        let mut buf = [0; 2048];
        let deadline = Duration::from_secs(5);

        timeout(deadline, socket.recv(&mut buf)).await.unwrap()
    }
}
