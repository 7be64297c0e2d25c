//! From the secrets of a handshake to a session that stands: waiting for the
//! hub's meta and answering it.
//!
//! Nothing is sent before the meta came. The hub says it again only to a
//! spoke that is silent, and the Go program takes the first record for our
//! answer.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dtun_shared::association::Association;
use dtun_shared::datapath::Lane;
use dtun_shared::dtls::alert::Alert;
use dtun_shared::dtls::header::{ContentType, RecordHeader};
use dtun_shared::dtls::{CipherSuite, RECORD_HEADER};
use dtun_shared::link;
use dtun_shared::meta::{Content, HubMeta, MetaError, SpokeMeta};
use dtun_shared::record::{Opener, Sealer};
use dtun_shared::udp::{DialSocket, Path, is_hearsay};
use ipnet::{IpNet, Ipv6Net};
use portable_atomic::AtomicU64;

use super::pulse::ends_session;
use super::{Counters, Heartbeat, Pulse, Refusals, Session};
use crate::dial::Dialled;
use crate::hint::random;
use crate::tunnel::{common_mtu, own_mtu};

/// What the spoke brings to a session.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) peernet: Vec<IpNet>,
    /// The inner MTU that the user asked for.
    pub(crate) mtu: Option<u16>,
    pub(crate) keepalive: Duration,
    /// Let the kernel cut what is sent and gather what comes.
    pub(crate) offload: bool,
    /// Where everything is routed into the tunnel, what is named beside it.
    pub(crate) full: Option<Vec<IpNet>>,
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

/// Waits for the hub's meta and answers it.
///
/// The socket leaves the runtime with the session: the data path's threads
/// wait for its datagrams.
pub(crate) async fn open(
    socket: DialSocket,
    hub: SocketAddr,
    dialled: Dialled,
    terms: &Terms,
) -> Result<Pulse, NotOpened> {
    let suite = dialled.secrets.suite;
    let keys = dialled.secrets.keys();
    let sealer = Arc::new(Sealer::new(suite, &keys.client, 1, dialled.next_seq));
    let mut opener = Opener::new(suite, &keys.server, 1);

    let wait = match suite {
        CipherSuite::Ccm8 => META_ONCE,
        CipherSuite::Gcm | CipherSuite::Ccm => META_REPEATED,
    };
    let first_meta = first_meta(&socket, &mut opener, dialled.early);
    let mut meta = tokio::time::timeout(wait, first_meta)
        .await
        .unwrap_or(Err(NotOpened::NoMeta))?;
    let Some(mut addresses) = meta.addresses else {
        say_goodbye(&socket, &sealer);
        return Err(NotOpened::Refused(meta.error.unwrap_or_default()));
    };
    if !link::takes_ip6() {
        meta.out6 = false;
        addresses.ip6 = None;
    }

    let now = Instant::now();
    let path = Path {
        peer: hub,
        local: None,
    };
    let packets = socket.for_packets()?;
    if !terms.offload {
        packets.set_offload(false)?;
    }
    drop(socket);
    let route = packets
        .route_mtu()
        .inspect_err(|error| tracing::debug!(%error, "MTU of the route unknown"));
    let own = own_mtu(terms.mtu, route.ok(), hub.ip(), suite);
    let lane = Arc::new(Lane::new(packets)?);
    let association = Association::new(suite, sealer, opener, path, lane, now);
    if meta.ext {
        association.widen();
    }
    if meta.parts {
        association.allow_parts();
    }
    let session = Session {
        association,
        hub,
        answer: answer(&meta, terms, own).emit(),
        mtu: common_mtu(own, meta.mtu),
        echo: (!meta.ext).then(|| Heartbeat {
            id: random() as u16,
            newest: AtomicU64::new(0),
        }),
        since: now,
        nets6: nets6(terms, &meta, addresses.ip6.is_some()),
        refusals: Refusals::default(),
        device: OnceLock::new(),
        counters: Counters::default(),
        meta,
        addresses,
    };

    Ok(Pulse::new(now, session, terms.keepalive))
}

/// What can be reached by IPv6 where the hub has no way out for it; none where
/// it has, or the spoke's other networks are no matter of the tunnel's.
fn nets6(terms: &Terms, meta: &HubMeta, has_ip6: bool) -> Option<Vec<Ipv6Net>> {
    let nets = terms.full.as_ref()?;
    if !has_ip6 {
        return Some(Vec::new());
    }
    let of6 = |net: &IpNet| match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(*net),
    };

    (meta.ext && !meta.out6).then(|| nets.iter().filter_map(of6).collect())
}

async fn first_meta(
    socket: &DialSocket,
    opener: &mut Opener,
    early: Vec<Vec<u8>>,
) -> Result<HubMeta, NotOpened> {
    for mut record in early {
        if let Some(meta) = meta_in(opener, &mut record)? {
            return Ok(meta);
        }
    }
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        let len = match socket.recv(&mut buf).await {
            Ok(len) => len,
            // Anyone can forge what says so; the deadline decides.
            Err(error) if is_hearsay(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(meta) = meta_in(opener, &mut buf[..len])? {
            return Ok(meta);
        }
    }
}

/// The meta among the records of a datagram.
fn meta_in(opener: &mut Opener, mut datagram: &mut [u8]) -> Result<Option<HubMeta>, NotOpened> {
    while let Some((_, record, rest)) = split_record(datagram) {
        datagram = rest;
        let Ok((content, plain)) = opener.open(record) else {
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

/// The first record of a datagram, and what follows it.
pub(crate) fn split_record(datagram: &mut [u8]) -> Option<(RecordHeader, &mut [u8], &mut [u8])> {
    let header = RecordHeader::parse(datagram)?;
    let (record, rest) = datagram.split_at_mut_checked(RECORD_HEADER + header.len)?;

    Some((header, record, rest))
}

/// A goodbye that is lost costs the hub an idle session for a while.
fn say_goodbye(socket: &DialSocket, sealer: &Sealer) {
    let mut datagram = Vec::new();
    let sealed = sealer.seal(
        ContentType::Alert,
        &Alert::CLOSE_NOTIFY.emit(),
        &mut datagram,
    );
    let sent = sealed
        .map_err(std::io::Error::other)
        .and_then(|()| socket.try_send(&datagram));
    if let Err(error) = sent {
        tracing::debug!(%error, "failed to say goodbye");
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
        parts: hub.ext,
        mtu: hub.ext.then_some(mtu),
    }
}

/// A hub of ours says its meta up to six times, every three seconds.
const META_REPEATED: Duration = Duration::from_secs(17);

/// A hub that speaks only this suite may be the Go program, which says it once,
/// after it has run `ip` three times.
const META_ONCE: Duration = Duration::from_secs(4);

const MAX_DATAGRAM: usize = 65_535;
