//! The hub's loop: it owns the leases, their devices and routes, and decides
//! which session speaks for a hint.
//!
//! The data path and the wire task run beside it, so that a slow netlink call
//! delays a newcomer and nobody else.

mod admission;
mod counters;
mod fight;
mod gone;
mod hooks;
mod memory;
mod mend;
mod peernets;
mod port;
mod probe;
mod reload;
mod reset;
mod shared;
mod side;
mod start;
mod stop;
mod welcome;
mod wire;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use dtun_shared::association::Association;
use dtun_shared::datapath::Datapath;
use dtun_shared::gauge::Gauge;
use dtun_shared::link::{Netlink, Via};
use dtun_shared::meta::SpokeMeta;
use dtun_shared::service::Notify;
use dtun_shared::stop::Stop;
use dtun_shared::timer::at;
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::interval;

use crate::HubConfig;
use crate::lease::Leases;
use crate::left::Presence;
use crate::nat::Nat;
use crate::peernet::Policy;
use crate::session::{Due, Ended, Session, Upkeep};
use memory::Memory;
use mend::Mending;
use port::Port;
pub(crate) use port::{GROUP, delete_strays};
use shared::Shared;
use wire::Event;

/// Serves until `stop` resolves or something fails for good, then says goodbye
/// to every spoke and leaves what `stop` says; the leases stay in the state.
/// `notify` hears of it. Of what `reloads` brings that is taken over which a
/// hub can change while it serves.
pub async fn run(
    config: HubConfig,
    stop: impl Future<Output = Stop>,
    reloads: mpsc::UnboundedReceiver<Option<Box<HubConfig>>>,
    mut notify: Notify,
) -> anyhow::Result<()> {
    let mut hub = notify.extending(start::start(config)).await?;
    notify.ready();
    let result = hub.serve(stop, reloads, &mut notify).await;
    notify.stopping();
    let stop = result.as_ref().copied().unwrap_or_default();
    notify.extending(hub.stop(stop)).await;

    result.map(|_| ())
}

/// State of the loop.
struct Hub {
    shared: Arc<Shared>,
    datapath: Arc<Datapath<Shared>>,
    netlink: Netlink,
    leases: Leases,
    memory: Memory,
    /// Devices, by their lease's hint.
    ports: HashMap<String, Port>,
    /// Devices that wait for their down hooks, by hint.
    leaving: HashMap<String, Leaving>,
    /// Every session that is not over, by serial number.
    kept: HashMap<u64, Kept>,
    policy: Policy,
    /// Networks of the machine, as of the last look.
    networks: Option<(Instant, Vec<(IpNet, bool)>)>,
    /// The inner MTU that was asked for; none for what the path carries.
    mtu: Option<u16>,
    offload: bool,
    keepalive: Duration,
    hooks: hooks::Hooks,
    /// Tells `dtun clean` of us.
    presence: Presence,
    /// Lets the spokes out, if that is asked for.
    nat: Option<Nat>,
    events: mpsc::Receiver<Event>,
    wire: JoinHandle<()>,
    mending: Mending,
    /// When what was due was done last.
    looked: Instant,
}

/// A device that is to go when its down hook is over.
struct Leaving {
    index: u32,
    deletion: JoinHandle<()>,
}

/// What the loop keeps for a session.
struct Kept {
    session: Arc<Session>,
    upkeep: Upkeep,
    /// Our meta, for its repetition.
    meta: Vec<u8>,
    /// The inner MTU that our meta named.
    mtu: u16,
    /// The spoke's meta, once it has come.
    told: Option<SpokeMeta>,
    probes: u16,
    /// What the path carries, once the spoke's meta has come.
    gauge: Option<Gauge>,
    /// When to look whether what went to the spoke was answered.
    watched: Option<Instant>,
    /// It speaks for its hint.
    up: bool,
}

impl Hub {
    async fn serve(
        &mut self,
        stop: impl Future<Output = Stop>,
        mut reloads: mpsc::UnboundedReceiver<Option<Box<HubConfig>>>,
        notify: &mut Notify,
    ) -> anyhow::Result<Stop> {
        tokio::pin!(stop);
        let shared = Arc::clone(&self.shared);
        let mut report = interval(REPORT);

        loop {
            notify.beat(|| self.datapath.is_well());
            notify.status(|| self.status());
            let due = self.due().into_iter().chain(notify.due()).min();
            tokio::select! {
                stop = &mut stop => return Ok(stop),
                Some(config) = reloads.recv() => {
                    notify.reloading();
                    if let Some(config) = config {
                        self.reload(*config).await;
                    }
                    notify.ready();
                }
                event = self.events.recv() => match event {
                    Some(event) => self.handle_events(event).await,
                    None => return self.wire_failed().await,
                },
                change = self.mending.changes.recv() => self.note_change(change),
                () = at(due) => self.handle_due().await,
                () = shared.missed.notified() => self.handle_due().await,
                // What changed while a write was running is in the next, at once:
                // a kill then finds every device named.
                () = self.memory.written() => {}
                _ = report.tick() => {
                    tracing::debug!(dropped = %self.shared.counters, sessions = self.kept.len(), "so far");
                }
            }
            self.memory.flush(&self.leases).await;
        }
    }

    /// For whoever asks the service manager.
    fn status(&self) -> String {
        match self.kept.values().filter(|kept| kept.up).count() {
            0 => "no spoke".to_owned(),
            1 => "1 spoke".to_owned(),
            spokes => format!("{spokes} spokes"),
        }
    }

    /// Takes an event and those that wait behind it: a look at every session
    /// after each would be dear.
    async fn handle_events(&mut self, first: Event) {
        self.handle_event(first).await;
        for _ in 0..EVENTS_AT_ONCE {
            let Ok(event) = self.events.try_recv() else {
                break;
            };
            // Not only at the end: a kill finds every device named.
            self.memory.flush(&self.leases).await;
            self.handle_event(event).await;
        }
    }

    async fn handle_event(&mut self, event: Event) {
        match event {
            Event::Established(session, displaced) => {
                self.establish(session).await;
                // After the newcomer, so that a lease they share stays in use.
                if let Some(old) = displaced {
                    self.end(&old, Ended::Replaced).await;
                }
            }
            Event::Confirmed(session) => self.confirm(&session).await,
            Event::Meta(session, meta) => self.handle_meta(&session, meta).await,
            Event::Probed(session, id) => self.gauge(&session, |gauge, now, association| {
                gauge.answered(now, association, id);
            }),
            Event::PathMtu(session, outer) => self.gauge(&session, |gauge, now, association| {
                gauge.path_mtu(now, association, outer);
            }),
            Event::Unwatched(session) => {
                if let Some(kept) = self.kept.get_mut(&session.serial) {
                    kept.watched = Some(Instant::now() + WATCH);
                }
            }
            Event::Closed(session) => self.end(&session, Ended::Goodbye).await,
        }
    }

    /// When a session or a lease needs the loop, as far as is known: a record
    /// of the spoke puts it off.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let leases = self.leases.next_expiry().map(|at| {
            let wait = at.saturating_sub(self::now());
            now + Duration::from_secs(wait)
        });
        let sessions = self.kept.values().map(|kept| {
            let session = &kept.session;
            let confirmed = session.is_confirmed();
            let due = kept.upkeep.due(&session.heard(), confirmed, self.keepalive);
            let gauge = kept.gauge.as_ref();
            let probe = gauge.and_then(|gauge| gauge.poll_timeout(session.association()));
            let others = [kept.watched, probe].into_iter().flatten();
            others.fold(due, Instant::min)
        });

        // Many at about the same time are done in one go.
        leases
            .into_iter()
            .chain(sessions)
            .chain(self.mending.due())
            .min()
            .map(|at| at.max(self.looked + REST))
    }

    async fn handle_due(&mut self) {
        self.looked = Instant::now();
        self.handle_gone().await;
        self.mend_ports(self.looked).await;
        // Their event was lost in a burst: the session works all the same.
        let confirmed = |kept: &&Kept| !kept.up && kept.session.is_confirmed();
        let unheard: Vec<_> = self
            .kept
            .values()
            .filter(confirmed)
            .map(|kept| Arc::clone(&kept.session))
            .collect();
        for session in unheard {
            self.confirm(&session).await;
        }

        let now = Instant::now();
        for kept in self.kept.values_mut() {
            if kept.watched.take_if(|at| now >= *at).is_some() {
                kept.session.association().unwatch();
            }
            if let Some(gauge) = &mut kept.gauge {
                gauge.handle_timeout(now, kept.session.association());
            }
        }
        let dues: Vec<_> = self
            .kept
            .iter_mut()
            .filter_map(|(serial, kept)| {
                let session = &kept.session;
                let confirmed = session.is_confirmed();
                let due = kept
                    .upkeep
                    .poll(now, &session.heard(), confirmed, self.keepalive)?;
                Some((*serial, due))
            })
            .collect();

        for (serial, due) in dues {
            let Some(kept) = self.kept.get_mut(&serial) else {
                continue;
            };
            match due {
                Due::Meta => self.shared.send_in(&kept.session, &kept.meta),
                Due::Probe => probe::send(&self.shared, kept),
                Due::End(why) => {
                    let session = Arc::clone(&kept.session);
                    self.end(&session, why).await;
                }
            }
        }
        self.retire().await;
    }

    /// Passes news of a session's path on.
    fn gauge(&mut self, session: &Session, tell: impl FnOnce(&mut Gauge, Instant, &Association)) {
        let kept = self.kept.get_mut(&session.serial);
        if let Some(gauge) = kept.and_then(|kept| kept.gauge.as_mut()) {
            tell(gauge, Instant::now(), session.association());
        }
    }

    /// Deletes the devices of leases that are over. The address is another's
    /// only when the device is gone: its routes go before a new one's.
    async fn retire(&mut self) {
        for hint in self.leases.expired(now()) {
            if let Some(port) = self.ports.remove(&hint) {
                tracing::info!(hint, device = port.tun.name(), "lease over");
                self.delete_port(&hint, port).await;
            }
            let leaving = self.leaving.get(&hint);
            if leaving.is_some_and(|leaving| !leaving.deletion.is_finished()) {
                continue;
            }
            self.leaving.remove(&hint);
            self.leases.set_device(&hint, None);
            self.memory.touch();
        }
    }

    /// Deletes a device, after its down hook: that may take minutes, and holds
    /// up nobody.
    async fn delete_port(&mut self, hint: &str, mut port: Port) {
        let Some(down) = self.hooks.down(hint, &self.leases, &mut port) else {
            port.delete(&self.netlink, &self.datapath).await;
            return;
        };
        let netlink = self.netlink.clone();
        let datapath = Arc::clone(&self.datapath);
        let index = port.tun.index();
        let deletion = tokio::spawn(async move {
            down.await;
            port.delete(&netlink, &datapath).await;
        });
        self.leaving
            .insert(hint.to_owned(), Leaving { index, deletion });
    }

    /// Forgets a session; the last of a hint takes the hint's routes along and
    /// starts the lease's time.
    async fn end(&mut self, session: &Arc<Session>, why: Ended) {
        let Some(kept) = self.kept.remove(&session.serial) else {
            return;
        };
        self.shared.sessions.remove(session);
        let (hint, peer) = (&session.hint, session.peer);
        if session.is_confirmed() && !kept.upkeep.is_rejected() {
            tracing::info!(%hint, %peer, reason = %why, "session down");
        } else {
            tracing::debug!(%hint, %peer, reason = %why, "session given up");
        }

        if kept.upkeep.is_rejected() || self.is_leased(hint) {
            return;
        }
        if let Some(port) = self.ports.get_mut(hint) {
            port.withdraw(&self.netlink, |_| false).await;
        }
        self.leases.release(hint, now());
        self.memory.touch();
        self.tell_peernets();
    }

    /// Whether a session of the hint uses its lease.
    fn is_leased(&self, hint: &str) -> bool {
        self.kept
            .values()
            .any(|kept| kept.session.hint == hint && !kept.upkeep.is_rejected())
    }

    async fn wire_failed(&mut self) -> anyhow::Result<Stop> {
        (&mut self.wire)
            .await
            .context("the task that answers handshakes panicked")?;

        anyhow::bail!("the task that answers handshakes ended")
    }
}

/// Wall-clock seconds, which leases are kept in.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Routes of leases and peernets, and any that the owner sets, go before it.
pub(crate) const BLACKHOLE: Via = Via::Blackhole { metric: 65_535 };

const REST: Duration = Duration::from_millis(100);
const REPORT: Duration = Duration::from_secs(3600);

/// How long after packets began to go to a spoke the hub looks at its path.
const WATCH: Duration = Duration::from_secs(2);

/// Timers wait for so many events at most.
const EVENTS_AT_ONCE: usize = 256;
