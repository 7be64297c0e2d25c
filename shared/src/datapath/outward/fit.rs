//! How a packet goes along a path that may be smaller than it.

use std::io::IoSlice;
use std::time::Instant;

use super::Route;
use crate::association::Association;
use crate::datapath::outbox::Outer;
use crate::datapath::side::{Dropped, Side};
use crate::packet::ecn;
use crate::packet::segment::NotCut;
use crate::packet::too_big::{self, Fit};
use crate::packet::vnet::{Gso, VnetHeader};

/// The way of one packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// The largest packet to cut a run into.
    pub(super) limit: usize,
    pub(super) outer: Outer,
    /// What becomes of packets larger than the path carries.
    pub(super) pieces: Option<Pieces>,
}

/// A packet cut here, as nobody on the way can, or need, do it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    /// Largest packet that the path carries.
    pub(super) limit: usize,
    /// The packet itself may be fragmented; else it goes in several records.
    pub(super) fragments: bool,
}

/// Which way a packet goes.
pub(super) fn way(
    header: VnetHeader,
    packet: &[u8],
    association: &Association,
) -> Result<Way, NotCut> {
    let limit = association.limit();
    let len = match header.gso {
        Gso::None => packet.len(),
        // A stream is cut to fit.
        Gso::Tcp4 | Gso::Tcp6 => packet.len().min(limit),
        Gso::Udp => usize::from(header.csum_start) + UDP_HEADER + usize::from(header.gso_size),
    };
    let (pieces, df) = match too_big::fit(packet, len, limit) {
        Fit::Whole => (None, true),
        // Nobody on the way fragments IPv6, so nothing is won without DF.
        Fit::Pieces if len <= limit => (None, association.is_over_ip6()),
        Fit::Pieces => {
            let fragments = too_big::may_fragment(packet);
            // To another peer it goes where our kernel knows the path's MTU.
            let pieces =
                (fragments || association.takes_parts()).then_some(Pieces { limit, fragments });
            (pieces, pieces.is_some() && association.is_over_ip6())
        }
        Fit::TooBig => return Err(NotCut::TooBig),
    };
    let ecn = ecn::outer(ecn::of(packet));

    Ok(Way {
        limit: limit.max(len),
        outer: Outer { ecn, df },
        pieces,
    })
}

/// Tells the sender of a packet what the path carries.
pub(super) fn answer<S: Side>(route: &Route<'_, S>, packet: &[u8], limit: usize) {
    let Route { side, tun, session } = *route;
    side.count(Dropped::TooBig, 1);
    let answer = side
        .far_end(session)
        .and_then(|far_end| too_big::answer(packet, limit, &far_end))
        .filter(|_| session.as_ref().as_ref().may_answer(Instant::now()));
    if let Some(answer) = answer
        && let Err(error) = tun.try_send(VnetHeader::PLAIN, &[IoSlice::new(&answer)])
    {
        tracing::debug!(%error, "sender not told that its packet is too big");
    }
}

const UDP_HEADER: usize = 8;
