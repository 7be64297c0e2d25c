//! How large a packet the path to a peer carries whole (RFC 8899). Pure: no
//! clock, no socket.
//!
//! A probe is a control message in a record of exactly the size that an inner
//! packet of that length makes, sent with the outer DF on; the peer answers it
//! with a short one. All sizes here are those of inner packets, in bytes.
//!
//! The start is optimistic: packets may be as large as the device's MTU, and
//! that size is probed at once, together with one that any sane path carries.
//! Probes go out in rounds, several sizes side by side, and a size counts as
//! too large only when three tries of it stay unanswered while a smaller one
//! of the same round is answered: so silence and a lost probe change nothing,
//! and a path that swallows ICMP is known within two seconds.
//!
//! Timers run during a round alone. After it [`Prober::poll_timeout`] is none,
//! and whoever looks after the session's heartbeat calls [`Prober::used`] when
//! packets have been sent: only then is the limit confirmed again, and a higher
//! one tried from time to time. An idle session causes no probe.
//!
//! An ICMP error that names an MTU is never believed towards a peer that
//! answers probes: anyone on the way, and with luck anyone at all, can forge
//! one (RFC 8899, section 4.6). It starts a round that has its size among
//! others. From a foreign peer no better word can be had, so there the kernel's
//! hint is taken, but never below what IPv6 asks of every path (RFC 8201,
//! section 4): a forger can cost no more than that, and only for ten minutes.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

mod round;
mod sizes;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use round::Round;
use sizes::Ladder;

pub use sizes::{carried, overhead};

/// The search for the path's limit, one for each association.
#[derive(Debug)]
pub struct Prober {
    /// Whether the peer answers probes.
    answers: bool,
    ladder: Ladder,
    /// The device's MTU.
    max: u16,
    limit: u16,
    round: Option<Round>,
    /// Probes that may still be answered, the oldest first.
    open: VecDeque<Open>,
    next_id: u64,
    /// When the last round ended.
    checked: Instant,
    /// When a larger size was last found not to pass.
    refused: Instant,
    /// What the next use of the path is to clear up.
    doubt: Option<Doubt>,
}

/// A probe to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub id: u64,
    /// Bytes of the message.
    pub size: u16,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    id: u64,
    size: u16,
    sent: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// The whole of the last round stayed unanswered.
    Silence,
    /// A hint came too soon after a round, or a suspicion without a size.
    Hint(Option<u16>),
}

impl Prober {
    /// For a peer of ours, `now` up: the first round is due at once. `max` is
    /// the device's MTU, `overhead` what a datagram has besides the packet
    /// ([`overhead`]).
    #[must_use]
    pub fn new(now: Instant, max: u16, overhead: u16) -> Self {
        let mut prober = Self::foreign(now, max, overhead);
        prober.answers = true;
        prober.begin_search(now);

        prober
    }

    /// For a peer that answers no probes: never sends one, and takes hints.
    #[must_use]
    pub fn foreign(now: Instant, max: u16, overhead: u16) -> Self {
        Self {
            answers: false,
            ladder: Ladder::new(overhead),
            max,
            limit: max,
            round: None,
            open: VecDeque::new(),
            next_id: 1,
            checked: now,
            refused: now,
            doubt: None,
        }
    }

    /// The largest packet that the path carries whole, as far as is known.
    #[must_use]
    pub fn limit(&self) -> u16 {
        self.limit
    }

    /// The path or the device's MTU is another: what was known is in doubt.
    pub fn restart(&mut self, now: Instant, max: u16) {
        self.max = max;
        self.open.clear();
        self.round = None;
        if self.answers {
            self.limit = self.limit.min(max);
            self.begin_search(now);
        } else {
            self.limit = max;
        }
    }

    /// Packets were sent since the last call. To be called with the heartbeat
    /// while there is traffic, and when traffic begins; cheap.
    pub fn used(&mut self, now: Instant) {
        if self.wants_use().is_none_or(|at| now < at) {
            return;
        }
        let may_rise = self.limit < self.max && now >= self.refused + RAISE_EVERY;
        match self.doubt {
            _ if !self.answers => self.limit = self.max,
            Some(Doubt::Silence) => self.begin_search(now),
            None if may_rise => self.begin_raise(now),
            Some(Doubt::Hint(hint)) => self.begin_check(now, hint),
            None => self.begin_check(now, None),
        }
    }

    /// When [`Self::used`] has something to do, if there is traffic until then.
    #[must_use]
    pub fn wants_use(&self) -> Option<Instant> {
        let raise = (self.limit < self.max).then(|| self.refused + RAISE_EVERY);
        if !self.answers {
            return raise;
        }
        if self.round.is_some() {
            return None;
        }
        let check = self.checked
            + match self.doubt {
                Some(Doubt::Silence) => SILENCE_RETRY,
                Some(Doubt::Hint(_)) => HINT_SPACING,
                None => CONFIRM_EVERY,
            };

        Some(raise.map_or(check, |raise| raise.min(check)))
    }

    /// Something that need not be true speaks of lost packets.
    pub fn suspect(&mut self, now: Instant) {
        self.doubt_limit(now, None);
    }

    /// The kernel passed on that the path carries packets of `size` bytes
    /// only, from an ICMP error that anyone may have sent.
    pub fn hint(&mut self, now: Instant, size: u16) {
        if size >= self.limit {
            return; // Says nothing new (RFC 8899, section 4.6.2).
        }
        if self.answers {
            self.doubt_limit(now, Some(size));
        } else {
            self.limit = size.max(self.ladder.base()).min(self.max);
            self.refused = now;
        }
    }

    /// The peer has got a probe, as an authenticated record says.
    pub fn answered(&mut self, now: Instant, id: u64) {
        let Some(at) = self.open.iter().position(|open| open.id == id) else {
            return;
        };
        let Some(Open { size, sent, .. }) = self.open.remove(at) else {
            return;
        };
        if size <= self.max {
            self.limit = self.limit.max(size);
        }
        let Some(round) = &mut self.round else {
            return;
        };

        round.answered(now, size, now.saturating_duration_since(sent));
        if round.is_decided() {
            self.end_round(now);
        }
    }

    /// The socket did not take a probe, as it is larger than the own link
    /// carries: no need to try it again.
    pub fn refused(&mut self, now: Instant, id: u64) {
        let Some(open) = self.open.iter().find(|open| open.id == id).copied() else {
            return;
        };
        self.open.retain(|other| other.id != id);
        let Some(round) = &mut self.round else {
            return;
        };
        round.refused(open.size);
        if round.is_decided() {
            self.end_round(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called; none between rounds.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.round.as_ref().map(Round::poll_timeout)
    }

    /// Does what is due; to be called again while it returns something.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Probe> {
        if self.round.as_ref().is_some_and(|round| round.is_over(now)) {
            self.end_round(now);
        }
        let size = self.round.as_mut()?.next(now)?;

        let id = self.next_id;
        self.next_id += 1;
        if self.open.len() == MOST_OPEN {
            self.open.pop_front();
        }
        self.open.push_back(Open {
            id,
            size,
            sent: now,
        });
        Some(Probe { id, size })
    }

    fn doubt_limit(&mut self, now: Instant, hint: Option<u16>) {
        if !self.answers {
            return;
        }
        if let Some(round) = &mut self.round {
            if let Some(size) = hint.filter(|&size| size >= LEAST) {
                round.hint(size);
            }
            return;
        }
        if now < self.checked + HINT_SPACING {
            self.doubt = match self.doubt {
                None | Some(Doubt::Hint(None)) => Some(Doubt::Hint(hint)),
                known => known,
            };
            return;
        }
        self.begin_check(now, hint);
    }

    /// From nothing known: the most, and what any path should carry.
    fn begin_search(&mut self, now: Instant) {
        let sizes = self.ladder.between(LEAST.min(self.max), self.max);
        let first = vec![self.ladder.base().min(self.max), self.max];
        self.begin(now, first, sizes, None);
    }

    /// Whether the limit still holds; if not, what does.
    fn begin_check(&mut self, now: Instant, hint: Option<u16>) {
        let mut sizes = self.ladder.between(LEAST.min(self.limit), self.limit);
        let mut first = vec![self.limit];
        if let Some(hint) = hint.filter(|&hint| hint >= LEAST) {
            first.insert(0, hint);
            sizes.push(hint);
        }
        self.begin(now, first, sizes, None);
    }

    fn begin_raise(&mut self, now: Instant) {
        let sizes = self.ladder.between(self.limit, self.max);
        self.begin(now, sizes.clone(), sizes, None);
    }

    /// Between a size that passes and one that does not.
    fn begin_refinement(&mut self, now: Instant, passes: u16, fails: u16) {
        let step = (fails - passes).div_ceil(SPLIT);
        let sizes: Vec<_> = (passes..fails).step_by(step.into()).collect();
        self.begin(now, sizes.clone(), sizes, Some(fails));
    }

    fn begin(&mut self, now: Instant, first: Vec<u16>, sizes: Vec<u16>, ceiling: Option<u16>) {
        self.doubt = None;
        self.round = Some(Round::new(now, first, sizes, ceiling));
    }

    fn end_round(&mut self, now: Instant) {
        let Some(round) = self.round.take() else {
            return;
        };
        self.checked = now;
        let Some(passed) = round.passed() else {
            self.doubt = Some(Doubt::Silence);
            return;
        };
        self.limit = passed.min(self.max);
        let Some(fails) = round.fails() else {
            return;
        };
        self.refused = now;
        if fails - passed > GRAIN {
            self.begin_refinement(now, passed, fails);
        }
    }
}

/// Smallest limit, in bytes: what every host takes (RFC 791, section 3.1).
const LEAST: u16 = 576;

/// A difference, in bytes, that is not worth another round.
const GRAIN: u16 = 8;

/// Parts that a round of refinement divides its range into.
const SPLIT: u16 = 4;

/// While there is traffic. A path that shrinks and says nothing of it stops
/// large packets for this long where others go on. Where a tenth of the
/// datagrams is lost, one in a thousand checks finds too little.
const CONFIRM_EVERY: Duration = Duration::from_secs(10);

/// PMTU_RAISE_TIMER of RFC 8899, section 5.1.1; RFC 8201, section 5.3 too.
const RAISE_EVERY: Duration = Duration::from_secs(600);

/// Between rounds that forged hints can cause.
const HINT_SPACING: Duration = Duration::from_secs(1);

/// After a round without any answer.
const SILENCE_RETRY: Duration = Duration::from_secs(3);

/// Probes that a late answer is still taken for.
const MOST_OPEN: usize = 64;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
mod tests;
