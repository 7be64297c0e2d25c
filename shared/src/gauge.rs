//! Keeps the limit of an association what its path carries: sends a
//! [`Prober`]'s probes, and lets the data path have the outcome.
//!
//! Whoever watches over the peer owns it and calls it with the peer's other
//! timers. While nothing is sent it has none of its own.

use std::io;
use std::time::Instant;

use crate::association::{Association, NotSent};
use crate::meta::Control;
use crate::pmtu::{Probe, Prober, carried, overhead};

/// The measure of one association's path.
#[derive(Debug)]
pub struct Gauge {
    prober: Prober,
    /// The last packet when the prober was last told of traffic.
    used: Option<Instant>,
}

impl Gauge {
    /// Begins to measure. `max` is the device's MTU; `answers` says whether the
    /// peer is one of ours, which answers probes.
    #[must_use]
    pub fn new(now: Instant, association: &Association, max: u16, answers: bool) -> Self {
        let overhead = overhead(association.path().peer.ip(), association.suite());
        let prober = if answers {
            Prober::new(now, max, overhead)
        } else {
            Prober::foreign(now, max, overhead)
        };
        let mut gauge = Self { prober, used: None };
        gauge.handle_timeout(now, association);

        gauge
    }

    /// The device's MTU is another.
    pub fn restart(&mut self, now: Instant, association: &Association, max: u16) {
        self.prober.restart(now, max);
        self.handle_timeout(now, association);
    }

    /// When [`Self::handle_timeout`] wants to be called, as far as is known.
    #[must_use]
    pub fn poll_timeout(&self, association: &Association) -> Option<Instant> {
        let has_traffic = association.heard().sent > self.used;
        let wants_use = has_traffic.then(|| self.prober.wants_use()).flatten();

        self.prober
            .poll_timeout()
            .into_iter()
            .chain(wants_use)
            .min()
    }

    /// Sends what is due.
    pub fn handle_timeout(&mut self, now: Instant, association: &Association) {
        let sent = association.heard().sent;
        if sent > self.used && self.prober.wants_use().is_some_and(|at| now >= at) {
            self.used = sent;
            self.prober.used(now);
        }
        while let Some(Probe { id, size }) = self.prober.handle_timeout(now) {
            match association.send_whole(&Control::Probe(id).padded(size.into())) {
                Ok(()) => {}
                Err(NotSent::Io(error)) if is_too_big(&error) => self.prober.refused(now, id),
                // As if it were lost on the way.
                Err(error) => tracing::debug!(%error, "probe of the path not sent"),
            }
        }

        let limit = usize::from(self.prober.limit());
        if limit != association.limit() {
            tracing::debug!(peer = %association.path().peer, limit, "the path carries");
            association.set_limit(limit);
        }
    }

    /// The peer has got a probe, as an authenticated record says.
    pub fn answered(&mut self, now: Instant, association: &Association, id: u64) {
        self.prober.answered(now, id);
        self.handle_timeout(now, association);
    }

    /// A datagram was too large for the own link, or for a router's whose MTU
    /// is `outer` bytes; anyone may have said so.
    pub fn path_mtu(&mut self, now: Instant, association: &Association, outer: Option<u32>) {
        match outer {
            Some(outer) => {
                let peer = association.path().peer.ip();
                self.prober
                    .hint(now, carried(outer, peer, association.suite()));
            }
            None => self.prober.suspect(now),
        }
        self.handle_timeout(now, association);
    }
}

fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}
