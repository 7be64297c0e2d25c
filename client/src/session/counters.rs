//! What a session dropped, by reason.

use std::fmt;
use std::sync::atomic::Ordering;

use dtun_shared::datapath::Dropped;
use portable_atomic::AtomicU64;

/// Packets and records that went nowhere; any thread counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Records that do not authenticate, are old or malformed.
    pub(crate) refused: Counter,
    /// Content that is neither a packet nor a message.
    pub(crate) unknown: Counter,
    /// Packets in several records, not all of which came.
    pub(crate) torn: Counter,
    /// Datagrams that the socket did not take.
    pub(crate) unsent: Counter,
    /// Packets that the device did not take.
    pub(crate) undelivered: Counter,
    /// Packets that the path does not carry whole; their senders were told.
    pub(crate) too_big: Counter,
    /// Packets that met congestion and could not say so (RFC 6040).
    pub(crate) congested: Counter,
    /// Packets of a link's own: multicast and link-local.
    pub(crate) link_scope: Counter,
    /// Our own datagrams, read from our own device.
    pub(crate) looped: Counter,
    /// Packets to where the hub has no way; their senders were told.
    pub(crate) no_route: Counter,
    /// Messages of the hub that came faster than they were read.
    pub(crate) unread: Counter,
}

impl Counters {
    /// Counts what the data path dropped.
    pub(crate) fn count(&self, dropped: Dropped, packets: usize) {
        let counter = match dropped {
            Dropped::Record(_) | Dropped::Malformed | Dropped::OutOfPlace => &self.refused,
            Dropped::NotIp | Dropped::NotCut => &self.unknown,
            Dropped::Torn => &self.torn,
            Dropped::Device | Dropped::NoDevice => &self.undelivered,
            Dropped::TooBig => &self.too_big,
            Dropped::Exhausted | Dropped::SocketFull | Dropped::Unsent => &self.unsent,
            Dropped::Congestion => &self.congested,
        };
        counter.add(packets);
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for (name, counter) in [
            ("refused", &self.refused),
            ("unknown", &self.unknown),
            ("torn", &self.torn),
            ("unsent", &self.unsent),
            ("undelivered", &self.undelivered),
            ("too_big", &self.too_big),
            ("congested", &self.congested),
            ("link_scope", &self.link_scope),
            ("looped", &self.looped),
            ("no_route", &self.no_route),
            ("unread", &self.unread),
        ] {
            let count = counter.get();
            if count > 0 {
                write!(f, "{}{name}={count}", if any { " " } else { "" })?;
                any = true;
            }
        }

        if any { Ok(()) } else { f.write_str("none") }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
