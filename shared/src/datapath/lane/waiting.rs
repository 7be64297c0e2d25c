//! What waits at a socket that is full, and what is lost there.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::association::Association;
use crate::datapath::backlog::Backlog;
use crate::datapath::outbox::Outer;
use crate::datapath::pace::Pace;
use crate::datapath::side::Dropped;
use crate::packet::vnet::VnetHeader;
use crate::udp::Path;

#[derive(Debug)]
pub(super) struct Waiting {
    /// Sealed already: they go first, and as they are.
    pub(super) held: VecDeque<Held>,
    pub(super) backlog: Backlog<Queued>,
    pub(super) pace: Pace,
    /// Whether the data path waits for room.
    pub(super) is_watched: bool,
    /// Nobody waits for room any more.
    pub(super) is_over: bool,
}

/// A sealed message.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) path: Path,
    pub(super) contents: Vec<u8>,
    pub(super) segment: usize,
    pub(super) outer: Outer,
}

impl Held {
    /// How many datagrams it is.
    pub(super) fn count(&self) -> usize {
        self.contents.len().div_ceil(self.segment.max(1))
    }
}

/// What stands beside a packet that waits.
#[derive(Clone)]
pub(in crate::datapath) struct Queued {
    pub(in crate::datapath) session: Arc<dyn Carrier>,
    pub(in crate::datapath) header: VnetHeader,
}

/// A session of whichever side.
pub(in crate::datapath) trait Carrier: Send + Sync {
    fn association(&self) -> &Association;
}

impl<T: AsRef<Association> + Send + Sync> Carrier for T {
    fn association(&self) -> &Association {
        self.as_ref()
    }
}

impl fmt::Debug for Queued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// Packets and datagrams that were lost here and are still to be counted.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// For want of room.
    full: AtomicUsize,
    /// The socket refused them, or was taken away.
    unsent: AtomicUsize,
}

impl Lost {
    pub(super) fn for_want_of_room(&self, count: usize) {
        add(&self.full, count);
    }

    pub(super) fn refused(&self, count: usize) {
        add(&self.unsent, count);
    }

    /// What was lost since the last call.
    pub(super) fn take(&self) -> impl Iterator<Item = (Dropped, usize)> {
        [
            (Dropped::SocketFull, &self.full),
            (Dropped::Unsent, &self.unsent),
        ]
        .into_iter()
        .filter(|(_, lost)| lost.load(Ordering::Relaxed) > 0)
        .map(|(why, lost)| (why, lost.swap(0, Ordering::Relaxed)))
    }
}

fn add(lost: &AtomicUsize, count: usize) {
    if count > 0 {
        lost.fetch_add(count, Ordering::Relaxed);
    }
}
