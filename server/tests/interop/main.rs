//! Foreign clients against the hub's handshake, on a real socket.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod built;
mod clients;
mod echo;
mod lossy;
mod relay;

use std::time::Duration;

use built::Built;
use clients::{Client, GnuTls, Library, OpenSsl};
use dtun_shared::dtls::CipherSuite;
use echo::{EchoHub, KEY};

#[test]
fn openssl_talks_in_every_suite() {
    talks_in_every_suite(&OpenSsl);
}

#[test]
fn gnutls_talks_in_every_suite() {
    talks_in_every_suite(&GnuTls);
}

#[test]
fn mbedtls_talks_in_every_suite() {
    talks_in_every_suite(&Built::mbedtls());
}

#[test]
fn pion_talks_in_every_suite() {
    talks_in_every_suite(&Built::pion());
}

#[test]
fn the_library_s_client_talks_in_every_suite() {
    talks_in_every_suite(&Library);
}

#[test]
fn clients_with_a_wrong_key_give_up_at_once() {
    let clients: [&dyn Client; 4] = [&OpenSsl, &GnuTls, &Built::mbedtls(), &Built::pion()];
    for client in clients {
        let hub = EchoHub::start();
        let answer = client.talk(hub.port(), "wrong key", CipherSuite::Ccm8, "hello", GIVE_UP);

        assert_eq!(answer, Err(clients::Failure::Ended), "{}", client.name());
        assert_eq!(hub.counters().rejected, 1, "{}", client.name());
        assert!(hub.sessions().is_empty());
    }
}

fn talks_in_every_suite(client: &dyn Client) {
    for suite in CipherSuite::ALL {
        let hub = EchoHub::start();
        let text = format!("over {suite} from {}", client.name());

        let answer = client.talk(hub.port(), KEY, suite, &text, PATIENCE);

        assert_eq!(answer, Ok(()), "{} in {suite}", client.name());
        let sessions = hub.sessions();
        assert_eq!(sessions.len(), 1, "{} in {suite}", client.name());
        assert_eq!(sessions[0], (clients::HINT.to_owned(), suite));
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// The alert comes after one second; without it the clients would try for
/// many more.
const GIVE_UP: Duration = Duration::from_secs(8);
