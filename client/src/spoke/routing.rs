//! The tunnel's side of the loop: device, hooks, fallback.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use dtun_shared::association::Association;
use dtun_shared::link::{Hop, MAIN};
use dtun_shared::tun::DeviceError;
use ipnet::IpNet;

use super::{Former, Hooked, Spoke};
use crate::hooks::{EVENT, Event, Job};
use crate::report::Report;
use crate::session::{Pulse, Session};
use crate::steering::Lease;
use crate::tunnel::{Plan, Tunnel, TunnelError};
use crate::uplink::{Way, surroundings, uplink_to};

impl Spoke {
    /// Puts a new session's addresses on the device and runs the hook where
    /// that is due. A report says why the session is of no use.
    pub(super) async fn take_up(&mut self, mut pulse: Pulse) -> anyhow::Result<Option<Report>> {
        let hub = pulse.session().hub();
        let plan = match self.plan(pulse.session()).await {
            Ok(plan) => plan,
            Err(why) => {
                pulse.close(Instant::now());
                return Ok(Some(Report::Unusable { hub, why }));
            }
        };
        self.stand(plan).await?;
        self.steer(pulse.session()).await;
        let homeless = self.side.take_homeless();
        if homeless > 0 {
            tracing::debug!(homeless, "packets dropped while there was no session");
        }
        self.teller.forget();
        self.tell_left_out(pulse.session());
        self.known.retain(|known| *known != hub);
        self.known.insert(0, hub);
        self.connect(pulse)?;
        self.tell_manager();
        self.tell_hooks().await;

        Ok(None)
    }

    /// Says that the session is up to whoever asks the service manager.
    fn tell_manager(&mut self) {
        let (Some(pulse), Some(tunnel)) = (&self.session, &self.tunnel) else {
            return;
        };
        let session = pulse.session();
        self.notify.status(|| {
            format!(
                "session up, {} on {} via {}, since {}",
                session.addresses().local4.addr(),
                tunnel.name(),
                session.hub(),
                humantime::format_rfc3339_seconds(SystemTime::now()),
            )
        });
    }

    /// Sends into the tunnel what the user wants there.
    async fn steer(&mut self, session: &Session) {
        let Some(tunnel) = &self.tunnel else {
            return;
        };
        let lease = Lease {
            device: tunnel.name().to_owned(),
            index: tunnel.index(),
            addresses: session.addresses(),
            out6: session.meta().out6,
        };
        self.steering.stand(lease).await;
    }

    /// Lets packets pass between the device and the session.
    fn connect(&mut self, mut pulse: Pulse) -> anyhow::Result<()> {
        let session = Arc::clone(pulse.session());
        let association: &Association = (*session).as_ref();
        if let Some(tunnel) = &self.tunnel {
            session.attach(tunnel.device());
        }
        pulse.measure(Instant::now());
        let lane = Arc::clone(association.lane());
        // A hub lets go of the session before with the first record of this
        // one, and what goes out next must not be in that.
        pulse.greet(Instant::now());
        // Before the socket, so that no datagram comes before its session is known.
        self.side.set(session);
        self.session = Some(pulse);
        self.socket = Some(
            self.datapath
                .add_lane(lane)
                .context("failed to hand the socket to the data path")?,
        );

        Ok(())
    }

    /// Takes the session away from the data path.
    pub(super) fn let_session_go(&mut self) -> Option<Pulse> {
        // First, so that no more packets come for the socket.
        self.side.clear();
        self.let_former_go();
        if let Some(socket) = self.socket.take() {
            self.datapath.remove(socket);
        }
        while self.notes.try_recv().is_some() {} // They were its own.

        self.session.take()
    }

    /// Lets go of the session that another has taken the place of.
    pub(super) fn let_former_go(&mut self) {
        if let Some(Former { key, mut pulse, .. }) = self.former.take() {
            self.side.forget_former();
            self.datapath.remove(key);
            pulse.close(Instant::now());
        }
    }

    /// Lets go of a device that somebody deleted.
    pub(super) fn let_device_go(&mut self) {
        if let Some(device) = self.device.take() {
            self.datapath.remove(device);
        }
        self.tunnel = None;
    }

    /// Says once which networks a hub without the extensions is not told of.
    fn tell_left_out(&mut self, session: &Session) {
        if session.meta().ext || self.config.peernet.len() < 2 || self.told_left_out {
            return;
        }
        self.told_left_out = true;

        let (first, rest) = self.config.peernet.split_at(1);
        let rest: Vec<_> = rest.iter().map(ToString::to_string).collect();
        tracing::warn!(
            taken = %first[0],
            left_out = rest.join(","),
            "this hub takes one peernet only",
        );
    }

    /// Runs the hook when it does not know the tunnel as it is. Its own
    /// routes change nothing here: the gateway towards the hub stays.
    pub(super) async fn tell_hooks(&mut self) {
        let (Some(pulse), Some(tunnel)) = (&self.session, &self.tunnel) else {
            return;
        };
        let session = pulse.session();
        let uplink = match self.way_to(session.hub()).await {
            Ok(Way::Out(hop)) => Some(self.uplink(session.hub(), hop).await),
            // A script is at work, or the session about to end.
            Ok(Way::IntoTunnel | Way::None) | Err(_) if self.hooked.is_some() => return,
            Ok(Way::IntoTunnel | Way::None) | Err(_) => None,
        };
        let hooked = Hooked {
            addresses: session.addresses(),
            hub: session.hub(),
            uplink,
            env: self.env(session, tunnel),
            stale: false,
        };
        let event = match &self.hooked {
            None => Event::Up,
            Some(before) if before.holds_for(&hooked) => return,
            Some(_) => Event::Uplink,
        };
        let env = with_event(&hooked.env, event);
        self.hooked = Some(hooked);
        self.hooks.ask(Job { event, env }).await;
    }

    /// Runs the hook without a session when its host route leads to the hub by
    /// a gateway that the machine has left: until it moves none can stand. The
    /// hook runs again with the session, for a script that needs one.
    pub(super) async fn follow_gateway(&mut self) {
        let Some(mut hooked) = self.hooked.clone() else {
            return;
        };
        let Ok(Way::Out(hop)) = self.way_to(hooked.hub).await else {
            return;
        };
        let uplink = self.uplink(hooked.hub, hop).await;
        if uplink == (hop.oif, hop.gateway) || hooked.uplink == Some(uplink) {
            return;
        }

        let event = Event::Uplink;
        let env = with_event(&hooked.env, event);
        hooked.uplink = Some(uplink);
        hooked.forget();
        self.hooked = Some(hooked);
        self.hooks.ask(Job { event, env }).await;
    }

    /// The link and the gateway towards the hub, whatever host route leads
    /// there now.
    async fn uplink(&self, hub: SocketAddr, hop: Hop) -> (u32, Option<IpAddr>) {
        let routes = self.netlink.routes_of(MAIN).await.unwrap_or_default();

        uplink_to(&routes, hub.ip(), self.tun_index()).unwrap_or((hop.oif, hop.gateway))
    }

    /// Runs the hook for the tunnel's end.
    pub(super) async fn ask_down(&mut self) {
        if let Some(hooked) = self.hooked.take() {
            let env = with_event(&hooked.env, Event::Down);
            self.hooks
                .ask(Job {
                    event: Event::Down,
                    env,
                })
                .await;
        }
    }

    /// When the machine gets its own network back, if the hub stays away.
    pub(super) fn fallback_at(&self) -> Option<Instant> {
        let is_up = self.tunnel.as_ref().is_some_and(Tunnel::is_up);

        self.config
            .fallback
            .filter(|_| is_up && self.session.is_none())
            .map(|fallback| self.away + fallback)
    }

    pub(super) async fn fall_back(&mut self) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        self.steering.withdraw().await;
        tracing::warn!(
            away = ?rounded(self.away.elapsed()),
            "the hub stays away: this machine has its own network back until it returns",
        );
        if let Err(error) = tunnel.withdraw().await {
            tracing::warn!(%error, "failed to withdraw the tunnel's routes");
            tunnel.give_up();
        }
        self.ask_down().await;
    }

    pub(super) async fn routes_anything(&self) -> bool {
        match &self.tunnel {
            Some(tunnel) => tunnel.routed().await.is_ok_and(|nets| !nets.is_empty()),
            None => false,
        }
    }

    /// What the device is to have for this session, unless that would cut the
    /// machine off.
    async fn plan(&self, session: &Session) -> Result<Plan, String> {
        let addresses = session.addresses();
        let device = self.device_to_be().await;
        let around = surroundings(&self.netlink, device, &self.config.peernet)
            .await
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "failed to read this machine's networks");
                crate::clash::Surroundings::default()
            });
        let clashes = around.clashes(&addresses);
        if let Some(fatal) = clashes.iter().find(|clash| clash.is_fatal()) {
            return Err(fatal.to_string());
        }
        for clash in &clashes {
            tracing::warn!("{clash}");
        }

        let mut pools = vec![IpNet::V4(addresses.local4.trunc())];
        pools.extend(addresses.ip6.map(|(local, _)| IpNet::V6(local.trunc())));
        pools.retain(|pool| !clashes.iter().any(|clash| clash.forbids_route(*pool)));

        Ok(Plan {
            addresses,
            mtu: session.mtu(),
            pools,
        })
    }

    /// The index of the device, or of one that is there to be attached to: what
    /// its owner gave it clashes with nothing.
    async fn device_to_be(&self) -> Option<u32> {
        if let (None, Some(name)) = (&self.tunnel, &self.config.tun) {
            return match self.netlink.link(name).await {
                Ok(link) => link.map(|link| link.index),
                Err(error) => {
                    tracing::debug!(%error, "failed to look for the device");
                    None
                }
            };
        }

        self.tun_index()
    }

    /// Makes or changes the device.
    async fn stand(&mut self, plan: Plan) -> Result<(), TunnelError> {
        match &mut self.tunnel {
            None => {
                let name = self.config.tun.as_deref();
                let tunnel = Tunnel::create(&self.netlink, name, self.config.offload, plan).await?;
                self.tunnel = Some(tunnel);
            }
            Some(tunnel) if *tunnel.plan() == plan && tunnel.is_up() => {}
            Some(tunnel) => tunnel.change(plan).await?,
        }

        self.carry_device()
    }

    /// Gives the device to the data path, if it has not got it.
    fn carry_device(&mut self) -> Result<(), TunnelError> {
        if let (Some(tunnel), None) = (&self.tunnel, self.device) {
            let device = self.datapath.add_device(tunnel.device(), ());
            self.device = Some(device.map_err(DeviceError::Io)?);
        }

        Ok(())
    }

    fn env(&self, session: &Session, tunnel: &Tunnel) -> Vec<(&'static str, String)> {
        let addresses = session.addresses();
        let (local6, peer6) = addresses
            .ip6
            .map_or_else(Default::default, |(local, peer)| {
                (local.to_string(), peer.to_string())
            });
        let mut env = vec![
            ("TUN", tunnel.name().to_owned()),
            ("PEER_IP4", addresses.peer4.to_string()),
            ("LOCAL_IP4", addresses.local4.to_string()),
            ("PEER_IP6", peer6),
            ("LOCAL_IP6", local6),
            ("PEER_IP", addresses.peer4.addr().to_string()),
            ("LOCAL_IP", addresses.local4.addr().to_string()),
            ("SERVER_IP", session.hub().ip().to_string()),
            ("SERVER_PORT", session.hub().port().to_string()),
            ("HINT", self.hint.clone()),
            ("MTU", tunnel.plan().mtu.to_string()),
            ("OUT6", u8::from(session.meta().out6).to_string()),
        ];
        if let Some(mark) = self.steering.leaving().mark {
            env.push(("FWMARK", mark.to_string()));
        }
        if let Ok(path) = std::env::current_exe() {
            env.push(("DTUN", path.display().to_string()));
        }
        for name in HANDED_ON {
            if let Ok(value) = std::env::var(name) {
                env.push((name, value));
            }
        }

        env
    }
}

/// Brings a time forward.
pub(super) fn near(at: &mut Option<Instant>, when: Instant) {
    *at = Some(at.map_or(when, |at| at.min(when)));
}

/// A duration as people read it.
pub(super) fn rounded(duration: Duration) -> Duration {
    if duration < Duration::from_millis(10) {
        Duration::from_micros(duration.as_micros() as u64)
    } else {
        Duration::from_millis(duration.as_millis() as u64)
    }
}

fn with_event(env: &[(&'static str, String)], event: Event) -> Vec<(&'static str, String)> {
    let mut env = env.to_vec();
    env.push((EVENT, event.name().to_owned()));

    env
}

/// What the scripts beside this program look for in their environment.
pub(super) const HANDED_ON: [&str; 2] = ["DTUN_BYPASS", "DTUN_VIA"];
