//! What a spoke leaves standing for its next start, when the service manager
//! has announced one (SIGUSR1), and the sign of it: a file in `/run/dtun`.
//!
//! Only then is the device made to outlive its process: a kill still takes
//! everything away with it. The next start takes the device over and forgets
//! the sign. One that does not fit, or whose start never came, is taken down by
//! the next start or by `dtun clean`. While nobody holds the device what is
//! routed into it waits or is lost, and leaves by no other way.
//!
//! The process that leaves holds the file's lock to its last breath, so that a
//! start which is early waits for it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dtun_shared::claim;
use dtun_shared::link::{GROUP_OF_SPOKES, Netlink, Via};
use dtun_shared::meta::Addresses;
use dtun_shared::service::group;
use ipnet::{IpNet, Ipv4Net};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::sleep;

use crate::config::SpokeConfig;
use crate::dns::boot;
use crate::routes::{LeftRoutes, discard_routes};

/// All that the next start has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heritage {
    /// Of this file; one of another is taken down.
    #[serde(default)]
    format: u32,
    origin: Origin,
    pub(crate) tunnel: LeftTunnel,
    pub(crate) steering: Option<LeftSteering>,
    pub(crate) hooked: Option<LeftHooked>,
    /// The hub's last good addresses.
    pub(crate) known: Vec<SocketAddr>,
}

/// Who left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    /// Of the machine, as the kernel names it.
    boot: String,
    /// The control group: that of a service is its own.
    group: String,
    /// Of a service: this run of it.
    invocation: Option<String>,
    /// Seconds since 1970.
    at: u64,
    /// The flags that say which tunnel it is.
    connect: String,
    hint: String,
    tun: Option<String>,
}

/// The device, and what we put on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftTunnel {
    pub(crate) device: String,
    pub(crate) index: u32,
    /// It is its owner's, and was there before us.
    pub(crate) attached: bool,
    pub(crate) addresses: Addresses,
    pub(crate) mtu: u16,
    pub(crate) pools: Vec<IpNet>,
    pub(crate) added: Vec<IpNet>,
    pub(crate) routed: Vec<IpNet>,
}

/// What is steered into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftSteering {
    /// Whether the hub has IPv6 to the outside.
    pub(crate) out6: bool,
    pub(crate) routes: Option<LeftRoutes>,
}

/// What the hooks were told last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftHooked {
    pub(crate) addresses: Addresses,
    pub(crate) hub: SocketAddr,
    pub(crate) uplink: Option<(u32, Option<IpAddr>)>,
    pub(crate) env: Vec<(String, String)>,
}

/// What a start finds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) ours: Option<Heritage>,
    /// Of another configuration, or nobody's any more.
    pub(crate) unfit: Vec<Heritage>,
}

impl Heritage {
    pub(crate) fn new(config: &SpokeConfig, hint: &str, tunnel: LeftTunnel) -> Self {
        Self {
            format: FORMAT,
            origin: Origin {
                boot: boot(),
                group: group(),
                invocation: invocation(),
                at: now(),
                connect: config.connect.clone(),
                hint: hint.to_owned(),
                tun: config.tun.clone(),
            },
            tunnel,
            steering: None,
            hooked: None,
            known: Vec::new(),
        }
    }

    /// Puts the sign up, and holds it until this process ends.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let path = path(&self.tunnel.device);
        let new = path.with_added_extension("new");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&new)?;
        file.lock()?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)?;
        // The kernel closes it, and by that lets the next start begin.
        std::mem::forget(file);

        Ok(())
    }

    /// The one that this configuration's last run left, and those that are to
    /// go before another tunnel stands.
    pub(crate) async fn find(config: &SpokeConfig, hint: &str) -> Found {
        let mut found = Found::default();
        let is_ours = |origin: &Origin| {
            origin.connect == config.connect && origin.tun == config.tun && origin.hint == hint
        };
        let mut others = Vec::new();
        for heritage in all().await {
            let fits = heritage.format == FORMAT && is_ours(&heritage.origin);
            if fits && found.ours.is_none() {
                found.ours = Some(heritage);
            } else {
                others.push(heritage);
            }
        }
        // A group may have other spokes, where it is not a service's own; one that
        // finds nothing of its own may have been given other flags.
        let has_group = found.ours.is_none() || invocation().is_some();
        found.unfit = others;
        found.unfit.retain(|other| {
            let origin = &other.origin;
            is_ours(origin) || has_group && origin.group == group() || !other.is_fresh()
        });

        found
    }

    /// As much as is needed to take down what another version has left; none
    /// where that cannot be known.
    fn of_another_version(file: &Value) -> Option<Self> {
        let (origin, tunnel) = (&file["origin"], &file["tunnel"]);

        Some(Self {
            format: OTHER,
            origin: Origin {
                boot: part(&origin["boot"])?,
                group: part(&origin["group"]).unwrap_or_default(),
                invocation: part(&origin["invocation"]),
                at: part(&origin["at"]).unwrap_or_default(),
                connect: part(&origin["connect"]).unwrap_or_default(),
                hint: part(&origin["hint"]).unwrap_or_default(),
                tun: part(&origin["tun"]),
            },
            tunnel: LeftTunnel {
                device: part(&tunnel["device"])?,
                index: part(&tunnel["index"])?,
                attached: part(&tunnel["attached"])?,
                addresses: part(&tunnel["addresses"]).unwrap_or(Addresses {
                    local4: Ipv4Net::default(),
                    peer4: Ipv4Net::default(),
                    ip6: None,
                }),
                mtu: 0,
                pools: Vec::new(),
                added: part(&tunnel["added"]).unwrap_or_default(),
                routed: part(&tunnel["routed"]).unwrap_or_default(),
            },
            steering: part(&file["steering"]),
            hooked: None,
            known: Vec::new(),
        })
    }

    /// It is taken over, or taken down.
    pub(crate) fn forget(&self) {
        let path = path(&self.tunnel.device);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "not removed");
        }
    }

    /// Takes it down: rules, tables, device. Resolvers have a record of their own.
    pub(crate) async fn discard(&self, netlink: &Netlink) -> io::Result<()> {
        if let Some(routes) = self.steering.as_ref().and_then(|it| it.routes) {
            discard_routes(netlink, routes).await?;
        }
        self.remove_device(netlink).await?;
        tracing::info!(
            device = self.tunnel.device,
            "what was left for a restart is taken down"
        );
        self.forget();

        Ok(())
    }

    async fn remove_device(&self, netlink: &Netlink) -> io::Result<()> {
        let left = &self.tunnel;
        let Some(link) = netlink.link_by_index(left.index).await? else {
            return Ok(());
        };
        if link.name != left.device {
            return Ok(());
        }
        if !left.attached {
            return match link.group {
                GROUP_OF_SPOKES => netlink.delete_link(left.index).await,
                _ => Ok(()),
            };
        }
        for net in &left.routed {
            let via = Via::Device(left.index);
            netlink.delete_route(*net, via).await?;
        }
        for net in &left.added {
            netlink.remove_address(left.index, *net).await?;
        }

        Ok(())
    }

    /// Whether the start that it waits for may still come.
    fn is_fresh(&self) -> bool {
        now().saturating_sub(self.origin.at) < FRESH.as_secs()
    }

    /// Whether `dtun clean` is to leave it: as a unit's `ExecStopPost` it runs
    /// within a restart too, in the same run of the unit as the process that
    /// left this; after a start that failed it runs in the next.
    fn outlasts_clean(&self) -> bool {
        let is_of_unit = std::env::var_os("SERVICE_RESULT").is_some();
        let is_others = self.origin.group != group();

        is_of_unit && self.is_fresh() && (is_others || self.origin.invocation == invocation())
    }
}

/// Devices that wait for a start which is not ours.
pub(crate) async fn awaited() -> Vec<u32> {
    let heritages = all().await.into_iter();

    heritages
        .filter(Heritage::is_fresh)
        .map(|heritage| heritage.tunnel.index)
        .collect()
}

/// Takes down, for `dtun clean`, what waits for no start any more; returns the
/// devices that do, and whether all else is gone.
pub(crate) async fn clean(netlink: &Netlink) -> (Vec<u32>, io::Result<()>) {
    let mut awaited = Vec::new();
    let mut taken_down = Ok(());
    for heritage in all().await {
        if heritage.outlasts_clean() {
            awaited.push(heritage.tunnel.index);
        } else if let Err(error) = heritage.discard(netlink).await {
            taken_down = Err(error);
        }
    }

    (awaited, taken_down)
}

/// Those of this network namespace that nobody holds any more.
async fn all() -> Vec<Heritage> {
    let mut all = Vec::new();
    for name in claim::claims(PREFIX) {
        let path = claim::path(&name);
        match read(&path).await {
            Ok(Some(heritage)) if heritage.origin.boot == boot() => all.push(heritage),
            Ok(None) => {}
            // Of another boot, or no file of ours: nothing of it is there.
            Ok(Some(_)) | Err(_) => {
                if let Err(error) = fs::remove_file(&path) {
                    tracing::debug!(path = %path.display(), %error, "not removed");
                }
            }
        }
    }

    all
}

/// None while a process goes on holding it.
async fn read(path: &PathBuf) -> io::Result<Option<Heritage>> {
    let file = File::open(path)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if begun.elapsed() > PATIENCE => return Ok(None),
            Err(TryLockError::WouldBlock) => sleep(PAUSE).await,
        }
    }
    let value: Value = serde_json::from_slice(&fs::read(path)?)?;
    if let Some(heritage) = part(&value) {
        return Ok(Some(heritage));
    }
    let unknown = || io::Error::from(io::ErrorKind::InvalidData);

    Heritage::of_another_version(&value)
        .map(Some)
        .ok_or_else(unknown)
}

/// Part of a file, if it is written as it is now.
fn part<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn path(device: &str) -> PathBuf {
    claim::path(&format!("{PREFIX}{device}"))
}

/// This run of a unit (systemd.exec(5)).
fn invocation() -> Option<String> {
    std::env::var("INVOCATION_ID").ok()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const PREFIX: &str = "left-";

/// Another number where a field changes its meaning.
const FORMAT: u32 = 0;

/// Of a file that cannot be read as a whole.
const OTHER: u32 = u32::MAX;

/// A start may take as long as service managers give it.
const FRESH: Duration = Duration::from_secs(120);

/// The last steps of a process that leaves.
const PATIENCE: Duration = Duration::from_secs(3);

const PAUSE: Duration = Duration::from_millis(10);
