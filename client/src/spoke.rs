//! The spoke's loop: a session, the tunnel that outlives it, the next session.
//! Packets pass beside it, on the data path's threads.
//!
//! [`Spoke`] owns all of it. Its work can be dropped at any await, which is
//! how a stop comes; what is left then is taken down by [`Spoke::goodbye`].

mod away;
mod carry;
mod hooked;
mod leaving;
mod mending;
mod reload;
mod routing;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dtun_shared::datapath::{Datapath, Key};
use dtun_shared::link::{Changes, Netlink};
use dtun_shared::service::Notify;
use dtun_shared::sleep::{Wakes, slept};
use dtun_shared::status::has_net_admin;
use dtun_shared::stop::Stop;
use dtun_shared::tun::DeviceError;
use tokio::sync::mpsc;

use crate::attempt::Credentials;
use crate::backoff::Backoff;
use crate::config::SpokeConfig;
use crate::firewall::Ending;
use crate::hint::{default_hint, random};
use crate::hooks::Hooks;
use crate::report::Teller;
use crate::resolve::Outside;
use crate::routes::RouteWhat;
use crate::session::{Pulse, Terms};
use crate::side::{Notes, SpokeSide};
use crate::steering::Steering;
use crate::tunnel::Tunnel;
use crate::uplink::{Network, Way, way_to};
use away::{Meanwhile, Outcome};
use hooked::Hooked;
use mending::Mending;
use routing::rounded;

/// Keeps a tunnel to the hub until `stop` is done; `notify` hears of it. Of what
/// `reloads` brings that is taken over which a spoke can change while it runs.
///
/// # Errors
///
/// When the machine gives no tunnel at all, or with `once` at the first dial
/// without a session.
pub async fn run(
    config: SpokeConfig,
    stop: impl Future<Output = Stop>,
    reloads: mpsc::UnboundedReceiver<Option<Box<SpokeConfig>>>,
    notify: Notify,
) -> anyhow::Result<()> {
    let netlink = Netlink::new().context("failed to open netlink")?;
    check_rights(&netlink, config.tun.as_deref()).await?;

    let mut spoke = Spoke::new(config, netlink, reloads, notify)?;
    let (result, stop) = tokio::select! {
        biased;
        stop = stop => (Ok(()), Some(stop)),
        result = spoke.serve() => (result, None),
    };
    let mut notify = std::mem::take(&mut spoke.notify);
    notify.stopping();
    match stop {
        Some(Stop::Restart) => spoke.leave(&mut notify).await,
        Some(stop) => notify.extending(spoke.goodbye(stop.into())).await,
        None => notify.extending(spoke.goodbye(Ending::Locked)).await,
    }

    result
}

/// Everything the loop owns.
struct Spoke {
    config: SpokeConfig,
    hint: String,
    netlink: Netlink,
    changes: Changes,
    datapath: Datapath<SpokeSide>,
    side: Arc<SpokeSide>,
    notes: Notes,
    session: Option<Pulse>,
    /// The session before a renewal.
    former: Option<Former>,
    /// The session's socket in the data path.
    socket: Option<Key>,
    tunnel: Option<Tunnel>,
    steering: Steering,
    mending: Mending,
    /// The tunnel's device in the data path.
    device: Option<Key>,
    hooks: Hooks,
    /// What the hooks were told last; none while the tunnel is down for them.
    hooked: Option<Hooked>,
    /// The hub's last good addresses.
    known: Vec<SocketAddr>,
    backoff: Backoff,
    teller: Teller,
    reloads: mpsc::UnboundedReceiver<Option<Box<SpokeConfig>>>,
    notify: Notify,
    /// Since when the hub is away.
    away: Instant,
    /// The network as it was at the last dial.
    network: Network,
    /// When to look at the network: changes come in bursts.
    look: Option<Instant>,
    slept: Duration,
    /// None where the kernel does not tell of the end of a sleep.
    wakes: Option<Wakes>,
    told_nothing_routed: bool,
    told_loop: bool,
    told_left_out: bool,
    /// The hook's routes would cut the session off again.
    withhold_hook: bool,
}

/// A session that another has taken the place of, for as long as what the hub
/// sent in it may be on its way.
struct Former {
    key: Key,
    pulse: Pulse,
    until: Instant,
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the hub said goodbye")]
    Goodbye,
    #[error(transparent)]
    Dead(#[from] crate::liveness::Death),
    #[error("the machine slept")]
    Slept,
    #[error("{0}")]
    Uplink(&'static str),
    #[error("no session could take the place of one whose keys are used enough")]
    NotRenewed,
    #[error("the device is gone")]
    DeviceGone,
}

impl Spoke {
    fn new(
        config: SpokeConfig,
        netlink: Netlink,
        reloads: mpsc::UnboundedReceiver<Option<Box<SpokeConfig>>>,
        notify: Notify,
    ) -> anyhow::Result<Self> {
        let hint = config
            .hint
            .clone()
            .unwrap_or_else(|| default_hint(config.state.as_deref()));
        let (side, notes) = SpokeSide::new();
        let datapath = Datapath::start(Arc::clone(&side), workers())
            .context("failed to start the data path")?;

        Ok(Self {
            changes: netlink.watch().context("failed to watch the network")?,
            hooks: Hooks::new(config.up.clone(), config.down.clone(), config.lines.clone()),
            steering: Steering::new(&netlink, &config),
            config,
            hint,
            netlink,
            datapath,
            side,
            notes,
            session: None,
            former: None,
            socket: None,
            tunnel: None,
            mending: Mending::default(),
            device: None,
            hooked: None,
            known: Vec::new(),
            backoff: Backoff::default(),
            teller: Teller::default(),
            reloads,
            notify,
            away: Instant::now(),
            network: Network::default(),
            look: None,
            slept: slept().unwrap_or_default(),
            wakes: Wakes::new()
                .inspect_err(|error| tracing::debug!(%error, "sleeps are not told"))
                .ok(),
            told_nothing_routed: false,
            told_loop: false,
            told_left_out: false,
            withhold_hook: false,
        })
    }

    /// Session after session, for ever.
    async fn serve(&mut self) -> anyhow::Result<()> {
        self.begin().await?;
        tracing::info!(hub = self.config.connect, hint = self.hint, "dialling");
        self.notify
            .status(|| format!("dialling {}", self.config.connect));
        // The hub may be away for long: a boot does not wait for it.
        self.notify.ready();
        loop {
            self.establish().await?;
            let since = Instant::now();
            let end = self.carry().await;
            self.away = Instant::now();

            if let Some(pulse) = self.let_session_go() {
                let dropped = pulse.session().counters();
                tracing::info!(reason = %end, %dropped, "tunnel down");
                self.notify.status(|| format!("no session: {end}"));
                self.steering.tell_lock();
            }
            let by_hub = matches!(end, End::Goodbye);
            let wait = self.backoff.ended(since.elapsed(), by_hub, random());
            if matches!(end, End::Slept) {
                self.backoff.reset();
            } else if !wait.is_zero() {
                // The change that ended the session has been told already.
                self.look = Some(Instant::now());
                self.pause(wait).await;
            }
        }
    }

    /// Dials until there is a session and the tunnel stands.
    async fn establish(&mut self) -> anyhow::Result<()> {
        loop {
            let report = match self.round().await {
                Outcome::Again => continue,
                Outcome::Failed(report) => report,
                Outcome::Session(session) => match self.take_up(session).await? {
                    None => return Ok(()),
                    Some(report) => report,
                },
            };
            if self.config.once {
                anyhow::bail!(self.teller.last_word(&report));
            }
            self.teller.tell(Instant::now(), &report);
            self.steering.tell_lock();
            if !report.is_refusal() {
                self.follow_gateway().await;
            }
            let wait = if report.is_refusal() {
                self.backoff.refused(random())
            } else {
                self.backoff.failed(random())
            };
            tracing::debug!(?wait, "next dial");
            self.notify
                .status(|| format!("no session, next dial in {:?}: {report}", rounded(wait)));
            self.pause(wait).await;
        }
    }

    /// Waits, but no longer than until the network changes or the machine wakes.
    async fn pause(&mut self, wait: Duration) {
        match self.meanwhile(tokio::time::sleep(wait)).await {
            Meanwhile::Done(()) => {}
            Meanwhile::Changed => self.backoff.reset(),
        }
    }

    /// Tells a watchdog that the loop and the data path are at work.
    fn beat(&mut self) {
        self.notify.beat(|| self.datapath.is_well());
    }

    /// What the next attempts bring along.
    fn credentials(&self) -> Arc<Credentials> {
        Arc::new(Credentials {
            psk: self.config.psk.clone(),
            hint: self.hint.clone(),
            suites: self.config.suites.clone(),
            leaving: self.steering.leaving().clone(),
            terms: Terms {
                peernet: self.config.peernet.clone(),
                mtu: self.config.mtu,
                keepalive: self.config.keepalive,
                offload: self.config.offload,
                full: self.config.route.as_ref().and_then(|what| match what {
                    RouteWhat::Everything(nets) => Some(nets.clone()),
                    RouteWhat::Nets(_) => None,
                }),
            },
        })
    }

    /// How the hub's name is asked for past the tunnel; none where nothing tells
    /// our own datagrams from the rest.
    fn outside(&mut self) -> Option<Outside> {
        let leaving = self.steering.leaving().clone();
        leaving.mark?;

        Some(Outside {
            servers: self.steering.name_servers(),
            leaving,
        })
    }

    async fn way_to(&self, hub: SocketAddr) -> std::io::Result<Way> {
        let leaving = self.steering.leaving();

        way_to(&self.netlink, hub.ip(), self.tun_index(), leaving).await
    }

    fn tun_index(&self) -> Option<u32> {
        self.tunnel.as_ref().map(Tunnel::index)
    }

    /// Leaves nothing behind: hub, hooks, device.
    async fn goodbye(mut self, ending: Ending) {
        if let Some(mut pulse) = self.let_session_go() {
            pulse.close(Instant::now());
            let dropped = pulse.session().counters();
            tracing::info!(reason = "stopped", %dropped, "tunnel down");
        }
        self.steering.remove(ending).await;
        if self.hooked.is_some() {
            self.ask_down().await;
        }
        self.hooks.finish().await;
        drop(self.datapath); // Its threads end, and let go of the device.
        if let Some(tunnel) = self.tunnel
            && let Err(error) = tunnel.remove().await
        {
            tracing::warn!(%error, "failed to clean the device up");
        }
    }
}

/// How many threads packets are to pass on.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKERS))
}

/// Says at once what would be found out only after the first session.
async fn check_rights(netlink: &Netlink, tun: Option<&str>) -> anyhow::Result<()> {
    if !Path::new("/dev/net/tun").exists() {
        return Err(DeviceError::NoTunModule.into());
    }
    if let Some(name) = tun
        && netlink.link(name).await?.is_some()
    {
        return Ok(()); // Its owner may have given it to us.
    }
    if has_net_admin() == Some(false) {
        return Err(DeviceError::NotPermitted.into());
    }

    Ok(())
}

/// One for each direction of a busy tunnel.
const WORKERS: usize = 2;
