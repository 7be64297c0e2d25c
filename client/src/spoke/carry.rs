//! The hub is there: the watch over the session, while packets pass both ways
//! on the data path.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dtun_shared::link::{Change, MAIN};

use super::away::next_wake;
use super::routing::{near, rounded};
use super::{End, Former, Spoke};
use crate::attempt::{Failure, Round};
use crate::config::SpokeConfig;
use crate::session::{Event, Pulse};
use crate::side::{Note, Said};
use crate::uplink::Way;

/// What woke the loop.
enum Wake {
    Note(Note),
    Change(std::io::Result<Change>),
    Hooks,
    Renewed(Result<Pulse, Vec<(SocketAddr, Failure)>>),
    Clock,
    Timer,
    Steering,
    Reload(Option<Box<SpokeConfig>>),
}

/// What the loop keeps beside the session.
struct Watch {
    since: Instant,
    /// When to say that the tunnel is up, whatever is still unknown.
    say: Option<Instant>,
    /// A handshake beside a session whose keys are used enough.
    renewal: Option<Round>,
    renew_after: Instant,
    /// The link that the session's datagrams leave by.
    oif: Option<u32>,
    /// Since when there is no route to the hub.
    cut_off: Option<Instant>,
    /// Whether the hub had its way out after the last hook.
    is_clear: bool,
}

impl Spoke {
    /// Keeps the session until it ends.
    pub(super) async fn carry(&mut self) -> End {
        let now = Instant::now();
        let mut watch = Watch {
            since: now,
            say: Some(now + SAY_WITHIN),
            renewal: None,
            renew_after: now,
            oif: None,
            cut_off: None,
            is_clear: false,
        };
        if let Some(end) = self.look_at_way(&mut watch).await {
            return end;
        }

        loop {
            self.beat();
            let wake = match self.wait(&mut watch).await {
                Ok(wake) => wake,
                Err(end) => return end,
            };
            let end = match wake {
                Wake::Note(note) => self.note_of_data_path(note, &watch).await,
                Wake::Change(change) => {
                    self.note(change).await;
                    None
                }
                Wake::Hooks => {
                    watch.is_clear = false;
                    self.look = Some(Instant::now());
                    None
                }
                Wake::Renewed(result) => self.renewed(result, &mut watch).await,
                Wake::Clock | Wake::Timer => self.timers(&mut watch).await,
                Wake::Steering => None, // Its time has come nearer.
                Wake::Reload(config) => {
                    self.reload(config).await;
                    None
                }
            };
            if let Some(end) = end {
                return end;
            }
            self.say_up(&mut watch).await;
        }
    }

    async fn wait(&mut self, watch: &mut Watch) -> Result<Wake, End> {
        if self.tunnel.is_none() {
            return Err(End::DeviceGone);
        }
        let Some(pulse) = &self.session else {
            return Err(End::Goodbye);
        };
        let former = self.former.as_ref().map(|former| former.until);
        let (steering, beat) = (self.steering.due(), self.notify.due());
        let mending = self.mending.due();
        let timer = [self.look, watch.say, steering, mending, former, beat]
            .into_iter()
            .flatten()
            .fold(pulse.poll_timeout(), Instant::min);
        let renewal = async {
            match &mut watch.renewal {
                Some(round) => round.run().await,
                None => std::future::pending().await,
            }
        };

        Ok(tokio::select! {
            note = self.notes.recv() => Wake::Note(note),
            change = self.changes.recv() => Wake::Change(change),
            () = self.hooks.changed() => Wake::Hooks,
            result = renewal => Wake::Renewed(result),
            () = next_wake(&mut self.wakes) => Wake::Clock,
            () = tokio::time::sleep_until(timer.into()) => Wake::Timer,
            () = self.steering.wake() => Wake::Steering,
            Some(config) = self.reloads.recv() => Wake::Reload(config),
        })
    }

    /// Looks at what the data path has for the loop.
    async fn note_of_data_path(&mut self, note: Note, watch: &Watch) -> Option<End> {
        let pulse = self.session.as_mut()?;
        let event = match note {
            Note::Unwatched => {
                pulse.watch(Instant::now());
                return None;
            }
            Note::Suspect => {
                pulse.suspect(Instant::now());
                return None;
            }
            Note::PathMtu(outer) => {
                pulse.path_mtu(Instant::now(), outer);
                return None;
            }
            Note::Looped => {
                self.tell_loop().await;
                return None;
            }
            // It came in before the session took the place of its own.
            Note::Message(message) if !Arc::ptr_eq(&message.session, pulse.session()) => {
                return None;
            }
            Note::Message(message) => match message.said {
                Said::Record(content, plain) => pulse.handle_record(message.at, content, &plain),
                Said::Echo(id) => pulse.handle_answer(message.at, id),
            },
        };
        match event? {
            // The session that is being made has taken its place.
            Event::Goodbye if watch.renewal.is_some() => {}
            Event::Goodbye => return Some(End::Goodbye),
            Event::Refused(refused) => {
                for refusal in refused {
                    tracing::warn!(net = refusal.net, why = refusal.why, "peernet refused");
                }
            }
            Event::Rtt(rtt) => tracing::debug!(rtt = ?rounded(rtt), "round trip"),
        }

        None
    }

    async fn timers(&mut self, watch: &mut Watch) -> Option<End> {
        let now = Instant::now();
        if self.has_slept() {
            return Some(End::Slept);
        }
        let pulse = self.session.as_mut()?;
        if let Some(death) = pulse.handle_timeout(now) {
            return Some(death.into());
        }
        let (worn, hub) = (pulse.session().is_worn(now), pulse.session().hub());
        if worn && watch.renewal.is_none() && now >= watch.renew_after {
            tracing::debug!("keys are used enough, a new session is made");
            let mut round = Round::new(self.credentials());
            round.add(&[hub]);
            watch.renewal = Some(round);
        }
        self.mend_device(now).await;
        if self.steering.is_due(now) {
            self.steering.look().await;
        }
        if self.former.as_ref().is_some_and(|it| now >= it.until) {
            self.let_former_go();
        }
        if self.look.is_some_and(|look| now >= look) {
            self.look = None;
            return self.look_at_way(watch).await;
        }

        None
    }

    /// Puts the new session in the old one's place.
    async fn renewed(
        &mut self,
        result: Result<Pulse, Vec<(SocketAddr, Failure)>>,
        watch: &mut Watch,
    ) -> Option<End> {
        let now = Instant::now();
        watch.renewal = None;
        watch.renew_after = now + RENEW_AGAIN;
        let pulse = match result {
            Ok(pulse) => pulse,
            Err(failures) => {
                tracing::debug!(?failures, "no new session");
                return None;
            }
        };
        if let (Some(key), Some(pulse)) = (self.socket.take(), self.session.take()) {
            let until = now + LINGER;
            self.former = Some(Former { key, pulse, until });
        }
        match self.take_up(pulse).await {
            Ok(None) => return None,
            Ok(Some(report)) => tracing::warn!("{report}"),
            Err(error) => tracing::warn!("{error:#}"),
        }
        // The old one ends, and the user hears of that.
        if self.session.is_none()
            && let Some(Former { key, pulse, .. }) = self.former.take()
        {
            (self.socket, self.session) = (Some(key), Some(pulse));
        }

        Some(End::NotRenewed)
    }

    /// Whether the session's datagrams still have their way out, and the
    /// hooks the right picture of it.
    async fn look_at_way(&mut self, watch: &mut Watch) -> Option<End> {
        let session = self.session.as_ref()?.session();
        let (hub, local) = (session.hub(), session.local_addr().ok());
        let was_idle = self.hooks.is_idle();
        match self.way_to(hub).await {
            Ok(Way::Out(hop)) => {
                if *watch.oif.get_or_insert(hop.oif) != hop.oif {
                    return Some(End::Uplink("the uplink changed"));
                }
                watch.cut_off = None;
                watch.is_clear |= was_idle;
            }
            Ok(Way::IntoTunnel) => {
                // The route may be the next thing that a script sets.
                if !was_idle {
                    near(&mut self.look, Instant::now() + HOOK_AT_WORK);
                    return None;
                }
                let is_missing = self.tell_loop().await;
                self.withhold_hook = is_missing && !watch.is_clear;
                return Some(End::Uplink("the hub's address is routed into the tunnel"));
            }
            Ok(Way::None) => {
                // Rules that somebody flushed are soon put back.
                let now = Instant::now();
                let end = *watch.cut_off.get_or_insert(now) + CUT_OFF;
                if now < end {
                    near(&mut self.look, end);
                    return None;
                }
                return Some(End::Uplink("there is no route to the hub"));
            }
            Err(error) => {
                tracing::debug!(%error, "the way to the hub is not known");
                return None;
            }
        }
        if let Some(local) = local
            && !self.has_address(local.ip()).await
        {
            return Some(End::Uplink("this machine's address changed"));
        }
        self.tell_hooks().await;

        None
    }

    async fn has_address(&self, ip: IpAddr) -> bool {
        match self.netlink.all_addresses().await {
            Ok(all) => ip.is_loopback() || all.iter().any(|(_, net)| net.addr() == ip),
            Err(_) => true,
        }
    }

    /// Says once that the tunnel is up, when all that belongs into the line is
    /// known, or will not be soon.
    async fn say_up(&mut self, watch: &mut Watch) {
        let (Some(say), Some(pulse), Some(tunnel)) = (watch.say, &self.session, &self.tunnel)
        else {
            return;
        };
        let (session, rtt) = (pulse.session(), pulse.rtt());
        let idle = self.hooks.is_idle();
        if Instant::now() < say && !(idle && rtt.is_some()) {
            return;
        }
        watch.say = None;

        let routed = tunnel.routed().await.unwrap_or_default();
        let addresses = session.addresses();
        tracing::info!(
            took = ?rounded(watch.since.duration_since(self.away)),
            device = tunnel.name(),
            local4 = %addresses.local4.addr(),
            local6 = %Text(addresses.ip6.map(|(local, _)| local.addr())),
            hub = %session.hub(),
            suite = %session.suite(),
            mtu = tunnel.plan().mtu,
            rtt = %Text(rtt.map(|rtt| format!("{:?}", rounded(rtt)))),
            routed = self.steering.routed().unwrap_or_else(|| routed_text(&routed, idle)),
            "tunnel up",
        );
        let is_steered = self.steering.routed().is_some();
        if routed.is_empty() && idle && !is_steered && !self.told_nothing_routed {
            self.told_nothing_routed = true;
            tracing::info!("nothing is routed into the tunnel yet: -route default");
        }
    }

    /// Says once which route is missing; false if none is. A host route that
    /// went with its link is not missing: it comes back with the hook.
    async fn tell_loop(&mut self) -> bool {
        let (Some(pulse), Some(hooked)) = (&self.session, &self.hooked) else {
            return false;
        };
        let hub = pulse.session().hub();
        let way = self.default_way(hub).await;
        let Some((oif, gateway)) = way.filter(|way| hooked.uplink() == Some(*way)) else {
            return false;
        };
        if std::mem::replace(&mut self.told_loop, true) {
            return true;
        }

        let (hub, device) = (hub.ip(), self.link_name(oif).await);
        let via = gateway.map_or_else(String::new, |ip| format!("via {ip} "));
        tracing::warn!(
            "our own datagrams to the hub are routed into the tunnel and dropped there; \
             missing: ip route add {hub} {via}dev {device}",
        );

        true
    }

    /// Link and gateway of the default route outside the tunnel.
    async fn default_way(&self, hub: SocketAddr) -> Option<(u32, Option<IpAddr>)> {
        let routes = self.netlink.routes_of(MAIN).await.ok()?;
        let route = routes
            .into_iter()
            .filter(|route| route.net.prefix_len() == 0 && route.oif != self.tun_index())
            .filter(|route| route.net.addr().is_ipv4() == hub.is_ipv4())
            .min_by_key(|route| route.metric)?;

        Some((route.oif?, route.gateway))
    }

    async fn link_name(&self, index: u32) -> String {
        match self.netlink.link_by_index(index).await {
            Ok(Some(link)) => link.name,
            Ok(None) | Err(_) => format!("if{index}"),
        }
    }
}

/// A value that may be missing from a line.
struct Text<T>(Option<T>);

impl<T: std::fmt::Display> std::fmt::Display for Text<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("none"),
        }
    }
}

fn routed_text(nets: &[ipnet::IpNet], hooks_done: bool) -> String {
    if nets.is_empty() {
        return if hooks_done {
            "nothing".to_owned()
        } else {
            "nothing, the hook still runs".to_owned()
        };
    }
    let mut text: Vec<_> = nets.iter().take(NAMED).map(ToString::to_string).collect();
    if nets.len() > NAMED {
        text.push(format!("{} more", nets.len() - NAMED));
    }

    text.join(",")
}

/// How long the line may wait for the first round trip and for the hook.
const SAY_WITHIN: Duration = Duration::from_secs(3);

/// How often to look whether a hook has set the route that is missing.
const HOOK_AT_WORK: Duration = Duration::from_millis(500);

/// How long the hub may be without a route to it.
const CUT_OFF: Duration = Duration::from_secs(1);

/// Longer than a packet is on its way.
const LINGER: Duration = Duration::from_secs(3);

const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// Networks that the line names one by one.
const NAMED: usize = 4;
