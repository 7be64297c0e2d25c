//! The owner's programs and lines, run for each lease: up with its first session,
//! down before its device goes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dtun_shared::hook::{self, Lines};
use dtun_shared::mark::Mark;
use tokio::task::JoinSet;

use crate::hub::Leaving;
use crate::hub::port::Port;
use crate::lease::Leases;
use crate::left;
use crate::session::Session;

/// `-up`, `-down`, `-post-up` and `-post-down` of the hub.
#[derive(Debug)]
pub(super) struct Hooks {
    pub(super) up: Option<PathBuf>,
    pub(super) down: Option<PathBuf>,
    pub(super) lines: Lines,
    /// What the hub listens on, for the environment.
    pub(super) listen: std::net::SocketAddr,
    /// What the hub's own datagrams bear.
    pub(super) mark: Option<Mark>,
}

type Environment = Vec<(&'static str, String)>;

impl Hooks {
    /// Starts the up hook, once for each device; that of a lease which came back
    /// runs after the down hook of its last device.
    pub(super) fn run_up(
        &self,
        session: &Session,
        leases: &Leases,
        ports: &mut HashMap<String, Port>,
        leaving: &mut HashMap<String, Leaving>,
    ) {
        let hint = &session.hint;
        let Some(port) = ports.get_mut(hint).filter(|port| port.hook.is_none()) else {
            return;
        };
        port.asked = session.association().path().local.map(|local| local.ip);
        let Some(environment) = self.environment("up", hint, leases, port) else {
            return;
        };
        let up = self.up.clone();
        let lines = self.lines.clone();
        let name = self.name(port.tun.name());
        let posted = port.posted.take();
        let before = leaving.remove(hint);
        port.hook = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // A panic in it has been reported by the runtime.
                drop(before.deletion.await);
            }
            if let Some(up) = up {
                run(&up, &environment).await;
            }
            match posted {
                Some(posted) => Some(posted),
                None => lines.up(&name, &environment).await,
            }
        }));
    }

    /// Takes over the lines that an earlier run has left on its devices; what
    /// cannot be is undone.
    pub(super) async fn adopt(&self, leases: &Leases, ports: &mut HashMap<String, Port>) {
        for (hint, port) in ports.iter_mut() {
            let name = self.name(port.tun.name());
            if let Some(environment) = self.environment("up", hint, leases, port) {
                port.posted = self.lines.adopt(&name, &environment).await;
            }
        }
        hook::undo_left(&self.name(""), |_| false).await;
    }

    /// Runs every down hook to its end: the hub stops after them.
    pub(super) async fn run_all_down(&self, leases: &Leases, ports: &mut HashMap<String, Port>) {
        ports
            .iter_mut()
            .filter_map(|(hint, port)| self.down(hint, leases, port))
            .collect::<JoinSet<_>>()
            .join_all()
            .await;
    }

    /// The down hook of a device whose up hook has run, to be awaited.
    pub(super) fn down(
        &self,
        hint: &str,
        leases: &Leases,
        port: &mut Port,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let up = port.hook.take();
        let posted = port.posted.take();
        if up.is_none() && posted.is_none() {
            return None;
        }
        let environment = self.environment("down", hint, leases, port)?;
        let down = self.down.clone().filter(|_| up.is_some());

        Some(async move {
            let posted = match up {
                // A panic in it has been reported by the runtime.
                Some(up) => up.await.ok().flatten(),
                None => posted,
            };
            if let Some(down) = down {
                run(&down, &environment).await;
            }
            if let Some(posted) = posted {
                posted.undo().await;
            }
        })
    }

    /// What the signs of lines on this device are called.
    fn name(&self, device: &str) -> String {
        format!("{}-{device}", left::name(self.listen))
    }

    /// The Go program's names, seen from the hub: local is the hub's end.
    fn environment(
        &self,
        event: &str,
        hint: &str,
        leases: &Leases,
        port: &Port,
    ) -> Option<Environment> {
        let local = leases.pools().hub();
        let peer = leases.get(hint)?.addresses;
        let server = port.asked.unwrap_or(self.listen.ip());
        let text6 =
            |net: Option<ipnet::Ipv6Net>| net.map_or_else(String::new, |net| net.to_string());

        let mut environment = vec![
            ("EVENT", event.to_owned()),
            ("TUN", port.tun.name().to_owned()),
            ("HINT", hint.to_owned()),
            ("LOCAL_IP4", local.ip4.to_string()),
            ("PEER_IP4", peer.ip4.to_string()),
            ("LOCAL_IP6", text6(local.ip6)),
            ("PEER_IP6", text6(peer.ip6)),
            ("LOCAL_IP", local.ip4.addr().to_string()),
            ("PEER_IP", peer.ip4.addr().to_string()),
            ("SERVER_IP", server.to_string()),
            ("SERVER_PORT", self.listen.port().to_string()),
            ("MTU", port.mtu().to_string()),
        ];
        environment.extend(self.mark.map(|mark| ("FWMARK", mark.to_string())));

        Some(environment)
    }
}

async fn run(path: &Path, environment: &Environment) {
    if let Err(error) = hook::run(path, environment).await {
        tracing::error!(%error, "hook failed");
    }
}
