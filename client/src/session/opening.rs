//! From the secrets of a handshake to a session that stands: waiting for the
//! hub's meta and answering it.
//!
//! Nothing is sent before the meta came. The hub says it again only to a
//! spoke that is silent, and the Go program takes the first record for our
//! answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::alert::Alert;
use dtun_shared::dtls::header::ContentType;
use dtun_shared::link;
use dtun_shared::meta::{Content, HubMeta, MetaError, SpokeMeta};
use dtun_shared::record::{Opener, Sealer};
use dtun_shared::udp::UdpSocket;
use ipnet::IpNet;

use super::wire::{Wire, split_record};
use super::{Counters, Heartbeat, Session, ends_session};
use crate::dial::Dialled;
use crate::hint::random;
use crate::liveness::Liveness;
use crate::tunnel::own_mtu;

/// What the spoke brings to a session.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) peernet: Vec<IpNet>,
    /// The inner MTU that the user asked for.
    pub(crate) mtu: Option<u16>,
    /// MTUs of the routes to hubs, in bytes.
    pub(crate) routes: Vec<(IpAddr, u32)>,
    pub(crate) keepalive: Duration,
}

impl Terms {
    fn mtu_towards(&self, hub: IpAddr, suite: CipherSuite) -> u16 {
        let route = self.routes.iter().find(|(ip, _)| *ip == hub);

        own_mtu(self.mtu, route.map(|(_, outer)| *outer), hub, suite)
    }
}

/// Why there is no session after a good handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    #[error("it sent no addresses")]
    NoMeta,
    #[error("hub's first message cannot be used: {0}")]
    BadMeta(#[from] MetaError),
    #[error("hub says: {0}")]
    Refused(String),
    #[error("it closed the session at once")]
    Closed,
    #[error("socket failed: {0}")]
    Io(#[from] std::io::Error),
}

impl Session {
    /// Waits for the hub's meta and answers it.
    pub(crate) async fn open(
        socket: Arc<UdpSocket>,
        hub: SocketAddr,
        dialled: Dialled,
        terms: &Terms,
    ) -> Result<Self, NotOpened> {
        let suite = dialled.secrets.suite;
        let keys = dialled.secrets.keys();
        let mut wire = Wire {
            socket,
            hub,
            suite,
            sealer: Sealer::new(suite, &keys.client, 1, dialled.next_seq),
            opener: Opener::new(suite, &keys.server, 1),
            opened: 0,
            out: Vec::with_capacity(2048),
        };

        let wait = match suite {
            CipherSuite::Ccm8 => META_ONCE,
            CipherSuite::Gcm | CipherSuite::Ccm => META_REPEATED,
        };
        let mut meta = tokio::time::timeout(wait, wire.first_meta(dialled.early))
            .await
            .unwrap_or(Err(NotOpened::NoMeta))?;
        let Some(mut addresses) = meta.addresses else {
            // A goodbye that is lost costs the hub an idle session for a while.
            if let Err(error) = wire.send(ContentType::Alert, &[&Alert::CLOSE_NOTIFY.emit()]) {
                tracing::debug!(%error, "failed to say goodbye");
            }
            return Err(NotOpened::Refused(meta.error.unwrap_or_default()));
        };
        if !link::takes_ip6() {
            meta.out6 = false;
            addresses.ip6 = None;
        }

        let now = Instant::now();
        let mut session = Self {
            wire,
            live: Liveness::new(now, terms.keepalive, meta.ext),
            heartbeat: if meta.ext {
                Heartbeat::Control
            } else {
                Heartbeat::Echo {
                    id: random() as u16,
                    newest: 0,
                }
            },
            answer: answer(&meta, terms, terms.mtu_towards(hub.ip(), suite)).emit(),
            announce: None,
            since: now,
            rtt: None,
            counters: Counters::default(),
            meta,
            addresses,
        };
        session.greet(now);

        Ok(session)
    }

    /// Answers the hub's meta and starts measuring.
    fn greet(&mut self, now: Instant) {
        match self.heartbeat {
            Heartbeat::Control => self.announce(now),
            Heartbeat::Echo { .. } => {
                let answer = self.answer.clone();
                self.message(now, &answer);
                // An echo that overtook the meta would be taken for it.
                self.announce = Some(now + AFTER_META);
            }
        }
    }
}

impl Wire {
    async fn first_meta(&mut self, early: Vec<Vec<u8>>) -> Result<HubMeta, NotOpened> {
        for mut record in early {
            if let Some(meta) = self.meta_in(&mut record)? {
                return Ok(meta);
            }
        }
        let mut buf = vec![0; MAX_DATAGRAM];
        loop {
            let len = match self.socket.recv(&mut buf).await {
                Ok((len, _)) => len,
                // Anyone can forge what says so; the deadline decides.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(meta) = self.meta_in(&mut buf[..len])? {
                return Ok(meta);
            }
        }
    }

    /// The meta among the records of a datagram.
    fn meta_in(&mut self, mut datagram: &mut [u8]) -> Result<Option<HubMeta>, NotOpened> {
        while let Some((_, record, rest)) = split_record(datagram) {
            datagram = rest;
            let Ok((content, plain)) = self.open(record) else {
                continue;
            };
            match content {
                ContentType::ApplicationData if Content::of(plain) == Content::Control => {
                    return Ok(Some(HubMeta::parse(plain)?));
                }
                ContentType::Alert if Alert::parse(plain).is_some_and(ends_session) => {
                    return Err(NotOpened::Closed);
                }
                ContentType::ApplicationData
                | ContentType::Alert
                | ContentType::Handshake
                | ContentType::ChangeCipherSpec => {}
            }
        }

        Ok(None)
    }
}

/// Our meta, cut down to what this hub understands.
fn answer(hub: &HubMeta, terms: &Terms, mtu: u16) -> SpokeMeta {
    let room = if hub.ext { usize::MAX } else { 1 };
    let peernet = terms.peernet.iter().take(room).copied().collect();

    SpokeMeta {
        peernet,
        malformed: Vec::new(),
        ext: hub.ext,
        mtu: hub.ext.then_some(mtu),
    }
}

/// A hub of ours says its meta up to six times, every three seconds.
const META_REPEATED: Duration = Duration::from_secs(17);

/// A hub that speaks only this suite may be the Go program, which says it once,
/// after it has run `ip` three times.
const META_ONCE: Duration = Duration::from_secs(4);

const AFTER_META: Duration = Duration::from_millis(200);
const MAX_DATAGRAM: usize = 65_535;
