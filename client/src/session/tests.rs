//! A session against the hub's end of its socket, on loopback.

use dtun_shared::datapath::{Dropped, Side};
use dtun_shared::dtls::RECORD_HEADER;
use dtun_shared::dtls::alert::{Alert, DECRYPT_ERROR};
use dtun_shared::dtls::header::{ContentType, Look, emit_plaintext, look, records};
use dtun_shared::dtls::schedule::{MasterSecret, Secrets};
use dtun_shared::meta::{Content, Control, SpokeMeta};
use dtun_shared::record::{Opener, Sealer};
use dtun_shared::udp::DialSocket;
use tokio::net::UdpSocket as Peer;
use tokio::time::timeout;

use super::pulse::ANNOUNCE_EVERY;
use super::*;
use crate::dial::Dialled;
use crate::side::{Note, Notes, Said, SpokeSide};

/// The hub's end.
struct Hub {
    socket: Peer,
    spoke: SocketAddr,
    sealer: Sealer,
    opener: Opener,
}

impl Hub {
    fn record(&self, content: ContentType, plain: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        self.sealer.seal(content, plain, &mut record).unwrap();
        record
    }

    async fn say(&self, content: ContentType, plain: &[u8]) {
        let record = self.record(content, plain);
        self.socket.send_to(&record, self.spoke).await.unwrap();
    }

    /// The contents of the records in the next datagram.
    async fn hear(&mut self) -> Vec<Vec<u8>> {
        let mut buf = vec![0; 2000];
        let (len, _) = timeout(SOON, self.socket.recv_from(&mut buf))
            .await
            .expect("a datagram comes")
            .unwrap();
        let lengths: Vec<_> = records(&buf[..len])
            .map(|(_, body)| RECORD_HEADER + body.len())
            .collect();
        let mut rest = &mut buf[..len];
        lengths
            .into_iter()
            .map(|len| {
                let (record, tail) = std::mem::take(&mut rest).split_at_mut(len);
                rest = tail;
                self.opener.open(record).unwrap().1.to_vec()
            })
            .collect()
    }

    async fn hears_nothing(&self) {
        let mut buf = vec![0; 2000];
        let silence = timeout(SILENCE, self.socket.recv_from(&mut buf)).await;
        assert!(silence.is_err(), "{silence:?}");
    }
}

/// A session's beginning: the spoke's socket, its part of a handshake, the hub.
async fn handshake() -> (DialSocket, Dialled, Hub) {
    let peer = Peer::bind("127.0.0.1:0").await.unwrap();
    let socket = DialSocket::connect(peer.local_addr().unwrap()).unwrap();
    let secrets = Secrets {
        suite: CipherSuite::Gcm,
        master_secret: MasterSecret::new([7; 48]),
        client_random: [1; 32],
        server_random: [2; 32],
    };
    let keys = secrets.keys();
    let hub = Hub {
        spoke: socket.local_addr().unwrap(),
        socket: peer,
        sealer: Sealer::new(secrets.suite, &keys.server, 1, 1),
        opener: Opener::new(secrets.suite, &keys.client, 1),
    };
    let dialled = Dialled {
        secrets,
        next_seq: 1,
        early: Vec::new(),
    };

    (socket, dialled, hub)
}

/// The spoke's end.
struct Spoke {
    pulse: Pulse,
    side: Arc<SpokeSide>,
    notes: Notes,
}

impl Spoke {
    fn session(&self) -> &Arc<Session> {
        self.pulse.session()
    }

    /// Takes a datagram as the data path and the loop do; returns the packets
    /// for the device and the events.
    fn receive(&mut self, mut datagram: Vec<u8>) -> (Vec<Vec<u8>>, Vec<Event>) {
        let session = Arc::clone(self.session());
        let association: &Association = (*session).as_ref();
        let mut packets = Vec::new();

        let mut rest = &mut datagram[..];
        if look(rest) != Look::Epoch1(ContentType::ApplicationData) {
            let path = association.path();
            self.side
                .stray(std::mem::take(&mut rest), &path, association.lane());
        }
        while let Some((_, record, tail)) = split_record(rest) {
            rest = tail;
            match association.open(record) {
                Ok((content, plain)) => {
                    association.handle_record(Instant::now(), &association.path());
                    if Content::of(plain) == Content::Control {
                        self.side.message(&session, content, plain);
                    } else if self.side.admits_in(&session, plain) {
                        packets.push(plain.to_vec());
                    }
                }
                Err(refused) => self.side.count(Dropped::Record(refused), 1),
            }
        }

        let events = self.notes().into_iter().filter_map(|note| match note {
            Note::Message(message) => match message.said {
                Said::Record(content, plain) => {
                    self.pulse.handle_record(message.at, content, &plain)
                }
                Said::Echo(id) => self.pulse.handle_answer(message.at, id),
            },
            Note::Suspect | Note::Unwatched | Note::Looped | Note::PathMtu(_) => None,
        });
        (packets, events.collect())
    }

    fn notes(&mut self) -> Vec<Note> {
        std::iter::from_fn(|| self.notes.try_recv()).collect()
    }
}

async fn spoke(meta: &HubMeta) -> (Spoke, Hub) {
    let (socket, dialled, hub) = handshake().await;
    hub.say(ContentType::ApplicationData, &meta.emit()).await;
    let at = hub.socket.local_addr().unwrap();

    let mut pulse = open(socket, at, dialled, &terms()).await.unwrap();
    let (side, notes) = SpokeSide::new();
    pulse.greet(Instant::now());
    side.set(Arc::clone(pulse.session()));
    let spoke = Spoke { pulse, side, notes };

    (spoke, hub)
}

fn terms() -> Terms {
    Terms {
        peernet: ["192.168.1.0/24", "192.168.2.0/24"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
        mtu: None,
        keepalive: Duration::from_secs(25),
        offload: true,
        full: None,
    }
}

fn meta(ext: bool) -> HubMeta {
    HubMeta {
        addresses: Some(Addresses {
            local4: "10.0.0.2/24".parse().unwrap(),
            peer4: "10.0.0.1/24".parse().unwrap(),
            ip6: None,
        }),
        ext,
        ..HubMeta::default()
    }
}

#[tokio::test]
async fn nothing_is_sent_before_the_hubs_meta() {
    let (socket, dialled, hub) = handshake().await;
    let at = hub.socket.local_addr().unwrap();
    let terms = terms();
    let opening = open(socket, at, dialled, &terms);
    tokio::pin!(opening);

    tokio::select! {
        result = &mut opening => panic!("{result:?}"),
        () = hub.hears_nothing() => {}
    }
    hub.say(ContentType::ApplicationData, &meta(true).emit())
        .await;
    opening.await.unwrap();
}

#[tokio::test]
async fn a_meta_that_came_during_the_handshake_is_taken() {
    let (socket, mut dialled, hub) = handshake().await;
    dialled.early = vec![hub.record(ContentType::ApplicationData, &meta(true).emit())];
    let at = hub.socket.local_addr().unwrap();

    let pulse = open(socket, at, dialled, &terms()).await.unwrap();

    assert_eq!(pulse.session().addresses(), meta(true).addresses.unwrap());
}

#[tokio::test]
async fn a_hub_of_ours_gets_the_meta_until_it_has_it_and_again_for_each_copy() {
    let (mut spoke, mut hub) = spoke(&meta(true)).await;

    // The probe in the same datagram shows whether the meta came.
    let said = hub.hear().await;
    let answer = SpokeMeta::parse(&said[0]).unwrap();
    assert_eq!(answer.peernet, terms().peernet);
    let Ok(Control::Ping(first)) = Control::parse(&said[1]) else {
        panic!("no probe: {said:?}");
    };

    // Lost: both are said again.
    spoke.pulse.handle_timeout(Instant::now() + ANNOUNCE_EVERY);
    let said = hub.hear().await;
    assert_eq!(SpokeMeta::parse(&said[0]).unwrap(), answer);
    let Ok(Control::Ping(second)) = Control::parse(&said[1]) else {
        panic!("no probe: {said:?}");
    };
    assert!(second > first);

    let pong = hub.record(ContentType::ApplicationData, &Control::Pong(second).emit());
    let (_, events) = spoke.receive(pong);
    assert!(matches!(events[..], [Event::Rtt(_)]), "{events:?}");
    spoke.pulse.handle_timeout(Instant::now() + ANNOUNCE_EVERY);
    hub.hears_nothing().await;

    let copy = hub.record(ContentType::ApplicationData, &meta(true).emit());
    spoke.receive(copy);
    assert_eq!(SpokeMeta::parse(&hub.hear().await[0]).unwrap(), answer);
}

#[tokio::test]
async fn a_go_hub_gets_one_network_once_and_then_packets_only() {
    let (mut spoke, mut hub) = spoke(&meta(false)).await;

    let said = hub.hear().await;
    assert_eq!(said.len(), 1);
    assert_eq!(
        SpokeMeta::parse(&said[0]).unwrap().peernet,
        [terms().peernet[0]]
    );

    // Two keepalives and a copy of the meta later there are echoes, no JSON.
    let copy = hub.record(ContentType::ApplicationData, &meta(false).emit());
    let now = Instant::now();
    spoke.pulse.handle_timeout(now + Duration::from_secs(1));
    spoke.pulse.handle_timeout(now + Duration::from_secs(30));
    for _ in 0..2 {
        let said = hub.hear().await;
        assert!(
            said.iter().all(|plain| Content::of(plain) == Content::Ip4),
            "{said:?}"
        );
    }
    spoke.receive(copy);
    hub.hears_nothing().await;
}

#[tokio::test]
async fn only_our_own_echo_is_kept_from_the_device() {
    let (mut spoke, mut hub) = spoke(&meta(false)).await;
    hub.hear().await;
    spoke
        .pulse
        .handle_timeout(Instant::now() + Duration::from_secs(1));
    let mut ours = hub.hear().await.remove(0);
    let (source, destination) = ours[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    ours[20] = 0; // The type of a reply.
    let mut users = ours.clone();
    users[25] ^= 1; // Another identifier.

    let (packets, events) = spoke.receive(hub.record(ContentType::ApplicationData, &users));
    assert_eq!((packets.len(), events.len()), (1, 0));
    let (packets, events) = spoke.receive(hub.record(ContentType::ApplicationData, &ours));
    assert_eq!((packets.len(), events.len()), (0, 1));
}

#[tokio::test]
async fn what_does_not_authenticate_is_counted_and_changes_nothing() {
    let (mut spoke, hub) = spoke(&meta(true)).await;
    let goodbye = hub.record(ContentType::Alert, &Alert::CLOSE_NOTIFY.emit());
    let mut forged = goodbye.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;

    assert!(spoke.receive(forged).1.is_empty());
    assert_eq!(spoke.session().counters().refused.get(), 1);
    let mut plain = Vec::new();
    let alert = Alert::fatal(DECRYPT_ERROR).emit();
    emit_plaintext(ContentType::Alert, 9, &alert, &mut plain);
    assert!(spoke.receive(plain).1.is_empty());

    let (_, events) = spoke.receive(goodbye.clone());
    assert!(matches!(events[..], [Event::Goodbye]), "{events:?}");
    assert!(spoke.receive(goodbye).1.is_empty(), "a replay");
}

#[tokio::test]
async fn what_the_data_path_drops_is_counted_by_reason() {
    let (spoke, _hub) = spoke(&meta(true)).await;

    spoke.side.count(Dropped::Device, 2);
    spoke.side.count(Dropped::SocketFull, 1);

    assert_eq!(
        spoke.session().counters().to_string(),
        "unsent=1 undelivered=2"
    );
}

#[tokio::test]
async fn a_hub_that_gives_no_addresses_is_quoted() {
    let (socket, dialled, hub) = handshake().await;
    let full = HubMeta {
        error: Some("address pool 10.0.0.0/24 is full".to_owned()),
        ..HubMeta::default()
    };
    hub.say(ContentType::ApplicationData, &full.emit()).await;
    let at = hub.socket.local_addr().unwrap();

    let error = open(socket, at, dialled, &terms()).await.unwrap_err();

    assert_eq!(
        error.to_string(),
        "hub says: address pool 10.0.0.0/24 is full"
    );
}

#[tokio::test]
async fn our_own_datagram_and_what_stays_on_a_link_do_not_go_out() {
    let (mut spoke, mut hub) = spoke(&meta(true)).await;
    hub.hear().await;
    let mut looped = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    looped.extend([127, 0, 0, 1, 127, 0, 0, 1, 0x30, 0x39]);
    looped.extend(spoke.session().hub().port().to_be_bytes());
    looped.extend([0, 8, 0, 0]);
    let mut multicast = looped.clone();
    multicast[16..20].copy_from_slice(&[224, 0, 0, 251]);
    let mut other = looped.clone();
    other[22] ^= 1; // Another port.

    let session = Arc::clone(spoke.session());
    assert!(!spoke.side.admits_out(&session, &looped));
    assert!(!spoke.side.admits_out(&session, &looped));
    assert!(!spoke.side.admits_out(&session, &multicast));
    assert!(spoke.side.admits_out(&session, &other));

    hub.hears_nothing().await;
    assert_eq!(session.counters().to_string(), "link_scope=1 looped=2");
    assert!(matches!(spoke.notes()[..], [Note::Looped]), "told once");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_asked_for_and_then_watched_no_more() {
    let (mut spoke, mut hub) = spoke(&meta(true)).await;
    hub.hear().await;
    let pong = hub.record(ContentType::ApplicationData, &Control::Pong(1).emit());
    spoke.receive(pong);
    let session = Arc::clone(spoke.session());
    let association: &Association = (*session).as_ref();
    let sent = Instant::now();
    let at = |seconds| sent + Duration::from_secs(seconds);

    // What the data path does with a packet of the device.
    assert!(association.handle_sent(sent, 84));
    spoke.side.unwatched(&session);
    assert!(matches!(spoke.notes()[..], [Note::Unwatched]));
    spoke.pulse.watch(sent);
    assert_eq!(spoke.pulse.poll_timeout(), at(3));
    assert!(!association.handle_sent(at(1), 84), "it is watched");

    spoke.pulse.handle_timeout(at(3));
    let said = hub.hear().await;
    assert!(matches!(Control::parse(&said[0]), Ok(Control::Ping(2))));

    // The answer comes, and nothing but the keepalive is left.
    association.handle_record(at(4), &association.path());
    spoke.pulse.handle_timeout(at(4));
    assert_eq!(spoke.pulse.poll_timeout(), at(3 + 25));
    assert!(association.handle_sent(at(5), 84), "it is watched no more");
}

#[tokio::test]
async fn what_is_on_its_way_in_the_session_before_still_counts() {
    let (first, _hub) = spoke(&meta(true)).await;
    let (second, _hub) = spoke(&meta(true)).await;
    let of = |spoke: &Spoke| {
        let association: &Association = (**spoke.session()).as_ref();
        let (path, lane) = (association.path(), Arc::clone(association.lane()));
        first.side.session_of(&path, &lane)
    };
    let is = |found: Option<Arc<Session>>, spoke: &Spoke| {
        found.is_some_and(|found| Arc::ptr_eq(&found, spoke.session()))
    };

    first.side.set(Arc::clone(second.session()));
    assert!(is(of(&first), &first) && is(of(&second), &second));
    assert!(is(first.side.session_for(&()), &second));

    first.side.forget_former();
    assert!(of(&first).is_none() && is(of(&second), &second));
    first.side.clear();
    assert!(of(&second).is_none());
}

#[tokio::test]
async fn a_flood_of_forged_alerts_is_told_once_a_second() {
    let (mut spoke, hub) = spoke(&meta(true)).await;
    let mut alert = Vec::new();
    let content = Alert::fatal(DECRYPT_ERROR).emit();
    emit_plaintext(ContentType::Alert, 9, &content, &mut alert);
    let session = Arc::clone(spoke.session());
    let association: &Association = (*session).as_ref();

    for _ in 0..100 {
        let path = association.path();
        spoke
            .side
            .stray(&mut alert.clone(), &path, association.lane());
    }

    assert!(matches!(spoke.notes()[..], [Note::Suspect]));
    drop(hub);
}

const SOON: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(100);
