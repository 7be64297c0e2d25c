//! One worker: waits for a source that is ready, serves it, lets it be waited
//! for again.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use super::crew::Strain;
use super::inward::Inward;
use super::outward::Outward;
use super::{Core, Side, Source};
use crate::sys::epoll::{Event, Interest};
use crate::sys::poll::is_readable;

/// Works until the data path ends.
pub(super) fn run<S: Side>(core: &Core<S>, mut worker: Worker) {
    while let Some((token, now)) = worker.next(core) {
        core.pulses.begin(worker.number);
        let work = AssertUnwindSafe(|| worker.serve(core, token, now));
        let is_done = catch_unwind(work).is_ok();
        core.pulses.end(worker.number);
        if !is_done {
            // A packet found a fault of ours: what the worker had gathered is lost.
            tracing::error!("the data path panicked and goes on");
            worker.inward.reset();
            worker.outward.reset();
            if worker.own.is_none() {
                core.rearm(token);
            }
        }
    }
}

/// What a worker keeps between its turns.
pub(super) struct Worker {
    number: usize,
    strain: Strain,
    /// It has said that it cannot wait.
    has_warned: bool,
    /// It has just found that it needs another.
    is_strained: bool,
    /// Its buffers hold no memory.
    is_rested: bool,
    own: Option<Own>,
    inward: Inward,
    outward: Outward,
}

/// A busy source that one worker has for itself: its datagrams do not go
/// through the epoll one by one, nor does it from worker to worker.
struct Own {
    token: u64,
    /// Nothing was there at the last look.
    is_empty: bool,
}

/// What a turn at a source found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Little,
    Much,
    /// Its source is no more.
    Gone,
}

impl Found {
    pub(super) fn of(count: usize, bytes: usize) -> Self {
        if count >= MANY || bytes >= LONG {
            Self::Much
        } else if count > 0 {
            Self::Little
        } else {
            Self::Nothing
        }
    }
}

impl Worker {
    pub(super) fn new(number: usize) -> io::Result<Self> {
        Ok(Self {
            number,
            strain: Strain::default(),
            has_warned: false,
            is_strained: false,
            is_rested: true,
            own: None,
            inward: Inward::new()?,
            outward: Outward::new(),
        })
    }

    /// The next source that is ready; none at the end.
    fn next<S: Side>(&mut self, core: &Core<S>) -> Option<(u64, Instant)> {
        if let Some(next) = self.next_own(core) {
            return Some(next);
        }
        let mut since = Instant::now();
        while !core.crew.is_dismissed() {
            let is_last = core.crew.is_last();
            let patience = match (is_last, self.is_rested) {
                (false, _) => Some(PATIENCE),
                (true, false) => Some(REST_AFTER),
                (true, true) => None,
            };
            let token = self.wait(core, patience);
            let now = Instant::now();
            if let Some(token) = token {
                self.is_rested = false;
                self.is_strained = self.strain.note(since, now);
                if self.is_strained {
                    core.crew.call(now);
                }
                return Some((token, now));
            }
            if !self.is_rested {
                self.inward.rest();
                self.is_rested = true;
            }
            if !is_last {
                core.crew.park(self.number);
            }
            since = now;
        }

        None
    }

    /// The worker's own source, as long as it has one, that is busy, and there
    /// are not more of them than workers.
    fn next_own<S: Side>(&mut self, core: &Core<S>) -> Option<(u64, Instant)> {
        let own = self.own.as_ref()?;
        let now = Instant::now();
        let is_busy = !core.crew.is_dismissed()
            && !core.crew.is_crowded(now)
            && core
                .source(own.token)
                .is_some_and(|source| !own.is_empty || is_readable(source.as_fd(), PATIENCE));
        if is_busy {
            return Some((own.token, now));
        }
        core.give_back(own.token);
        self.let_go(core);

        None
    }

    fn serve<S: Side>(&mut self, core: &Core<S>, token: u64, now: Instant) {
        let side = &*core.side;
        let Some(source) = core.source(token) else {
            return;
        };
        let found = match &source {
            Source::Device(device) => self.outward.device(side, &device.tun, &device.port, now),
            Source::Socket(lane) => self.inward.socket(side, lane, now),
            // Asks itself for what it waits for next.
            Source::Room(lane) => {
                if lane.is_full() {
                    self.outward.lane(side, lane);
                }
                return;
            }
        };
        match (&mut self.own, found) {
            (Some(_), Found::Gone) => self.let_go(core),
            (Some(own), _) => own.is_empty = found == Found::Nothing,
            (None, Found::Gone) => {}
            (None, _) => {
                if found != Found::Much || !self.keep(core, token, &source, now) {
                    core.rearm(token);
                }
            }
        }
    }

    /// Makes a source the worker's own, if that pays and others stay.
    fn keep<S: Side>(
        &mut self,
        core: &Core<S>,
        token: u64,
        source: &Source<S>,
        now: Instant,
    ) -> bool {
        if !self.is_strained || core.crew.is_crowded(now) || !core.crew.leave() {
            return false;
        }
        if let Err(error) = core.epoll.remove(source.as_fd()) {
            tracing::debug!(%error, "removed meanwhile");
            core.crew.join();
            return false;
        }
        self.own = Some(Own {
            token,
            is_empty: false,
        });

        true
    }

    fn let_go<S: Side>(&mut self, core: &Core<S>) {
        self.own = None;
        (self.strain, self.is_strained) = (Strain::default(), false);
        core.crew.join();
    }

    /// Waits for a source that is ready.
    fn wait<S: Side>(&mut self, core: &Core<S>, timeout: Option<Duration>) -> Option<u64> {
        let mut events = [Event::EMPTY];
        match core.crew.waiting(|| core.epoll.wait(&mut events, timeout)) {
            Ok(0) => None,
            Ok(_) => Some(events[0].token()),
            Err(error) => {
                if !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(%error, "packets cannot be waited for: trying on");
                }
                thread::sleep(BACK_OFF);
                None
            }
        }
    }
}

/// What a source that is served anew is waited for.
pub(super) const READ: Interest = Interest::READ.once();

/// Between attempts to wait while that fails.
const BACK_OFF: Duration = Duration::from_millis(100);

/// When the last worker gives the memory of a burst back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Packets or messages of one turn that make a source busy.
const MANY: usize = 16;

/// Bytes that do.
const LONG: usize = 16 << 10;

/// How long a worker that is not the last waits before it parks, or gives its
/// own source back.
const PATIENCE: Duration = Duration::from_millis(2);
