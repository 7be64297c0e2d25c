use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::link::Netlink;
use crate::netns::isolated;
use crate::sys::epoll::{Epoll, Event, Interest};
use crate::udp::recv::{Message, RecvBatch};

const HUB: &str = "[::]:443";

proptest! {
    #[test]
    fn pieces_are_the_batch_and_runs_stay_within_what_the_kernel_takes(
        sizes in prop::collection::vec((0..70_000_usize, 1..3_000_usize), 1..4),
        whole: bool,
        cut in prop::option::of(0..4_usize),
        done in 1..200_usize,
    ) {
        let path = path("192.0.2.1:443");
        let bytes = vec![7; 70_000];
        let messages: Vec<_> = sizes
            .iter()
            .map(|(len, segment)| Transmit { segment: *segment, ..transmit(&path, &bytes[..*len]) })
            .collect();
        let pieces = Pieces { messages: &messages, cursor: Cursor::default(), whole, cut };

        let mut sent: usize = 0;
        for piece in pieces.clone() {
            let segment = piece.message.segment;
            match piece.segment {
                Some(announced) => {
                    prop_assert!(whole && usize::from(announced) == segment);
                    prop_assert!(piece.contents.len().div_ceil(segment) <= RUN);
                    prop_assert!(piece.contents.len() <= RUN_BYTES);
                }
                None => prop_assert!(piece.contents.len() <= segment),
            }
            sent += piece.contents.len();
        }
        prop_assert_eq!(sent, sizes.iter().map(|(len, _)| len).sum::<usize>());

        let rest = Pieces { cursor: pieces.after(done), ..pieces.clone() };
        prop_assert_eq!(rest.count(), pieces.count().saturating_sub(done));
    }
}

#[test]
fn a_run_arrives_in_its_datagrams_with_its_mark_both_ways_in_both_families() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1", "2001:db8::1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();

        for asked in ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            let spoke = UdpSocket::connect((asked, 443).into()).unwrap();
            let runs = exchange(&hub, &spoke);

            assert_eq!(runs, 4, "the kernel cuts and joins");
        }
    });
}

/// Sends runs from `spoke` to `hub` and back along the path they came by, and
/// says how many messages held several datagrams.
fn exchange(hub: &UdpSocket, spoke: &UdpSocket) -> usize {
    let bytes: Vec<u8> = (0..20_300_u32).map(|i| (i / 7) as u8).collect();
    let unused = path("192.0.2.9:9");
    let there = [
        Transmit {
            segment: 1_200,
            ecn: Ecn::Ect0,
            ..transmit(&unused, &bytes)
        },
        Transmit {
            segment: 300,
            ecn: Ecn::Ce,
            df: true,
            ..transmit(&unused, &bytes[..10_000])
        },
    ];
    assert!(matches!(spoke.try_send_batch(&there), SendOutcome::Sent));
    let (datagrams, joined) = collect(hub, 17 + 34);
    assert_same(&datagrams, &there);

    let path = datagrams[0].1;
    assert_eq!(path.peer.port(), spoke.local_addr().unwrap().port());
    let back = there.map(|message| Transmit {
        path: &path,
        ..message
    });
    assert!(matches!(hub.try_send_batch(&back), SendOutcome::Sent));
    let (datagrams, joined_back) = collect(spoke, 17 + 34);
    assert_same(&datagrams, &back);
    assert_eq!(datagrams[0].1.peer.ip(), path.local.unwrap().ip);

    joined + joined_back
}

type Datagram = (Vec<u8>, Path, Ecn);

/// Receives `n` datagrams, and counts the messages that hold several.
fn collect(socket: &UdpSocket, n: usize) -> (Vec<Datagram>, usize) {
    let mut batch = RecvBatch::new(64).unwrap();
    let (mut datagrams, mut joined) = (Vec::new(), 0);
    while datagrams.len() < n {
        wait(socket);
        match socket.try_recv_batch(&mut batch) {
            Ok(count) => assert_eq!(count, batch.messages().len()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
        }
        let (messages, arena) = batch.split();
        for Message {
            path,
            range,
            segment,
            ecn,
        } in messages
        {
            joined += usize::from(range.len() > *segment);
            for datagram in arena[range.clone()].chunks(*segment) {
                datagrams.push((datagram.to_vec(), *path, *ecn));
            }
        }
    }

    (datagrams, joined)
}

fn assert_same(datagrams: &[Datagram], messages: &[Transmit<'_>]) {
    let expected = messages.iter().flat_map(|message| {
        let chunks = message.contents.chunks(message.segment);
        chunks.map(|chunk| (chunk.to_vec(), message.ecn))
    });
    let got = datagrams
        .iter()
        .map(|(bytes, _, ecn)| (bytes.clone(), *ecn));

    assert!(got.eq(expected));
}

fn wait(socket: &UdpSocket) {
    let epoll = Epoll::new().unwrap();
    epoll.add(socket.as_fd(), 0, Interest::READ).unwrap();
    let deadline = Some(Duration::from_secs(5));

    assert_eq!(epoll.wait(&mut [Event::EMPTY], deadline).unwrap(), 1);
}

fn transmit<'a>(path: &'a Path, contents: &'a [u8]) -> Transmit<'a> {
    Transmit {
        path,
        contents,
        segment: contents.len(),
        ecn: Ecn::NotEct,
        df: false,
    }
}

fn path(peer: &str) -> Path {
    Path {
        peer: peer.parse::<SocketAddr>().unwrap(),
        local: None,
    }
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
