//! firewalld, told by D-Bus what is to pass: the hub's port, in the zones by
//! which spokes may come, and its devices in the zone that forwards all. Runtime
//! only, and undone at the end (firewalld.dbus(5)).
//!
//! Its entries have no room for a tag. Ours are those that were not there before;
//! they are noted in the hub's claim, so that they can be undone after a kill.
//! The calls are made by busctl, which comes with systemd as firewalld does.

use std::env;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use dtun_shared::claim::Claim;
use tokio::process::Command;
use tokio::time::timeout;

/// What of ours it has.
#[derive(Debug, Default)]
pub(super) struct Firewalld {
    ours: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Port {
        zone: String,
        port: u16,
    },
    /// All devices that a hub may make.
    Devices {
        zone: String,
    },
}

impl Firewalld {
    /// With what an earlier run has noted.
    pub(super) fn new(claim: Option<&Claim>) -> Self {
        let noted = claim.map(Claim::noted).unwrap_or_default();

        Self {
            ours: noted.lines().filter_map(Entry::parse).collect(),
        }
    }

    /// Lets pass what does not yet; returns what was added.
    pub(super) async fn open(
        &mut self,
        port: u16,
        claim: Option<&Claim>,
    ) -> Result<Vec<String>, BusError> {
        let mut wanted: Vec<_> = zones()
            .await?
            .into_iter()
            .map(|zone| Entry::Port { zone, port })
            .collect();
        let zone = call(ZONE, "getZoneOfInterface", &[DEVICES]).await?;
        if zone.iter().all(String::is_empty) {
            let zone = OPEN.to_owned();
            wanted.push(Entry::Devices { zone });
        } // Else the owner has chosen one, or another hub.

        let mut added = Vec::new();
        for entry in wanted {
            if entry.stands().await? {
                continue;
            }
            // Before: a kill in between leaves nothing that nobody knows of.
            if !self.ours.contains(&entry) {
                self.ours.push(entry.clone());
                self.note(claim);
            }
            entry.add().await?;
            added.push(entry.say());
        }

        Ok(added)
    }

    /// Takes away what is ours, and not meanwhile the owner's for good.
    pub(super) async fn shut(&mut self, claim: Option<&Claim>) -> Result<(), BusError> {
        while let Some(entry) = self.ours.last() {
            if entry.stands().await? && !entry.is_permanent().await {
                entry.remove().await?;
            }
            self.ours.pop();
            self.note(claim);
        }

        Ok(())
    }

    fn note(&self, claim: Option<&Claim>) {
        let text: String = self.ours.iter().map(Entry::to_line).collect();
        if let Some(Err(error)) = claim.map(|claim| claim.note(&text)) {
            tracing::warn!("after a kill firewalld will not be told: {error}");
        }
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["port", zone, port] => Some(Self::Port {
                zone: zone.to_owned(),
                port: port.parse().ok()?,
            }),
            ["devices", zone] => Some(Self::Devices {
                zone: zone.to_owned(),
            }),
            _ => None,
        }
    }

    fn to_line(&self) -> String {
        match self {
            Self::Port { zone, port } => format!("port {zone} {port}\n"),
            Self::Devices { zone } => format!("devices {zone}\n"),
        }
    }

    fn say(&self) -> String {
        match self {
            Self::Port { zone, port } => format!("firewalld {port}/udp in {zone}"),
            Self::Devices { zone } => format!("firewalld {DEVICES} in {zone}"),
        }
    }

    async fn stands(&self) -> Result<bool, BusError> {
        let answer = match self {
            Self::Port { zone, port } => {
                call(ZONE, "queryPort", &[zone, &port.to_string(), "udp"]).await?
            }
            Self::Devices { zone } => call(ZONE, "queryInterface", &[zone, DEVICES]).await?,
        };

        Ok(answer == ["true"])
    }

    async fn add(&self) -> Result<(), BusError> {
        let result = match self {
            Self::Port { zone, port } => {
                let words = ["sssi", zone, &port.to_string(), "udp", "0"];
                call_with(RUNTIME, ZONE, "addPort", &words).await
            }
            Self::Devices { zone } => call(ZONE, "addInterface", &[zone, DEVICES]).await,
        };

        result.map(|_| ())
    }

    async fn remove(&self) -> Result<(), BusError> {
        let result = match self {
            Self::Port { zone, port } => {
                call(ZONE, "removePort", &[zone, &port.to_string(), "udp"]).await
            }
            Self::Devices { zone } => call(ZONE, "removeInterface", &[zone, DEVICES]).await,
        };

        result.map(|_| ())
    }

    /// Whether the owner has it in files as well.
    async fn is_permanent(&self) -> bool {
        let (Self::Port { zone, .. } | Self::Devices { zone }) = self;
        let config = call_with(PERMANENT, CONFIG, "getZoneByName", &["s", zone]).await;
        let Some(path) = config.ok().and_then(|mut answer| answer.pop()) else {
            return false;
        };
        let interface = format!("{CONFIG}.zone");
        let answer = match self {
            Self::Port { port, .. } => {
                let words = ["ss", &port.to_string(), "udp"];
                call_with(&path, &interface, "queryPort", &words).await
            }
            Self::Devices { .. } => {
                call_with(&path, &interface, "queryInterface", &["s", DEVICES]).await
            }
        };

        answer.is_ok_and(|answer| answer == ["true"])
    }
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    #[error("busctl is missing: install systemd, or tell firewalld by hand")]
    Missing,
    #[error("busctl said: {0}")]
    Refused(String),
    #[error("firewalld does not answer")]
    Silent,
    #[error("busctl cannot be run: {0}")]
    Io(io::Error),
}

/// Zones by which spokes may come: those with devices, and the one of all others.
/// What comes from the sources of a zone is the owner's affair: he may block them
/// so.
async fn zones() -> Result<Vec<String>, BusError> {
    let mut zones = call(FIREWALL, "getDefaultZone", &[]).await?;
    zones.extend(zones_with_devices(
        &call(ZONE, "getActiveZones", &[]).await?,
    ));
    zones.sort();
    zones.dedup();
    zones.retain(|zone| zone != OPEN);

    Ok(zones)
}

/// Reads `a{sa{sas}}`: how many zones, then for each its name, how many kinds it
/// has, and for each kind its name, how many it has, and those.
fn zones_with_devices(words: &[String]) -> Vec<String> {
    let mut words = words.iter().map(String::as_str);
    let mut zones = Vec::new();
    let mut read = || -> Option<()> {
        for _ in 0..words.next()?.parse::<u32>().ok()? {
            let zone = words.next()?;
            for _ in 0..words.next()?.parse::<u32>().ok()? {
                let kind = words.next()?;
                let members: u32 = words.next()?.parse().ok()?;
                let names: Vec<_> = words.by_ref().take(members as usize).collect();
                if kind == "interfaces" && names.iter().any(|name| *name != DEVICES) {
                    zones.push(zone.to_owned());
                }
            }
        }
        Some(())
    };
    read();

    zones
}

/// Calls a method that takes texts.
async fn call(interface: &str, method: &str, texts: &[&str]) -> Result<Vec<String>, BusError> {
    let signature = "s".repeat(texts.len());
    let words: Vec<_> = match texts {
        [] => Vec::new(),
        texts => [&[signature.as_str()], texts].concat(),
    };

    call_with(RUNTIME, interface, method, &words).await
}

/// Calls a method; `words` are the signature and what it stands for.
async fn call_with(
    path: &str,
    interface: &str,
    method: &str,
    words: &[&str],
) -> Result<Vec<String>, BusError> {
    let mut command = Command::new("busctl");
    command
        .args(["--system", "--auto-start=no", "call", SERVICE])
        .args([path, interface, method])
        .args(words)
        .env_clear()
        .envs(env::vars_os().filter(|(name, _)| name == "PATH" || name == BUS))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match timeout(PATIENCE, command.output()).await {
        Err(_) => return Err(BusError::Silent),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(BusError::Missing),
        Ok(Err(error)) => return Err(BusError::Io(error)),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(values(&String::from_utf8_lossy(&output.stdout)));
    }
    let said = String::from_utf8_lossy(&output.stderr);

    Err(BusError::Refused(
        said.lines().next().unwrap_or("nothing").to_owned(),
    ))
}

/// What busctl prints behind the signature: texts are in quotes. Names of zones
/// and devices have none in them.
fn values(printed: &str) -> Vec<String> {
    let Some((_, rest)) = printed.trim().split_once(' ') else {
        return Vec::new();
    };
    let mut values = Vec::new();
    for (index, part) in rest.split('"').enumerate() {
        if index % 2 == 1 {
            values.push(part.to_owned());
        } else {
            values.extend(part.split_whitespace().map(str::to_owned));
        }
    }

    values
}

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const RUNTIME: &str = "/org/fedoraproject/FirewallD1";
const PERMANENT: &str = "/org/fedoraproject/FirewallD1/config";

const FIREWALL: &str = SERVICE;
const ZONE: &str = "org.fedoraproject.FirewallD1.zone";
const CONFIG: &str = "org.fedoraproject.FirewallD1.config";

/// The zone that accepts all from its devices, also what they forward: there is
/// no other that can be had without a reload.
const OPEN: &str = "trusted";

/// Names of the hub's devices, as firewalld writes that.
const DEVICES: &str = "dtun+";

/// Where the bus is, if not at its usual place.
const BUS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// A reload takes it some seconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_busctl_are_read() {
        assert_eq!(values("b true\n"), ["true"]);
        assert_eq!(values("s \"public\"\n"), ["public"]);
        assert_eq!(values("s \"\"\n"), [""]);
        assert_eq!(values(""), [""; 0]);

        let zones = r#"a{sa{sas}} 4 "public" 1 "interfaces" 2 "eth0" "eth1" "drop" 1 "sources" 1 "192.0.2.0/24" "trusted" 1 "interfaces" 1 "dtun+" "home" 2 "interfaces" 1 "eth2" "sources" 0"#;
        assert_eq!(zones_with_devices(&values(zones)), ["public", "home"]);
        for broken in ["a{sa{sas}} 0", "a{sa{sas}} 3 \"public\"", "s x", ""] {
            assert_eq!(zones_with_devices(&values(broken)), [""; 0]);
        }
    }

    #[test]
    fn what_is_noted_is_read_again() {
        for entry in [
            Entry::Port {
                zone: "public".to_owned(),
                port: 443,
            },
            Entry::Devices {
                zone: "trusted".to_owned(),
            },
        ] {
            assert_eq!(Entry::parse(entry.to_line().trim_end()), Some(entry));
        }
        assert_eq!(Entry::parse("port public x"), None);
    }
}
