//! Runs a user's program when a tunnel comes up or goes down.
//!
//! A hook sees the environment it is given and `PATH`, nothing else of ours,
//! and leads a process group of its own, so that a Ctrl-C at our terminal is
//! ours to handle and a hook that hangs dies with all it started. What it
//! prints goes to the log line by line; both its outputs are one pipe, so that
//! the lines keep their order and the last is the last. A daemon that it leaves behind may
//! keep its output open: the hook is over when its own process is.

mod lines;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::sys::process::kill_group;
pub use lines::{Lines, Posted, undo_left};

/// Runs the hook at `path` to its end.
pub async fn run(path: &Path, env: &[(&str, String)]) -> Result<(), HookError> {
    run_within(path, env, LIMITS).await
}

/// Runs a line of the shell to its end.
async fn run_line(line: &str, env: &[(&str, String)]) -> Result<(), HookError> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]);

    carry_out(command, Path::new(line), line, env, LIMITS).await
}

/// Why a hook did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("hook {} cannot be started: {source}", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("hook {} {}, {last}", path.display(), ending(*status))]
    Failed {
        path: PathBuf,
        status: ExitStatus,
        last: LastLine,
    },
    #[error("hook {} was killed after {} s, {last}", path.display(), after.as_secs())]
    TimedOut {
        path: PathBuf,
        after: Duration,
        last: LastLine,
    },
    #[error("hook {} cannot be waited for: {source}", path.display())]
    Wait { path: PathBuf, source: io::Error },
}

/// The last line that a hook printed that was not blank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastLine(Option<String>);

impl std::fmt::Display for LastLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(line) => write!(f, "its last line: {line}"),
            None => write!(f, "it printed nothing"),
        }
    }
}

#[derive(Clone, Copy)]
struct Limits {
    warn: Duration,
    kill: Duration,
}

async fn run_within(path: &Path, env: &[(&str, String)], limits: Limits) -> Result<(), HookError> {
    // A bare name is a file here before it is a word to look up in PATH.
    let program = path.exists().then(|| std::path::absolute(path).ok());
    let command = Command::new(program.flatten().as_deref().unwrap_or(path));

    carry_out(command, path, &name(path), env, limits).await
}

/// Runs a command; `path` is what the user has given, `name` what the log calls
/// it.
async fn carry_out(
    command: Command,
    path: &Path,
    name: &str,
    env: &[(&str, String)],
    limits: Limits,
) -> Result<(), HookError> {
    let (mut child, pipe) = start(command, env).map_err(|source| HookError::Start {
        path: path.to_owned(),
        source,
    })?;
    let output = Output::default();
    let reader = tokio::spawn(read(pipe, name.to_owned(), output.clone()));

    let ended = wait(&mut child, name, limits).await;

    // What the hook printed last is still in the pipe when the process ends.
    if timeout(DRAIN, reader).await.is_err() {
        tracing::debug!(hook = name, "somebody keeps the hook's output open");
    }

    let last = output.last();
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(HookError::Failed {
            path: path.to_owned(),
            status,
            last,
        }),
        Ok(None) => Err(HookError::TimedOut {
            path: path.to_owned(),
            after: limits.kill,
            last,
        }),
        Err(source) => Err(HookError::Wait {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The process, and the pipe that it prints to.
fn start(mut command: Command, env: &[(&str, String)]) -> io::Result<(Child, Receiver)> {
    let (reader, writer) = io::pipe()?;
    let child = command
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
        )
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;

    Ok((child, Receiver::from_owned_fd(reader.into())?))
}

/// Waits for the hook's end; `None` when it had to be killed.
async fn wait(child: &mut Child, name: &str, limits: Limits) -> io::Result<Option<ExitStatus>> {
    if let Ok(status) = timeout(limits.warn, child.wait()).await {
        return status.map(Some);
    }
    tracing::warn!(
        hook = name,
        killed_after = ?limits.kill,
        "hook is still running after {} s",
        limits.warn.as_secs(),
    );
    if let Ok(status) = timeout(limits.kill - limits.warn, child.wait()).await {
        return status.map(Some);
    }

    if let Some(pid) = child.id() {
        kill_group(pid)?;
    }
    child.wait().await?;
    Ok(None)
}

/// Logs each line of `pipe` until everybody who holds it has closed it.
async fn read(pipe: Receiver, name: String, output: Output) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut pipe).take(LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text: String = String::from_utf8_lossy(&line)
            .trim_end()
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '?' } else { c })
            .collect();
        if text.is_empty() {
            continue;
        }
        tracing::info!(hook = name, "{text}");
        output.push(text);
    }
}

/// The newest line, shared between the reader and the one who waits for the
/// process.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<LastLine>>);

impl Output {
    fn push(&self, line: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = LastLine(Some(line));
    }

    fn last(&self) -> LastLine {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// The original's own script sets 8,000 routes one by one: minutes are normal.
const LIMITS: Limits = Limits {
    warn: Duration::from_secs(30),
    kill: Duration::from_secs(300),
};

/// How long to wait for output that is still in the pipe after the end.
const DRAIN: Duration = Duration::from_millis(200);

/// Longer lines are cut into several.
const LINE: u64 = 1000;

/// For a process that was itself started without one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use super::*;

    /// A script in a file of its own that goes with it.
    struct Script(PathBuf);

    impl Script {
        fn new(name: &str, body: &str) -> Self {
            let path = std::env::temp_dir().join(format!("hook-{name}-{}", std::process::id()));
            std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            Self(path)
        }

        async fn run(&self, env: &[(&str, String)]) -> Result<(), HookError> {
            run(&self.0, env).await
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    #[tokio::test]
    async fn a_hook_sees_its_environment_and_path_alone() {
        let script = Script::new(
            "env",
            r#"test "$TUN" = dtun0 && test -n "$PATH" && test -z "$HOME$CARGO_MANIFEST_DIR""#,
        );

        script.run(&[("TUN", "dtun0".to_owned())]).await.unwrap();
    }

    #[tokio::test]
    async fn a_failure_names_the_exit_code_and_the_last_line() {
        let script = Script::new("fail", "echo first; echo 'File exists' >&2; echo; exit 3");

        let error = script.run(&[]).await.unwrap_err().to_string();

        assert!(
            error.ends_with("exited with code 3, its last line: File exists"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn lines_of_both_outputs_keep_their_order() {
        let script = Script::new(
            "order",
            "for i in 1 2 3 4 5 6 7 8 9; do echo out; echo err >&2; done; exit 1",
        );

        for _ in 0..100 {
            let error = script.run(&[]).await.unwrap_err().to_string();

            assert!(error.ends_with("its last line: err"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_hook_that_is_not_there_is_an_error_of_its_own() {
        let error = run(Path::new("/no/such/hook"), &[]).await.unwrap_err();

        assert!(matches!(error, HookError::Start { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_hook_that_hangs_dies_with_its_children() {
        let script = Script::new("hang", "sleep 600 & echo $!; wait");
        let limits = Limits {
            warn: Duration::from_millis(100),
            kill: Duration::from_millis(400),
        };

        let error = run_within(&script.0, &[], limits).await.unwrap_err();

        let HookError::TimedOut { last, .. } = error else {
            panic!("{error}");
        };
        let child = last.0.unwrap();
        let gone = async {
            while is_alive(&child) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    /// Signals are sent at once and obeyed a little later.
    fn is_alive(pid: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !(state.is_empty() || state.contains(") Z "))
    }

    #[tokio::test]
    async fn a_daemon_left_behind_does_not_hold_the_hook_up() {
        let script = Script::new("daemon", "sleep 5 & exit 0");
        let before = Instant::now();

        script.run(&[]).await.unwrap();

        assert!(before.elapsed() < Duration::from_secs(3));
    }
}
