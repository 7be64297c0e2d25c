use std::collections::HashSet;
use std::net::IpAddr;

use super::*;
use crate::netns::isolated;
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

#[tokio::test]
async fn a_socket_that_dialled_goes_on_for_packets() {
    let hub = UdpSocket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let dial = super::super::UdpSocket::connect(hub.local_addr().unwrap()).unwrap();
    let spoke = dial.for_packets().unwrap();
    drop(dial);

    spoke.try_send(b"question", &ANY).unwrap();

    let mut batch = RecvBatch::new(8).unwrap();
    hub.try_recv_batch(&mut batch).unwrap();
    assert_eq!(batch.split().0[0].path.peer, spoke.local_addr().unwrap());
}

/// For a connected socket, which ignores it.
const ANY: Path = Path {
    peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9),
    local: None,
};
