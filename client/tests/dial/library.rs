//! The library's own server, in this process, which echoes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use dtun_shared::dtls::CipherSuite;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::Config;
use webrtc_dtls::conn::DTLSConn;

use crate::session::{HINT, KEY};

pub(crate) struct Library {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Library {
    /// Serves one client, and greets it as soon as its own handshake is done.
    pub(crate) async fn start(suite: CipherSuite, greetings: &'static [&'static str]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();

        Self {
            addr: socket.local_addr().unwrap(),
            task: tokio::spawn(serve(socket, suite, greetings)),
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A configuration of the library for either side.
pub(crate) fn config(suite: CipherSuite) -> Config {
    Config {
        psk: Some(Arc::new(|_hint: &[u8]| {
            Box::pin(async { Ok(KEY.as_bytes().to_vec()) })
        })),
        psk_identity_hint: Some(HINT.as_bytes().to_vec()),
        cipher_suites: vec![match suite {
            CipherSuite::Gcm => CipherSuiteId::Tls_Psk_With_Aes_128_Gcm_Sha256,
            CipherSuite::Ccm => CipherSuiteId::Tls_Psk_With_Aes_128_Ccm,
            CipherSuite::Ccm8 => CipherSuiteId::Tls_Psk_With_Aes_128_Ccm_8,
        }],
        ..Config::default()
    }
}

async fn serve(socket: UdpSocket, suite: CipherSuite, greetings: &[&str]) {
    let peer = socket.peek_sender().await.unwrap();
    socket.connect(peer).await.unwrap();
    let connection = DTLSConn::new(Arc::new(socket), config(suite), false, None)
        .await
        .unwrap();

    for greeting in greetings {
        connection.write(greeting.as_bytes(), None).await.unwrap();
    }
    let mut buf = vec![0; 2048];
    while let Ok(len) = connection.read(&mut buf, None).await {
        connection.write(&buf[..len], None).await.unwrap();
    }
}
