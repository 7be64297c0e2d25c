//! What the benches need of the inside.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use dtun_shared::datapath::Lane;
use dtun_shared::dtls::CipherSuite;
use dtun_shared::dtls::schedule::{DirectionKey, MasterSecret, Secrets};
use dtun_shared::record::{Opener, Sealer};
use dtun_shared::udp::Path;
use dtun_shared::udp::socket::UdpSocket;

use crate::handshake::Established;
use crate::session::{Session, Sessions};

/// A hub's sessions, to be looked up.
#[derive(Debug)]
pub struct Demux(Sessions);

impl Demux {
    /// A session for each of the peers.
    ///
    /// # Errors
    ///
    /// The socket's.
    pub fn new(peers: &[SocketAddr]) -> io::Result<Self> {
        let socket = UdpSocket::listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let lane = Arc::new(Lane::new(socket)?);
        let sessions = Sessions::default();
        for (serial, &peer) in peers.iter().enumerate() {
            let path = Path { peer, local: None };
            let established = established(peer);
            let session = Session::new(
                serial as u64,
                established,
                path,
                Arc::clone(&lane),
                Instant::now(),
            );
            sessions.insert(&Arc::new(session));
        }

        Ok(Self(sessions))
    }

    /// Finds the session of a datagram as the data path does; its number.
    #[must_use]
    pub fn find(&self, peer: SocketAddr) -> Option<u64> {
        self.0.of_peer(peer).map(|session| session.serial)
    }
}

/// What a handshake with this peer might have ended with; its address is the hint.
pub(crate) fn established(peer: SocketAddr) -> Established {
    let suite = CipherSuite::Gcm;
    let key = DirectionKey::new([1; 16], [2; 4]);

    Established {
        peer,
        hint: peer.to_string(),
        secrets: Secrets {
            suite,
            client_random: [1; 32],
            server_random: [2; 32],
            master_secret: MasterSecret::new([3; 48]),
        },
        sealer: Arc::new(Sealer::new(suite, &key, 1, 0)),
        opener: Opener::new(suite, &key, 1),
        only_ccm8: false,
    }
}
