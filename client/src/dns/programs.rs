//! `resolvectl` and `resolvconf`, which keep the machine's resolvers where
//! they are installed.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::conf::name_servers;
use super::file::Held;
use super::places::Places;

/// Has systemd-resolved ask these servers for every name, by the tunnel. It may
/// hear of a new device after us.
pub(super) fn set_resolved(
    places: &Places,
    device: &str,
    servers: &[IpAddr],
) -> Result<(), ProgramError> {
    let mut result = Ok(());
    eventually(|| {
        result = try_resolved(places, device, servers);
        result.is_ok() || !places.resolved.exists()
    });

    result
}

/// Whether servers are not among those of all links that are up, which
/// systemd-resolved lists, perhaps a little later than we look.
pub(super) fn is_missing_from_resolved(places: &Places, servers: &[IpAddr]) -> bool {
    let is_missing = || {
        fs::read(&places.resolved).is_ok_and(|text| {
            let listed = name_servers(&text);
            let is_listed = |server: &IpAddr| listed.iter().any(|listed| listed.ip() == *server);
            !servers.iter().all(is_listed)
        })
    };

    !eventually(|| !is_missing())
}

/// Whether resolv.conf has our servers first, or is resolvconf's and names a
/// resolver on this machine, which resolvconf tells of them.
pub(super) fn is_asked_by_resolvconf(places: &Places, servers: &[IpAddr]) -> bool {
    let asked = places.asked();
    let is_local = asked.iter().all(|server| server.ip().is_loopback());

    asked.first().map(SocketAddr::ip).as_ref() == servers.first()
        || (is_local && is_of_resolvconf(places))
}

/// Asks until the answer is yes, but for half a second only.
fn eventually(mut ask: impl FnMut() -> bool) -> bool {
    ask()
        || (0..TRIES).any(|_| {
            thread::sleep(TRY_AGAIN);
            ask()
        })
}

fn try_resolved(places: &Places, device: &str, servers: &[IpAddr]) -> Result<(), ProgramError> {
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    let mut dns = vec!["dns", device];
    dns.extend(servers.iter().map(String::as_str));

    run(places, RESOLVECTL, &dns, "")?;
    // Every name: also one that another link would be asked for otherwise.
    run(places, RESOLVECTL, &["domain", device, "~."], "")?;
    // Older ones do not know it, and take the line above for it.
    if let Err(error) = run(places, RESOLVECTL, &["default-route", device, "yes"], "") {
        tracing::debug!(%error, "systemd-resolved knows of no default route");
    }

    Ok(())
}

/// Has systemd-resolved forget a device's servers.
pub(super) fn revert_resolved(places: &Places, device: &str) -> Result<(), ProgramError> {
    run(places, RESOLVECTL, &["revert", device], "")
}

/// Hands resolvconf these servers, before all others, and without them where
/// it can do that (openresolv's can).
pub(super) fn set_resolvconf(
    places: &Places,
    name: &str,
    servers: &[IpAddr],
) -> Result<(), ProgramError> {
    let input: String = servers
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();

    run(places, RESOLVCONF, &["-a", name, "-m", "0", "-x"], &input).or_else(|error| {
        tracing::debug!(%error, "resolvconf is asked in its simplest words");
        run(places, RESOLVCONF, &["-a", name], &input)
    })
}

/// Takes what it was handed under this name from resolvconf.
pub(super) fn clear_resolvconf(places: &Places, name: &str) -> Result<(), ProgramError> {
    // One that never heard of the name, after a reboot, may say that it fails.
    run(places, RESOLVCONF, &["-d", name, "-f"], "")
        .or_else(|_| run(places, RESOLVCONF, &["-d", name], ""))
}

pub(super) fn has_resolvectl(places: &Places) -> bool {
    places.program(RESOLVECTL).is_some()
}

/// Whether there is a resolvconf that is not systemd-resolved's under another name.
pub(super) fn has_resolvconf(places: &Places) -> bool {
    let is_resolvectl = |path: &Path| {
        path.canonicalize()
            .is_ok_and(|path| path.file_name().is_some_and(|name| name == RESOLVECTL))
    };

    places
        .program(RESOLVCONF)
        .is_some_and(|path| !is_resolvectl(&path))
}

/// The tunnel's name for resolvconf. Debian's orders servers by the names of
/// their devices, in which ours does not occur: it takes the first kind that does.
pub(super) fn resolvconf_name(places: &Places, device: &str) -> String {
    let order = fs::read_to_string(&places.interface_order).unwrap_or_default();
    let is_word = |kind: &&str| {
        let mut bytes = kind.bytes();
        !kind.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let first = order
        .lines()
        .filter_map(|line| line.trim().strip_suffix('*'))
        .find(is_word);

    first.map_or_else(|| device.to_owned(), |kind| format!("{kind}.{device}"))
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProgramError {
    #[error("there is no {0}")]
    Missing(&'static str),
    #[error("{program} cannot be run: {error}")]
    Run {
        program: &'static str,
        error: io::Error,
    },
    #[error("{program} {} ended with {status}: {said}", args.join(" "))]
    Failed {
        program: &'static str,
        args: Vec<String>,
        status: ExitStatus,
        said: String,
    },
    #[error("{program} was killed after {} s", PATIENCE.as_secs())]
    TimedOut { program: &'static str },
}

fn is_of_resolvconf(places: &Places) -> bool {
    let names_it = |text: &[u8]| String::from_utf8_lossy(text).contains("resolvconf");

    match Held::read(&places.resolv_conf) {
        Ok(Held::Link(target)) => names_it(target.as_os_str().as_encoded_bytes()),
        Ok(Held::File { content, .. }) => names_it(&content),
        Ok(Held::Missing) | Err(_) => false,
    }
}

fn run(
    places: &Places,
    program: &'static str,
    args: &[&str],
    input: &str,
) -> Result<(), ProgramError> {
    let path = places
        .program(program)
        .ok_or(ProgramError::Missing(program))?;
    let (status, said) = ended(&path, args, input)
        .map_err(|error| ProgramError::Run { program, error })?
        .ok_or(ProgramError::TimedOut { program })?;
    if status.success() {
        return Ok(());
    }

    Err(ProgramError::Failed {
        program,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        status,
        said,
    })
}

/// How it ended, and its complaint; none when it had to be killed.
fn ended(path: &Path, args: &[&str], input: &str) -> io::Result<Option<(ExitStatus, String)>> {
    let mut child = Command::new(path)
        .args(args)
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| PATH.into()),
        )
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without having read; a few lines fit the pipe.
        drop(stdin.write_all(input.as_bytes()));
    }
    let complaint = child.stderr.take().map(read_aside);
    let Some(status) = wait(&mut child)? else {
        return Ok(None);
    };
    // A daemon that it left behind may hold the pipe open.
    let said = complaint
        .filter(|_| !status.success())
        .and_then(|said| said.recv_timeout(DRAIN).ok())
        .unwrap_or_default();

    Ok(Some((status, said)))
}

/// The beginning of what comes out of a pipe, when it has come.
fn read_aside(pipe: ChildStderr) -> mpsc::Receiver<String> {
    let (sender, said) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Err(error) = pipe.take(1000).read_to_end(&mut bytes) {
            tracing::debug!(%error, "a complaint is not heard");
        }
        // Nobody may be waiting for it any more.
        drop(sender.send(String::from_utf8_lossy(&bytes).trim().to_owned()));
    });

    said
}

/// Waits for its end, and brings it about at the deadline.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let status = wait_for(child, PATIENCE)?;
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }

    Ok(status)
}

/// Waits for a child's end; none if it takes longer than that.
pub(super) fn wait_for(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(PAUSE);
    }

    Ok(None)
}

/// systemd-resolved may hear of a device, and write down what it was told, a
/// little later than we look.
const TRY_AGAIN: Duration = Duration::from_millis(100);
const TRIES: usize = 5;

const RESOLVECTL: &str = "resolvectl";

const RESOLVCONF: &str = "resolvconf";

/// D-Bus itself waits for 25 s; these programs take a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(2);

/// How long to wait for what is still in the pipe after the end.
const DRAIN: Duration = Duration::from_millis(200);

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
