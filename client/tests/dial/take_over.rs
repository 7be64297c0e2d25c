//! The facts about the library that taking a session over rests on, and that
//! it leaves nothing behind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::{ContentType, RecordHeader, records};
use dtun_shared::dtls::message::{ClientHello, HandshakeType, MESSAGE_HEADER, ServerHello};
use dtun_shared::dtls::schedule::{MasterSecret, Secrets};
use dtun_shared::record::Opener;
use tokio::net::UdpSocket;
use webrtc_dtls::conn::DTLSConn;

use crate::library::{Library, config};
use crate::relay::Relay;
use crate::server::Server;
use crate::session::Session;

/// Every record that passed, in order.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Passed>>>);

#[derive(Clone)]
struct Passed {
    from_server: bool,
    header: RecordHeader,
    body: Vec<u8>,
}

impl Wire {
    fn note(&self, from_server: bool, datagram: &[u8]) {
        let mut wire = self.0.lock().unwrap();
        wire.extend(records(datagram).map(|(header, body)| Passed {
            from_server,
            header,
            body: body.to_vec(),
        }));
    }

    fn records(&self) -> Vec<Passed> {
        self.0.lock().unwrap().clone()
    }

    /// The last message of a kind, without its header.
    fn message(&self, kind: HandshakeType) -> Vec<u8> {
        self.records()
            .iter()
            .rfind(|passed| {
                (passed.header.epoch, passed.header.content) == (0, ContentType::Handshake)
                    && passed.body[0] == kind.byte()
            })
            .map(|passed| passed.body[MESSAGE_HEADER..].to_vec())
            .expect("the message passed")
    }

    fn sent_in_epoch_1(&self, content: ContentType) -> Vec<u64> {
        self.records()
            .iter()
            .filter(|passed| !passed.from_server && passed.header.epoch == 1)
            .filter(|passed| passed.header.content == content)
            .map(|passed| passed.header.seq)
            .collect()
    }
}

/// Runs the library's client itself, without what stands around it in `dial`.
#[tokio::test]
async fn the_library_tells_its_secrets_and_counts_from_its_finished() {
    for suite in CipherSuite::ALL {
        let server = Library::start(suite, &[]).await;
        let wire = Wire::default();
        let noted = wire.clone();
        let relay = Relay::start(server.addr, move |from_server, datagram, out| {
            noted.note(from_server, datagram);
            out.forward(datagram);
        });
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(relay.addr).await.unwrap();
        let client = DTLSConn::new(Arc::new(socket), config(suite), true, None)
            .await
            .unwrap();

        let log = client.connection_state().await.key_log_data().unwrap();
        client.write(b"one record", None).await.unwrap();
        let mut buf = [0; 64];
        client.read(&mut buf, None).await.unwrap(); // It has passed and come back.

        let hello = wire.message(HandshakeType::ClientHello);
        let answer = wire.message(HandshakeType::ServerHello);
        let hello = ClientHello::parse(&hello).unwrap();
        let answer = ServerHello::parse(&answer).unwrap();
        assert_eq!(log.local_random, hello.random);
        assert_eq!(log.remote_random, answer.random);
        assert_eq!(answer.suite, suite.code());
        assert!(answer.extended_master_secret);

        let finished = wire.sent_in_epoch_1(ContentType::Handshake);
        let written = wire.sent_in_epoch_1(ContentType::ApplicationData);
        assert_eq!(written, [finished.iter().max().unwrap() + 1]);

        let secrets = Secrets {
            suite,
            master_secret: MasterSecret::new(log.master_secret.try_into().unwrap()),
            client_random: hello.random,
            server_random: answer.random,
        };
        let mut opener = Opener::new(suite, &secrets.keys().client, 1);
        let passed = wire.records();
        let record = passed
            .iter()
            .find(|passed| passed.header.content == ContentType::ApplicationData)
            .unwrap();
        let mut whole = Vec::new();
        record.header.emit(&mut whole);
        whole.extend_from_slice(&record.body);
        let (_, plain) = opener.open(&mut whole).unwrap();
        assert_eq!(plain, b"one record");
    }
}

#[tokio::test]
async fn no_number_is_used_twice_when_the_finished_was_repeated() {
    let server = Server::openssl(CipherSuite::Gcm);
    let wire = Wire::default();
    let noted = wire.clone();
    let mut lost = 0;
    let relay = Relay::start(server.addr, move |from_server, datagram, out| {
        noted.note(from_server, datagram);
        let protected = records(datagram).any(|(header, _)| header.epoch == 1);
        if from_server && protected && lost < 3 {
            lost += 1;
        } else {
            out.forward(datagram);
        }
    });

    let mut session = Session::dial(relay.addr, CipherSuite::Gcm).await;
    session.echo("a record\n").await;

    let finished = wire.sent_in_epoch_1(ContentType::Handshake);
    assert!(finished.len() > 3, "{finished:?}");
    assert_eq!(
        wire.sent_in_epoch_1(ContentType::ApplicationData),
        [finished.iter().max().unwrap() + 1]
    );
}

#[tokio::test]
async fn nothing_more_is_sent_when_the_library_is_gone() {
    let server = Library::start(CipherSuite::Gcm, &["hello"]).await;
    let wire = Wire::default();
    let noted = wire.clone();
    let relay = Relay::start(server.addr, move |from_server, datagram, out| {
        noted.note(from_server, datagram);
        out.forward(datagram);
    });

    let mut session = Session::dial(relay.addr, CipherSuite::Gcm).await;
    assert_eq!(session.hear().await, "hello");
    let sent = |wire: &Wire| {
        wire.records()
            .iter()
            .filter(|passed| !passed.from_server)
            .count()
    };
    let before = sent(&wire);
    session.say("a record");
    assert_eq!(session.hear().await, "a record");
    drop(session);
    // Three of the library's intervals: what it still had to say it would say.
    tokio::time::sleep(Duration::from_millis(750)).await;

    assert_eq!(sent(&wire), before + 1);
    let alerts = wire
        .records()
        .iter()
        .filter(|passed| passed.header.content == ContentType::Alert)
        .count();
    assert_eq!(alerts, 0);
}
