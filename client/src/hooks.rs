//! The user's hooks, run one after another beside the tunnel's own work.
//!
//! A hook may take minutes, so asking for one never waits. What is asked for
//! while another runs is kept, and only as much of it as still means something:
//! the newest beginning, and an end that comes before it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use dtun_shared::hook::{self, Lines, Posted};
use dtun_shared::link::{Link, Netlink};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The queue's owner.
#[derive(Debug)]
pub(crate) struct Hooks {
    ask: mpsc::Sender<Job>,
    asked: u64,
    /// How many jobs have been done or dropped.
    done: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

/// A hook to be run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) event: Event,
    pub(crate) env: Vec<(&'static str, String)>,
}

/// What happened to the tunnel: the environment's `EVENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Up,
    /// The tunnel stands since the last run, which has run its hook.
    Inherited,
    Uplink,
    Down,
}

impl Event {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up | Self::Inherited => "up",
            Self::Uplink => "uplink",
            Self::Down => "down",
        }
    }
}

impl Hooks {
    pub(crate) fn new(up: Option<PathBuf>, down: Option<PathBuf>, lines: Lines) -> Self {
        let (ask, asked) = mpsc::channel(ROOM);
        let (done_now, done) = watch::channel(0);
        let runner = Runner {
            up,
            down,
            lines,
            posted: None,
            asked,
            done: done_now,
            queue: Queue::default(),
        };

        Self {
            ask,
            asked: 0,
            done,
            task: tokio::spawn(runner.run()),
        }
    }

    /// Asks for a hook; it runs when those before it are done.
    pub(crate) async fn ask(&mut self, job: Job) {
        self.asked += 1;
        self.ask
            .send(job)
            .await
            .expect("the runner lives as long as its sender");
    }

    /// Takes over the lines that the last run has left with its tunnel.
    pub(crate) async fn take_over(&mut self, env: Vec<(&'static str, String)>) {
        let event = Event::Inherited;
        self.ask(Job { event, env }).await;
    }

    /// Whether nothing runs or waits.
    pub(crate) fn is_idle(&self) -> bool {
        *self.done.borrow() == self.asked
    }

    /// Waits for the next hook to be done.
    pub(crate) async fn changed(&mut self) {
        if self.done.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Runs what is asked for to its end.
    pub(crate) async fn finish(self) {
        drop(self.ask);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "hooks ended early");
        }
    }
}

/// The task's side.
struct Runner {
    up: Option<PathBuf>,
    down: Option<PathBuf>,
    lines: Lines,
    /// What the lines have made, and stands.
    posted: Option<Posted>,
    asked: mpsc::Receiver<Job>,
    done: watch::Sender<u64>,
    queue: Queue,
}

impl Runner {
    async fn run(mut self) {
        loop {
            let job = match self.queue.pop() {
                Some(job) => job,
                None => match self.asked.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            self.run_one(job).await;
            self.done.send_modify(|done| *done += 1);
        }
    }

    /// Runs one hook, and takes what is asked for meanwhile.
    async fn run_one(&mut self, job: Job) {
        let path = match job.event {
            Event::Up | Event::Uplink => self.up.clone(),
            Event::Inherited => None,
            Event::Down => self.down.clone(),
        };
        let lines = self.lines.clone();
        let posted = self.posted.take();
        let run = async {
            if let Some(path) = path {
                run_program(&path, &job).await;
            }
            match (job.event, posted) {
                (Event::Down, posted) => {
                    if let Some(posted) = posted {
                        posted.undo().await;
                    }
                    None
                }
                (_, None) => lines.up(&name(&job.env), &job.env).await,
                (_, posted) => posted,
            }
        };
        tokio::pin!(run);
        let mut open = true;
        let posted = loop {
            tokio::select! {
                posted = &mut run => break posted,
                asked = self.asked.recv(), if open => match asked {
                    Some(job) => {
                        let dropped = self.queue.push(job);
                        self.done.send_modify(|done| *done += dropped);
                    }
                    None => open = false,
                },
            }
        };
        self.posted = posted;
    }
}

/// Undoes the lines of spokes that were killed, but of devices that are there and
/// that `keep` says.
pub(crate) async fn undo_left(netlink: &Netlink, keep: impl Fn(&Link) -> bool) {
    let links = netlink.links().await.unwrap_or_default();
    let is_kept = |device: &str| {
        let mut kept = links.iter().filter(|link| keep(link));
        kept.any(|link| link.name == device)
    };

    hook::undo_left(OWNER, is_kept).await;
}

async fn run_program(path: &Path, job: &Job) {
    let event = job.event.name();
    tracing::debug!(hook = %path.display(), event, "hook starts");
    match hook::run(path, &job.env).await {
        Ok(()) => tracing::debug!(event, "hook done"),
        Err(error) => tracing::error!(event, "failed to run hook: {error}"),
    }
}

/// What the signs of lines on this device are called.
fn name(env: &[(&'static str, String)]) -> String {
    let device = env.iter().find(|(name, _)| *name == "TUN");

    format!("{OWNER}{}", device.map_or("", |(_, device)| device))
}

const OWNER: &str = "spoke-";

/// What waits: at most an end and a beginning.
#[derive(Debug, Default)]
struct Queue(VecDeque<Job>);

impl Queue {
    /// Adds a job; returns how many it made pointless.
    fn push(&mut self, mut job: Job) -> u64 {
        let before = self.0.len();
        match job.event {
            Event::Down => self.0.clear(),
            Event::Up | Event::Inherited | Event::Uplink => {
                if let Some(last) = self.0.pop_back_if(|last| last.event != Event::Down)
                    && last.event == Event::Up
                {
                    job.event = Event::Up;
                    for (name, value) in &mut job.env {
                        if *name == EVENT {
                            Event::Up.name().clone_into(value);
                        }
                    }
                }
            }
        }
        let dropped = before - self.0.len();
        self.0.push_back(job);

        dropped as u64
    }

    fn pop(&mut self) -> Option<Job> {
        self.0.pop_front()
    }
}

/// The variable that names the event.
pub(crate) const EVENT: &str = "EVENT";

/// The runner takes what is asked for at once; this is for its being scheduled.
const ROOM: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(events: &[Event]) -> Vec<(Event, String)> {
        let mut queue = Queue::default();
        for event in events {
            queue.push(Job {
                event: *event,
                env: vec![(EVENT, event.name().to_owned())],
            });
        }

        queue
            .0
            .into_iter()
            .map(|mut job| (job.event, job.env.remove(0).1))
            .collect()
    }

    #[test]
    fn beginnings_that_wait_become_one() {
        assert_eq!(
            queue(&[Event::Uplink, Event::Uplink]),
            [(Event::Uplink, "uplink".to_owned())]
        );
        assert_eq!(
            queue(&[Event::Up, Event::Uplink]),
            [(Event::Up, "up".to_owned())]
        );
    }

    #[test]
    fn an_end_makes_a_waiting_beginning_pointless_and_stays_before_the_next() {
        assert_eq!(
            queue(&[Event::Up, Event::Down]),
            [(Event::Down, "down".to_owned())]
        );
        assert_eq!(
            queue(&[Event::Uplink, Event::Down, Event::Up]),
            [
                (Event::Down, "down".to_owned()),
                (Event::Up, "up".to_owned())
            ]
        );
    }

    #[tokio::test]
    async fn hooks_are_idle_again_when_all_that_was_asked_for_is_done() {
        let mut hooks = Hooks::new(Some("/bin/true".into()), None, Lines::default());
        assert!(hooks.is_idle());

        for event in [Event::Up, Event::Uplink, Event::Uplink, Event::Down] {
            hooks
                .ask(Job {
                    event,
                    env: Vec::new(),
                })
                .await;
        }
        assert!(!hooks.is_idle());
        while !hooks.is_idle() {
            hooks.changed().await;
        }
        hooks.finish().await;
    }
}
