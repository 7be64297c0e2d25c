//! A network namespace of the test's own, gone when it is dropped.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

/// A namespace as `ip netns` makes them.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
    /// Its own system bus, for programs that ask for one.
    bus: OnceLock<&'static str>,
}

impl Netns {
    /// Makes a namespace whose name ends in `role`, its loopback up.
    pub(crate) fn new(role: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep();
        }
        let netns = Self {
            name: format!("dtun-{}-{number}-{role}", std::process::id()),
            bus: OnceLock::new(),
        };
        let made = output(Command::new("ip").args(["netns", "add", &netns.name]));
        assert!(
            made.status.success(),
            "these tests need root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and network namespaces: \
             `ip netns add {}` said: {}",
            netns.name,
            String::from_utf8_lossy(&made.stderr),
        );
        netns.ip("link set lo up");

        netns
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        if let Some(bus) = self.bus.get() {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", bus);
        }
        command
    }

    /// Tells every program from now on where the system bus is.
    pub(crate) fn set_bus(&self, address: &'static str) {
        self.bus.set(address).unwrap();
    }

    /// Runs a line of words inside; returns what it printed, or what it complained of.
    pub(crate) fn try_run(&self, line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().unwrap());

        said(output(command.args(words)))
    }

    /// Runs a line of words that must succeed.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> String {
        self.try_run(line)
            .unwrap_or_else(|why| panic!("`{line}` in {}: {why}", self.name))
    }

    /// Runs `ip` on the namespace, which must succeed.
    #[track_caller]
    pub(crate) fn ip(&self, line: &str) -> String {
        self.try_ip(line)
            .unwrap_or_else(|why| panic!("`ip {line}` in {}: {why}", self.name))
    }

    pub(crate) fn try_ip(&self, line: &str) -> Result<String, String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]);

        said(output(command.args(line.split_whitespace())))
    }

    /// Gives a file below `/proc/sys/net` a value, as this namespace sees it.
    #[track_caller]
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        let file = format!("/proc/sys/net/{path}");
        self.enter(|| fs::write(&file, value))
            .unwrap_or_else(|error| panic!("{file} = {value} in {}: {error}", self.name));
    }

    /// Runs `work` on a thread inside; the sockets that it opens stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter(&self.name);
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// Puts a file over `/etc/NAME` for every command that runs inside.
    pub(crate) fn etc(&self, name: &str, content: &str) {
        let folder = etc(&self.name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(format!("{folder}/{name}"), content).unwrap();
    }

    /// [`Netns::enter`] for a thread that outlives the call.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            enter(&name);
            work()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        forget_claims(&self.name);
        let gone = output(Command::new("ip").args(["netns", "del", &self.name]));
        if !gone.status.success() {
            eprintln!("{}: {}", self.name, String::from_utf8_lossy(&gone.stderr));
        }
        // Present only where a test gave the namespace a resolver of its own.
        match fs::remove_dir_all(etc(&self.name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => eprintln!("{error}"),
            Ok(()) | Err(_) => {}
        }
    }
}

/// Removes the signs that programs which were killed inside have left: another
/// namespace may get the number of this one.
fn forget_claims(name: &str) {
    let Ok(namespace) = fs::metadata(format!("/run/netns/{name}")) else {
        return;
    };
    let end = format!("-{}", namespace.ino());
    for entry in fs::read_dir("/run/dtun").into_iter().flatten().flatten() {
        let is_of_it = entry.file_name().to_string_lossy().ends_with(&end);
        if is_of_it && let Err(error) = fs::remove_file(entry.path()) {
            eprintln!("{}: {error}", entry.path().display());
        }
    }
}

/// Removes the namespaces of test processes that were killed.
fn sweep() {
    let Ok(names) = fs::read_dir("/run/netns") else {
        return; // Not one was ever made here.
    };
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let process = name
            .strip_prefix("dtun-")
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            // Another process that begins now may be first.
            output(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}

fn etc(name: &str) -> String {
    format!("/etc/netns/{name}")
}

fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn said(output: Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }

    Err(format!(
        "{}: {stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}
