//! One worker: waits for a source that is ready, serves it, lets it be waited
//! for again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use super::crew::Strain;
use super::inward::Inward;
use super::outward::Outward;
use super::{Core, Side, Source};
use crate::sys::epoll::{Event, Interest};

/// Works until the data path ends.
pub(super) fn run<S: Side>(core: &Core<S>, mut worker: Worker) {
    while let Some((token, now)) = worker.next(core) {
        let work = AssertUnwindSafe(|| worker.serve(core, token, now));
        if catch_unwind(work).is_err() {
            // A packet found a fault of ours: what the worker had gathered is lost.
            tracing::error!("the data path panicked and goes on");
            worker.inward.reset();
            worker.outward.reset();
            core.rearm(token);
        }
    }
}

/// What a worker keeps between its turns.
pub(super) struct Worker {
    number: usize,
    strain: Strain,
    /// It has said that it cannot wait.
    has_warned: bool,
    /// Its buffers hold no memory.
    is_rested: bool,
    inward: Inward,
    outward: Outward,
}

impl Worker {
    pub(super) fn new(number: usize) -> io::Result<Self> {
        Ok(Self {
            number,
            strain: Strain::default(),
            has_warned: false,
            is_rested: true,
            inward: Inward::new()?,
            outward: Outward::new(),
        })
    }

    /// The next source that is ready; none at the end.
    fn next<S: Side>(&mut self, core: &Core<S>) -> Option<(u64, Instant)> {
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
                if self.strain.note(since, now) {
                    core.crew.call();
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

    fn serve<S: Side>(&mut self, core: &Core<S>, token: u64, now: Instant) {
        let side = &*core.side;
        let is_there = match core.source(token) {
            Some(Source::Device(device)) => {
                self.outward.device(side, &device.tun, &device.port, now)
            }
            Some(Source::Socket(lane)) => {
                self.inward.socket(side, &lane, now);
                true
            }
            // Asks itself for what it waits for next.
            Some(Source::Room(lane)) => {
                if lane.is_full() {
                    self.outward.lane(side, &lane);
                }
                return;
            }
            None => return,
        };
        if is_there {
            core.rearm(token);
        }
    }

    /// Waits for a source that is ready.
    fn wait<S: Side>(&mut self, core: &Core<S>, timeout: Option<Duration>) -> Option<u64> {
        let mut events = [Event::EMPTY];
        match core.epoll.wait(&mut events, timeout) {
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

/// How long a worker that is not the last waits before it parks.
const PATIENCE: Duration = Duration::from_millis(2);
