//! Which workers wait for packets: one while there is little to do, more while
//! those that wait are busy.
//!
//! One worker that serves device and socket in turn finds the answer to what
//! it has just delivered without a wake-up; two halve the work of a busy
//! tunnel, whose two directions are two sources.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;

/// The workers of one data path.
#[derive(Debug)]
pub(super) struct Crew {
    /// Workers that wait for packets or handle them.
    active: AtomicUsize,
    parked: Mutex<Vec<Parked>>,
    has_parked: AtomicBool,
    /// Workers that wait for packets right now.
    waiting: AtomicUsize,
    zero: Instant,
    /// Until when no worker keeps a source for itself, in milliseconds since
    /// `zero`: more sources were busy than workers were free.
    crowded_until: AtomicU64,
    dismissed: AtomicBool,
}

#[derive(Debug)]
struct Parked {
    worker: usize,
    thread: Thread,
}

impl Crew {
    /// A crew whose `workers` are all at work; they park one by one.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            active: AtomicUsize::new(workers),
            parked: Mutex::default(),
            has_parked: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            zero: Instant::now(),
            crowded_until: AtomicU64::new(0),
            dismissed: AtomicBool::new(false),
        }
    }

    /// Whether the caller is the only one at work.
    pub(super) fn is_last(&self) -> bool {
        self.active.load(Ordering::Acquire) == 1
    }

    /// Sends one parked worker to work. If there is none, and none that waits,
    /// those at work of their own are to come back.
    pub(super) fn call(&self, now: Instant) {
        if !self.has_parked.load(Ordering::Relaxed) {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                let until = self.millis(now) + CROWDED;
                self.crowded_until.store(until, Ordering::Relaxed);
            }
            return;
        }
        let mut parked = self.parked();
        if let Some(next) = parked.pop() {
            self.has_parked.store(!parked.is_empty(), Ordering::Relaxed);
            self.active.fetch_add(1, Ordering::AcqRel);
            next.thread.unpark();
        }
    }

    /// Waits until somebody calls; at once when the caller is the last at work
    /// or all are dismissed.
    pub(super) fn park(&self, worker: usize) {
        let mut parked = self.parked();
        if !self.leave() || self.is_dismissed() {
            return;
        }
        parked.push(Parked {
            worker,
            thread: thread::current(),
        });
        self.has_parked.store(true, Ordering::Relaxed);
        drop(parked);

        while !self.is_dismissed() && self.is_parked(worker) {
            thread::park();
        }
    }

    /// Counts the caller as one that waits while `wait` does.
    pub(super) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let result = wait();
        self.waiting.fetch_sub(1, Ordering::Relaxed);

        result
    }

    /// Whether more sources are busy than there are workers for.
    pub(super) fn is_crowded(&self, now: Instant) -> bool {
        self.millis(now) < self.crowded_until.load(Ordering::Relaxed)
    }

    /// Goes to do work of its own, if others stay; see [`Self::join`].
    pub(super) fn leave(&self) -> bool {
        self.active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
            .is_ok()
    }

    /// Comes back from work of its own.
    pub(super) fn join(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends every worker's wait, for good.
    pub(super) fn dismiss(&self) {
        let parked = self.parked();
        self.dismissed.store(true, Ordering::Release);
        for waiting in parked.iter() {
            waiting.thread.unpark();
        }
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Acquire)
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.zero).as_millis() as u64
    }

    fn is_parked(&self, worker: usize) -> bool {
        self.parked().iter().any(|parked| parked.worker == worker)
    }

    fn parked(&self) -> MutexGuard<'_, Vec<Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last one stays.
fn one_less(active: usize) -> Option<usize> {
    (active > 1).then(|| active - 1)
}

/// When one worker finds that it needs another.
#[derive(Debug, Default)]
pub(super) struct Strain {
    /// Since when there was work without a pause.
    since: Option<Instant>,
}

impl Strain {
    /// A worker waited from `from` to `now`, and then there was work. True when
    /// it has worked without a pause for long enough to pay for a wake-up, and
    /// then every so often.
    pub(super) fn note(&mut self, from: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(from) > PAUSE {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(from);
        let is_strained = now.saturating_duration_since(since) >= CALL_AFTER;
        if is_strained {
            self.since = Some(now);
        }

        is_strained
    }
}

/// A wait that is longer was a sleep.
const PAUSE: Duration = Duration::from_micros(5);

/// How long sources are shared once there were more than workers, in
/// milliseconds.
const CROWDED: u64 = 100;

/// How long one worker must be busy without a pause before another helps:
/// what passes sooner is done before the other is awake.
const CALL_AFTER: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_last_worker_never_parks() {
        let crew = Crew::new(1);

        crew.park(0);

        assert!(crew.is_last());
    }

    #[test]
    fn the_last_worker_does_no_work_of_its_own() {
        let crew = Crew::new(2);

        assert!(crew.leave());
        assert!(crew.is_last() && !crew.leave());
        crew.join();
        assert!(crew.leave());
    }

    #[test]
    fn a_call_that_nobody_can_follow_keeps_sources_shared_for_a_while() {
        let crew = Crew::new(2);
        let now = Instant::now();

        crew.waiting(|| crew.call(now));
        assert!(!crew.is_crowded(now), "one of them was free");
        crew.call(now);
        assert!(crew.is_crowded(now));
        assert!(!crew.is_crowded(now + Duration::from_millis(CROWDED + 1)));
    }

    #[test]
    fn a_parked_worker_comes_when_it_is_called_and_leaves_when_all_are_dismissed() {
        let crew = Arc::new(Crew::new(2));
        let (tell, told) = mpsc::channel();
        let worker = thread::spawn({
            let crew = Arc::clone(&crew);
            move || {
                while !crew.is_dismissed() {
                    crew.park(1);
                    tell.send(()).unwrap();
                }
            }
        });

        let deadline = Instant::now() + Duration::from_secs(10);
        for _ in 0..3 {
            // A call that comes before it parks is for nobody.
            while told.try_recv().is_err() {
                assert!(Instant::now() < deadline, "the worker never came");
                crew.call(Instant::now());
                thread::yield_now();
            }
        }
        crew.dismiss();
        worker.join().unwrap();
    }

    #[test]
    fn work_without_a_pause_calls_for_help_every_so_often() {
        let start = Instant::now();
        let mut strain = Strain::default();
        let mut note = |at: Duration, waited| {
            let now = start + at;
            strain.note(now - waited, now)
        };
        let none = Duration::ZERO;

        assert!(!note(CALL_AFTER, none));
        assert!(!note(CALL_AFTER * 3 / 2, none));
        assert!(note(CALL_AFTER * 2, none));
        assert!(!note(CALL_AFTER * 5 / 2, none));
        assert!(note(CALL_AFTER * 3, none));

        assert!(!note(CALL_AFTER * 4, PAUSE * 2));
        assert!(!note(CALL_AFTER * 9 / 2, none));
        assert!(note(CALL_AFTER * 6, none));
    }
}
