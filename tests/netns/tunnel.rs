//! Our two programs on their hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde_json::Value;

use crate::daemon::{Daemon, field};
use crate::namespace::Netns;
use crate::network::{Host, Network};
use crate::scratch::Scratch;
use crate::wait::until;

/// The first address of the default pools: the hub's end of every tunnel.
pub(crate) const HUB4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(crate) const HUB6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 1));

/// A hub that runs; as a [`Daemon`] it gives its log.
pub(crate) struct Hub {
    daemon: Daemon,
    pub(crate) host: Host,
    scratch: Scratch,
}

impl Hub {
    /// Starts with key `foo` on host 1 and waits until it listens.
    #[track_caller]
    pub(crate) fn start(network: &Network, args: &[&str]) -> Self {
        Self::start_on(network.host(1), args)
    }

    #[track_caller]
    pub(crate) fn start_on(host: Host, args: &[&str]) -> Self {
        let scratch = Scratch::new();
        let state = scratch.path("state");
        let defaults = [["-key", "foo"], ["-state", &state]];
        let mut daemon = Daemon::dtun(&host, &with(&defaults, args));
        daemon.line("listening");

        Self {
            daemon,
            host,
            scratch,
        }
    }

    /// Starts again after its end and waits until it listens.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.daemon.restart();
        self.daemon.line("listening");
    }

    /// The folder that it was given for its state.
    pub(crate) fn state(&self) -> String {
        self.scratch.path("state")
    }

    /// Ends the program and leaves its machine.
    pub(crate) fn into_host(self) -> Host {
        self.host
    }

    /// The device of a hint's lease, known by its alias.
    pub(crate) fn device(&self, hint: &str) -> Option<Device> {
        devices(&self.host)
            .into_iter()
            .find(|device| device.alias.contains(hint))
    }
}

impl Deref for Hub {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Hub {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// A spoke that runs; as a [`Daemon`] it gives its log.
pub(crate) struct Spoke {
    daemon: Daemon,
    pub(crate) host: Host,
    /// Where its state is; gone after the daemon.
    _scratch: Scratch,
}

impl Spoke {
    /// Starts on a host of that number, key `foo`, hint `spokeN`, towards the hub
    /// on host 1.
    pub(crate) fn start(network: &Network, number: u8, args: &[&str]) -> Self {
        Self::start_on(network.host(number), args)
    }

    pub(crate) fn start_on(host: Host, args: &[&str]) -> Self {
        let scratch = Scratch::new();
        let daemon = Self::launch(&host, &scratch, args);

        Self {
            daemon,
            host,
            _scratch: scratch,
        }
    }

    fn launch(host: &Host, scratch: &Scratch, args: &[&str]) -> Daemon {
        let hint = format!("spoke{}", host.number());
        let state = scratch.path("state");
        let defaults = [
            ["-key", "foo"],
            ["-state", &state],
            ["-id", &hint],
            ["-connect", "198.18.1.2:443"],
        ];

        Daemon::dtun(host, &with(&defaults, args))
    }

    /// Starts and waits for the tunnel.
    #[track_caller]
    pub(crate) fn up(network: &Network, number: u8, args: &[&str]) -> (Self, Lease) {
        let mut spoke = Self::start(network, number, args);
        let lease = spoke.lease();

        (spoke, lease)
    }

    /// Waits for the next time that the tunnel comes up.
    #[track_caller]
    pub(crate) fn lease(&mut self) -> Lease {
        let line = self.daemon.line("tunnel up");

        Lease {
            ip4: address(&line, "local4").expect("an IPv4 address in the line"),
            ip6: address(&line, "local6"),
            line,
        }
    }
}

impl Deref for Spoke {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Spoke {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// The arguments, and those defaults whose flag is not among them.
fn with<'a>(defaults: &[[&'a str; 2]], args: &[&'a str]) -> Vec<&'a str> {
    let missing = defaults.iter().filter(|[flag, _]| !args.contains(flag));

    missing.flatten().chain(args).copied().collect()
}

/// What a spoke was given, by its own words.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) ip4: IpAddr,
    pub(crate) ip6: Option<IpAddr>,
    pub(crate) line: String,
}

/// The bare address in a field that may have a prefix length.
fn address(line: &str, name: &str) -> Option<IpAddr> {
    field(line, name)?.split('/').next()?.parse().ok()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) index: u64,
    pub(crate) alias: String,
    pub(crate) up: bool,
}

/// The devices of a namespace whose names begin as the tunnel's do.
pub(crate) fn devices(netns: &Netns) -> Vec<Device> {
    let links: Vec<Value> = serde_json::from_str(&netns.ip("-j -d link")).unwrap();
    let text = |link: &Value, key: &str| link[key].as_str().unwrap_or_default().to_owned();

    links
        .iter()
        .map(|link| Device {
            name: text(link, "ifname"),
            index: link["ifindex"].as_u64().unwrap(),
            alias: text(link, "ifalias"),
            up: link["flags"].as_array().unwrap().contains(&"UP".into()),
        })
        .filter(|device| device.name.starts_with("dtun"))
        .collect()
}

/// The MTU of a device.
pub(crate) fn mtu(netns: &Netns, device: &str) -> u64 {
    let links: Value =
        serde_json::from_str(&netns.ip(&format!("-j link show dev {device}"))).unwrap();

    links[0]["mtu"].as_u64().unwrap()
}

/// Waits for a route in a namespace to be there, and returns its line, or to be gone.
#[track_caller]
pub(crate) fn route(netns: &Netns, net: &str) -> String {
    until(&format!("a route to {net}"), SOON, || {
        let line = routes(netns, net);
        (!line.is_empty()).then_some(line)
    })
}

#[track_caller]
pub(crate) fn no_route(netns: &Netns, net: &str) {
    until(&format!("no route to {net}"), SOON, || {
        routes(netns, net).is_empty().then_some(())
    });
}

fn routes(netns: &Netns, net: &str) -> String {
    let family = if net.contains(':') { "-6" } else { "-4" };
    netns.ip(&format!("{family} route show {net}"))
}

/// For what follows a line of the log at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);
