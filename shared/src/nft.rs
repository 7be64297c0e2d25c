//! The kernel's packet filter, by its own program `nft`.
//!
//! [`run`] carries out one script and ends. [`Owner`] keeps a `nft -i` whose
//! tables carry `flags owner`: nobody else can change or flush them, and the
//! kernel removes them when that process ends. It ends with its standard input,
//! so that nothing of it outlives us, however we die.
//!
//! All commands of one script, or of one call, come into force together or not
//! at all.

mod watch;

use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use crate::sys;
pub use watch::{TableWatch, Touch};

/// Carries a script out, as `nft -f`; returns what it printed.
pub async fn run(script: &str) -> Result<String, NftError> {
    carry_out(&["-s", "-f", "-"], script).await
}

/// All tables, as libnftables-json(5) has them, without what is in sets with
/// names.
pub async fn ruleset() -> Result<Value, NftError> {
    let text = carry_out(&["-j", "-t", "list", "ruleset"], "").await?;

    serde_json::from_str(&text).map_err(|error| NftError::Io(error.into()))
}

async fn carry_out(arguments: &[&str], script: &str) -> Result<String, NftError> {
    let mut child = command()
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::start)?;
    let mut stdin = child.stdin.take().ok_or(NftError::Ended)?;
    let feed = async move {
        // One that refuses the script before its end says why by itself.
        stdin.write_all(script.as_bytes()).await.unwrap_or_default();
    };
    let work = async { tokio::join!(feed, child.wait_with_output()).1 };
    let Output {
        status,
        stdout,
        stderr,
    } = timeout(patience(script), work)
        .await
        .map_err(|_| NftError::Silent)?
        .map_err(NftError::Io)?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }

    let said = String::from_utf8_lossy(&stderr);
    let first = said.lines().find(|line| is_error(line));
    Err(NftError::Refused(first.unwrap_or("no reason").to_owned()))
}

/// Why the filter is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("the program nft is missing: install the package nftables")]
    Missing,
    #[error("nft cannot be started: {0}")]
    Start(io::Error),
    #[error("nft said: {0}")]
    Refused(String),
    #[error("nft ended too early; it may have been built without its command line")]
    Ended,
    #[error("nft does not answer")]
    Silent,
    #[error("nft cannot be talked to: {0}")]
    Io(#[from] io::Error),
}

impl NftError {
    fn start(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            return Self::Missing;
        }

        Self::Start(error)
    }

    /// A pipe that nobody reads any more is a process that has ended.
    fn early(self) -> Self {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::Ended,
            Self::Io(_)
            | Self::Missing
            | Self::Start(_)
            | Self::Refused(_)
            | Self::Ended
            | Self::Silent => self,
        }
    }
}

/// A process that owns tables.
#[derive(Debug)]
pub struct Owner {
    child: Child,
    stdin: ChildStdin,
    stderr: Lines<BufReader<ChildStderr>>,
    calls: u64,
    /// How many errors the mark at the end of a call is.
    noise: usize,
}

impl Owner {
    /// Starts the process, which owns nothing yet.
    pub async fn new() -> Result<Self, NftError> {
        let mut command = command();
        // A service manager asks every process to end, when it is ours to choose
        // the moment; this one ends with its input.
        sys::process::ignoring_requests_to_end(&mut command);
        let mut child = command
            .arg("-i")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0) // A Ctrl-C at our terminal is ours to handle.
            .kill_on_drop(true)
            .spawn()
            .map_err(NftError::start)?;
        let stdin = child.stdin.take().ok_or(NftError::Ended)?;
        let stderr = child.stderr.take().ok_or(NftError::Ended)?;
        let mut owner = Self {
            child,
            stdin,
            stderr: BufReader::new(stderr).lines(),
            calls: 0,
            noise: 0,
        };
        owner.noise = owner.call("").await?.len();

        Ok(owner)
    }

    /// Carries commands out, one a line of text; tables that are to be owned
    /// are added with `flags owner`. After any error but [`NftError::Refused`] it
    /// is of no further use: what it still says would be read with the next call.
    pub async fn apply<T: AsRef<str>>(&mut self, commands: &[T]) -> Result<(), NftError> {
        let commands: Vec<_> = commands.iter().map(AsRef::as_ref).collect();
        let mut errors = self.call(&commands.join("; ")).await?;
        if errors.len() > self.noise {
            return Err(NftError::Refused(errors.swap_remove(0)));
        }

        Ok(())
    }

    /// Waits for the end of the process, which takes its tables along.
    pub async fn ended(&mut self) {
        if self.child.wait().await.is_err() {
            std::future::pending().await
        }
    }

    /// Ends the process and waits until its tables are gone.
    pub async fn close(mut self) {
        drop(self.stdin);
        if timeout(patience(""), self.child.wait()).await.is_err() {
            kill(&mut self.child).await;
        }
    }

    /// Ends the process at once.
    pub async fn kill(mut self) {
        kill(&mut self.child).await;
    }

    /// Sends one line; returns the errors that came until its end was reached.
    async fn call(&mut self, line: &str) -> Result<Vec<String>, NftError> {
        // No command prints to the pipe that errors come by; one that is not
        // known does, in its turn.
        self.calls += 1;
        let mark = format!("end{}of{}", self.calls, std::process::id());
        let errors = async {
            let text = format!("{line}\n{mark}\n");
            self.stdin.write_all(text.as_bytes()).await?;
            let mut errors = Vec::new();
            while let Some(line) = self.stderr.next_line().await? {
                if line.trim() == mark {
                    return Ok(errors);
                }
                errors.extend(Some(line).filter(|line| is_error(line)));
            }
            Err(NftError::Ended)
        };

        timeout(patience(line), errors)
            .await
            .unwrap_or(Err(NftError::Silent))
            .map_err(NftError::early)
    }
}

async fn kill(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, "nft cannot be killed");
    }
}

fn is_error(line: &str) -> bool {
    line.contains("Error:")
}

/// The program; a user's PATH may lack the folder that it is in.
fn command() -> Command {
    let path = ["/usr/sbin/nft", "/sbin/nft"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nft");
    let mut command = Command::new(path);
    // Our own environment may have a key in it, and a home for its history.
    let search = std::env::var_os("PATH").unwrap_or_default();
    command
        .env_clear()
        .env("PATH", search)
        .env("HOME", "/dev/null");
    command.stdin(Stdio::piped());

    command
}

/// For how long nft may work on a script: a hundred thousand networks, 2 MB, take
/// two seconds, and a small machine is ten times slower.
fn patience(script: &str) -> Duration {
    LEAST + Duration::from_secs(script.len() as u64 / BYTES_A_SECOND)
}

/// Whoever waits may wait for a lock to be closed.
const LEAST: Duration = Duration::from_secs(5);

const BYTES_A_SECOND: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::isolated;

    const TABLE: &str = "add table inet mine { flags owner; }";

    async fn ruleset() -> String {
        run("list ruleset").await.unwrap()
    }

    #[test]
    fn an_owned_table_survives_a_flush_and_goes_with_its_owner() {
        isolated(|_| async {
            let mut owner = Owner::new().await.unwrap();
            owner
                .apply(&[TABLE, "add chain inet mine c"])
                .await
                .unwrap();
            run("add table inet other").await.unwrap();

            run("flush ruleset").await.unwrap();

            let left = ruleset().await;
            assert!(left.contains("chain c"), "{left}");
            assert!(!left.contains("other"), "{left}");
            owner.close().await;
            assert_eq!(ruleset().await, "");
        });
    }

    #[test]
    fn a_call_with_a_mistake_says_it_and_changes_nothing() {
        isolated(|_| async {
            let mut owner = Owner::new().await.unwrap();

            for _ in 0..2 {
                let result = owner
                    .apply(&[TABLE, "add rule inet mine nochain accept"])
                    .await;
                let error = result.unwrap_err().to_string();
                assert!(error.contains("No such file or directory"), "{error}");
                assert_eq!(ruleset().await, "");
            }
            owner.apply(&[TABLE]).await.unwrap();
            assert!(ruleset().await.contains("mine"));
        });
    }

    #[test]
    fn an_owner_that_is_killed_is_noticed_and_its_table_gone() {
        isolated(|_| async {
            let mut owner = Owner::new().await.unwrap();
            owner.apply(&[TABLE]).await.unwrap();

            sys::process::kill_group(owner.child.id().unwrap()).unwrap();
            owner.ended().await;

            assert_eq!(ruleset().await, "");
            let error = owner.apply(&[TABLE]).await.unwrap_err();
            assert!(matches!(error, NftError::Ended), "{error}");
        });
    }

    #[test]
    fn an_owner_that_is_asked_to_end_goes_on_until_it_is_closed() {
        isolated(|_| async {
            let mut owner = Owner::new().await.unwrap();
            let process = owner.child.id().unwrap().to_string();
            for signal in ["-TERM", "-HUP", "-INT"] {
                let mut kill = std::process::Command::new("kill");
                assert!(kill.args([signal, &process]).status().unwrap().success());
            }

            owner.apply(&[TABLE]).await.unwrap();
            assert!(ruleset().await.contains("mine"));
            owner.close().await;
            assert_eq!(ruleset().await, "");
        });
    }

    #[test]
    fn a_script_that_is_refused_says_why() {
        isolated(|_| async {
            let error = run("add rule inet none none accept").await.unwrap_err();

            let NftError::Refused(why) = error else {
                panic!("{error}");
            };
            assert!(why.contains("No such file or directory"), "{why}");
        });
    }
}
