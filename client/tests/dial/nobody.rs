//! Dials that must fail, and what they say.

use std::time::{Duration, Instant};

use dtun_client::dial::DialError;
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::{ContentType, records};

use crate::relay::Relay;
use crate::server::{Server, free_address};
use crate::session::Session;

async fn fails(hub: std::net::SocketAddr, key: &str) -> (DialError, Duration) {
    let begun = Instant::now();
    let error = Session::try_dial(hub, &CipherSuite::ALL, key)
        .await
        .err()
        .expect("there is no session to be had");

    (error, begun.elapsed())
}

#[tokio::test]
async fn a_closed_port_is_told_from_silence() {
    let (error, _) = fails(free_address(), "any").await;

    assert!(
        matches!(error, DialError::Unreachable { refused: true }),
        "{error:?}"
    );
}

#[tokio::test]
async fn silence_ends_after_ten_seconds() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();

    let (error, took) = fails(silent.local_addr().unwrap(), "any").await;

    assert!(
        matches!(error, DialError::Unreachable { refused: false }),
        "{error:?}"
    );
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(12)).contains(&took),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_wrong_key_is_said_soon_when_the_server_says_so() {
    let server = Server::mbedtls(CipherSuite::Ccm8);

    let (error, took) = fails(server.addr, "wrong").await;

    assert!(
        matches!(error, DialError::NotAccepted { alert: Some(_) }),
        "{error:?}"
    );
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[tokio::test]
async fn a_wrong_key_is_said_when_the_server_is_silent_about_it() {
    let server = Server::mbedtls(CipherSuite::Ccm8);
    let relay = Relay::start(server.addr, |_, datagram, out| {
        let alert = records(datagram).any(|(header, _)| header.content == ContentType::Alert);
        if !alert {
            out.forward(datagram);
        }
    });

    let (error, _) = fails(relay.addr, "wrong").await;

    assert!(
        matches!(error, DialError::NotAccepted { alert: None }),
        "{error:?}"
    );
}
