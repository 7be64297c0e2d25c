use std::net::UdpSocket;
use std::time::Duration;

use super::*;
use crate::link::Netlink;
use crate::netns::isolated;
use crate::sys::epoll::{Epoll, Event, Interest};

#[test]
fn a_run_of_datagrams_goes_both_ways_whole() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        assert_eq!(tun.offloads(), Offloads::ALL);
        prepare(&netlink, &tun).await;
        let socket = socket();
        sys::socket::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 400).unwrap();
        socket.send_to(&[7; 1000], "10.0.0.2:700").unwrap();

        let mut buf = vec![0; 1 << 16];
        let (header, len) = recv(&tun, &mut buf).unwrap();

        assert_eq!((header.gso, header.gso_size), (Gso::Udp, 400));
        assert!(header.needs_csum);
        assert_eq!(len, 20 + 8 + 1000);

        swap_ends(&mut buf);
        let (front, back) = buf[..len].split_at(333);
        tun.try_send(header, &[IoSlice::new(front), IoSlice::new(back)])
            .unwrap();
        for expected in [400, 400, 200] {
            assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), expected);
        }
        let nothing = tun.try_recv(&mut buf).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn without_offloads_packets_are_complete() {
    isolated(|netlink| async move {
        // What another program left behind on a persistent device is undone.
        drop(Tun::create("dtun0", true, true).unwrap());
        let tun = Tun::create("dtun0", false, false).unwrap();
        assert_eq!(tun.offloads(), Offloads::NONE);
        prepare(&netlink, &tun).await;
        let socket = socket();
        sys::socket::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 400).unwrap();
        socket.send_to(&[7; 1000], "10.0.0.2:700").unwrap();

        let mut buf = vec![0; 1 << 16];
        for expected in [428, 428, 228] {
            let (header, len) = recv(&tun, &mut buf).unwrap();
            assert_eq!((header, len), (VnetHeader::PLAIN, expected));
            swap_ends(&mut buf);
            tun.try_send(header, &[IoSlice::new(&buf[..len])]).unwrap();
            assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), expected - 28);
        }
    });
}

fn recv(tun: &Tun, buf: &mut [u8]) -> io::Result<(VnetHeader, usize)> {
    let epoll = Epoll::new().unwrap();
    epoll.add(tun.as_fd(), 0, Interest::READ).unwrap();
    let deadline = Some(Duration::from_secs(5));
    assert_eq!(epoll.wait(&mut [Event::EMPTY], deadline).unwrap(), 1);

    tun.try_recv(buf)
}

/// Sends a packet back; the checksums stay as they are.
fn swap_ends(packet: &mut [u8]) {
    let (left, right) = packet[12..20].split_at_mut(4);
    left.swap_with_slice(right);
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.0.0.1:700").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();

    socket
}

async fn prepare(netlink: &Netlink, tun: &Tun) {
    let (index, name) = (tun.index(), tun.name());
    netlink.quiet(index, name).await.unwrap();
    let (local, peer) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    netlink.add_address_ptp4(index, local, peer).await.unwrap();
    netlink.set_up(index, 1400).await.unwrap();
}
