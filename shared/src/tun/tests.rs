use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::link::{Netlink, Via};
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

        let (header, mut packet) = recv(&tun).unwrap();

        assert_eq!((header.gso, header.gso_size), (Gso::Udp, 400));
        assert!(header.needs_csum);
        assert_eq!(packet.len(), 20 + 8 + 1000);

        swap_ends(&mut packet);
        let (front, back) = packet.split_at(333);
        tun.try_send(header, &[IoSlice::new(front), IoSlice::new(back)])
            .unwrap();
        for expected in [400, 400, 200] {
            assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), expected);
        }
        let nothing = tun.try_recv(&mut [0; 2048]).unwrap_err();
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

        for expected in [428, 428, 228] {
            let (header, mut packet) = recv(&tun).unwrap();
            assert_eq!((header, packet.len()), (VnetHeader::PLAIN, expected));
            swap_ends(&mut packet);
            tun.try_send(header, &[IoSlice::new(&packet)]).unwrap();
            assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), expected - 28);
        }
    });
}

#[test]
fn a_device_made_without_headers_gets_them_when_it_is_attached_to() {
    isolated(|netlink| async move {
        let (fd, name) = open("dtun%d", false).unwrap();
        sys::tun::set_persistent(fd.as_fd(), true).unwrap();
        let index = sys::tun::index(&name).unwrap();
        drop(fd);

        let tun = Tun::create(&name, false, true).unwrap();

        assert_eq!((tun.name(), tun.index()), ("dtun0", index));
        assert_eq!(tun.offloads(), Offloads::ALL);
        prepare(&netlink, &tun).await;
        let addresses = netlink.addresses(index).await.unwrap();
        assert_eq!(addresses.len(), 1);
        echo(&tun, 100);
        drop(tun);

        let again = Tun::create(&name, false, true).unwrap();
        assert_eq!(netlink.addresses(index).await.unwrap(), addresses);
        again.set_persistent(false).unwrap();
        drop(again);
        assert_eq!(netlink.link(&name).await.unwrap(), None);
    });
}

#[test]
fn the_owner_of_a_device_needs_no_other_rights() {
    isolated(|_| async move {
        let make = "tuntap add dev dtun7 mode tun user 65534";
        let ip = Command::new("ip").args(make.split(' ')).status();
        assert!(ip.unwrap().success());
        let foreign = "tuntap add dev dtun8 mode tun user 65533";
        let ip = Command::new("ip").args(foreign.split(' ')).status();
        assert!(ip.unwrap().success());

        sys::netns::become_user(65_534).unwrap();

        let tun = Tun::create("dtun7", false, true).unwrap();
        assert_eq!(tun.offloads(), Offloads::ALL);
        let foreign = Tun::create("dtun8", false, true).unwrap_err();
        assert!(matches!(foreign, DeviceError::NotPermitted), "{foreign:?}");
    });
}

#[test]
fn the_pattern_gives_the_next_free_number() {
    isolated(|netlink| async move {
        let first = Tun::create("dtun%d", false, true).unwrap();
        let second = Tun::create("dtun%d", false, true).unwrap();
        assert_eq!((first.name(), second.name()), ("dtun0", "dtun1"));

        drop(first);
        assert_eq!(netlink.link("dtun0").await.unwrap(), None);
        let again = Tun::create("dtun%d", false, true).unwrap();
        assert_eq!(again.name(), "dtun0");
    });
}

#[test]
fn each_refusal_names_its_reason() {
    isolated(|_| async {
        let _held = Tun::create("dtun0", true, true).unwrap();

        let busy = Tun::create("dtun0", true, true).unwrap_err();
        assert!(
            matches!(&busy, DeviceError::Busy(name) if name == "dtun0"),
            "{busy:?}"
        );
        let other = Tun::create("lo", true, true).unwrap_err();
        assert!(
            matches!(&other, DeviceError::Mismatch(name) if name == "lo"),
            "{other:?}"
        );
        for name in ["", ".", "a/b", "a b", "sixteen_letters_"] {
            let error = Tun::create(name, false, true).unwrap_err();
            assert!(matches!(error, DeviceError::Name(_)), "{name:?}: {error:?}");
        }
    });
}

#[test]
fn a_descriptor_is_not_passed_on_to_hooks() {
    isolated(|_| async {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        let link = format!("/proc/self/fd/{}", tun.as_fd().as_raw_fd());
        let ls = Command::new("ls").args([&link, "/proc/self/fd/0"]).output();
        let listed = String::from_utf8(ls.unwrap().stdout).unwrap();

        assert_eq!(listed, "/proc/self/fd/0\n");
    });
}

#[test]
fn writing_to_a_device_that_is_down_is_an_error_and_a_deleted_one_tells() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", true, true).unwrap();
        let down = tun.try_send(VnetHeader::PLAIN, &[IoSlice::new(&[0x45; 28])]);
        assert_eq!(down.unwrap_err().raw_os_error(), Some(libc::EIO));

        netlink.delete_link(tun.index()).await.unwrap();

        let deleted = recv(&tun).unwrap_err();
        assert_eq!(deleted.raw_os_error(), Some(libc::EBADFD));
    });
}

#[test]
fn setting_the_device_down_takes_its_routes_and_keeps_its_addresses() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        prepare(&netlink, &tun).await;
        let (local, peer) = ("fc00::1".parse().unwrap(), "fc00::2".parse().unwrap());
        netlink
            .add_address6(tun.index(), local, Some(peer))
            .await
            .unwrap();
        let before = netlink.addresses(tun.index()).await.unwrap();
        assert_eq!(before.len(), 2);
        let net = "10.9.0.0/16".parse().unwrap();
        netlink
            .add_route(net, Via::Device(tun.index()))
            .await
            .unwrap();

        netlink.set_down(tun.index()).await.unwrap();

        let routes = netlink.routes().await.unwrap();
        assert!(
            routes.iter().all(|route| route.oif != Some(tun.index())),
            "{routes:?}"
        );
        assert_eq!(netlink.addresses(tun.index()).await.unwrap(), before);

        netlink.set_up(tun.index(), 1400).await.unwrap();
        assert_eq!(netlink.addresses(tun.index()).await.unwrap(), before);
        echo(&tun, 100);
    });
}

#[test]
fn a_run_that_the_kernel_cannot_read_is_refused_and_the_offload_can_be_given_up() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        prepare(&netlink, &tun).await;
        let nonsense = VnetHeader {
            gso: Gso::Tcp4,
            gso_size: 0,
            ..VnetHeader::PLAIN
        };
        let refused = tun.try_send(nonsense, &[IoSlice::new(&[0x45; 60])]);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));

        tun.refuse(Gso::Tcp4);
        tun.refuse(Gso::Udp);

        let left = Offloads {
            tso4: false,
            uso4: false,
            uso6: false,
            ..Offloads::ALL
        };
        assert_eq!(tun.offloads(), left);
        tun.refuse(Gso::None);
        assert_eq!(tun.offloads(), Offloads::NONE);
    });
}

#[test]
fn a_packet_may_be_in_a_thousand_parts_and_no_more() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        prepare(&netlink, &tun).await;
        for bytes in [FEW - 29, FEW - 28, MANY - 29] {
            echo(&tun, bytes);
        }

        let too_many = vec![IoSlice::new(b"."); MANY];
        let error = tun.try_send(VnetHeader::PLAIN, &too_many).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn sets_of_flags_are_tried_until_the_kernel_takes_one() {
    isolated(|_| async {
        let tun = Tun::create("dtun%d", false, true).unwrap();
        let unknown = 1 << 30;

        let sets = [LADDER[0] | unknown, TSO | unknown, TSO];
        assert_eq!(negotiate(tun.as_fd(), &sets).unwrap(), TSO);
        let none = negotiate(tun.as_fd(), &[unknown]).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::EINVAL));
        for set in LADDER {
            sys::tun::set_offload(tun.as_fd(), set).unwrap();
        }
    });
}

/// Sends one datagram of `n` bytes out of the device and in again, each byte
/// of the packet a part.
fn echo(tun: &Tun, n: usize) {
    let socket = socket();
    socket.send_to(&vec![7; n], "10.0.0.2:700").unwrap();
    let (header, mut packet) = recv(tun).unwrap();
    assert_eq!(packet.len(), 28 + n);

    swap_ends(&mut packet);
    let parts: Vec<_> = packet.chunks(1).map(IoSlice::new).collect();
    tun.try_send(header, &parts).unwrap();

    let mut back = vec![0; 2048];
    assert_eq!(socket.recv(&mut back).unwrap(), n);
    assert_eq!(back[..n], vec![7; n]);
}

fn recv(tun: &Tun) -> io::Result<(VnetHeader, Vec<u8>)> {
    let epoll = Epoll::new().unwrap();
    epoll.add(tun.as_fd(), 0, Interest::READ).unwrap();
    let deadline = Some(Duration::from_secs(5));
    assert_eq!(epoll.wait(&mut [Event::EMPTY], deadline).unwrap(), 1);

    let mut buf = vec![0; 1 << 16];
    tun.try_recv(&mut buf)
        .map(|(header, packet)| (header, packet.to_vec()))
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
