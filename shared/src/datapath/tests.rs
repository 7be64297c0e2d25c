//! The workers at a real device and a real socket, with a side that does as
//! little as it can.

use std::net::UdpSocket as Peer;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;
use crate::association::Association;
use crate::dtls::CipherSuite;
use crate::dtls::header::ContentType;
use crate::dtls::schedule::DirectionKey;
use crate::link::Netlink;
use crate::netns::isolated;
use crate::packet::checksum;
use crate::packet::fragment::Piece;
use crate::packet::too_big::FarEnd;
use crate::parts::Parts;
use crate::record::{Opener, Sealer};
use crate::sys;
use crate::udp::Path;
use crate::udp::socket::UdpSocket;

#[test]
fn a_devices_packets_reach_the_peer_in_order_and_come_back_from_it() {
    isolated(|netlink| async move {
        let peer = Peer::bind("127.0.0.1:443").unwrap();
        let inside = Inside::new(&netlink, "127.0.0.1:443").await;

        for number in 0..100 {
            inside.send(number);
        }
        let mut opener = Opener::new(CipherSuite::Gcm, &key(), 1);
        let mut datagram = [0; 2048];
        peer.set_read_timeout(Some(SOON)).unwrap();
        for number in 0..100 {
            let (len, spoke) = peer.recv_from(&mut datagram).unwrap();
            let (_, packet) = opener.open(&mut datagram[..len]).unwrap();
            assert_eq!(packet[28..], [number; 100]);
            // As an answer: with the ends in the other's place.
            let (source, destination) = packet[12..20].split_at_mut(4);
            source.swap_with_slice(destination);
            let (source, destination) = packet[20..24].split_at_mut(2);
            source.swap_with_slice(destination);
            let mut answer = Vec::new();
            inside
                .peer
                .seal(ContentType::ApplicationData, packet, &mut answer)
                .unwrap();
            peer.send_to(&answer, spoke).unwrap();
            // Nobody has the key to this one.
            answer[20] ^= 1;
            peer.send_to(&answer, spoke).unwrap();
        }

        for number in 0..100 {
            inside.socket.recv(&mut datagram).unwrap();
            assert_eq!(datagram[..100], [number; 100]);
        }
        let side = &inside.side;
        assert_eq!(side.unwatched.load(Ordering::Relaxed), 1);
        until(|| side.lost.load(Ordering::Relaxed) == 100);
    });
}

#[test]
fn a_packet_larger_than_the_path_goes_in_fragments() {
    isolated(|netlink| async move {
        let peer = Peer::bind("127.0.0.1:443").unwrap();
        peer.set_read_timeout(Some(SOON)).unwrap();
        let inside = Inside::new(&netlink, "127.0.0.1:443").await;
        inside.side.session.0.set_limit(600);
        let dont = libc::IP_PMTUDISC_DONT;
        sys::socket::set_int(
            inside.socket.as_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            dont,
        )
        .unwrap();
        let said: Vec<u8> = (0..1300_u16).map(|at| (at / 5) as u8).collect();

        inside.socket.send_to(&said, "10.0.0.2:700").unwrap();

        let mut opener = Opener::new(CipherSuite::Gcm, &key(), 1);
        let mut heard = Vec::new();
        for more in [true, true, false] {
            let mut datagram = [0; 2048];
            let len = peer.recv(&mut datagram).unwrap();
            let (_, packet) = opener.open(&mut datagram[..len]).unwrap();
            assert!(packet.len() <= 600);
            assert_eq!(packet[6] & 0x20 != 0, more);
            heard.extend_from_slice(&packet[20..]);
        }
        assert_eq!(heard[8..], said);
    });
}

#[test]
fn a_packet_in_several_records_is_put_together() {
    isolated(|netlink| async move {
        let peer = Peer::bind("127.0.0.1:443").unwrap();
        let inside = Inside::new(&netlink, "127.0.0.1:443").await;
        inside.send(0);
        let spoke = peer.recv_from(&mut [0; 2048]).unwrap().1;
        let seal = |plain: &[u8]| {
            let mut datagram = Vec::new();
            let content = ContentType::ApplicationData;
            inside.peer.seal(content, plain, &mut datagram).unwrap();
            datagram
        };
        let parts: Vec<_> = [1, 2, 3]
            .map(|number| {
                let packet = answer(&[number; 900]);
                let parts = Parts::of(&packet, 500, number.into()).unwrap();
                let write = |part: Piece<'_>| {
                    let mut plain = vec![0; part.len()];
                    part.write(&mut plain);
                    plain
                };
                parts.map(write).collect::<Vec<_>>()
            })
            .concat();

        // The second is torn, and the third comes the wrong way round.
        for at in [0, 1, 2, 5, 4] {
            peer.send_to(&seal(&parts[at]), spoke).unwrap();
        }
        peer.send_to(&seal(&[0x10, 0x77, 0, 0, 0, 9, 1]), spoke)
            .unwrap();

        for number in [1, 3] {
            let mut heard = [0; 2048];
            let len = inside.socket.recv(&mut heard).unwrap();
            assert_eq!(heard[..len], [number; 900]);
        }
        until(|| inside.side.lost.load(Ordering::Relaxed) == 1);
    });
}

#[test]
fn a_panic_costs_what_was_at_hand_and_no_more() {
    isolated(|netlink| async move {
        let peer = Peer::bind("127.0.0.1:443").unwrap();
        let inside = Inside::new(&netlink, "127.0.0.1:443").await;
        inside.side.panics.store(true, Ordering::Relaxed);
        inside.send(1);
        until(|| !inside.side.panics.load(Ordering::Relaxed));

        inside.send(2);

        peer.set_read_timeout(Some(SOON)).unwrap();
        let mut opener = Opener::new(CipherSuite::Gcm, &key(), 1);
        let mut datagram = [0; 2048];
        let mut last = 0;
        while last != 2 {
            let len = peer.recv(&mut datagram).unwrap();
            last = *opener.open(&mut datagram[..len]).unwrap().1.last().unwrap();
        }
    });
}

#[test]
fn a_device_that_is_deleted_is_told_of_while_nothing_passes() {
    isolated(|netlink| async move {
        let inside = Inside::new(&netlink, "127.0.0.1:443").await;

        let index = inside.side.session.1.index();
        netlink.delete_link(index).await.unwrap();

        until(|| inside.side.is_gone.load(Ordering::Relaxed));
    });
}

#[test]
fn what_cannot_be_waited_for_is_not_kept() {
    isolated(|netlink| async move {
        let inside = Inside::new(&netlink, "127.0.0.1:443").await;
        let Owner(_, tun) = &*inside.side.session;
        let held = Arc::strong_count(tun);

        let twice = inside.datapath.add_device(Arc::clone(tun), ());

        assert_eq!(twice.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        until(|| Arc::strong_count(tun) <= held);
    });
}

#[test]
fn a_peer_that_is_gone_is_noticed_by_sending_alone() {
    isolated(|netlink| async move {
        // The socket is not in the data path, so nobody receives.
        let inside = Inside::new(&netlink, "127.0.0.1:9").await;

        until(|| {
            inside.send(1);
            inside.side.errors.load(Ordering::Relaxed) > 0
        });
    });
}

/// A packet to the socket inside, without checksum of its transport.
fn answer(said: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((28 + said.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    let sum = checksum::finish(checksum::sum(0, &packet));
    packet[10..12].copy_from_slice(&sum);
    packet.extend([700_u16.to_be_bytes(), 700_u16.to_be_bytes()].concat());
    packet.extend((8 + said.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(said);

    packet
}

/// A machine with a device whose packets go to a peer.
struct Inside {
    side: Arc<Fake>,
    /// What the peer seals with.
    peer: Sealer,
    socket: Peer,
    datapath: Datapath<Fake>,
}

impl Inside {
    async fn new(netlink: &Netlink, peer: &str) -> Self {
        let tun = Arc::new(Tun::create("dtun%d", false, false).unwrap());
        netlink.quiet(tun.index(), tun.name()).await.unwrap();
        let (local, far) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        netlink
            .add_address_ptp4(tun.index(), local, far)
            .await
            .unwrap();
        netlink.set_up(tun.index(), 1400).await.unwrap();

        let peer = peer.parse().unwrap();
        let lane = Arc::new(Lane::new(UdpSocket::connect(peer).unwrap()).unwrap());
        let association = Association::new(
            CipherSuite::Gcm,
            Arc::new(Sealer::new(CipherSuite::Gcm, &key(), 1, 0)),
            Opener::new(CipherSuite::Gcm, &key(), 1),
            Path { peer, local: None },
            Arc::clone(&lane),
            Instant::now(),
        );
        let side = Arc::new(Fake {
            session: Arc::new(Owner(association, Arc::clone(&tun))),
            unwatched: AtomicUsize::new(0),
            errors: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
        });
        let datapath = Datapath::start(Arc::clone(&side), 2).unwrap();
        if peer.port() != 9 {
            datapath.add_lane(lane).unwrap();
        }
        datapath.add_device(tun, ()).unwrap();
        let socket = Peer::bind("10.0.0.1:700").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();

        Self {
            side,
            peer: Sealer::new(CipherSuite::Gcm, &key(), 1, 0),
            socket,
            datapath,
        }
    }

    /// Sends a datagram of this number into the device.
    fn send(&self, number: u8) {
        self.socket.send_to(&[number; 100], "10.0.0.2:700").unwrap();
    }
}

/// A side with one session.
struct Fake {
    session: Arc<Owner>,
    unwatched: AtomicUsize,
    errors: AtomicUsize,
    lost: AtomicUsize,
    panics: AtomicBool,
    is_gone: AtomicBool,
}

struct Owner(Association, Arc<Tun>);

impl AsRef<Association> for Owner {
    fn as_ref(&self) -> &Association {
        &self.0
    }
}

impl Side for Fake {
    type Port = ();
    type Session = Owner;

    fn session_for(&self, (): &()) -> Option<Arc<Owner>> {
        Some(Arc::clone(&self.session))
    }

    fn admits_out(&self, _: &Owner, _: &[u8]) -> bool {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "on demand");
        true
    }

    fn homeless(&self, (): &(), _: &[u8]) {}

    fn device_gone(&self, (): &()) {
        self.is_gone.store(true, Ordering::Relaxed);
    }

    fn unwatched(&self, _: &Arc<Owner>) {
        self.unwatched.fetch_add(1, Ordering::Relaxed);
    }

    fn session_of(&self, _: &Path, _: &Arc<Lane>) -> Option<Arc<Owner>> {
        Some(Arc::clone(&self.session))
    }

    fn device<'a>(&self, session: &'a Owner) -> Option<&'a Arc<Tun>> {
        Some(&session.1)
    }

    fn admits_in(&self, _: &Arc<Owner>, _: &[u8]) -> bool {
        true
    }

    fn message(&self, _: &Arc<Owner>, _: ContentType, _: &[u8]) -> bool {
        true
    }

    fn stray(&self, _: &mut [u8], _: &Path, _: &Arc<Lane>) {}

    fn socket_error(&self, _: Option<&Association>, _: &io::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    fn path_mtu(&self, _: std::net::SocketAddr, _: Option<u32>) {}

    fn far_end(&self, _: &Owner) -> Option<FarEnd> {
        None
    }

    fn count(&self, _: Dropped, packets: usize) {
        self.lost.fetch_add(packets, Ordering::Relaxed);
    }
}

/// Waits for what another thread does.
#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came");
        thread::yield_now();
    }
}

fn key() -> DirectionKey {
    DirectionKey::new([1; 16], [2; 4])
}

const SOON: Duration = Duration::from_secs(10);
