//! What became of datagrams and packets that were not passed on.

use std::fmt;
use std::sync::atomic::Ordering;

use dtun_shared::datapath;
use dtun_shared::record::Refused;
use portable_atomic::AtomicU64;

/// One counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; REASONS.len()]);

impl Counters {
    pub(crate) fn count(&self, reason: Dropped) {
        self.add(reason, 1);
    }

    pub(crate) fn add(&self, reason: Dropped, count: usize) {
        self.0[reason as usize].fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The counters that moved, as `reason=count`.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (counter, (_, name)) in self.0.iter().zip(REASONS) {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                write!(f, "{separator}{name}={count}")?;
                separator = " ";
            }
        }

        if separator.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// Why something was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// No well-formed record, or none that a peer of ours sends.
    Malformed,
    /// A record of an epoch that the session does not have.
    WrongEpoch,
    Duplicate,
    Stale,
    Forged,
    /// A plaintext record, or one of a content type that has no business here.
    OutOfPlace,
    /// From an address without session and handshake.
    NoSession,
    /// Neither IP nor control.
    NotIp,
    /// A packet in several records, not all of which came.
    Torn,
    /// Control message that does not parse.
    BadControl,
    /// From a spoke without a lease, or before it was given.
    NoLease,
    /// The inner source is neither the lease's nor in the peernet.
    ForeignSource,
    /// Link-local or multicast, in either direction.
    LinkScope,
    /// To another spoke, which the owner forbids.
    SpokeToSpoke,
    /// The device took no packet.
    Device,
    /// For a lease without a session.
    NoSpoke,
    /// The socket was full.
    SocketFull,
    /// The network refused the datagram.
    Unsent,
    /// The keys are used up.
    Exhausted,
    /// Larger than the path carries; its sender was told.
    TooBig,
    /// The path said congestion to a packet that cannot say so (RFC 6040).
    Congestion,
    /// The hub's loop was behind.
    Backlog,
}

impl From<datapath::Dropped> for Dropped {
    fn from(dropped: datapath::Dropped) -> Self {
        match dropped {
            datapath::Dropped::Record(refused) => refused.into(),
            datapath::Dropped::Malformed | datapath::Dropped::NotCut => Self::Malformed,
            datapath::Dropped::OutOfPlace => Self::OutOfPlace,
            datapath::Dropped::NotIp => Self::NotIp,
            datapath::Dropped::Torn => Self::Torn,
            datapath::Dropped::Device => Self::Device,
            datapath::Dropped::TooBig => Self::TooBig,
            datapath::Dropped::Exhausted => Self::Exhausted,
            datapath::Dropped::SocketFull => Self::SocketFull,
            datapath::Dropped::Unsent => Self::Unsent,
            datapath::Dropped::NoDevice => Self::NoLease,
            datapath::Dropped::Congestion => Self::Congestion,
        }
    }
}

impl From<Refused> for Dropped {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed => Self::Malformed,
            Refused::WrongEpoch => Self::WrongEpoch,
            Refused::Duplicate => Self::Duplicate,
            Refused::Stale => Self::Stale,
            Refused::Forged => Self::Forged,
        }
    }
}

/// In the order of [`Dropped`].
const REASONS: [(Dropped, &str); 22] = [
    (Dropped::Malformed, "malformed"),
    (Dropped::WrongEpoch, "wrong_epoch"),
    (Dropped::Duplicate, "duplicate"),
    (Dropped::Stale, "stale"),
    (Dropped::Forged, "forged"),
    (Dropped::OutOfPlace, "out_of_place"),
    (Dropped::NoSession, "no_session"),
    (Dropped::NotIp, "not_ip"),
    (Dropped::Torn, "torn"),
    (Dropped::BadControl, "bad_control"),
    (Dropped::NoLease, "no_lease"),
    (Dropped::ForeignSource, "foreign_source"),
    (Dropped::LinkScope, "link_scope"),
    (Dropped::SpokeToSpoke, "spoke_to_spoke"),
    (Dropped::Device, "device"),
    (Dropped::NoSpoke, "no_spoke"),
    (Dropped::SocketFull, "socket_full"),
    (Dropped::Unsent, "unsent"),
    (Dropped::Exhausted, "exhausted"),
    (Dropped::TooBig, "too_big"),
    (Dropped::Congestion, "congestion"),
    (Dropped::Backlog, "backlog"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_counts_under_its_own_name() {
        for (index, (reason, name)) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let counters = Counters::default();
            counters.count(reason);
            assert_eq!(counters.to_string(), format!("{name}=1"));
        }
    }
}
