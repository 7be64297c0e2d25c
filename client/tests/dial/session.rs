//! A session that has been taken over: what the spoke's loop would do with it.

use std::net::SocketAddr;
use std::time::Duration;

use dtun_client::dial::{DialError, Dialled, dial};
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::RECORD_HEADER;
use dtun_shared::dtls::header::{ContentType, records};
use dtun_shared::dtls::schedule::Psk;
use dtun_shared::record::{Opener, Sealer};
use dtun_shared::udp::DialSocket;

/// The key of every server in these tests.
pub(crate) const KEY: &str = "correct horse";

pub(crate) const HINT: &str = "spoke-1";

pub(crate) struct Session {
    socket: DialSocket,
    sealer: Sealer,
    opener: Opener,
    pub(crate) early: Vec<Vec<u8>>,
}

impl Session {
    pub(crate) async fn dial(hub: SocketAddr, suite: CipherSuite) -> Self {
        Self::try_dial(hub, &[suite], KEY).await.unwrap()
    }

    pub(crate) async fn try_dial(
        hub: SocketAddr,
        suites: &[CipherSuite],
        key: &str,
    ) -> Result<Self, DialError> {
        let socket = DialSocket::connect(hub).unwrap();
        let psk = Psk::new(key).unwrap();
        let Dialled {
            secrets,
            next_seq,
            early,
        } = dial(&socket, &psk, HINT, suites).await?;
        let keys = secrets.keys();

        Ok(Self {
            socket,
            sealer: Sealer::new(secrets.suite, &keys.client, 1, next_seq),
            opener: Opener::new(secrets.suite, &keys.server, 1),
            early,
        })
    }

    pub(crate) fn say(&self, text: &str) {
        let mut record = Vec::new();
        self.sealer
            .seal(ContentType::ApplicationData, text.as_bytes(), &mut record)
            .unwrap();
        self.socket.try_send(&record).unwrap();
    }

    /// The next thing the server says.
    pub(crate) async fn hear(&mut self) -> String {
        tokio::time::timeout(Duration::from_secs(5), self.next_text())
            .await
            .expect("the server says something within 5 s")
    }

    /// Says something and waits until it comes back.
    pub(crate) async fn echo(&mut self, text: &str) {
        self.say(text);
        while self.hear().await.trim_end() != text.trim_end() {}
    }

    async fn next_text(&mut self) -> String {
        let mut buf = vec![0; 65_535];
        loop {
            let datagram = if self.early.is_empty() {
                let len = self.socket.recv(&mut buf).await.unwrap();
                buf[..len].to_vec()
            } else {
                self.early.remove(0)
            };
            if let Some(text) = self.open(&datagram) {
                return text;
            }
        }
    }

    fn open(&mut self, datagram: &[u8]) -> Option<String> {
        let (header, _) = records(datagram).next()?;
        let mut record = datagram[..RECORD_HEADER + header.len].to_vec();
        let (content, plain) = self.opener.open(&mut record).ok()?;

        (content == ContentType::ApplicationData)
            .then(|| String::from_utf8(plain.to_vec()).unwrap())
    }
}
