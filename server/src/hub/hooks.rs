//! The owner's programs, run for each lease: up with its first session, down
//! before its device goes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dtun_shared::hook;
use dtun_shared::mark::Mark;
use tokio::task::JoinSet;

use crate::hub::port::Port;
use crate::lease::Leases;
use crate::session::Session;

/// `-up` and `-down` of the hub.
#[derive(Debug)]
pub(super) struct Hooks {
    pub(super) up: Option<PathBuf>,
    pub(super) down: Option<PathBuf>,
    /// What the hub listens on, for the environment.
    pub(super) listen: std::net::SocketAddr,
    /// What the hub's own datagrams bear.
    pub(super) mark: Option<Mark>,
}

type Environment = Vec<(&'static str, String)>;

impl Hooks {
    /// Starts the up hook, once for each device.
    pub(super) fn run_up(
        &self,
        session: &Session,
        leases: &Leases,
        ports: &mut HashMap<String, Port>,
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
        port.hook = Some(tokio::spawn(async move {
            if let Some(up) = up {
                run(&up, environment).await;
            }
        }));
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
        let up = port.hook.take()?;
        let environment = self.environment("down", hint, leases, port)?;
        let down = self.down.clone()?;

        Some(async move {
            // A panic in it has been reported by the runtime.
            drop(up.await);
            run(&down, environment).await;
        })
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

async fn run(path: &Path, environment: Environment) {
    if let Err(error) = hook::run(path, &environment).await {
        tracing::error!(%error, "hook failed");
    }
}
