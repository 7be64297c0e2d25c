//! The accepts in other programs' chains, each by the tool that owns them:
//! iptables, firewalld's D-Bus, or nft. A verdict of a table of our own would not
//! help: whoever drops has the last word.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use dtun_shared::claim::Claim;
use dtun_shared::nft::{self, NftError};
use ipnet::IpNet;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::chains::{Chains, Wanted};
use super::firewalld::{BusError, Firewalld};
use super::natives::{self, Ruleset};

/// What others' chains have of ours.
#[derive(Debug)]
pub(super) struct Doors {
    /// The comment that every rule of ours bears, or begins with.
    tag: String,
    /// Where the hub listens.
    port: u16,
    /// What tells `dtun clean` of us.
    claim: Option<Claim>,
    firewalld: Firewalld,
}

/// What was done; one way may fail where others do not.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// Where something was let pass.
    pub(super) places: Vec<String>,
    pub(super) failed: Option<DoorError>,
}

impl Doors {
    pub(super) fn new(tag: &str, port: u16, claim: Option<Claim>) -> Self {
        Self {
            tag: tag.to_owned(),
            port,
            firewalld: Firewalld::new(claim.as_ref()),
            claim,
        }
    }

    /// Makes what is ours in others' chains what it is to be.
    pub(super) async fn open(&mut self, inside: &[IpNet]) -> Opened {
        let mut opened = Opened::default();
        let mut ways = match Ways::look().await {
            Ok(ways) => ways,
            Err(error) => {
                opened.failed = Some(error);
                return opened;
            }
        };
        opened.failed = ways.failed.take();
        for (tool, chains) in &ways.iptables {
            let result = self.open_iptables(tool, chains, inside).await;
            opened.add(result);
        }
        let result = self.open_natives(&ways, inside).await;
        opened.add(result);
        if ways.firewalld {
            let claim = self.claim.as_ref();
            let result = self.firewalld.open(self.port, claim).await;
            let result = result.map_err(|error| DoorError::Firewalld(error, self.port));
            opened.add(result);
        }

        opened
    }

    /// Removes all that is ours, as far as it can be had; the error is the first.
    pub(super) async fn shut(&mut self) -> Result<(), DoorError> {
        let mut ways = Ways::look().await?;
        let mut failed = ways.failed.take();
        let mut keep = |result: Result<(), DoorError>| {
            if let Err(error) = result {
                failed.get_or_insert(error);
            }
        };
        for (tool, chains) in &ways.iptables {
            for (chain, rule) in chains.tagged(&self.tag) {
                keep(tool.change(&["-D", &chain], &rule).await);
            }
        }
        for change in ways.natives().removal(&self.tag) {
            let result = nft::run(&change.script).await;
            keep(
                result
                    .map(drop)
                    .map_err(|error| DoorError::Native(change.chain, error)),
            );
        }
        if ways.firewalld {
            let result = self.firewalld.shut(self.claim.as_ref()).await;
            keep(result.map_err(|error| DoorError::Firewalld(error, self.port)));
        }

        failed.map_or(Ok(()), Err)
    }

    /// Nothing of ours is left.
    pub(super) fn forget(self) -> io::Result<()> {
        self.claim.map_or(Ok(()), Claim::remove)
    }

    async fn open_iptables(
        &self,
        tool: &Tool,
        chains: &Chains,
        inside: &[IpNet],
    ) -> Result<Vec<String>, DoorError> {
        let inside: Vec<_> = inside
            .iter()
            .filter(|net| net.addr().is_ipv6() == tool.ip6)
            .copied()
            .collect();
        let (gone, new) = chains.changes(Wanted {
            tag: &self.tag,
            inside: &inside,
            port: self.port,
        });
        for (chain, rule) in gone {
            tool.change(&["-D", &chain], &rule).await?;
        }
        let mut changed = Vec::new();
        for accept in new {
            let at = accept.at.to_string();
            tool.change(&["-I", &accept.chain, &at], &accept.rule)
                .await?;
            let name = format!("{} {}", tool.names[1], accept.chain);
            if !changed.contains(&name) {
                changed.push(name);
            }
        }

        Ok(changed)
    }

    async fn open_natives(&self, ways: &Ways, inside: &[IpNet]) -> Result<Vec<String>, DoorError> {
        let changes = ways.natives().changes(natives::Wanted {
            tag: &self.tag,
            inside,
            port: self.port,
        });
        let mut changed = Vec::new();
        for change in changes {
            nft::run(&change.script)
                .await
                .map_err(|error| DoorError::Native(change.chain.clone(), error))?;
            if change.opens {
                changed.push(format!("nft {}", change.chain));
            }
        }

        Ok(changed)
    }
}

impl Opened {
    /// Keeps the first failure.
    fn add(&mut self, result: Result<Vec<String>, DoorError>) {
        match result {
            Ok(places) => self.places.extend(places),
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
    }
}

/// Who filters on this machine.
#[derive(Debug, Default)]
struct Ways {
    /// By iptables, and what it printed.
    iptables: Vec<(Tool, Chains)>,
    /// Families whose iptables has not answered: nobody knows whose chains are
    /// there.
    unread: Vec<&'static str>,
    /// Why.
    failed: Option<DoorError>,
    /// As nft tells it.
    ruleset: Value,
    firewalld: bool,
}

impl Ways {
    async fn look() -> Result<Self, DoorError> {
        let ruleset = nft::ruleset().await?;
        let tables = ruleset["nftables"].as_array().into_iter().flatten();
        let tables: Vec<_> = tables.map(|entry| &entry["table"]).collect();
        let has = |family: &str, name: &str| {
            tables
                .iter()
                .any(|table| table["family"] == family && table["name"] == name)
        };
        let mut firewalld = has("inet", "firewalld");
        let newer = [
            ("ip", ["iptables-nft", "iptables"]),
            ("ip6", ["ip6tables-nft", "ip6tables"]),
        ];
        let newer = newer
            .into_iter()
            .filter(|(family, _)| has(family, "filter"));
        let legacy = LEGACY.into_iter().filter(|(file, _)| has_filter(file));

        let mut iptables = Vec::new();
        let (mut unread, mut failed) = (Vec::new(), None);
        for (of, names) in newer.chain(legacy) {
            let ip6 = names[1].starts_with("ip6");
            let tool = Tool { names, ip6 };
            if of == tool.family() && tool.would_make().await {
                continue;
            }
            let listing = match tool.run(&["-S"]).await {
                Ok(listing) => listing,
                Err(error) if error.is_of_another() => continue,
                Err(error) => {
                    unread.push(tool.family());
                    failed.get_or_insert(error);
                    continue;
                }
            };
            let chains = Chains::parse(&listing);
            if chains.is_firewalld() {
                firewalld = true;
            } else {
                iptables.push((tool, chains));
            }
        }

        Ok(Self {
            iptables,
            unread,
            failed,
            ruleset,
            firewalld,
        })
    }

    /// The chains that no other program takes care of.
    fn natives(&self) -> Ruleset {
        let read = self.iptables.iter().map(|(tool, _)| tool.family());
        let theirs: Vec<_> = read.chain(self.unread.iter().copied()).collect();

        Ruleset::parse(&self.ruleset, &theirs)
    }
}

/// Whether the older iptables, which tells nobody of changes, has rules.
pub(super) fn is_deaf() -> bool {
    LEGACY.iter().any(|(file, _)| has_filter(file))
}

/// Why the rules are not as they should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error("{0}: {1}")]
    Native(String, NftError),
    #[error(
        "{0}; run: firewall-cmd --add-port={1}/udp; firewall-cmd --zone=trusted --add-interface=dtun+"
    )]
    Firewalld(BusError, u16),
    #[error("{0} is missing: install the package iptables")]
    Missing(&'static str),
    #[error("{program} said: {said}")]
    Refused { program: &'static str, said: String },
    #[error("{0} does not answer")]
    Silent(&'static str),
    #[error("{0} cannot be run: {1}")]
    Io(&'static str, io::Error),
}

impl DoorError {
    /// Whether iptables could not read a table because another program has made
    /// it. Anything else, such as a lock that somebody holds, passes.
    fn is_of_another(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Refused { said, .. } => FOREIGN.iter().any(|words| said.contains(words)),
            Self::Nft(_) | Self::Native(..) | Self::Firewalld(..) => false,
            Self::Silent(_) | Self::Io(..) => false,
        }
    }
}

/// One program for one family.
#[derive(Debug)]
struct Tool {
    /// Its full name, and the one that it may have alone.
    names: [&'static str; 2],
    ip6: bool,
}

impl Tool {
    /// As nft calls it.
    fn family(&self) -> &'static str {
        if self.ip6 { "ip6" } else { "ip" }
    }

    /// Whether it is the older one, and makes the table that filters when it is
    /// asked for it.
    async fn would_make(&self) -> bool {
        let version = self.run(&["-V"]).await;
        let is_older = version.is_ok_and(|version| !version.contains("nf_tables"));

        is_older && !has_filter(LEGACY[usize::from(self.ip6)].0)
    }

    async fn change(&self, command: &[&str], rule: &[String]) -> Result<(), DoorError> {
        let rule = rule.iter().map(String::as_str);
        let words: Vec<_> = command.iter().copied().chain(rule).collect();

        self.run(&words).await.map(|_| ())
    }

    /// Runs it; it waits for others that hold its lock.
    async fn run(&self, words: &[&str]) -> Result<String, DoorError> {
        for program in self.names {
            let run = Command::new(program)
                .args(["-w", "5"])
                .args(words)
                .env_clear()
                .env("PATH", path())
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = match timeout(PATIENCE, run).await {
                Err(_) => return Err(DoorError::Silent(program)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(Err(error)) => return Err(DoorError::Io(program, error)),
                Ok(Ok(output)) => output,
            };
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("nothing").to_owned();
            return Err(DoorError::Refused { program, said });
        }

        Err(DoorError::Missing(self.names[1]))
    }
}

/// Whether a file that names a family's tables of the older iptables has the
/// one that filters.
fn has_filter(file: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

/// A user's PATH may lack the folders that they are in.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");

    path
}

const LEGACY: [(&str, [&str; 2]); 2] = [
    (
        "/proc/self/net/ip_tables_names",
        ["iptables-legacy", "iptables"],
    ),
    (
        "/proc/self/net/ip6_tables_names",
        ["ip6tables-legacy", "ip6tables"],
    ),
];

/// What iptables says of a table that it does not know how to read (the newer),
/// or does not have (the older).
const FOREIGN: [&str; 3] = ["is incompatible", "does not exist", "can't initialize"];

const PATIENCE: Duration = Duration::from_secs(10);
