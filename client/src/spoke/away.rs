//! The hub is away: rounds of dialling, and what goes on meanwhile.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use dtun_shared::leaving::Leaving;
use dtun_shared::link::Change;
use dtun_shared::sleep::{Wakes, slept};
use dtun_shared::timer::at;
use tokio::time::sleep;

use super::Spoke;
use super::routing::near;
use crate::attempt::{Failure, Round};
use crate::config::SpokeConfig;
use crate::report::Report;
use crate::resolve::{ResolveError, resolve};
use crate::session::Pulse;
use crate::uplink::{Network, Way, way_to};

/// What came of a round.
pub(super) enum Outcome {
    Session(Pulse),
    Failed(Report),
    /// The ground moved: dial anew at once.
    Again,
}

/// What came of a wait.
pub(super) enum Meanwhile<T> {
    Done(T),
    /// The network came back or changed, or the machine woke up.
    Changed,
}

/// What happens in a round.
enum Step {
    Resolved(Result<Vec<SocketAddr>, ResolveError>),
    /// The resolver has had its head start.
    Grace,
    /// The user wants to hear something.
    Late,
    Over(Result<Pulse, Vec<(SocketAddr, Failure)>>),
}

impl Spoke {
    /// Resolves the name and tries every address. The last good ones are
    /// tried without waiting for a resolver that may be dead, or may be asked
    /// through the tunnel.
    pub(super) async fn round(&mut self) -> Outcome {
        let chosen = self.steering.choose_uplink().await;
        self.network = self.look_around().await;
        if let Err(error) = chosen {
            return Outcome::Failed(Report::NoUplink(error));
        }
        let mut round = Round::new(self.credentials());
        let mut resolving = Box::pin(resolve(self.config.connect.clone(), self.outside()));
        let (mut resolved, mut is_stale) = (false, false);
        let mut failures = Vec::new();
        let (mut grace, mut late) = (Box::pin(sleep(GRACE)), Box::pin(sleep(LATE)));
        let (mut has_grace, mut is_late) = (!self.known.is_empty(), false);

        loop {
            let step = async {
                tokio::select! {
                    result = &mut resolving, if !resolved => Step::Resolved(result),
                    () = &mut grace, if has_grace => Step::Grace,
                    () = &mut late, if !is_late => Step::Late,
                    result = round.run() => Step::Over(result),
                }
            };
            let step = match self.meanwhile(step).await {
                Meanwhile::Done(step) => step,
                Meanwhile::Changed => return Outcome::Again,
            };
            match step {
                Step::Resolved(Ok(addrs)) if !addrs.iter().any(|addr| self.reaches(*addr)) => {
                    let name = self.config.connect.clone();
                    let error = ResolveError::OtherFamily;
                    return Outcome::Failed(Report::Unresolved { name, error });
                }
                Step::Resolved(Ok(mut addrs)) => {
                    addrs.retain(|addr| self.reaches(*addr));
                    tracing::debug!(?addrs, "resolved");
                    resolved = true;
                    has_grace = false;
                    self.known = addrs;
                    self.clear_way().await;
                    round.add(&self.known);
                }
                Step::Resolved(Err(error)) => {
                    tracing::debug!(%error, "not resolved");
                    if self.known.is_empty() {
                        let name = self.config.connect.clone();
                        return Outcome::Failed(Report::Unresolved { name, error });
                    }
                    (resolved, is_stale) = (true, true);
                    has_grace = false;
                    self.clear_way().await;
                    round.add(&self.known);
                }
                Step::Grace => {
                    has_grace = false;
                    self.clear_way().await;
                    round.add(&self.known);
                }
                Step::Late => {
                    is_late = true;
                    if let Some(report) = round.silence() {
                        let report = self.with_name(report, resolved && !is_stale);
                        self.teller.tell(Instant::now(), &report);
                    }
                }
                Step::Over(Ok(pulse)) => return Outcome::Session(pulse),
                Step::Over(Err(more)) => failures.extend(more),
            }
            if resolved && !failures.is_empty() && round.is_over() {
                let report = Report::of(&self.hint, failures);
                // The hub may have moved to an address that only the resolver knows.
                if is_stale && report.is_silence() && self.clear_way_to_resolver().await {
                    return Outcome::Again;
                }
                let report = self.with_filter(report).await;
                return Outcome::Failed(self.with_name(report, !is_stale));
            }
        }
    }

    /// Says why answers may not be let in.
    async fn with_filter(&self, report: Report) -> Report {
        match report.silent() {
            Some(hub) => report.filtered(self.steering.filtered(hub.ip()).await),
            None => report,
        }
    }

    /// Whether our datagrams can leave for that address as the user wants.
    fn reaches(&self, hub: SocketAddr) -> bool {
        self.steering.leaving().reaches(hub.ip())
    }

    /// Both reports of a round say the same of the name, so that neither is news.
    fn with_name(&self, report: Report, is_resolved: bool) -> Report {
        if is_resolved {
            return report;
        }

        report.without_name(&self.config.connect)
    }

    /// Waits for `goal`, keeping the machine in order: the fallback comes when
    /// it is due.
    pub(super) async fn meanwhile<T>(&mut self, goal: impl Future<Output = T>) -> Meanwhile<T> {
        enum Wake<T> {
            Done(T),
            Change(std::io::Result<Change>),
            Clock,
            Timer,
            Steering,
            Reload(Option<Box<SpokeConfig>>),
        }

        let mut goal = pin!(goal);
        loop {
            self.beat();
            let timer = self.next_duty();
            let wake = tokio::select! {
                done = &mut goal => Wake::Done(done),
                change = self.changes.recv() => Wake::Change(change),
                () = next_wake(&mut self.wakes) => Wake::Clock,
                () = at(timer) => Wake::Timer,
                () = self.steering.wake() => Wake::Steering,
                Some(config) = self.reloads.recv() => Wake::Reload(config),
            };
            match wake {
                Wake::Done(done) => return Meanwhile::Done(done),
                Wake::Change(change) => self.note(change).await,
                Wake::Steering => {} // Its time has come nearer.
                Wake::Reload(config) => self.reload(config).await,
                Wake::Clock | Wake::Timer => {
                    if self.duties().await {
                        return Meanwhile::Changed;
                    }
                }
            }
        }
    }

    /// Remembers to look at the network when it has come to rest.
    pub(super) async fn note(&mut self, change: std::io::Result<Change>) {
        if let Ok(change) = &change {
            if let Some(device) = self.tun_index() {
                self.mending.note(*change, device);
            }
            self.steering.note(*change);
        }
        match change {
            Ok(Change::Link { index, removed, .. }) if Some(index) == self.tun_index() => {
                if removed {
                    self.lose_device().await;
                }
            }
            Ok(Change::Lost) => {
                if !self.has_device().await {
                    self.lose_device().await;
                }
                near(&mut self.look, Instant::now() + REST);
            }
            Ok(_) => {
                near(&mut self.look, Instant::now() + REST);
            }
            Err(error) => {
                tracing::debug!(%error, "network changes are not told");
                near(&mut self.look, Instant::now() + BLIND);
            }
        }
    }

    /// Whether the device is there, where there is to be one.
    async fn has_device(&self) -> bool {
        let Some(index) = self.tun_index() else {
            return true;
        };

        !matches!(self.netlink.link_by_index(index).await, Ok(None))
    }

    async fn lose_device(&mut self) {
        tracing::warn!("somebody deleted the tunnel's device");
        self.steering.withdraw().await;
        self.let_device_go();
        self.ask_down().await;
    }

    /// Whether the machine slept since the last time somebody asked.
    pub(super) fn has_slept(&mut self) -> bool {
        let slept = slept().unwrap_or(self.slept);
        let woke = slept > self.slept + NAP;
        self.slept = slept;

        woke
    }

    fn next_duty(&self) -> Option<Instant> {
        let fallback = self.fallback_at();
        let (steering, mending) = (self.steering.due(), self.mending.due());
        let duties = [self.look, fallback, steering, mending, self.notify.due()];

        duties.into_iter().flatten().min()
    }

    /// Does what is due; true when there is reason to dial at once.
    async fn duties(&mut self) -> bool {
        let now = Instant::now();
        if self.fallback_at().is_some_and(|at| now >= at) {
            self.fall_back().await;
        }
        self.mend_device(now).await;
        if self.steering.is_due(now) {
            self.steering.look().await;
        }
        if self.has_slept() {
            tracing::info!("the machine slept, dialling at once");
            return true;
        }
        if self.look.is_none_or(|look| now < look) {
            return false;
        }

        self.look = None;
        let network = self.look_around().await;
        let better = network.is_better_than(&self.network);
        self.network = network;
        if better {
            tracing::debug!("the network changed");
        }
        better
    }

    async fn look_around(&self) -> Network {
        let hubs = self.known.iter().map(SocketAddr::ip);
        let leaving = self.steering.leaving();
        Network::look(&self.netlink, hubs, self.tun_index(), leaving)
            .await
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "failed to look at the network");
                self.network.clone()
            })
    }

    /// Takes a script's routes away when they lead our own datagrams into our
    /// own device.
    async fn clear_way(&mut self) {
        for hub in self.known.clone() {
            if matches!(self.way_to(hub).await, Ok(Way::IntoTunnel)) {
                self.withdraw_routes("the hub's address is routed into the tunnel")
                    .await;
                return;
            }
        }
    }

    /// The same for the questions of the resolver, unless the user wants all
    /// to stay in the tunnel. True when there was something to take away.
    async fn clear_way_to_resolver(&mut self) -> bool {
        // Marked, our own questions go past the tunnel.
        if self.config.fallback.is_none() || self.steering.leaving().mark.is_some() {
            return false;
        }
        let servers = self.steering.name_servers();
        for ip in servers.iter().map(SocketAddr::ip) {
            // The system's resolver bears no mark.
            let leaving = Leaving::default();
            let way = way_to(&self.netlink, ip, self.tun_index(), &leaving).await;
            if matches!(way, Ok(Way::IntoTunnel)) {
                self.withdraw_routes("the name server is routed into the tunnel")
                    .await;
                return true;
            }
        }
        // A resolver on this machine asks others that we do not know of.
        let is_local = servers.iter().any(|server| server.ip().is_loopback());
        if is_local && self.routes_anything().await {
            self.withdraw_routes("the name server may be routed into the tunnel")
                .await;
            return true;
        }

        false
    }

    async fn withdraw_routes(&mut self, why: &'static str) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        tracing::info!(device = tunnel.name(), "{why}: its routes are withdrawn");
        if let Err(error) = tunnel.withdraw_others().await {
            tracing::warn!(%error, "failed to withdraw routes");
        }
        if let Some(hooked) = &mut self.hooked
            && !std::mem::take(&mut self.withhold_hook)
        {
            hooked.forget();
        }
        self.network = self.look_around().await;
        self.look = None;
    }
}

/// Waits until the machine may have woken up.
pub(super) async fn next_wake(wakes: &mut Option<Wakes>) {
    if let Some(told) = wakes {
        match told.recv().await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(%error, "sleeps are not told");
                *wakes = None;
            }
        }
    }
    std::future::pending().await
}

/// How long the resolver may take before the last good addresses are tried.
const GRACE: Duration = Duration::from_millis(300);

/// When the user hears what is known of a dial that takes long.
const LATE: Duration = Duration::from_secs(5);

/// A change is looked at when it is that old: they come in bursts.
const REST: Duration = Duration::from_millis(100);

/// How often to look without being told.
const BLIND: Duration = Duration::from_secs(2);

/// The two clocks differ by less when the machine is awake.
const NAP: Duration = Duration::from_secs(1);
