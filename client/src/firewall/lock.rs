//! The lock's own table, which outlives us, and the commands that close and open
//! it from outside.
//!
//! All of its state is in the kernel, so that each network namespace has its
//! own and nobody has to be alive for it: a set whose elements run out opens it
//! for a time. A process that keeps the lock holds a file's lock, by which others
//! know that it is there.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use dtun_shared::claim::Claim;
use dtun_shared::link::Netlink;
use dtun_shared::nft::{self, NftError, TableWatch};
use dtun_shared::status::needs_root;
use tokio::process::Command;
use tokio::time::timeout;

use super::plan::{LAST, OPEN, Plan, YOUNG};
use super::{Settings, inside_now};
use crate::config::LockConfig;

/// Closes the lock and leaves it; a spoke with `-strict` takes it over.
///
/// # Errors
///
/// When nft is missing or refuses, or a spoke runs and does not close it.
pub async fn lock(config: LockConfig) -> anyhow::Result<()> {
    needs_root("lock")?;
    let Some(_held) = Held::try_take()? else {
        // The spoke's own rules are better than what is known here.
        return call_keeper().await;
    };
    let netlink = Netlink::new().context("failed to open netlink")?;
    let settings = Settings::for_lock(&config)?;
    let inside = inside_now(&netlink).await?;
    close(&settings.plan(inside)).await?;
    tracing::info!(
        "the lock of -strict is closed: `dtun unlock` opens it, a spoke with -strict takes it over"
    );

    Ok(())
}

/// Has the lock closed by the spoke that runs. Where it was opened for good, an
/// empty table tells the spoke.
async fn call_keeper() -> anyhow::Result<()> {
    let mut watch = TableWatch::new(TABLE).context("failed to watch the firewall")?;
    let close = format!("flush set inet {TABLE} {OPEN}");
    if nft::run(&close).await.is_err() {
        nft::run(&format!("add table inet {TABLE}")).await?;
    }
    let closed = async {
        while !is_closed().await? {
            watch.touched().await?;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, closed)
        .await
        .context("a spoke runs and does not close its lock: restart it")??;
    tracing::info!("the lock of -strict is closed");

    Ok(())
}

/// Opens the lock: for a time, or for good.
///
/// # Errors
///
/// When there is none, or nft fails.
pub async fn unlock(time: Option<Duration>) -> anyhow::Result<()> {
    needs_root("unlock")?;
    if !stands().await? {
        anyhow::bail!("no lock of -strict stands on this machine");
    }
    if let Some(time) = time {
        let seconds = time.as_secs().max(1);
        nft::run(&open(&format!(" timeout {seconds}s"))).await?;
        tracing::warn!("the lock of -strict is open for {time:?}: `dtun lock` closes it before");
        return Ok(());
    }

    if let Some(_held) = Held::try_take()? {
        remove().await?;
    } else {
        let mut watch = TableWatch::new(TABLE).context("failed to watch the firewall")?;
        nft::run(&open("")).await?;
        // The spoke that keeps it is told by that, and removes it.
        let gone = async {
            while stands().await? {
                watch.touched().await?;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, gone)
            .await
            .context("the spoke does not let its lock go: stop it")??;
    }
    tracing::warn!("the lock of -strict is open until the next start of a spoke with -strict");

    Ok(())
}

/// Whether the lock stood already when it was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Was,
    New,
}

/// Whether the lock lets everything pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    Not,
    For(Duration),
    ForGood,
}

/// How the lock stands just after a change of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Whole,
    /// Somebody removed or changed it at the same time.
    Broken,
    /// Somebody opened it for good.
    Unlocked,
}

/// Closes the lock, or takes over what stands without an open moment. A long list
/// is opened after that.
pub(super) async fn close(plan: &Plan) -> anyhow::Result<Standing> {
    let standing = match stands().await {
        Ok(true) => Standing::Was,
        Ok(false) => Standing::New,
        Err(error) => return Err(error).context("the lock of -strict cannot be closed"),
    };
    close_as(plan, standing)
        .await
        .context("the lock of -strict cannot be closed")?;

    Ok(standing)
}

async fn close_as(plan: &Plan, standing: Standing) -> Result<(), NftError> {
    let shut = format!("flush set inet {TABLE} {OPEN}");
    let bare = plan.without_bypass();
    let first = if plan.is_long() { &bare } else { plan };
    match standing {
        Standing::New => {
            let families = families(&format!(" timeout {}s", YOUTH.as_secs()));
            let young = format!("add element inet {TABLE} {YOUNG} {families}");
            carry_out(&[first.commands(TABLE), vec![young]].concat()).await?;
            if !plan.is_long() {
                return Ok(());
            }
        }
        // What another version left may have none.
        Standing::Was if plan.is_long() => drop(nft::run(&shut).await),
        Standing::Was => {}
    }

    carry_out(&[plan.commands(TABLE), vec![shut]].concat()).await
}

/// Closes a lock that is broken or gone, but for the list.
pub(super) async fn close_first(plan: &Plan) -> Result<(), NftError> {
    if seen(plan).await? == Seen::Broken {
        carry_out(&plan.without_bypass().commands(TABLE)).await?;
    }

    Ok(())
}

/// Whether the service manager is stopping everything.
pub(super) async fn machine_stops() -> bool {
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let mut command = Command::new("systemctl");
    let state = command.arg("is-system-running").kill_on_drop(true).output();

    matches!(
        timeout(PATIENCE, state).await,
        Ok(Ok(output)) if output.stdout.trim_ascii() == b"stopping"
    )
}

/// Makes the lock what it is to be; what opened it for a time goes on.
pub(super) async fn renew(plan: &Plan) -> Result<(), NftError> {
    if plan.is_long() && !stands().await? {
        // Somebody removed it: closed first, open for the long list later.
        carry_out(&plan.without_bypass().commands(TABLE)).await?;
    }

    carry_out(&plan.commands(TABLE)).await
}

/// Tells the lock of other inside devices.
pub(super) async fn tell(plan: &Plan) -> Result<(), NftError> {
    nft::run(&plan.inside_commands(TABLE).join("\n"))
        .await
        .map(|_| ())
}

pub(super) async fn remove() -> Result<(), NftError> {
    nft::run(&format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}"
    ))
    .await
    .map(|_| ())
}

/// Looks at what decides: the chain that every packet passes last, and whether
/// the lock is open.
pub(super) async fn seen(plan: &Plan) -> Result<Seen, NftError> {
    let script = format!("list chain inet {TABLE} {LAST}\nlist set inet {TABLE} {OPEN}");
    let text = match nft::run(&script).await {
        Ok(text) => text,
        Err(NftError::Refused(_)) => return Ok(Seen::Broken), // It is gone.
        Err(error) => return Err(error),
    };
    let rule = format!("add rule inet {TABLE} {LAST} ");
    let rules = plan.without_bypass().commands(TABLE);
    let expected = rules.iter().filter(|line| line.starts_with(&rule)).count();

    Ok(match parse_opened(&text) {
        Opened::ForGood => Seen::Unlocked,
        Opened::Not | Opened::For(_) if verdicts(&text) == expected => Seen::Whole,
        Opened::Not | Opened::For(_) => Seen::Broken,
    })
}

/// The rules in a listed chain, by their ends.
fn verdicts(chain: &str) -> usize {
    let ends = ["accept", "drop", "jump ways"];
    let is_rule = |line: &&str| ends.iter().any(|end| line.trim_end().ends_with(end));

    chain.lines().filter(is_rule).count()
}

/// Whether it stands and is not open.
async fn is_closed() -> Result<bool, NftError> {
    let script = format!("list chain inet {TABLE} {LAST}\nlist set inet {TABLE} {OPEN}");

    match nft::run(&script).await {
        Ok(text) => Ok(verdicts(&text) > 0 && parse_opened(&text) == Opened::Not),
        Err(NftError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether somebody opened it.
pub(super) async fn opened() -> Result<Opened, NftError> {
    let set = nft::run(&format!("list set inet {TABLE} {OPEN}")).await?;

    Ok(parse_opened(&set))
}

fn parse_opened(set: &str) -> Opened {
    let Some((_, elements)) = set.split_once("elements = {") else {
        return Opened::Not;
    };
    // With the name of the first family, which stands for both.
    let first = elements.split([',', '}']).next().unwrap_or_default().trim();
    let word = |name: &str| {
        let mut words = first.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()
    };
    match word("expires").or(word("timeout")) {
        Some(time) => Opened::For(parse_time(time).unwrap_or_default()),
        None => Opened::ForGood,
    }
}

/// A time as nft writes it: `1d23h59m58s996ms`, without what is 0.
fn parse_time(text: &str) -> Option<Duration> {
    let mut time = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let one = match unit {
            "d" => Duration::from_hours(24),
            "h" => Duration::from_hours(1),
            "m" => Duration::from_mins(1),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return None,
        };
        time += one.checked_mul(number.parse().ok()?)?;
        rest = after;
    }

    Some(time)
}

/// Carries commands out. What another version of this program left may not take
/// them: then all is made anew, in one step as well.
async fn carry_out(commands: &[String]) -> Result<(), NftError> {
    let script = commands.join("\n");
    let Err(error) = nft::run(&script).await else {
        return Ok(());
    };
    if !matches!(error, NftError::Refused(_)) {
        return Err(error);
    }
    tracing::debug!(%error, "the lock is made anew");

    nft::run(&format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}\n{script}"
    ))
    .await
    .map(|_| ())
}

/// Whether the lock's table is there.
pub(crate) async fn stands() -> Result<bool, NftError> {
    let tables = nft::run("list tables").await?;
    let line = format!("table inet {TABLE}");

    Ok(tables.lines().any(|table| table.trim() == line))
}

/// Lets everything pass from now on; the step has no closed moment.
fn open(timeout: &str) -> String {
    let families = families(timeout);

    format!("flush set inet {TABLE} {OPEN}\nadd element inet {TABLE} {OPEN} {families}")
}

fn families(timeout: &str) -> String {
    format!("{{ ipv4{timeout}, ipv6{timeout} }}")
}

/// The sign of a process that keeps the lock of this network namespace.
#[derive(Debug)]
pub(super) struct Held(Option<Claim>);

impl Held {
    /// Fails where another process has it.
    pub(super) fn take() -> anyhow::Result<Self> {
        Self::try_take()?.context("another dtun runs with -strict on this machine")
    }

    fn try_take() -> anyhow::Result<Option<Self>> {
        let claim = Claim::try_take("strict")?;

        Ok(claim.map(|claim| Self(Some(claim))))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(Claim::remove) {
            tracing::debug!(%error, "the sign of the lock stays");
        }
    }
}

/// The lock's table.
pub(super) const TABLE: &str = "dtun-lock";

/// Connections that are older than the lock have given up by then.
const YOUTH: Duration = Duration::from_secs(300);

/// For a spoke to hear that its lock was opened, or a service manager to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_from_nft_for_how_long_the_lock_is_open() {
        let set = |element: &str| format!("set open {{\n elements = {{ {element} }}\n}}");
        let opened = |element: &str| parse_opened(&set(element));

        assert_eq!(parse_opened("set open {\n flags timeout\n}"), Opened::Not);
        assert_eq!(opened("ipv4, ipv6"), Opened::ForGood);
        let time = |ms| Opened::For(Duration::from_millis(ms));
        assert_eq!(opened("ipv4 timeout 5m expires 4m58s4ms"), time(298_004));
        assert_eq!(opened("ipv4 timeout 5m, ipv6 timeout 5m"), time(300_000));
        assert_eq!(opened("ipv4 timeout 1d1h expires 1d"), time(86_400_000));
    }
}
