//! What a stranger puts into a handshake in progress. It succeeds all the same.

use std::sync::{Arc, Mutex};

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::{ContentType, RecordHeader, emit_plaintext, records};
use dtun_shared::dtls::message::{Fragment, HandshakeType, HelloVerifyRequest, emit_message};
use dtun_shared::dtls::{DTLS_1_2, RECORD_HEADER};

use crate::library::Library;
use crate::relay::{Out, Relay};
use crate::server::Server;
use crate::session::Session;

/// Dials the library's server through a relay that forges, and talks.
async fn succeeds(
    greetings: &'static [&'static str],
    policy: impl FnMut(bool, &[u8], &mut Out) + Send + 'static,
) {
    let server = Library::start(CipherSuite::Ccm8, greetings).await;
    let relay = Relay::start(server.addr, policy);

    let mut session = Session::dial(relay.addr, CipherSuite::Ccm8).await;

    for greeting in greetings {
        assert_eq!(session.hear().await, *greeting);
    }
    session.echo("a record").await;
}

#[tokio::test]
async fn alerts() {
    succeeds(&[], |from_server, datagram, out| {
        if !from_server {
            for alert in [[2, 40], [1, 0], [2, 51], [2, 115]] {
                out.back(&plaintext(ContentType::Alert, &alert));
            }
        }
        out.forward(datagram);
    })
    .await;
}

#[tokio::test]
async fn stale_flights() {
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&recorded);
    succeeds(&["stale"], move |from_server, datagram, out| {
        // A HelloVerifyRequest is a matter of its own.
        if from_server && !is_message(datagram, HandshakeType::HelloVerifyRequest) {
            recorder.lock().unwrap().push(datagram.to_vec());
        }
        out.forward(datagram);
    })
    .await;
    let stale = recorded.lock().unwrap().clone();
    assert!(stale.len() >= 3);

    let mut hellos = 0;
    succeeds(&["fresh"], move |from_server, datagram, out| {
        hellos += usize::from(is_message(datagram, HandshakeType::ClientHello));
        // A second hello waits for the very flight that is stale: only a fresh
        // socket protects it.
        if !from_server && (hellos == 1 || epoch_1(datagram, ContentType::Handshake)) {
            stale.iter().for_each(|datagram| out.back(datagram));
        }
        out.forward(datagram);
    })
    .await;
}

/// mbedTLS answers hellos without state, under the number of the hello; a
/// server with state gives up on a wrong cookie.
#[tokio::test]
async fn a_wrong_hello_verify_request() {
    let server = Server::mbedtls(CipherSuite::Ccm8);
    let mut forged = false;
    let relay = Relay::start(server.addr, move |from_server, datagram, out| {
        if !from_server && !forged {
            forged = true;
            let mut body = Vec::new();
            HelloVerifyRequest { cookie: &[7; 32] }.emit(&mut body);
            out.back(&message(HandshakeType::HelloVerifyRequest, 0, &body));
        }
        out.forward(datagram);
    });

    let mut session = Session::dial(relay.addr, CipherSuite::Ccm8).await;

    session.echo("a record").await;
}

#[tokio::test]
async fn header_only_fragments() {
    succeeds(&[], |from_server, datagram, out| {
        if !from_server {
            for message_seq in (0..4).cycle().take(400) {
                for (kind, total, body) in [
                    (HandshakeType::ServerHello, 100, &[][..]),
                    (HandshakeType::ServerHello, 4096, &[1]),
                    (HandshakeType::ServerHelloDone, 1, &[]),
                ] {
                    let mut fragment = Vec::new();
                    Fragment {
                        kind,
                        total,
                        message_seq,
                        offset: 0,
                        body,
                    }
                    .emit(&mut fragment);
                    out.back(&plaintext(ContentType::Handshake, &fragment));
                }
            }
        }
        out.forward(datagram);
    })
    .await;
}

#[tokio::test]
async fn handshake_messages_out_of_their_turn() {
    succeeds(&[], |from_server, datagram, out| {
        if !from_server {
            for message_seq in 0..4 {
                for (kind, body) in [
                    (HandshakeType::HelloRequest, &[][..]),
                    (HandshakeType::ServerHelloDone, &[]),
                    (HandshakeType::ServerKeyExchange, &[0, 0]),
                    (HandshakeType::ServerKeyExchange, &[]),
                    (HandshakeType::CertificateRequest, &[0]),
                    (HandshakeType::ClientKeyExchange, &[]),
                    (HandshakeType::Finished, &[0; 12]),
                    (HandshakeType::ServerHello, &[0xFE]),
                    (HandshakeType::HelloVerifyRequest, &[0xFE]),
                    (HandshakeType::Other(99), &[1, 2, 3]),
                ] {
                    // The true flight has a ServerKeyExchange or none: one
                    // that is forged but well-formed makes another transcript.
                    let plausible = message_seq == 2 && body == [0, 0];
                    if !plausible {
                        out.back(&message(kind, message_seq, body));
                    }
                }
            }
        }
        out.forward(datagram);
    })
    .await;
}

#[tokio::test]
async fn change_cipher_spec_and_garbage_finished() {
    succeeds(&[], |from_server, datagram, out| {
        if !from_server {
            out.back(&plaintext(ContentType::ChangeCipherSpec, &[1]));
            for seq in 0..10 {
                out.back(&garbage(ContentType::Handshake, seq));
                out.back(&garbage(ContentType::ApplicationData, seq));
                out.back(&garbage(ContentType::Alert, seq));
            }
        }
        out.forward(datagram);
    })
    .await;
}

/// Each is no forgery but an overtaking: the library's client hangs on two.
#[tokio::test]
async fn application_records_between_change_cipher_spec_and_finished() {
    let mut held = Vec::new();
    let mut overtaken = 0;
    succeeds(
        &["one", "two", "three"],
        move |from_server, datagram, out| {
            if !from_server {
                return out.forward(datagram);
            }
            if epoch_1(datagram, ContentType::Handshake) {
                for record in split(datagram) {
                    if record[0] == ContentType::ChangeCipherSpec.byte() {
                        out.forward(&record);
                    } else {
                        held.push(record);
                    }
                }
                return;
            }
            out.forward(datagram);
            overtaken += usize::from(epoch_1(datagram, ContentType::ApplicationData));
            if overtaken == 3 {
                held.drain(..).for_each(|record| out.forward(&record));
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_final_flight_without_its_change_cipher_spec() {
    succeeds(&[], move |from_server, datagram, out| {
        if from_server && epoch_1(datagram, ContentType::Handshake) {
            let finished = split(datagram).pop().unwrap();
            return out.forward(&finished);
        }
        out.forward(datagram);
    })
    .await;
}

fn plaintext(content: ContentType, body: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    emit_plaintext(content, 1 << 40, body, &mut datagram);

    datagram
}

fn message(kind: HandshakeType, message_seq: u16, body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    emit_message(kind, message_seq, body, &mut whole);

    plaintext(ContentType::Handshake, &whole)
}

fn garbage(content: ContentType, seq: u64) -> Vec<u8> {
    let body = [0x5A; 40];
    let mut datagram = Vec::new();
    RecordHeader {
        content,
        version: DTLS_1_2,
        epoch: 1,
        seq,
        len: body.len(),
    }
    .emit(&mut datagram);
    datagram.extend_from_slice(&body);

    datagram
}

fn epoch_1(datagram: &[u8], content: ContentType) -> bool {
    records(datagram).any(|(header, _)| header.epoch == 1 && header.content == content)
}

fn is_message(datagram: &[u8], kind: HandshakeType) -> bool {
    records(datagram).any(|(header, body)| {
        (header.epoch, header.content) == (0, ContentType::Handshake) && body[0] == kind.byte()
    })
}

fn split(datagram: &[u8]) -> Vec<Vec<u8>> {
    records(datagram)
        .map(|(header, body)| {
            let mut record = Vec::with_capacity(RECORD_HEADER + body.len());
            header.emit(&mut record);
            record.extend_from_slice(body);
            record
        })
        .collect()
}
