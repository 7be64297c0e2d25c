use std::collections::HashSet;
use std::net::{IpAddr, SocketAddrV6};

use super::*;
use crate::link::Via;
use crate::netns::{add_to_lo, isolated};
use crate::udp::LocalAddr;
use crate::udp::fixture::{path, recv};
use crate::udp::recv::RecvBatch;

#[test]
fn a_taken_port_is_an_error_even_for_a_group() {
    isolated(|_| async {
        let group = UdpSocket::listen_group("[::]:443".parse().unwrap(), 3, None).unwrap();
        assert_eq!(group.len(), 3);

        for addr in ["[::]:443", "0.0.0.0:443"] {
            let second = UdpSocket::listen_group(addr.parse().unwrap(), 3, None).unwrap_err();
            assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        }
    });
}

#[test]
fn a_group_shares_the_peers_and_each_peer_keeps_its_socket() {
    isolated(|_| async {
        let group = UdpSocket::listen_group("[::]:0".parse().unwrap(), 2, None).unwrap();
        let port = group[0].local_addr().unwrap().port();
        let spokes: Vec<_> = ["127.0.0.1", "::1"]
            .iter()
            .flat_map(|ip| [ip; 32])
            .map(|ip| UdpSocket::connect((ip.parse::<IpAddr>().unwrap(), port).into()).unwrap())
            .collect();
        let mut batch = RecvBatch::new(64).unwrap();
        let mut peers = [HashSet::new(), HashSet::new()];
        for _ in 0..3 {
            for spoke in &spokes {
                spoke.try_send(b"question", &ANY).unwrap();
            }
            for (socket, peers) in group.iter().zip(&mut peers) {
                while socket.try_recv_batch(&mut batch).is_ok() {
                    let (messages, _) = batch.split();
                    peers.extend(messages.iter().map(|message| message.path.peer));
                }
            }
        }

        let [first, second] = peers;
        assert!(first.is_disjoint(&second));
        assert_eq!(first.len() + second.len(), spokes.len());
        assert!(!first.is_empty() && !second.is_empty());
        for family in [SocketAddr::is_ipv4, SocketAddr::is_ipv6] {
            assert!(first.iter().any(family) && second.iter().any(family));
        }
    });
}

#[test]
fn ipv4_is_served_where_ipv6_is_switched_off() {
    isolated(|_| async {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let group = UdpSocket::listen_group("[::]:443".parse().unwrap(), 2, None).unwrap();
        let spoke = UdpSocket::connect("127.0.0.1:443".parse().unwrap()).unwrap();

        spoke.try_send(b"question", &ANY).unwrap();

        let mut batch = RecvBatch::new(8).unwrap();
        let received = group
            .iter()
            .filter(|socket| socket.try_recv_batch(&mut batch).is_ok());
        assert_eq!(received.count(), 1);
    });
}

#[test]
fn the_send_buffer_is_what_was_asked_for() {
    isolated(|_| async {
        let socket = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
        for bytes in [16 << 20, 60_000] {
            socket.set_send_buffer(bytes).unwrap();
            assert_eq!(socket.socket.send_buffer_size().unwrap(), bytes);
        }
        assert_eq!(socket.outstanding().unwrap(), 0);
    });
}

#[test]
fn a_reply_leaves_from_the_address_that_was_asked_in_both_families() {
    isolated(|netlink| async move {
        let addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
        add_to_lo(&netlink, &addresses).await;
        let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();

        for asked in addresses.map(|ip| ip.parse::<IpAddr>().unwrap()) {
            let came = ask_and_answer(&hub, (asked, 443).into());

            assert_eq!(came.local.map(|local| local.ip), Some(asked));
            assert_eq!(came.peer.is_ipv4(), asked.is_ipv4());
        }
    });
}

#[test]
fn a_link_local_peer_is_answered_on_its_link() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["fe80::1"]).await;
        let lo = netlink.link("lo").await.unwrap().unwrap().index;
        let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
        let asked = SocketAddrV6::new("fe80::1".parse().unwrap(), 443, 0, lo);

        let came = ask_and_answer(&hub, asked.into());

        assert_eq!(came.local.map(|local| local.ifindex), Some(lo));
    });
}

#[test]
fn an_ipv4_only_listener_answers_too() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let hub = UdpSocket::listen("0.0.0.0:443".parse().unwrap()).unwrap();

        ask_and_answer(&hub, "192.0.2.1:443".parse().unwrap());
    });
}

#[test]
fn an_address_that_went_away_is_an_error_of_that_datagram() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let lo = netlink.link("lo").await.unwrap().unwrap().index;
        let net = "198.51.100.0/24".parse().unwrap();
        netlink.add_route(net, Via::Device(lo)).await.unwrap();
        let hub = UdpSocket::listen("[::]:443".parse().unwrap()).unwrap();
        let fresh = path("198.51.100.1:7");
        let stale = Path {
            local: Some(LocalAddr {
                ip: "192.0.2.99".parse().unwrap(),
                ifindex: 0,
            }),
            ..fresh
        };

        hub.try_send(b"answer", &stale).unwrap_err();
        hub.try_send(b"answer", &fresh).unwrap();
    });
}

/// Asks the hub at an address, and returns the way the question came. The
/// spoke is connected, so an answer from another address is not heard.
fn ask_and_answer(hub: &UdpSocket, asked: SocketAddr) -> Path {
    let spoke = UdpSocket::connect(asked).unwrap();
    spoke.try_send(b"question", &ANY).unwrap();
    let (question, came) = recv(hub);
    assert_eq!(question, b"question");
    assert_eq!(came.peer.port(), spoke.local_addr().unwrap().port());

    hub.try_send(b"answer", &came).unwrap();
    let (answer, way) = recv(&spoke);
    assert_eq!((&answer[..], way.peer.ip()), (&b"answer"[..], asked.ip()));

    came
}

/// For a connected socket, which ignores it.
const ANY: Path = Path {
    peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9),
    local: None,
};
