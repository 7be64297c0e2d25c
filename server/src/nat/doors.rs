//! The accepts in other programs' chains, by the iptables that owns them. A
//! verdict of a table of our own would not help: whoever drops has the last
//! word.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use dtun_shared::nft::{self, NftError};
use ipnet::IpNet;
use tokio::process::Command;
use tokio::time::timeout;

use super::chains::{Chains, Wanted};

/// Makes the rules of ours what they are to be; returns the chains that were
/// changed.
pub(super) async fn open(tag: &str, inside: &[IpNet], port: u16) -> Result<Vec<String>, DoorError> {
    let mut changed = Vec::new();
    for tool in tools().await? {
        let inside: Vec<_> = inside
            .iter()
            .filter(|net| net.addr().is_ipv6() == tool.ip6)
            .copied()
            .collect();
        let Ok(listing) = tool.run(&["-S"]).await else {
            continue; // A table of nft that only has its name.
        };
        let inside = &inside[..];
        let (gone, new) = Chains::parse(&listing).changes(Wanted { tag, inside, port });
        for (chain, rule) in gone {
            tool.change(&["-D", &chain], &rule).await?;
        }
        for accept in new {
            let at = accept.at.to_string();
            tool.change(&["-I", &accept.chain, &at], &accept.rule)
                .await?;
            let name = format!("{} {}", tool.names[1], accept.chain);
            if !changed.contains(&name) {
                changed.push(name);
            }
        }
    }

    Ok(changed)
}

/// Removes every rule with the tag.
pub(super) async fn shut(tag: &str) -> Result<(), DoorError> {
    for tool in tools().await? {
        let Ok(listing) = tool.run(&["-S"]).await else {
            continue;
        };
        for (chain, rule) in Chains::parse(&listing).tagged(tag) {
            tool.change(&["-D", &chain], &rule).await?;
        }
    }

    Ok(())
}

/// Whether firewalld filters by nftables, where it alone can let something pass.
pub(super) async fn has_firewalld() -> Result<bool, NftError> {
    let tables = nft::run("list tables").await?;

    Ok(tables
        .lines()
        .any(|line| line.trim() == "table inet firewalld"))
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
    #[error("{0} is missing: install the package iptables")]
    Missing(&'static str),
    #[error("{program} said: {said}")]
    Refused { program: &'static str, said: String },
    #[error("{0} does not answer")]
    Silent(&'static str),
    #[error("{0} cannot be run: {1}")]
    Io(&'static str, io::Error),
}

/// One program for one family.
struct Tool {
    /// Its full name, and the one that it may have alone.
    names: [&'static str; 2],
    ip6: bool,
}

impl Tool {
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

/// Those that have rules: asking others would make them tables.
async fn tools() -> Result<Vec<Tool>, NftError> {
    let tables = nft::run("list tables").await?;
    let has = |table: &str| tables.lines().any(|line| line.trim() == table);
    let newer = [
        ("table ip filter", ["iptables-nft", "iptables"]),
        ("table ip6 filter", ["ip6tables-nft", "ip6tables"]),
    ];
    let newer = newer.into_iter().filter(|(table, _)| has(table));
    let legacy = LEGACY.into_iter().filter(|(file, _)| has_filter(file));

    Ok(newer
        .chain(legacy)
        .map(|(_, names)| Tool {
            names,
            ip6: names[1].starts_with("ip6"),
        })
        .collect())
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

const PATIENCE: Duration = Duration::from_secs(10);
