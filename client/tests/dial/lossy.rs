//! Foreign servers over a relay that loses a fifth of all datagrams, each way.

use std::time::{Duration, Instant};

use dtun_shared::dtls::CipherSuite;

use crate::relay::Relay;
use crate::server::Server;
use crate::session::{KEY, Session};

/// Ten dials, lost datagrams chosen by seed and index.
async fn succeeds(start: fn(CipherSuite) -> Server) {
    let mut dials = tokio::task::JoinSet::new();
    for seed in 0..10u64 {
        dials.spawn(async move {
            let server = start(CipherSuite::Ccm8);
            let mut random = seed;
            let relay = Relay::start(server.addr, move |_, datagram, out| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                if (random >> 33) % 100 >= 20 {
                    out.forward(datagram);
                }
            });
            let begun = Instant::now();

            let dialled = Session::try_dial(relay.addr, &[CipherSuite::Ccm8], KEY).await;

            (seed, dialled.err(), begun.elapsed())
        });
    }
    for (seed, error, took) in dials.join_all().await {
        assert!(error.is_none(), "seed {seed}: {error:?}");
        assert!(took < Duration::from_secs(9), "seed {seed}: {took:?}");
    }
}

#[tokio::test]
async fn openssl() {
    succeeds(Server::openssl).await;
}

#[tokio::test]
async fn gnutls() {
    succeeds(Server::gnutls).await;
}

#[tokio::test]
async fn mbedtls() {
    succeeds(Server::mbedtls).await;
}

#[tokio::test]
async fn pion() {
    succeeds(Server::pion).await;
}
