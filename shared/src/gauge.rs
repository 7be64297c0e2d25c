//! Keeps the limit of an association what its path carries: sends a
//! [`Prober`]'s probes, and lets the data path have the outcome.
//!
//! Whoever watches over the peer owns it and calls it with the peer's other
//! timers. While nothing is sent it has none of its own.

use std::io;
use std::time::{Duration, Instant};

use crate::association::{Association, NotSent};
use crate::meta::Control;
use crate::pmtu::{Probe, Prober, carried, overhead};

/// The measure of one association's path.
#[derive(Debug)]
pub struct Gauge {
    prober: Prober,
    /// The last large packet when the prober was last told of traffic: small
    /// ones pass whatever the path carries.
    used: Option<Instant>,
    /// When want of answers last had the path looked at.
    looked: Option<Instant>,
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
        let mut gauge = Self {
            prober,
            used: None,
            looked: None,
        };
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
        let heard = association.heard();
        let wants_use = self.prober.wants_use().filter(|_| heard.large > self.used);
        let stall = wants_use.and(self.stall(heard.stalled));

        [self.prober.poll_timeout(), wants_use, stall]
            .into_iter()
            .flatten()
            .min()
    }

    /// Sends what is due.
    pub fn handle_timeout(&mut self, now: Instant, association: &Association) {
        let heard = association.heard();
        if heard.large > self.used
            && let Some(at) = self.prober.wants_use()
        {
            if now >= at {
                self.used = heard.large;
                self.prober.used(now);
            } else if self.stall(heard.stalled).is_some_and(|at| now >= at) {
                self.used = heard.large;
                self.looked = Some(now);
                self.prober.suspect(now);
            }
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

    /// When packets will have gone without an answer for so long that they may
    /// be too large.
    fn stall(&self, since: Option<Instant>) -> Option<Instant> {
        since.map(|since| self.looked.map_or(since, |at| at.max(since)) + STALL)
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

/// Longer than a connection waits for an answer on a path that carries it,
/// shorter than the silence that a peer is asked after.
const STALL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::datapath::Lane;
    use crate::dtls::CipherSuite;
    use crate::dtls::schedule::DirectionKey;
    use crate::record::{Opener, Sealer};
    use crate::udp::Path;
    use crate::udp::socket::UdpSocket;

    /// A peer that has answered the first probes, `zero` then.
    fn measured(zero: Instant) -> (Association, Gauge) {
        let suite = CipherSuite::Gcm;
        let key = DirectionKey::new([1; 16], [2; 4]);
        let socket = UdpSocket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let association = Association::new(
            suite,
            Arc::new(Sealer::new(suite, &key, 1, 0)),
            Opener::new(suite, &key, 1),
            Path {
                peer: "127.0.0.1:9".parse().unwrap(),
                local: None,
            },
            Arc::new(Lane::new(socket).unwrap()),
            zero,
        );
        let mut gauge = Gauge::new(zero, &association, 1435, true);
        for id in [1, 2] {
            gauge.answered(zero, &association, id);
        }
        assert_eq!(gauge.poll_timeout(&association), None);

        (association, gauge)
    }

    #[test]
    fn large_packets_without_an_answer_have_the_path_looked_at() {
        let zero = Instant::now();
        let at = |seconds| zero + Duration::from_secs(seconds);
        let (association, mut gauge) = measured(zero);

        association.handle_sent(at(1), 1400);
        association.handle_sent(at(2), 1400);
        assert_eq!(gauge.poll_timeout(&association), Some(at(3)));

        gauge.handle_timeout(at(3), &association);
        let round = gauge.poll_timeout(&association).unwrap();
        assert!(at(3) < round && round < at(4));
    }

    #[test]
    fn packets_that_nobody_answers_have_it_looked_at_now_and_then() {
        let zero = Instant::now();
        let (association, mut gauge) = measured(zero);
        let mut now = zero;
        let mut looks = 0;
        while now < zero + Duration::from_secs(60) {
            now += Duration::from_millis(10);
            association.handle_sent(now, 1400);
            while gauge.poll_timeout(&association).is_some_and(|at| now >= at) {
                looks += 1;
                gauge.handle_timeout(now, &association);
                for id in 0..200 {
                    gauge.answered(now, &association, id);
                }
            }
        }

        assert!((20..=40).contains(&looks), "{looks}");
    }

    #[test]
    fn what_is_answered_is_confirmed_from_time_to_time() {
        let zero = Instant::now();
        let at = |seconds| zero + Duration::from_secs(seconds);
        let (association, gauge) = measured(zero);

        association.handle_sent(at(1), 1400);
        association.handle_packet();

        assert_eq!(gauge.poll_timeout(&association), Some(at(10)));
    }

    #[test]
    fn small_packets_are_no_reason_to_look() {
        let zero = Instant::now();
        let (association, gauge) = measured(zero);

        association.handle_sent(zero + Duration::from_secs(1), 84);

        assert_eq!(gauge.poll_timeout(&association), None);
    }
}
