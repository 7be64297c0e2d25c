use std::io::IoSlice;
use std::net::Ipv6Addr;

use crate::link::Netlink;
use crate::netns::isolated;
use crate::packet::ecn::Ecn;
use crate::packet::vnet::VnetHeader;
use crate::sys::epoll::Interest;
use crate::tun::Tun;
use crate::udp::fixture::{path, wait_for};
use crate::udp::recv::RecvBatch;
use crate::udp::send::{SendOutcome, Transmit};
use crate::udp::socket::UdpSocket;

/// Both families through a device of which this test is the network.
const PEERS: [&str; 2] = ["10.0.0.2:700", "[fc00::2]:700"];

#[test]
fn each_datagram_has_its_own_mark_and_dont_fragment() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", false, false).unwrap();
        prepare(&netlink, &tun).await;
        let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();

        for peer in PEERS {
            let path = path(peer);
            let marks = [
                (Ecn::NotEct, true),
                (Ecn::Ce, true),
                (Ecn::Ect0, false),
                (Ecn::Ect1, true),
                (Ecn::NotEct, false),
            ];
            let batch = marks.map(|(ecn, df)| Transmit {
                path: &path,
                contents: &[7; 600],
                segment: 600,
                ecn,
                df,
            });
            assert!(matches!(hub.try_send_batch(&batch), SendOutcome::Sent));

            for (ecn, df) in marks {
                let packet = recv(&tun);
                if packet[0] >> 4 == 4 {
                    assert_eq!(
                        (Ecn::from_bits(packet[1]), packet[6] & 0x40 != 0),
                        (ecn, df)
                    );
                } else {
                    assert_eq!(Ecn::from_bits(packet[1] >> 4), ecn);
                }
            }
        }
    });
}

#[test]
fn a_router_that_finds_a_datagram_too_big_is_heard_and_not_obeyed() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", false, false).unwrap();
        prepare(&netlink, &tun).await;
        let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();

        for peer in PEERS {
            let path = path(peer);
            let message = [Transmit {
                path: &path,
                contents: &[7; 1_340],
                segment: 1_340,
                ecn: Ecn::NotEct,
                df: true,
            }];
            assert!(matches!(hub.try_send_batch(&message), SendOutcome::Sent));

            let answer = too_big(&recv(&tun), 1_300);
            tun.try_send(VnetHeader::PLAIN, &[IoSlice::new(&answer)])
                .unwrap();
            wait_for(&hub, Interest::NONE);

            let nothing = hub.try_recv_batch(&mut RecvBatch::new(1).unwrap());
            assert_eq!(nothing.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            let mut events = Vec::new();
            hub.path_mtu_events(|peer, mtu| events.push((peer, mtu)))
                .unwrap();
            assert_eq!(events, [(path.peer, 1_300)]);
            hub.path_mtu_events(|peer, mtu| panic!("{peer}: {mtu}"))
                .unwrap();

            // A message that comes while the next batch is made up.
            assert!(matches!(hub.try_send_batch(&message), SendOutcome::Sent));
            assert!(recv(&tun).len() > 1_340);
            tun.try_send(VnetHeader::PLAIN, &[IoSlice::new(&answer)])
                .unwrap();
            wait_for(&hub, Interest::NONE);
            assert!(matches!(hub.try_send_batch(&message), SendOutcome::Sent));
            assert!(recv(&tun).len() > 1_340);
            hub.path_mtu_events(|_, _| {}).unwrap();
        }
    });
}

#[test]
fn what_our_own_link_refuses_is_no_event() {
    isolated(|netlink| async move {
        let tun = Tun::create("dtun%d", false, false).unwrap();
        prepare(&netlink, &tun).await;
        let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
        for peer in PEERS {
            let message = [Transmit {
                path: &path(peer),
                contents: &[7; 1_440],
                segment: 1_440,
                ecn: Ecn::NotEct,
                df: true,
            }];

            let outcome = hub.try_send_batch(&message);

            assert!(
                matches!(outcome, SendOutcome::Failed { too_big: true, .. }),
                "{outcome:?}"
            );
            hub.path_mtu_events(|peer, mtu| panic!("{peer}: {mtu}"))
                .unwrap();
        }
    });
}

/// What a router answers (RFC 1191 section 4, RFC 4443 section 3.2).
fn too_big(packet: &[u8], mtu: u16) -> Vec<u8> {
    let original = &packet[..packet.len().min(500)];
    let [high, low] = mtu.to_be_bytes();
    let mut answer;
    let icmp = if packet[0] >> 4 == 4 {
        answer = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
        answer.extend(&packet[16..20]);
        answer.extend(&packet[12..16]);
        answer.extend([3, 4, 0, 0, 0, 0, high, low]);
        20
    } else {
        answer = vec![0x60, 0, 0, 0, 0, 0, 58, 64];
        answer.extend(&packet[24..40]);
        answer.extend(&packet[8..24]);
        answer.extend([2, 0, 0, 0, 0, 0, high, low]);
        40
    };
    answer.extend(original);

    let len = answer.len() as u16;
    if icmp == 20 {
        answer[2..4].copy_from_slice(&len.to_be_bytes());
        let sum = checksum(&answer[..20]);
        answer[10..12].copy_from_slice(&sum);
    } else {
        answer[4..6].copy_from_slice(&(len - 40).to_be_bytes());
    }
    let mut summed = answer[icmp..].to_vec();
    if icmp == 40 {
        summed.extend(&answer[8..40]);
        summed.extend([0, 58]);
        summed.extend((len - 40).to_be_bytes());
    }
    answer[icmp + 2..icmp + 4].copy_from_slice(&checksum(&summed));

    answer
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1]));
    let sum: u64 = words.sum();
    let folded = sum % 0xffff;

    (!(folded as u16)).to_be_bytes()
}

fn recv(tun: &Tun) -> Vec<u8> {
    wait_for(tun, Interest::READ);
    let mut buf = vec![0; 1 << 16];
    let (_, packet) = tun.try_recv(&mut buf).unwrap();

    packet.to_vec()
}

async fn prepare(netlink: &Netlink, tun: &Tun) {
    let (index, name) = (tun.index(), tun.name());
    netlink.quiet(index, name).await.unwrap();
    let (local, peer) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    netlink.add_address_ptp4(index, local, peer).await.unwrap();
    // Given to a device that is down, an IPv6 address may lose the peer's route.
    netlink.set_up(index, 1400).await.unwrap();
    let (local, peer): (Ipv6Addr, Ipv6Addr) =
        ("fc00::1".parse().unwrap(), "fc00::2".parse().unwrap());
    netlink
        .add_address6(index, local, Some(peer))
        .await
        .unwrap();
    netlink.settle(index).await.unwrap();
}
