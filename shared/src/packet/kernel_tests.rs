//! The kernel takes what coalescing writes, and its sockets read from it what
//! was sent: one TUN whose packets go back with their ends exchanged, after
//! they were cut and put together again.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use super::coalesce::{Coalescer, Sink};
use super::segment::Segments;
use super::vnet::{Gso, Offloads, VnetHeader};
use crate::link::Netlink;
use crate::netns::isolated;
use crate::sys;
use crate::sys::epoll::{Epoll, Event, Interest};
use crate::tun::Tun;

#[test]
fn tcp_is_read_as_it_was_written() {
    for (local, peer) in ENDS {
        isolated(move |netlink| async move {
            let mut loopback = Loopback::new(&netlink, local, peer).await;
            let listener = TcpListener::bind(SocketAddr::new(loopback.local, 700)).unwrap();
            let to = SocketAddr::new(loopback.peer, 700);
            let sent: Vec<u8> = (0..4_000_001u32).map(|at| (at * 7 / 5) as u8).collect();
            let copy = sent.clone();
            let writer = thread::spawn(move || {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.write_all(&copy).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                // Until the other side is done.
                stream.read_to_end(&mut Vec::new()).unwrap();
            });
            let reader = thread::spawn(move || {
                let mut got = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
                got
            });
            loopback.run_until(|| writer.is_finished() && reader.is_finished());

            writer.join().unwrap();
            assert!(reader.join().unwrap() == sent);
            let kind = if loopback.local.is_ipv4() {
                Gso::Tcp4
            } else {
                Gso::Tcp6
            };
            let of_kind = loopback.runs.iter().filter(|gso| **gso == kind).count();
            assert!(of_kind > 0, "{:?}", loopback.runs);
        });
    }
}

#[test]
fn datagrams_are_read_one_by_one_as_they_were_sent() {
    for (local, peer) in ENDS {
        isolated(move |netlink| async move {
            let mut loopback = Loopback::new(&netlink, local, peer).await;
            let socket = UdpSocket::bind(SocketAddr::new(loopback.local, 700)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            sys::socket::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 333).unwrap();
            let sent: Vec<u8> = (0..10_000u32).map(|at| (at * 7 / 5) as u8).collect();
            let to = SocketAddr::new(loopback.peer, 700);
            socket.send_to(&sent, to).unwrap();
            let reader = thread::spawn(move || {
                let mut buf = [0; 2048];
                let mut got = Vec::new();
                for _ in 0..10_000usize.div_ceil(333) {
                    let len = socket.recv(&mut buf).unwrap();
                    assert!(len <= 333);
                    got.extend_from_slice(&buf[..len]);
                }
                got
            });
            loopback.run_until(|| reader.is_finished());

            assert!(reader.join().unwrap() == sent);
            assert_eq!(loopback.runs, [Gso::Udp]);
        });
    }
}

/// A device whose other side answers for the peer with what it is sent.
struct Loopback {
    tun: Tun,
    local: IpAddr,
    peer: IpAddr,
    /// What was written, runs only.
    runs: Vec<Gso>,
}

impl Loopback {
    async fn new(netlink: &Netlink, local: &str, peer: &str) -> Self {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        assert_eq!(tun.offloads(), Offloads::ALL);
        let index = tun.index();
        netlink.quiet(index, tun.name()).await.unwrap();
        netlink.set_up(index, MTU as u32).await.unwrap();
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        match (local, peer) {
            (IpAddr::V4(local), IpAddr::V4(peer)) => {
                netlink.add_address_ptp4(index, local, peer).await.unwrap();
            }
            (IpAddr::V6(local), IpAddr::V6(peer)) => {
                let peer = Some(peer);
                netlink.add_address6(index, local, peer).await.unwrap();
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!(),
        }

        // The kernel makes the route to an IPv6 peer on its own time.
        let probe = UdpSocket::bind(SocketAddr::new(local, 0)).unwrap();
        let epoll = Epoll::new().unwrap();
        let mut tries = 0;
        while let Err(error) = probe.connect(SocketAddr::new(peer, 700)) {
            assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
            assert!(tries < 1000, "no route for 10 s");
            tries += 1;
            let tick = Some(Duration::from_millis(10));
            epoll.wait(&mut [Event::EMPTY], tick).unwrap();
        }

        Self {
            tun,
            local,
            peer,
            runs: Vec::new(),
        }
    }

    fn run_until(&mut self, done: impl Fn() -> bool) {
        let epoll = Epoll::new().unwrap();
        epoll.add(self.tun.as_fd(), 0, Interest::READ).unwrap();
        let mut coalescer = Coalescer::new(Offloads::ALL);
        let mut silent = 0;
        while !done() {
            let tick = Some(Duration::from_millis(20));
            let ready = epoll.wait(&mut [Event::EMPTY], tick).unwrap();
            silent = if ready == 0 { silent + 1 } else { 0 };
            assert!(silent < 500, "nothing for 10 s");
            self.turn(&mut coalescer);
        }
    }

    /// All packets that wait, cut and put together.
    fn turn(&mut self, coalescer: &mut Coalescer) {
        let mut buf = vec![0; 1 << 16];
        let mut arena = Vec::new();
        let mut ranges = Vec::new();
        while let Ok((header, packet)) = self.tun.try_recv(&mut buf) {
            let mut segments = Segments::new(header, packet, MTU).unwrap();
            while let Some(len) = segments.next_len() {
                let start = arena.len();
                arena.resize(start + len, 0);
                segments.write_next(&mut arena[start..]);
                exchange_ends(&mut arena[start..]);
                ranges.push(start..start + len);
            }
        }
        for range in ranges {
            coalescer.push(&mut arena, range, self);
        }
        coalescer.flush(&mut arena, self);
    }
}

impl Sink for Loopback {
    fn write(&mut self, header: VnetHeader, parts: &[IoSlice<'_>]) {
        self.tun.try_send(header, parts).unwrap();
        if header.gso != Gso::None {
            self.runs.push(header.gso);
        }
    }
}

/// No checksum changes by it.
fn exchange_ends(packet: &mut [u8]) {
    let (at, len) = if packet[0] >> 4 == 4 {
        (12, 4)
    } else {
        (8, 16)
    };
    let (left, right) = packet[at..at + 2 * len].split_at_mut(len);
    left.swap_with_slice(right);
}

const MTU: usize = 1400;
const ENDS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];
