//! Each foreign server in each suite: handshake, records both ways, and the
//! loss of its final flight.

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::header::{ContentType, records};

use crate::relay::Relay;
use crate::server::Server;
use crate::session::Session;

async fn talks(start: fn(CipherSuite) -> Server) {
    for suite in CipherSuite::ALL {
        let server = start(suite);
        let mut session = Session::dial(server.addr, suite).await;

        for text in ["a record\n", "and another\n"] {
            session.echo(text).await;
        }
    }
}

/// The server repeats its final flight when the spoke's comes again.
async fn survives_the_loss_of_the_final_flight(start: fn(CipherSuite) -> Server) {
    let server = start(CipherSuite::Ccm8);
    let mut lost = 0;
    let relay = Relay::start(server.addr, move |from_server, datagram, out| {
        let is_final = records(datagram)
            .any(|(header, _)| header.epoch == 1 && header.content == ContentType::Handshake);
        if from_server && is_final && lost < 2 {
            lost += 1;
        } else {
            out.forward(datagram);
        }
    });

    let mut session = Session::dial(relay.addr, CipherSuite::Ccm8).await;

    session.echo("a record\n").await;
}

#[tokio::test]
async fn openssl_talks_in_all_suites() {
    talks(Server::openssl).await;
}

#[tokio::test]
async fn gnutls_talks_in_all_suites() {
    talks(Server::gnutls).await;
}

#[tokio::test]
async fn mbedtls_talks_in_all_suites() {
    talks(Server::mbedtls).await;
}

#[tokio::test]
async fn pion_greets_and_talks_in_all_suites() {
    for suite in CipherSuite::ALL {
        let server = Server::pion(suite);
        let mut session = Session::dial(server.addr, suite).await;

        assert_eq!(session.hear().await, "hello");
        session.echo("a record").await;
    }
}

#[tokio::test]
async fn openssl_repeats_its_final_flight() {
    survives_the_loss_of_the_final_flight(Server::openssl).await;
}

#[tokio::test]
async fn gnutls_repeats_its_final_flight() {
    survives_the_loss_of_the_final_flight(Server::gnutls).await;
}

#[tokio::test]
async fn mbedtls_repeats_its_final_flight() {
    survives_the_loss_of_the_final_flight(Server::mbedtls).await;
}

#[tokio::test]
async fn pion_repeats_its_final_flight() {
    survives_the_loss_of_the_final_flight(Server::pion).await;
}
