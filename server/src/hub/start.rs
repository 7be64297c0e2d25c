//! Start: everything that can fail does so here, with one line that says what
//! to do, before the first spoke is answered.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail};
use dtun_shared::datapath::{Datapath, Lane};
use dtun_shared::link::{self, Netlink, RouteKind};
use dtun_shared::mark::Mark;
use dtun_shared::places::STATE;
use dtun_shared::status::has_net_admin;
use dtun_shared::stop::Stop;
use dtun_shared::tun::DeviceError;
use dtun_shared::udp::socket::UdpSocket;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::{Notify, mpsc};

use crate::handshake::{Handshakes, SystemEntropy};
use crate::hub::hooks::Hooks;
use crate::hub::memory::Memory;
use crate::hub::mend::Mending;
use crate::hub::shared::{Fence, Shared};
use crate::hub::wire::{Inbox, Wire};
use crate::hub::{BLACKHOLE, Hub, now, port, welcome};
use crate::lease::{Leases, State, Store, StoreError};
use crate::left::{self, Presence};
use crate::nat::{self, Nat};
use crate::peernet::Policy;
use crate::pool::{self, PoolError, Pools, Taken};
use crate::session::Sessions;
use crate::{HubConfig, NatConfig, Pool6};

/// Makes a hub that serves as soon as its loop runs.
pub(super) async fn start(config: HubConfig) -> anyhow::Result<Hub> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let sockets = listen(
        config.listen.unwrap_or(DEFAULT_LISTEN),
        workers,
        config.fwmark,
    )?;
    let listen = sockets[0]
        .local_addr()
        .context("failed to read our address")?;
    may_make_devices()?;
    let netlink = Netlink::new().context("failed to open a netlink socket")?;
    let (store, state) = open_state(config.state.as_deref())?;

    let named: HashSet<_> = state
        .leases
        .iter()
        .filter_map(|l| l.device.clone())
        .collect();
    let others = left::awaited_devices(&left::name(listen));
    port::delete_strays(&netlink, |name| {
        named.contains(name) || others.contains(name)
    })
    .await
    .context("failed to delete devices of an earlier run")?;
    let machine = Machine::look(&netlink, &named)
        .await
        .context("failed to look at the machine's networks")?;
    let chosen = choose(&config, &state, &machine)?;

    let mut leases = Leases::new(chosen.pools, config.lease);
    let lost = leases.restore(state.leases, now());
    if !lost.is_empty() {
        let hints = lost.join(", ");
        tracing::warn!(
            hints,
            "addresses are outside the pool: these leases start anew"
        );
    }

    let (slow, of_sessions) = mpsc::channel(SLOW);
    let (strays, of_anyone) = mpsc::channel(STRAYS);
    let inbox = Inbox {
        slow: of_sessions,
        strays: of_anyone,
    };
    let shared = Arc::new(Shared {
        sessions: Sessions::default(),
        counters: crate::hub::counters::Counters::default(),
        fence: (!config.spoke_to_spoke).then(|| Fence::new(&chosen.pools)),
        slow,
        strays,
        missed: Notify::new(),
        gone: Mutex::default(),
    });
    let datapath =
        Datapath::start(Arc::clone(&shared), workers).context("failed to start the data path")?;
    for socket in sockets {
        Lane::new(socket)
            .and_then(|lane| datapath.add_lane(Arc::new(lane)))
            .context("failed to wait for datagrams")?;
    }
    let handshakes = Handshakes::new(config.psk, config.suites, SystemEntropy);
    let (sender, events) = mpsc::channel(EVENTS);
    let now = Instant::now();
    let wire = Wire::new(Arc::clone(&shared), handshakes, inbox, sender, now);
    let mending = Mending::new(&netlink).context("failed to watch the network")?;
    let nat = match config.nat {
        Some(NatConfig { except }) => {
            let pools = chosen.pools.networks().collect();
            Some(Nat::start(listen, pools, except).await?)
        }
        None => {
            nat::forget(listen).await;
            None
        }
    };
    let presence = Presence::begin(&netlink, &left::name(listen), &chosen.pools).await;
    // Last of what may fail: a hub that does not start takes nothing back.
    if let Err(error) = add_blackholes(&netlink, &chosen.pools).await {
        if let Some(nat) = nat {
            nat.end(Stop::ForGood).await;
        }
        return Err(error);
    }
    let mut hub = Hub {
        mending,
        presence,
        nat,
        shared,
        datapath: Arc::new(datapath),
        netlink,
        leases,
        memory: Memory::new(store, chosen.default4, chosen.default6),
        ports: HashMap::new(),
        leaving: HashMap::new(),
        kept: HashMap::new(),
        policy: Policy::new(config.allow_peernet),
        networks: None,
        mtu: config.mtu,
        offload: config.offload,
        keepalive: config.keepalive,
        hooks: Hooks {
            up: config.up,
            down: config.down,
            lines: config.lines,
            listen,
            mark: config.fwmark,
        },
        events,
        wire: tokio::spawn(wire.run()),
        looked: now,
    };
    hub.reopen(&named).await;
    hub.hooks.adopt(&hub.leases, &mut hub.ports).await;
    left::forget(&left::name(listen));

    tracing::info!(addr = %listen, "listening");
    tokio::spawn(welcome::say(hub.netlink.clone(), listen, chosen.pools));

    Ok(hub)
}

impl Hub {
    /// Attaches to the devices of leases that still run, makes those that are
    /// gone anew under their old names, deletes those of leases that are over.
    async fn reopen(&mut self, named: &HashSet<String>) {
        for hint in self.leases.expired(now()) {
            self.leases.set_device(&hint, None);
        }
        let hints: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.device.is_some())
            .map(|(hint, _)| hint.to_owned())
            .collect();
        for hint in hints {
            if let Err(error) = self.open_port(&hint).await {
                tracing::warn!(hint, %error, "device of an earlier lease not made");
                self.leases.set_device(&hint, None);
            }
        }

        let hub = self.leases.pools().hub();
        let indexes: HashSet<_> = self.ports.values().map(|port| port.tun.index()).collect();
        if let Err(error) = port::clean(&self.netlink, &indexes, hub).await {
            tracing::warn!(%error, "addresses and routes of an earlier run not removed");
        }
        let open: HashSet<_> = self.ports.values().map(|port| port.tun.name()).collect();
        let gone = |name: &str| named.contains(name) && !open.contains(name);
        if let Err(error) = port::delete_strays(&self.netlink, |name| !gone(name)).await {
            tracing::warn!(%error, "devices of leases that are over not deleted");
        }
    }
}

/// Packets for addresses that no spoke has go nowhere.
async fn add_blackholes(netlink: &Netlink, pools: &Pools) -> anyhow::Result<()> {
    for pool in pools.networks() {
        netlink
            .add_route(pool, BLACKHOLE)
            .await
            .with_context(|| format!("failed to add a blackhole route for pool {pool}"))?;
    }

    Ok(())
}

/// A socket for each worker: the kernel spreads the spokes over them.
fn listen(addr: SocketAddr, workers: usize, mark: Option<Mark>) -> anyhow::Result<Vec<UdpSocket>> {
    let port = addr.port();

    UdpSocket::listen_group(addr, workers, mark).map_err(|error| {
        let kind = error.kind();
        if kind == io::ErrorKind::AddrInUse {
            anyhow!(
                "UDP port {port} is taken by another program: \
                 stop it, or choose a port with -listen"
            )
        } else if kind == io::ErrorKind::PermissionDenied {
            anyhow!(
                "not allowed to listen on UDP port {port}: \
                 run as root, or choose a port with -listen"
            )
        } else if kind == io::ErrorKind::AddrNotAvailable {
            let ip = addr.ip();
            anyhow!("{ip} is not an address of this machine: choose one with -listen")
        } else {
            anyhow!(error).context(format!("failed to listen on {addr}"))
        }
    })
}

/// Fails now rather than at the first spoke.
fn may_make_devices() -> Result<(), DeviceError> {
    let clone = Path::new("/dev/net/tun");
    if let Err(error) = File::options().read(true).write(true).open(clone) {
        return Err(if error.kind() == io::ErrorKind::PermissionDenied {
            DeviceError::NotPermitted
        } else {
            DeviceError::NoTunModule
        });
    }
    // What can't be read is found out by the first netlink request.
    if has_net_admin() == Some(false) {
        return Err(DeviceError::NotPermitted);
    }

    Ok(())
}

/// The state directory and what it holds. One that can't be used is a warning:
/// only a second hub on the same directory is an error.
fn open_state(named: Option<&Path>) -> anyhow::Result<(Option<Store>, State)> {
    let dir = named.unwrap_or(Path::new(STATE));
    let nothing = || State::new(None, None, Vec::new());

    let opened = Store::open(dir).and_then(|store| {
        let (state, aside) = store.load()?;
        Ok((store, state, aside))
    });
    match opened {
        Ok((store, state, None)) => Ok((Some(store), state)),
        Ok((store, state, Some(aside))) => {
            let aside_as = aside.path.display();
            tracing::warn!(%aside_as, why = %aside.why, "state file damaged: leases start anew");
            Ok((Some(store), state))
        }
        Err(held @ StoreError::Held(_)) => Err(held.into()),
        Err(StoreError::Io(error)) => {
            let dir = dir.display();
            tracing::warn!(%dir, %error, "no state: leases will not survive a restart (-state DIR)");
            Ok((None, nothing()))
        }
    }
}

/// The networks that pools must keep clear of.
struct Machine {
    addresses: Vec<Taken>,
    /// Addresses and routes: the defaults avoid both, while an owner who names
    /// a pool may mean to take it from a wider route.
    networks: Vec<Taken>,
}

impl Machine {
    async fn look(netlink: &Netlink, named: &HashSet<String>) -> io::Result<Self> {
        let links: HashMap<_, _> = netlink
            .links()
            .await?
            .into_iter()
            .filter(|link| link.group != port::GROUP || !named.contains(&link.name))
            .map(|link| (link.index, link.name))
            .collect();
        let taken = |(index, net): (u32, IpNet)| {
            let device = links.get(&index)?.clone();
            Some(Taken { net, device })
        };
        let addresses: Vec<_> = netlink
            .all_addresses()
            .await?
            .into_iter()
            .filter_map(taken)
            .collect();
        let routes = netlink.routes().await?;
        let routed = routes
            .into_iter()
            // A default route may be written as two halves.
            .filter(|route| route.kind == RouteKind::Unicast && route.net.prefix_len() > 1)
            .filter_map(|route| taken((route.oif?, route.net)));

        Ok(Self {
            networks: addresses.iter().cloned().chain(routed).collect(),
            addresses,
        })
    }
}

/// The pools, and those of them that were chosen for want of an owner's.
struct Chosen {
    pools: Pools,
    default4: Option<Ipv4Net>,
    default6: Option<Ipv6Net>,
}

fn choose(config: &HubConfig, state: &State, machine: &Machine) -> anyhow::Result<Chosen> {
    let (used4, used6) = (state.default_pool4, state.default_pool6);
    let ip6 = link::takes_ip6();

    let (v4, default4) = match config.pool4 {
        Some(net) => {
            owners("-pool4", IpNet::V4(net), machine)?;
            (net, used4)
        }
        None => {
            let net = pool::choose4(used4, &machine.networks)?;
            say_replaced(IpNet::V4(net), used4.map(IpNet::V4), machine);
            (net, Some(net))
        }
    };
    let (v6, default6) = match config.pool6 {
        Pool6::None => (None, used6),
        Pool6::Net(_) if !ip6 => {
            bail!("this machine has IPv6 switched off: switch it on, or give -pool6 none")
        }
        Pool6::Net(net) => {
            owners("-pool6", IpNet::V6(net), machine)?;
            (Some(net), used6)
        }
        Pool6::Default if !ip6 => {
            tracing::info!("IPv6 is switched off on this machine: the tunnel carries IPv4 only");
            (None, used6)
        }
        Pool6::Default => {
            let net = pool::choose6(used6, &machine.networks)?;
            say_replaced(IpNet::V6(net), used6.map(IpNet::V6), machine);
            (Some(net), Some(net))
        }
    };

    Ok(Chosen {
        pools: Pools::new(v4, v6),
        default4,
        default6,
    })
}

/// Checks a pool that the owner gave; the error names the flag and one that
/// would do.
fn owners(flag: &str, net: IpNet, machine: &Machine) -> anyhow::Result<()> {
    let Err(error) = pool::check(net, &machine.addresses) else {
        return Ok(());
    };
    let free = match net {
        IpNet::V4(_) => pool::choose4(None, &machine.networks).map(IpNet::V4),
        IpNet::V6(_) => pool::choose6(None, &machine.networks).map(IpNet::V6),
    };

    Err(match (&error, free) {
        (PoolError::Clash { .. }, Ok(free)) => anyhow!("{flag} {error}, such as {free}"),
        _ => anyhow!("{flag} {error}"),
    })
}

/// Says that a default, or the pool used so far, had to give way.
fn say_replaced(chosen: IpNet, used: Option<IpNet>, machine: &Machine) {
    let wanted = used.unwrap_or_else(|| pool::default_pool(chosen));
    if wanted == chosen {
        return;
    }
    if let Some(clash) = pool::clash(wanted, &machine.networks) {
        let (overlaps, on) = (clash.net, &clash.device);
        tracing::warn!(default = %wanted, %overlaps, on, using = %chosen, "default pool replaced");
    }
}

const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 443);

/// A burst of spokes after a restart, each with a handshake, a meta and a first record.
const EVENTS: usize = 8192;

/// Metas, first records and answers of a few thousand spokes that come at once.
const SLOW: usize = 8192;

/// Datagrams of handshakes that come at once; of 18 kB at most, so that
/// strangers cost 20 MB at most.
const STRAYS: usize = 1024;
