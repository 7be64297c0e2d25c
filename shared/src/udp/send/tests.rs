use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::netns::{add_to_lo, isolated};
use crate::sys::epoll::Interest;
use crate::sys::seccomp;
use crate::sys::socket::set_int;
use crate::udp::fixture::{path, wait_for};
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

#[test]
fn single_calls_do_where_the_kernel_lacks_the_others() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();
        seccomp::lack(&[libc::SYS_sendmmsg, libc::SYS_recvmmsg]).unwrap();

        exchange(&hub, &spoke);

        for socket in [&hub, &spoke] {
            assert!(!socket.batching.load(Ordering::Relaxed));
        }
    });
}

#[test]
fn nothing_is_cut_or_joined_when_offloads_are_off() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();
        hub.set_offload(false).unwrap();
        spoke.set_offload(false).unwrap();

        assert_eq!(exchange(&hub, &spoke), 0);
    });
}

#[test]
fn runs_that_the_kernel_refuses_go_datagram_by_datagram_from_then_on() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();
        // The kernel cuts nothing for a socket that sends no checksums.
        for socket in [&hub, &spoke] {
            set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        }

        assert_eq!(exchange(&hub, &spoke), 0);

        for socket in [&hub, &spoke] {
            assert!(!socket.segmenting.load(Ordering::Relaxed));
        }
    });
}

#[test]
fn runs_that_are_refused_as_too_long_go_singly_for_good_after_a_few() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();
        let (unused, bytes) = (path("192.0.2.9:9"), [7; 2_000]);
        let run = |df| Transmit {
            segment: 1_000,
            df,
            ..transmit(&unused, &bytes)
        };
        let send = |df| {
            let outcome = spoke.try_send_batch(&[run(df)]);
            assert!(matches!(outcome, SendOutcome::Sent), "{outcome:?}");
            assert_same(&collect(&hub, 2).0, &[run(df)]);
        };
        let runs = || spoke.segmenting.load(Ordering::Relaxed);
        spoke.refusals.store(MANY_REFUSALS - 1, Ordering::Relaxed);
        send(true);
        // A run is one message, its datagrams are two.
        seccomp::refuse(libc::SYS_sendmmsg, 2, 1, libc::EMSGSIZE).unwrap();

        // Routers may cut these, and the kernel does.
        for _ in 0..2 * MANY_REFUSALS {
            send(false);
        }
        for _ in 1..MANY_REFUSALS {
            send(true);
            assert!(runs());
        }
        send(true);
        assert!(!runs());
        send(true);
    });
}

#[test]
fn datagrams_too_big_for_the_link_are_no_fault_of_the_offload() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1", "2001:db8::1"]).await;
        let lo = netlink.link("lo").await.unwrap().unwrap().index;
        netlink.set_mtu(lo, 1300).await.unwrap();
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();

        for asked in ["192.0.2.1:443", "[2001:db8::1]:443"] {
            let (unused, bytes) = (path(asked), [7; 7_000]);
            let whole = |segment| Transmit {
                segment,
                df: true,
                ..transmit(&unused, &bytes)
            };
            let spoke = UdpSocket::connect(asked.parse().unwrap()).unwrap();

            let batch = [whole(1_000), whole(1_400), whole(1_001)];
            let outcome = spoke.try_send_batch(&batch);
            assert!(
                matches!(
                    outcome,
                    SendOutcome::Failed {
                        at: 1,
                        too_big: true,
                        ..
                    }
                ),
                "{asked}: {outcome:?}"
            );
            assert!(matches!(
                spoke.try_send_batch(&batch[2..]),
                SendOutcome::Sent
            ));
            assert_same(&collect(&hub, 7 + 7).0, &[batch[0], batch[2]]);

            let in_fragments = [Transmit {
                df: false,
                ..whole(1_400)
            }];
            assert!(matches!(
                spoke.try_send_batch(&in_fragments),
                SendOutcome::Sent
            ));
            assert_same(&collect(&hub, 5).0, &in_fragments);
            assert!(spoke.segmenting.load(Ordering::Relaxed), "{asked}");
        }
    });
}

#[test]
fn an_error_that_one_peer_left_behind_fails_nobody_elses_datagrams() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let spoke = UdpSocket::listen("192.0.2.1:700".parse().unwrap()).unwrap();
        let (nobody, somebody) = (path("192.0.2.1:9"), path("192.0.2.1:700"));
        let leave_an_error = || {
            hub.path_mtu_events(|peer, mtu| panic!("{peer}: {mtu}"))
                .unwrap();
            hub.try_send(b"question", &nobody).unwrap();
            wait_for(&hub, Interest::NONE);
        };
        leave_an_error();
        let pending = hub.socket.take_error().unwrap().unwrap();
        assert_eq!(pending.kind(), io::ErrorKind::ConnectionRefused);

        leave_an_error();
        let bytes = [7; 5_000];
        let run = [Transmit {
            segment: 1_000,
            df: true,
            ..transmit(&somebody, &bytes)
        }];
        assert!(matches!(hub.try_send_batch(&run), SendOutcome::Sent));
        assert_same(&collect(&spoke, 5).0, &run);
        assert!(hub.segmenting.load(Ordering::Relaxed));
        assert!(hub.take_error().is_none());

        leave_an_error();
        let nothing = hub.try_recv_batch(&mut RecvBatch::new(1).unwrap());
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_closed_port_shows_on_a_connected_socket() {
    isolated(|_| async move {
        let spoke = UdpSocket::connect("127.0.0.1:9".parse().unwrap()).unwrap();
        spoke.try_send(b"question", &path("127.0.0.1:9")).unwrap();
        wait_for(&spoke, Interest::READ);

        let refused = spoke.try_recv_batch(&mut RecvBatch::new(1).unwrap());

        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    });
}

#[test]
fn a_closed_port_shows_to_who_only_sends() {
    isolated(|_| async move {
        let spoke = UdpSocket::connect("127.0.0.1:9".parse().unwrap()).unwrap();
        spoke.try_send(b"question", &path("127.0.0.1:9")).unwrap();
        wait_for(&spoke, Interest::NONE);

        spoke.try_send(b"question", &path("127.0.0.1:9")).unwrap();

        let refused = spoke.take_error().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(spoke.take_error().is_none());
    });
}

#[test]
fn what_any_path_carries_changes_no_option_of_the_socket() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1", "2001:db8::1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let is_whole = || *hub.hold_df(None).unwrap();
        for (asked, most) in [("192.0.2.1:700", 548), ("[2001:db8::1]:700", 1232)] {
            let _spoke = UdpSocket::listen(asked.parse().unwrap()).unwrap();
            let (to, bytes) = (path(asked), [7; 1400]);
            let batch = [(most, false), (1400, true), (most, false)].map(|(len, df)| Transmit {
                df,
                ..transmit(&to, &bytes[..len])
            });

            assert!(matches!(hub.try_send_batch(&batch), SendOutcome::Sent));
            assert!(is_whole());
            hub.try_send(&bytes[..most], &to).unwrap();
            assert!(is_whole());
            hub.try_send(&bytes[..most + 1], &to).unwrap();
            assert!(!is_whole());
        }
    });
}

#[test]
fn a_blocked_batch_goes_on_where_it_stopped() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        slow_lo("rate 50mbit burst 64kb limit 4mb");
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let unused = path("192.0.2.9:9");
        let bytes: Vec<u8> = (0..60_000_u32).map(|i| (i / 11) as u8).collect();
        let batch = [Transmit {
            segment: 1_000,
            ..transmit(&unused, &bytes)
        }; 4];

        for offload in [true, false] {
            let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();
            spoke.set_offload(offload).unwrap();
            spoke.set_send_buffer(50_000).unwrap();
            let mut left = batch;
            let (mut rest, mut whole, mut parts) = (&mut left[..], 0, 0);
            while let SendOutcome::Blocked { sent, part } = spoke.try_send_batch(rest) {
                rest = &mut rest[sent..];
                rest[0].contents = &rest[0].contents[part..];
                whole += sent;
                parts += part;
                assert!(spoke.outstanding().unwrap() > 0);
                wait_for(&spoke, Interest::WRITE);
            }

            assert_same(&collect(&hub, 4 * 60).0, &batch);
            assert!(if offload { whole > 0 } else { parts > 0 });
            assert_eq!(parts % 1_000, 0);
        }
    });
}

#[test]
fn a_full_queue_of_the_uplink_is_told_of_and_loses_nothing() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        slow_lo("rate 10mbit burst 3kb limit 30kb");
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();
        spoke.set_send_buffer(1_000_000).unwrap();
        let unused = path("192.0.2.9:9");
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| (i / 11) as u8).collect();
        let mut messages: Vec<_> = bytes
            .chunks(1_000)
            .map(|one| transmit(&unused, one))
            .collect();
        let all = messages.clone();

        let mut refused = 0;
        while let SendOutcome::Refused { sent, part } = spoke.try_send_batch(&messages) {
            assert!(spoke.outstanding().unwrap() > 0);
            assert_eq!(part, 0);
            messages.drain(..sent);
            refused += 1;
            let half = spoke.outstanding().unwrap();
            spoke.set_send_buffer(half).unwrap();
            wait_for(&spoke, Interest::WRITE);
            spoke.set_send_buffer(1_000_000).unwrap();
        }

        assert!(refused > 0);
        assert_same(&collect(&hub, all.len()).0, &all);
    });
}

#[test]
fn fewer_buffers_are_offered_than_there_are_until_they_are_needed() {
    isolated(|netlink| async move {
        add_to_lo(&netlink, &["192.0.2.1"]).await;
        let hub = UdpSocket::listen(HUB.parse().unwrap()).unwrap();
        let spoke = UdpSocket::connect("192.0.2.1:443".parse().unwrap()).unwrap();
        let mut batch = RecvBatch::new(64).unwrap();
        let mut receive = |n: usize| {
            for _ in 0..n {
                spoke.try_send(&[7; 100], &path("192.0.2.9:9")).unwrap();
            }
            let mut counts = Vec::new();
            while let Ok(count) = hub.try_recv_batch(&mut batch) {
                counts.push(count);
                let (messages, arena) = batch.split();
                assert_eq!(arena[messages[0].range.clone()], [7; 100]);
            }
            batch.give_back().unwrap();
            let (messages, arena) = batch.split();
            assert!(messages.is_empty());
            assert_eq!(arena[..100], [0; 100]);
            counts
        };

        assert_eq!(receive(100), [8, 16, 32, 44]);
        assert_eq!(receive(9), [8, 1]);
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
        wait_for(socket, Interest::READ);
        match socket.try_recv_batch(&mut batch) {
            Ok(count) => assert_eq!(count, batch.split().0.len()),
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

fn transmit<'a>(path: &'a Path, contents: &'a [u8]) -> Transmit<'a> {
    Transmit {
        path,
        contents,
        segment: contents.len(),
        ecn: Ecn::NotEct,
        df: false,
    }
}

/// Makes the loopback as slow as `tbf` is told.
fn slow_lo(tbf: &str) {
    let slow = format!("qdisc add dev lo root tbf {tbf}");
    let tc = Command::new("tc").args(slow.split(' ')).status();
    assert!(tc.unwrap().success(), "tc is missing, or tbf in the kernel");
}
