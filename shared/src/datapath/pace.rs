//! How much a socket may hold: a few milliseconds of what its link drains.
//!
//! The kernel counts what a socket has sent and no device has yet let go of:
//! in the socket, the qdisc and the device's ring. Below the limit on it,
//! `SO_SNDBUF`, sends go through; above, they wait, and once half has drained
//! the socket is writable again. So a small limit keeps the queue out of the
//! kernel, where a ping waits behind all of it, and in the fair
//! [`Backlog`](super::backlog::Backlog).
//!
//! The rate is measured while a send waits: nothing is added then, so what
//! the count falls by in that time has gone. This is in the kernel's own unit,
//! payload and its overhead (1.05 to 1.6 times the payload for full datagrams,
//! 7 times for tiny ones), and needs no conversion. A socket found empty has
//! starved: the link could have carried more, and the limit was too small or
//! the wake-up late. The first is taken for true until a rate has been
//! measured, and again when it goes on: then the limit doubles. (Compare the
//! kernel's dynamic queue limits, which do this for a device's ring without
//! regard to time.)
//!
//! Where devices let go of everything at once, as loopback and veth do, a
//! socket is never full, and nothing here has any effect. Pure.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use std::time::{Duration, Instant};

/// The limit of one socket. Bytes are as the kernel counts them unless they
/// are called payload.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
    /// Bytes a second; none until a send had to wait.
    rate: Option<u64>,
    /// Since when a send waits, and what was outstanding then.
    waiting: Option<(Instant, usize)>,
    sample: Sample,
    /// Times in a row that the socket was found empty.
    starved: u32,
    /// What went without waiting.
    free: Sample,
    free_since: Option<Instant>,
}

impl Pace {
    /// A link of unknown rate.
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            limit: INITIAL_LIMIT,
            rate: None,
            waiting: None,
            sample: Sample::default(),
            starved: 0,
            free: Sample::default(),
            free_since: None,
        }
    }

    /// What `SO_SNDBUF` shall be, as the kernel shows it and compares.
    #[must_use]
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Most payload of one send, in bytes: the kernel takes a whole message
    /// while it is below the limit, and devices let go of it as a whole.
    #[must_use]
    pub(super) fn message(&self) -> usize {
        match self.rate {
            Some(_) => (self.limit / 4).min(MOST_MESSAGE),
            None => MOST_MESSAGE,
        }
    }

    /// Most that may wait for this socket, in bytes.
    #[must_use]
    pub(super) fn backlog(&self) -> usize {
        match self.rate {
            Some(rate) => in_time(rate, BACKLOG).clamp(LEAST_BACKLOG, MOST_BACKLOG),
            None => INITIAL_BACKLOG,
        }
    }

    /// Payload that fits below the limit beside what is outstanding, in bytes;
    /// not zero unless the socket is full.
    #[must_use]
    pub(super) fn room(&self, outstanding: usize) -> usize {
        (self.limit.saturating_sub(outstanding) * 2).div_ceil(3)
    }

    /// `payload` bytes went without waiting. True if the limit has changed.
    pub(super) fn sent(&mut self, payload: usize, now: Instant) -> bool {
        let since = *self.free_since.get_or_insert(now);
        self.free.bytes += payload;
        self.free.time = now.saturating_duration_since(since);
        if self.free.time < SAMPLE {
            return false;
        }

        // Never full, so all but one limit of it has drained.
        self.free.bytes = self.free.bytes.saturating_sub(self.limit);
        let at_least = self.free.rate();
        self.free = Sample::default();
        self.free_since = Some(now);
        if self.rate.is_none_or(|rate| at_least <= rate) {
            return false;
        }
        self.rate = Some(at_least);
        self.follow()
    }

    /// A send has to wait with this much outstanding.
    pub(super) fn blocked(&mut self, outstanding: usize, now: Instant) {
        self.waiting = Some((now, outstanding));
        self.free = Sample::default();
        self.free_since = None;
    }

    /// The socket is writable again with this much outstanding. True if the limit has changed.
    pub(super) fn writable(&mut self, outstanding: usize, now: Instant) -> bool {
        let Some((since, before)) = self.waiting.take() else {
            return false;
        };
        let drained = Sample {
            bytes: before.saturating_sub(outstanding),
            time: now.saturating_duration_since(since),
        };
        if outstanding < self.limit / 16 {
            return self.starve(drained);
        }

        self.starved = 0;
        self.sample.bytes += drained.bytes;
        self.sample.time += drained.time;
        let enough = match self.rate {
            Some(_) => SAMPLE,
            None => FIRST_SAMPLE,
        };
        if self.sample.time < enough {
            return false;
        }
        let seen = self.sample.rate();
        self.sample = Sample::default();
        self.rate = Some(self.rate.map_or(seen, |rate| rate.midpoint(seen)));
        self.follow()
    }

    /// The qdisc was full, with this much outstanding (`ENOBUFS`).
    ///
    /// True: the limit has changed, and the socket becomes writable when
    /// enough has drained, so the message can wait. False: others have filled
    /// the qdisc, nothing tells when to try again, and the message is lost.
    pub(super) fn refused(&mut self, outstanding: usize) -> bool {
        if outstanding <= LEAST_LIMIT / 2 {
            return false;
        }
        self.limit = (outstanding / 4 * 3).clamp(LEAST_LIMIT, self.limit);

        true
    }

    /// The socket had nothing left at the end of a wait.
    fn starve(&mut self, drained: Sample) -> bool {
        self.starved += 1;
        let at_least = drained.rate();
        if self.rate.is_some_and(|rate| rate < at_least) {
            self.rate = Some(at_least);
            if self.follow() {
                return true;
            }
        }
        if self.rate.is_some() && self.starved < LATE {
            return false;
        }

        let before = self.limit;
        self.limit = (before * 2).min(MOST_LIMIT);
        self.limit != before
    }

    /// Sets the limit by the rate, unless it is about that already.
    fn follow(&mut self) -> bool {
        let Some(rate) = self.rate else {
            return false;
        };
        let wanted = in_time(rate, QUEUE).clamp(LEAST_LIMIT, MOST_LIMIT);
        if wanted.abs_diff(self.limit) <= self.limit / 8 {
            return false;
        }
        self.limit = wanted;

        true
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    bytes: usize,
    time: Duration,
}

impl Sample {
    /// Bytes a second.
    fn rate(self) -> u64 {
        let nanos = self.time.as_nanos().max(1);

        u64::try_from(self.bytes as u128 * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

/// What a rate in bytes a second carries in `time`.
fn in_time(rate: u64, time: Duration) -> usize {
    usize::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(usize::MAX)
}

/// Most time in the socket; half of it is left when a worker is woken, which
/// must then send before the link runs dry.
const QUEUE: Duration = Duration::from_millis(4);

/// Most time in the backlog: as a router's queue, so that TCP has what it
/// needs to keep the link busy after a loss.
const BACKLOG: Duration = Duration::from_millis(40);

/// Waiting time, in all, that makes a measurement: several wake-ups of a slow link.
const SAMPLE: Duration = Duration::from_millis(10);

/// A first guess is wanted sooner.
const FIRST_SAMPLE: Duration = Duration::from_millis(1);

/// Starved this often in a row, it was not for a late wake-up.
const LATE: u32 = 4;

/// What any qdisc holds; 5 ms at 50 Mbit/s.
const INITIAL_LIMIT: usize = 32 * 1024;

/// The kernel's own least, two full datagrams.
const LEAST_LIMIT: usize = 4608;

/// 4 ms at 8 Gbit/s.
const MOST_LIMIT: usize = 4 * 1024 * 1024;

/// The largest payload of IPv4 and UDP.
const MOST_MESSAGE: usize = 65_507;

/// Two super-packets.
const LEAST_BACKLOG: usize = 2 * 65_600;
const INITIAL_BACKLOG: usize = 1024 * 1024;
const MOST_BACKLOG: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that never lacks payload to send, in virtual time.
    struct Link {
        pace: Pace,
        now: Instant,
        /// Bytes a second as the kernel counts.
        rate: u64,
        outstanding: usize,
        /// How late the worker is each time in turn.
        late: Vec<Duration>,
        wakes: usize,
        idle: Duration,
        longest: Duration,
    }

    impl Link {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts somewhere")]
        fn new(rate: u64) -> Self {
            Self {
                pace: Pace::new(),
                now: Instant::now(),
                rate,
                outstanding: 0,
                late: vec![Duration::from_micros(50)],
                wakes: 0,
                idle: Duration::ZERO,
                longest: Duration::ZERO,
            }
        }

        /// Fills the socket, then waits for half of it to drain and for the worker.
        fn round(&mut self) {
            while self.outstanding < self.pace.limit() {
                let payload = self.pace.message().min(self.pace.room(self.outstanding));
                self.outstanding += payload * 11 / 10;
            }
            self.longest = self.longest.max(self.time(self.outstanding));
            self.pace.blocked(self.outstanding, self.now);

            let late = self.late[self.wakes % self.late.len()];
            self.wakes += 1;
            let half = self.outstanding - self.pace.limit() / 2;
            let waited = self.time(half) + late;
            self.idle += waited.saturating_sub(self.time(self.outstanding));
            self.outstanding = self.outstanding.saturating_sub(in_time(self.rate, waited));
            self.now += waited;
            self.pace.writable(self.outstanding, self.now);
        }

        fn run(&mut self, time: Duration) -> &mut Self {
            let end = self.now + time;
            while self.now < end {
                self.round();
            }
            self
        }

        /// Runs with the measures of a link that is known.
        fn settle(&mut self) -> &mut Self {
            self.run(Duration::from_millis(500));
            self.idle = Duration::ZERO;
            self.longest = Duration::ZERO;
            self.run(SECOND)
        }

        fn time(&self, bytes: usize) -> Duration {
            Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.rate)
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    /// In bytes a second.
    const fn mbit(rate: u64) -> u64 {
        rate * 1_000_000 / 8
    }

    #[test]
    fn holds_some_milliseconds_of_any_link_and_never_starves_it() {
        for rate in [mbit(5), mbit(50), mbit(300), mbit(1000), mbit(8000)] {
            let mut link = Link::new(rate);
            link.settle();

            assert!(link.longest <= 5 * MS || link.pace.limit() == LEAST_LIMIT);
            assert!(link.longest >= 3 * MS, "{rate}: {:?}", link.longest);
            assert_eq!(link.idle, Duration::ZERO, "{rate}");
        }
    }

    #[test]
    fn a_slow_link_holds_less_than_its_qdisc_from_the_first_byte_on() {
        let mut link = Link::new(mbit(50));
        link.run(100 * MS);

        // 50 ms, less what one message without a limit may take.
        assert!(link.longest < 20 * MS, "{:?}", link.longest);
    }

    #[test]
    fn a_fast_link_is_full_within_milliseconds() {
        let mut link = Link::new(mbit(8000));
        link.run(20 * MS);

        assert!(link.idle < 2 * MS, "{:?}", link.idle);
        assert!(link.pace.limit() > 2_000_000, "{}", link.pace.limit());
        assert_eq!(link.pace.message(), MOST_MESSAGE);
    }

    #[test]
    fn follows_a_link_that_slows_down_and_recovers() {
        let mut link = Link::new(mbit(1000));
        link.settle();

        link.rate = mbit(10);
        link.settle();
        assert!(link.longest <= 6 * MS, "{:?}", link.longest);

        link.rate = mbit(1000);
        link.settle();
        assert_eq!(link.idle, Duration::ZERO);
    }

    #[test]
    fn a_worker_that_is_late_now_and_then_does_not_fill_the_queue() {
        let mut link = Link::new(mbit(50));
        link.late = vec![MS / 10, MS / 10, 10 * MS, 10 * MS, MS / 5];
        link.settle();

        assert!(link.longest <= 6 * MS, "{:?}", link.longest);
    }

    #[test]
    fn a_worker_that_is_always_late_keeps_a_fast_link_busy() {
        let mut link = Link::new(mbit(1000));
        link.late = vec![6 * MS];
        link.settle();

        assert!(link.idle < SECOND / 2, "{:?}", link.idle);
    }

    #[test]
    fn a_link_that_is_faster_than_it_was_is_believed_without_a_wait() {
        let mut link = Link::new(mbit(10));
        link.settle();
        let slow = link.pace.limit();

        let mut changed = false;
        for _ in 0..100 {
            link.now += MS / 2;
            changed |= link.pace.sent(50_000, link.now);
        }

        assert!(changed);
        assert!(link.pace.limit() > 20 * slow, "{}", link.pace.limit());
    }

    #[test]
    fn little_traffic_says_nothing_about_the_link() {
        let mut link = Link::new(mbit(50));
        link.settle();
        let limit = link.pace.limit();

        for _ in 0..1000 {
            link.now += MS;
            assert!(!link.pace.sent(1400, link.now));
        }
        assert_eq!(link.pace.limit(), limit);
    }

    #[test]
    fn a_full_qdisc_lowers_the_limit_below_what_it_holds() {
        let mut pace = Pace::new();
        pace.limit = 1_000_000;

        assert!(pace.refused(300_000));
        assert!(pace.limit() < 300_000, "{}", pace.limit());
        assert!(!pace.refused(2000), "nothing would tell when to try again");
    }
}
