//! What this machine sends into the tunnel, and what keeps the rest out of it:
//! the rules and tables of `-route`, and whatever belongs to them.
//!
//! One owner, the spoke's loop, calls at each turn of the tunnel's life. What
//! counts is put up last and taken down first, so that a process that dies in
//! between leaves nothing that holds traffic up.

mod choice;
mod forwarding;
mod leaving;
mod names;
mod reload;
mod sysctl;
mod told;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dtun_shared::files::Files;
use dtun_shared::leaving::{Bind, Leaving};
use dtun_shared::link::{Change, Netlink};
use dtun_shared::mark::Mark;
use dtun_shared::meta::Addresses;
use tokio::task::spawn_blocking;

use crate::config::SpokeConfig;
use crate::dns::Resolvers;
use crate::firewall::{Firewall, Settings};
use crate::routes::{BypassSource, NotRouted, Place, RouteWhat, Routes};
pub(crate) use choice::{Filtered, NoUplink};
use dtun_shared::repairs::Repairs;
use reload::plan;
use told::{tell_no_firewall, tell_others_lock};

/// Rules, firewall and resolvers of the tunnel.
#[derive(Debug)]
pub(crate) struct Steering {
    /// The uplink that the user wants.
    bind: Option<Bind>,
    leaving: Leaving,
    what: Option<RouteWhat>,
    netlink: Netlink,
    firewall: Option<Firewall>,
    /// Whether the user knows that its part is missing.
    told_no_firewall: bool,
    /// Whether the user knows that no names can be asked for.
    told_no_names: bool,
    /// Whether nothing marks what it would mark.
    unmarked: bool,
    routes: Option<Routes>,
    source: Option<BypassSource>,
    /// Whether the user knows that the list cannot be read.
    told_unread: bool,
    /// Under watch since the list was read first.
    files: Option<Files>,
    resolvers: Resolvers,
    /// Whom the machine is to ask by the tunnel; none to leave that alone.
    dns: Vec<IpAddr>,
    /// The tunnel that is to be steered into; none while it is down.
    lease: Option<Lease>,
    due: Option<Instant>,
    /// What to look at then.
    look: Look,
    repairs: Repairs,
    /// Whether the hub was asked if it forwards.
    asked_hub: bool,
    /// What was said last of what does not work.
    told: Option<String>,
}

/// The tunnel that traffic is steered into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) device: String,
    pub(crate) index: u32,
    pub(crate) addresses: Addresses,
    /// Whether the hub has IPv6 to the outside.
    pub(crate) out6: bool,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// At every route of the tables.
    thorough: bool,
    /// At the bypass list.
    list: bool,
    /// Nothing stands: try again.
    anew: bool,
}

impl Steering {
    pub(crate) fn new(netlink: &Netlink, config: &SpokeConfig) -> Self {
        let mark = config
            .fwmark
            .or(config.route.as_ref().map(|_| Mark::DEFAULT));
        let place = Place {
            table: config.table,
            pref: config.rule_pref,
        };
        let plan = plan(config, mark);
        let routes = plan.map(|plan| Routes::new(netlink.clone(), plan, place));

        Self {
            bind: config.bind.clone(),
            leaving: Leaving {
                mark,
                bind: config.bind.clone(),
            },
            netlink: netlink.clone(),
            firewall: None,
            told_no_firewall: false,
            told_no_names: false,
            unmarked: false,
            what: config.route.clone(),
            routes,
            source: config.bypass.clone(),
            told_unread: false,
            files: None,
            resolvers: Resolvers::new(config.state.as_deref()),
            dns: config.dns.clone(),
            lease: None,
            due: None,
            look: Look::default(),
            repairs: Repairs::of("rules or routes"),
            asked_hub: false,
            told: None,
        }
    }

    /// Whom the machine asks without the tunnel.
    pub(crate) fn name_servers(&mut self) -> Vec<SocketAddr> {
        self.resolvers.before()
    }

    /// How our own datagrams leave the machine.
    pub(crate) fn leaving(&self) -> &Leaving {
        &self.leaving
    }

    /// What is routed into the tunnel, for people; none if scripts do that.
    pub(crate) fn routed(&self) -> Option<String> {
        let what = self.what.as_ref()?;
        let is_down = self.lease.is_none() || self.look.anew;

        Some(if is_down {
            "nothing".to_owned()
        } else {
            what.to_string()
        })
    }

    /// Begins with the firewall: a lock is closed first of all, but for a tunnel
    /// that stands already.
    ///
    /// # Errors
    ///
    /// Only with a lock, when it cannot be closed.
    pub(crate) async fn begin(
        &mut self,
        config: &SpokeConfig,
        lease: Option<&Lease>,
    ) -> anyhow::Result<()> {
        if let Some(settings) = Settings::for_spoke(config)? {
            let (firewall, begun) = Firewall::start(&self.netlink, settings, lease)?;
            self.firewall = Some(firewall); // A stop from here on may find a lock.
            begun.await.context("the firewall's keeper is gone")??;
        }
        if config.strict {
            self.tell_names().await;
        } else {
            tell_others_lock().await;
        }

        Ok(())
    }

    /// Puts everything up for a session, or anew; names last after a failure.
    pub(crate) async fn stand(&mut self, lease: Lease) {
        self.lease = Some(lease);
        self.read_list().await;
        self.tell_names().await;
        if self.told.is_none() {
            self.set_names().await;
        }
        self.put_up().await;
    }

    async fn set_names(&mut self) {
        if let Some(Lease { device, index, .. }) = &self.lease
            && !self.dns.is_empty()
        {
            self.resolvers.set(device, *index, &self.dns).await;
        }
    }

    /// Says, once until there is a tunnel, what a lock does without one.
    pub(crate) fn tell_lock(&mut self) {
        if let Some(firewall) = &mut self.firewall {
            firewall.tell_lock();
        }
    }

    /// Takes everything down until there is a session again.
    pub(crate) async fn withdraw(&mut self) {
        self.forget_tunnel();
        self.take_down().await;
        self.resolvers.restore().await;
    }

    /// Whether there was one.
    fn forget_tunnel(&mut self) -> bool {
        self.due = None;
        self.look = Look::default();

        self.lease.take().is_some()
    }

    /// Notes that something changed in the machine's network.
    pub(crate) fn note(&mut self, change: Change) {
        let (Some(lease), Some(routes)) = (&self.lease, &self.routes) else {
            return;
        };
        if self.look.anew {
            return; // It may be what was just taken down.
        }
        let thorough = match change {
            Change::Gone { table } => routes.table() == Some(table),
            Change::Lost => true,
            Change::Link { index, removed, .. } if index == lease.index && !removed => true,
            Change::Route | Change::Rule => false,
            Change::Address { .. } if self.unmarked => false,
            Change::Link { .. } | Change::Address { .. } => return,
        };
        self.look.thorough |= thorough;
        self.call(REST);
    }

    /// Waits until something that is no change of the network asks for a
    /// [`Self::look`], which is due then. Cancelling the wait loses nothing.
    pub(crate) async fn wake(&mut self) {
        let Some(files) = &self.files else {
            return std::future::pending().await;
        };
        if let Err(error) = files.changed().await {
            tracing::warn!(%error, "changes of the bypass list are not told");
            self.files = None;
            return;
        }
        self.look.list = true;
        self.call(REST);
    }

    /// When to [`Self::look`].
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time, or nearly: whoever asks for the way to the hub should
    /// ask after a [`Self::look`], not just before it.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now + REST)
    }

    /// Puts back what others have taken away, and takes a new list over.
    pub(crate) async fn look(&mut self) {
        self.due = None;
        let look = std::mem::take(&mut self.look);
        if self.lease.is_none() {
            return;
        }
        let is_other = look.list && self.read_list().await;
        if look.anew || is_other {
            self.put_up().await;
            return;
        }

        let (Some(routes), Some(lease)) = (&mut self.routes, &self.lease) else {
            return;
        };
        let put_back = async {
            if self.unmarked {
                routes.do_without_marks(lease).await?; // They may be others now.
            }
            routes.restore(look.thorough).await
        };
        match put_back.await {
            Ok(false) => {}
            Ok(true) => {
                let wait = self.repairs.made(Instant::now());
                tracing::debug!(?wait, "rules or routes were put back");
                if !wait.is_zero() {
                    // Whatever comes meanwhile is looked at then.
                    self.look.thorough = true;
                    self.due = Some(Instant::now() + wait);
                }
            }
            Err(error) => self.failed(&error).await,
        }
    }

    /// Looks soon, but not sooner than a quarrel allows.
    fn call(&mut self, soon: Duration) {
        let at = Instant::now() + soon;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        if let Some(not_before) = self.repairs.not_before() {
            self.due = self.due.map(|due| due.max(not_before));
        }
    }

    /// Reads the bypass list; true if it is another than before.
    async fn read_list(&mut self) -> bool {
        let (Some(source), Some(routes)) = (&self.source, &mut self.routes) else {
            return false;
        };
        // Anew each time: a link may lead elsewhere.
        if source.files().next().is_some() {
            self.files = Files::watch(source.files())
                .inspect_err(|error| tracing::warn!(%error, "the bypass list is not watched"))
                .ok();
        }
        // Long ones take a while.
        let source = source.clone();
        let bypass = match spawn_blocking(move || source.read()).await {
            Ok(Ok(bypass)) => bypass,
            Ok(Err(error)) => {
                if !std::mem::replace(&mut self.told_unread, true) {
                    tracing::warn!("the bypass list stays as it was: {error}");
                }
                return false;
            }
            Err(error) => {
                tracing::warn!("the bypass list stays as it was: {error}");
                return false;
            }
        };
        self.told_unread = false;
        if let Some(first) = bypass.bad.first() {
            tracing::warn!(
                lines = bypass.bad.len(),
                file = %first.file.display(),
                first = first.line,
                text = first.text,
                "lines of the bypass list are no networks",
            );
        }

        routes.set_bypass(bypass)
    }

    /// Tables first, then the firewall; the rules that lead into them last.
    async fn put_up(&mut self) {
        let (Some(lease), Some(routes)) = (&self.lease, &mut self.routes) else {
            return;
        };
        let started = Instant::now();
        sysctl::honour_marks_of_answers();
        sysctl::pass_by_without_carrier(&lease.device);
        let put_up = async {
            routes.prepare(lease.index).await?;
            if let Some(firewall) = &mut self.firewall {
                let result = firewall.stand(lease, routes.bypass()).await;
                self.unmarked = result.is_err() && !firewall.is_locked();
                tell_no_firewall(result, firewall.is_locked(), &mut self.told_no_firewall);
            }
            if self.unmarked {
                routes.do_without_marks(lease).await?;
            } else {
                routes.use_marks().await?;
            }
            routes.lead().await
        };
        match put_up.await {
            Ok(()) => {
                let failed = self.told.take().is_some();
                let is_full = self.what.as_ref().is_some_and(RouteWhat::is_everything);
                if is_full && !self.asked_hub {
                    self.asked_hub = true;
                    tokio::spawn(forwarding::tell(lease.clone(), self.dns.clone()));
                }
                let networks = routes.bypass().len();
                tracing::debug!(networks, took = ?started.elapsed(), "routes stand");
                if failed {
                    self.set_names().await;
                }
            }
            Err(error) => self.failed(&error).await,
        }
    }

    async fn take_down(&mut self) {
        self.remove_routes().await;
        if let Some(firewall) = &self.firewall {
            firewall.withdraw().await;
        }
    }

    async fn remove_routes(&mut self) {
        let started = Instant::now();
        if let Some(routes) = &mut self.routes {
            match routes.remove().await {
                Ok(()) => tracing::debug!(took = ?started.elapsed(), "routes removed"),
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// Leaves nothing half done, names included, says why once, and tries again.
    async fn failed(&mut self, error: &NotRouted) {
        self.take_down().await;
        self.resolvers.restore().await;
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            tracing::error!("nothing is routed into the tunnel: {text}");
            self.told = Some(text);
        }
        self.look.anew = true;
        self.due = Some(Instant::now() + AGAIN);
    }
}

/// A burst of changes is looked at once.
const REST: Duration = Duration::from_millis(100);

/// After something did not work.
const AGAIN: Duration = Duration::from_secs(10);
