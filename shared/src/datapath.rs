//! The data path: packets between devices and sockets.
//!
//! It runs on plain threads, which share one epoll. Each source, a device or a
//! socket, is given to one of them at a time, so packets of one flow keep
//! their order; a source has its turn for a bounded share, and then the next
//! that is ready. An idle source costs nothing.
//!
//! A source that keeps a worker busy without a pause becomes that worker's own
//! for as long as it is, outside the epoll, while others stay for the rest.
//!
//! Threads rather than tasks of the runtime, and so many, by measurement
//! (2 cores, the programs that send and receive on them too, so ratios only):
//! a task for each packet carried 0.07 of the bare wire's TCP, these threads
//! 0.32 at first sight. Two that work all the time needed 1.2 times the CPU
//! time of one and carried no more; one that spins 20 µs before it sleeps
//! carried 0.8 of one that does not, and pings were no faster. The kernel tells
//! an epoll of every datagram that comes one by one, 7 % of all CPU time at wire
//! size: with busy sources outside it, one TCP stream was 1.1 times as fast,
//! four 1.2 times, small packets 1.3 times.

mod backlog;
mod crew;
mod inward;
mod lane;
mod outbox;
mod outward;
mod pace;
mod pulse;
mod side;
mod worker;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;

use crate::sys::epoll::{Epoll, EventFd, Interest};
use crate::tun::Tun;
use crew::Crew;
use pulse::Pulses;

pub use lane::Lane;
pub use side::{Dropped, Side};

/// The running data path of one hub or spoke; ends when it is dropped.
pub struct Datapath<S: Side> {
    core: Arc<Core<S>>,
    threads: Vec<JoinHandle<()>>,
}

/// Names a device or a socket in a data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

/// What the workers share.
struct Core<S: Side> {
    side: Arc<S>,
    epoll: Arc<Epoll>,
    stop: EventFd,
    crew: Crew,
    pulses: Pulses,
    sources: RwLock<HashMap<u64, Source<S>>>,
    next: AtomicU64,
}

/// What can be ready.
enum Source<S: Side> {
    Device(Arc<Device<S>>),
    /// Datagrams have come.
    Socket(Arc<Lane>),
    /// There is room in a socket that was full.
    Room(Arc<Lane>),
}

struct Device<S: Side> {
    tun: Arc<Tun>,
    port: S::Port,
}

impl<S: Side> Datapath<S> {
    /// Starts workers for as many sources as may be busy at a time, at least
    /// one, and one more for all the others.
    pub fn start(side: Arc<S>, busy: usize) -> io::Result<Self> {
        let workers = busy.clamp(1, MAX_BUSY) + 1;
        let core = Arc::new(Core {
            side,
            epoll: Arc::new(Epoll::new()?),
            stop: EventFd::new()?,
            crew: Crew::new(workers),
            pulses: Pulses::new(workers),
            sources: RwLock::default(),
            next: AtomicU64::new(STOP + 1),
        });
        core.epoll.add(core.stop.as_fd(), STOP, Interest::READ)?;

        let mut path = Self {
            core,
            threads: Vec::new(),
        };
        for number in 0..workers {
            let core = Arc::clone(&path.core);
            let worker = worker::Worker::new(number)?;
            let thread = thread::Builder::new()
                .name(format!("dtun-path-{number}"))
                .spawn(move || worker::run(&core, worker))?;
            path.threads.push(thread);
        }

        Ok(path)
    }

    /// Receives on a socket from now on; what came before is in it. A lane
    /// belongs to one data path.
    pub fn add_lane(&self, lane: Arc<Lane>) -> io::Result<Key> {
        let token = self.core.token();
        self.core
            .insert(room(token), Source::Room(Arc::clone(&lane)));
        lane.arm(&self.core.epoll, room(token));
        if let Err(error) = self.core.wait_for(token, Source::Socket(lane)) {
            self.core.take(room(token));
            return Err(error);
        }

        Ok(Key(token))
    }

    /// Reads from a device from now on.
    pub fn add_device(&self, tun: Arc<Tun>, port: S::Port) -> io::Result<Key> {
        let device = Arc::new(Device { tun, port });
        let token = self.core.token();
        self.core.wait_for(token, Source::Device(device))?;

        Ok(Key(token))
    }

    /// Whether every worker is there, and none has been at the same packets
    /// since the last time somebody asked.
    pub fn is_well(&self) -> bool {
        let is_lost = self.threads.iter().any(JoinHandle::is_finished);

        !is_lost && self.core.pulses.all_move()
    }

    /// Waits until every control message that found its socket full has gone,
    /// for as long at most. False if some have not.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;

        self.core.lanes().iter().all(|lane| lane.flush(deadline))
    }

    /// Leaves a device or a socket alone; a worker may be at it for a moment
    /// more. Twice is once.
    pub fn remove(&self, key: Key) {
        let removed = match self.core.take(key.0) {
            Some(Source::Device(device)) => self.core.epoll.remove(device.tun.as_fd()),
            Some(Source::Socket(lane)) => {
                self.core.take(room(key.0));
                lane.disarm();
                outward::count_lost(&*self.core.side, &lane);
                self.core.epoll.remove(lane.socket().as_fd())
            }
            Some(Source::Room(_)) | None => return,
        };
        if let Err(error) = removed {
            tracing::debug!(%error, "not taken out of the data path");
        }
    }
}

impl<S: Side> Drop for Datapath<S> {
    fn drop(&mut self) {
        self.core.crew.dismiss();
        if let Err(error) = self.core.stop.signal() {
            tracing::error!(%error, "failed to stop the data path");
            return;
        }
        for thread in self.threads.drain(..) {
            // A panic in it has been reported.
            drop(thread.join());
        }
    }
}

impl<S: Side> fmt::Debug for Datapath<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("workers", &self.threads.len())
            .finish_non_exhaustive()
    }
}

impl<S: Side> Core<S> {
    fn source(&self, token: u64) -> Option<Source<S>> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);

        sources.get(&token).cloned()
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        let lanes = sources.values().filter_map(|source| match source {
            Source::Socket(lane) => Some(Arc::clone(lane)),
            Source::Device(_) | Source::Room(_) => None,
        });

        lanes.collect()
    }

    /// A fresh token, and the one after it.
    fn token(&self) -> u64 {
        self.next.fetch_add(2, Ordering::Relaxed)
    }

    /// Serves a source from now on, or forgets it.
    fn wait_for(&self, token: u64, source: Source<S>) -> io::Result<()> {
        // First, or a worker would not find what is ready.
        self.insert(token, source.clone());

        self.epoll
            .add(source.as_fd(), token, worker::READ)
            .inspect_err(|_| drop(self.take(token)))
    }

    fn insert(&self, token: u64, source: Source<S>) {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);
        sources.insert(token, source);
    }

    fn take(&self, token: u64) -> Option<Source<S>> {
        let mut sources = self.sources.write().unwrap_or_else(PoisonError::into_inner);

        sources.remove(&token)
    }

    /// Lets a source that a worker had for itself be waited for by all again,
    /// unless it was removed.
    fn give_back(&self, token: u64) {
        // Under the lock: whoever removes it does so before or after.
        let sources = self.sources.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(&token)
            && let Err(error) = self.epoll.add(source.as_fd(), token, worker::READ)
        {
            tracing::error!(%error, "not waited for");
        }
    }

    /// Lets a source that was served be waited for again.
    fn rearm(&self, token: u64) {
        let rearmed = match self.source(token) {
            Some(Source::Room(lane)) => {
                lane.settle();
                return;
            }
            Some(source) => self.epoll.rearm(source.as_fd(), token, worker::READ),
            // Removed meanwhile.
            None => return,
        };
        if let Err(error) = rearmed {
            tracing::debug!(%error, "not waited for");
        }
    }
}

impl<S: Side> AsFd for Source<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Device(device) => device.tun.as_fd(),
            Self::Socket(lane) | Self::Room(lane) => lane.socket().as_fd(),
        }
    }
}

impl<S: Side> Clone for Source<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Device(device) => Self::Device(Arc::clone(device)),
            Self::Socket(lane) => Self::Socket(Arc::clone(lane)),
            Self::Room(lane) => Self::Room(Arc::clone(lane)),
        }
    }
}

/// The token of a socket's room.
fn room(socket: u64) -> u64 {
    socket + 1
}

/// The token that ends every worker's wait.
const STOP: u64 = 0;

const MAX_BUSY: usize = 64;

#[cfg(test)]
mod tests;
