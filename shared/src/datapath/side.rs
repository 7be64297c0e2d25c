//! What the hub and the spoke decide for the data path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Lane;
use crate::association::Association;
use crate::dtls::header::ContentType;
use crate::packet::too_big::FarEnd;
use crate::record::Refused;
use crate::tun::Tun;
use crate::udp::Path;

/// The owner of sessions and devices. Workers call it, several at a time: it
/// must not block.
pub trait Side: Send + Sync + 'static {
    /// What stands beside each device.
    type Port: Send + Sync + 'static;
    type Session: AsRef<Association> + Send + Sync + 'static;

    /// Who takes the device's packets now.
    fn session_for(&self, port: &Self::Port) -> Option<Arc<Self::Session>>;

    /// Whether a packet of the device may go to the session; what it refuses it
    /// counts. A super-packet is asked about once.
    fn admits_out(&self, session: &Self::Session, packet: &[u8]) -> bool;

    /// A packet came from a device without a session.
    fn homeless(&self, port: &Self::Port, packet: &[u8]);

    /// The device was deleted, by whomever; once for each.
    fn device_gone(&self, port: &Self::Port);

    /// Packets have gone out and nobody watches whether an answer comes: see
    /// [`Association::handle_sent`].
    fn unwatched(&self, session: &Arc<Self::Session>);

    /// Whose records come along this path, by this socket.
    fn session_of(&self, path: &Path, lane: &Arc<Lane>) -> Option<Arc<Self::Session>>;

    /// Where the session's packets go; none while that is not known.
    fn device<'a>(&self, session: &'a Self::Session) -> Option<&'a Arc<Tun>>;

    /// Whether a packet of the session may go to its device; what it refuses or
    /// keeps for itself it counts.
    fn admits_in(&self, session: &Arc<Self::Session>, packet: &[u8]) -> bool;

    /// An authenticated record that carries no packet. False: the rest of the
    /// datagram is to be left unread.
    fn message(&self, session: &Arc<Self::Session>, content: ContentType, plain: &[u8]) -> bool;

    /// Any other datagram.
    fn stray(&self, datagram: &mut [u8], path: &Path, lane: &Arc<Lane>);

    /// The socket refused a message to the session, or said an error that may
    /// be of an earlier one.
    fn socket_error(&self, association: Option<&Association>, error: &io::Error);

    /// A datagram to `peer` was too large for its path: the own link's, or a
    /// router's that said its MTU in bytes. Anyone may have said so.
    fn path_mtu(&self, peer: SocketAddr, mtu: Option<u32>);

    /// Who tells senders in the tunnel that a packet is too big.
    fn far_end(&self, session: &Self::Session) -> Option<FarEnd>;

    fn count(&self, dropped: Dropped, packets: usize);
}

/// Why the data path dropped packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A record was refused.
    Record(Refused),
    /// A datagram or its rest is no record.
    Malformed,
    /// A protected record that has no place in a session.
    OutOfPlace,
    /// An application record with neither a packet nor a message.
    NotIp,
    /// A packet some of whose records did not come.
    Torn,
    /// The device took no packet.
    Device,
    /// A device's packet that is malformed.
    NotCut,
    /// A packet is larger than the path, and its sender was told.
    TooBig,
    /// The session's sequence numbers are used up.
    Exhausted,
    /// The socket's queue was full.
    SocketFull,
    /// The socket refused the datagram.
    Unsent,
    /// A session without a device.
    NoDevice,
    /// The outer header says congestion to packets that cannot say so.
    Congestion,
}
