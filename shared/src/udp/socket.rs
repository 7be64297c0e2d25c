//! The outer socket as the threads that carry packets use it: many datagrams
//! a call, runs of them cut and put together by the kernel, nothing waits.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use socket2::{Domain, SockAddr, Socket};

use super::send::{SendOutcome, Transmit};
use super::{Path, canonical, lacks_ipv6, open, set};
use crate::mark::Mark;
use crate::packet::ecn::Ecn;
use crate::sys;

/// A UDP socket that knows where a datagram came to and from.
///
/// Any number of threads may send; what the kernel does not support is found
/// out on the way and done without.
#[derive(Debug)]
pub struct UdpSocket {
    pub(super) socket: Socket,
    domain: Domain,
    pub(super) connected: bool,
    /// Whether runs of datagrams go to the kernel whole (`UDP_SEGMENT`).
    pub(super) segmenting: AtomicBool,
    /// Runs in a row that were refused in a way that anyone may cause.
    pub(super) refusals: AtomicU32,
    /// Whether the kernel has `sendmmsg` and `recvmmsg`.
    pub(super) batching: AtomicBool,
    /// Whether datagrams leave with Don't Fragment. There is no control
    /// message for it, so who sends holds the option where it must be.
    df: RwLock<bool>,
    /// What [`take_error`](Self::take_error) is to tell; 0 for nothing.
    error: AtomicI32,
}

impl UdpSocket {
    /// Listens on `addr`; `[::]` takes IPv4 too, and becomes `0.0.0.0` on a
    /// machine without IPv6.
    pub fn listen(addr: SocketAddr) -> io::Result<Self> {
        Self::listen_marked(addr, None)
    }

    fn listen_marked(addr: SocketAddr, mark: Option<Mark>) -> io::Result<Self> {
        match Self::bind(addr, false, mark) {
            Err(error) if addr.ip().is_unspecified() && addr.is_ipv6() && lacks_ipv6(&error) => {
                Self::bind(
                    SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port())),
                    false,
                    mark,
                )
            }
            result => result,
        }
    }

    /// As [`listen`](Self::listen), with `n` sockets among which the kernel
    /// spreads the peers by their addresses and ports; what they send bears
    /// `mark`.
    ///
    /// The first binds without `SO_REUSEPORT`, so a port that is taken is an
    /// error here as there.
    pub fn listen_group(addr: SocketAddr, n: usize, mark: Option<Mark>) -> io::Result<Vec<Self>> {
        let first = Self::listen_marked(addr, mark)?;
        let bound = first.local_addr()?;
        if n > 1 {
            first.socket.set_reuse_port(true)?;
        }
        let mut group = vec![first];
        for _ in 1..n {
            // The first may have had to do without IPv6.
            let addr = SocketAddr::new(bound.ip(), bound.port());
            group.push(Self::bind(addr, true, mark)?);
        }

        Ok(group)
    }

    /// A fresh socket that sends to `peer` and hears nobody else; a closed
    /// port there shows as `ECONNREFUSED`.
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        let peer = canonical(peer);
        let (socket, domain) = open(peer)?;
        socket.connect(&SockAddr::from(peer))?;

        Self::new(socket, domain, true)
    }

    /// Whether the kernel may cut and put together runs of datagrams; at first
    /// it may, as far as it can.
    pub fn set_offload(&self, offload: bool) -> io::Result<()> {
        self.segmenting.store(offload, Ordering::Relaxed);

        set(&self.socket, libc::SOL_UDP, libc::UDP_GRO, offload.into())
    }

    /// Sends one datagram that may be fragmented on the way; a connected
    /// socket sends to its peer whatever the path says.
    ///
    /// `WouldBlock` means that the datagram is lost, like any other error.
    pub fn try_send(&self, datagram: &[u8], path: &Path) -> io::Result<()> {
        let message = Transmit {
            path,
            contents: datagram,
            segment: datagram.len(),
            ecn: Ecn::NotEct,
            df: false,
        };

        match self.try_send_batch(&[message]) {
            SendOutcome::Sent => Ok(()),
            SendOutcome::Blocked { .. } => Err(io::ErrorKind::WouldBlock.into()),
            SendOutcome::Refused { .. } => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            SendOutcome::Failed { error, .. } => Err(error),
        }
    }

    /// Sets how many bytes may be [outstanding](Self::outstanding), beyond the
    /// machine's limit where that is allowed; the kernel keeps it above 4.5 kB.
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        // The kernel doubles what it is given, for its own need.
        let half = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX / 2);
        if set(&self.socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, half).is_ok() {
            return Ok(());
        }

        set(&self.socket, libc::SOL_SOCKET, libc::SO_SNDBUF, half)
    }

    /// Bytes that were sent and wait in this machine, each datagram with what
    /// the kernel needs to hold it.
    pub fn outstanding(&self) -> io::Result<usize> {
        sys::socket::outstanding(self.as_fd())
    }

    /// What the route of a connected socket carries, in bytes with the IP
    /// header: the link's MTU, or what the kernel knows of the path.
    pub fn route_mtu(&self) -> io::Result<u32> {
        let (level, name) = if self.domain == Domain::IPV6 {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU)
        };
        let mtu = sys::socket::get_int(self.as_fd(), level, name)?;

        u32::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The newest error that sending came upon and that an earlier datagram to
    /// the peer of a connected socket had left behind, once: a closed port, as
    /// anyone may say.
    pub fn take_error(&self) -> Option<io::Error> {
        if self.error.load(Ordering::Relaxed) == 0 {
            return None;
        }

        match self.error.swap(0, Ordering::Relaxed) {
            0 => None,
            errno => Some(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Keeps an error for [`take_error`](Self::take_error). Of an unconnected
    /// socket it is about some peer or other; what is too big is told apart.
    pub(super) fn keep_error(&self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(0);
        if self.connected && errno != libc::EMSGSIZE {
            self.error.store(errno, Ordering::Relaxed);
        }
    }

    /// The address of this end; unspecified parts are what `listen` was given.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let local = self.socket.local_addr()?;

        local
            .as_socket()
            .map(canonical)
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    }

    fn bind(addr: SocketAddr, shared: bool, mark: Option<Mark>) -> io::Result<Self> {
        let (socket, domain) = open(addr)?;
        if let Some(mark) = mark {
            socket.set_mark(mark.value())?;
        }
        if shared {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&SockAddr::from(addr))?;

        Self::new(socket, domain, false)
    }

    /// Sets what only this type's way to receive and send can stand.
    pub(super) fn new(socket: Socket, domain: Domain, connected: bool) -> io::Result<Self> {
        set(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        if domain == Domain::IPV6 {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        }
        if let Err(error) = set(&socket, libc::SOL_UDP, libc::UDP_GRO, 1) {
            tracing::debug!(%error, "the kernel puts no datagrams together");
        }
        // A kernel that does not know the option ignores its control message,
        // and would send a run as one datagram.
        let segmenting = set(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();

        let this = Self {
            socket,
            domain,
            connected,
            segmenting: AtomicBool::new(segmenting),
            refusals: AtomicU32::new(0),
            batching: AtomicBool::new(true),
            df: RwLock::new(false),
            error: AtomicI32::new(0),
        };
        this.set_df(false)?;

        Ok(this)
    }

    /// The peer's address as this socket's family writes it; none on a
    /// connected socket.
    pub(super) fn outer(&self, path: &Path) -> Option<SocketAddr> {
        if self.connected {
            return None;
        }

        Some(match path.peer {
            SocketAddr::V4(v4) if self.domain == Domain::IPV6 => {
                SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
            }
            SocketAddr::V4(_) | SocketAddr::V6(_) => path.peer,
        })
    }

    /// The family of the datagrams along `path`.
    pub(super) fn sends_ipv6(&self, path: &Path) -> bool {
        if self.connected {
            return self.domain == Domain::IPV6;
        }

        path.peer.is_ipv6()
    }

    /// Keeps Don't Fragment at `df`, or as it is, until the guard is dropped.
    /// Threads that agree do not wait for each other.
    pub(super) fn hold_df(&self, df: Option<bool>) -> io::Result<RwLockReadGuard<'_, bool>> {
        let held = self.df.read().unwrap_or_else(PoisonError::into_inner);
        let Some(df) = df.filter(|df| *df != *held) else {
            return Ok(held);
        };
        drop(held);

        let mut held = self.df.write().unwrap_or_else(PoisonError::into_inner);
        if *held != df {
            self.set_df(df)?;
            *held = df;
        }

        Ok(RwLockWriteGuard::downgrade(held))
    }

    /// With Don't Fragment the path MTU that the kernel believes in is ignored:
    /// anyone can forge the message that lowers it.
    fn set_df(&self, df: bool) -> io::Result<()> {
        let (four, six) = if df {
            (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE)
        } else {
            (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT)
        };
        set(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, four)?;
        if self.domain == Domain::IPV6 {
            set(
                &self.socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                six,
            )?;
        }

        Ok(())
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
