//! A machine with a systemd of its own, which runs our units as they are
//! installed.
//!
//! Systemd is process 1 of namespaces that are gone with the fixture, in a cgroup
//! of the test's own; what it writes is on file systems of its own
//! (`systemd/boot.sh`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::network::Host;
use crate::scratch::Scratch;
use crate::wait::{until, until_true};

pub(crate) struct Machine {
    /// `unshare`, the parent of process 1, which ends with it.
    _daemon: Daemon,
    init: u32,
    pub(crate) host: Host,
    scratch: Scratch,
    _cgroup: Cgroup,
}

impl Machine {
    /// Boots with files below `/etc`, by their names, and some units enabled;
    /// returns when all of that has come up or failed.
    #[track_caller]
    pub(crate) fn boot(host: Host, etc: &[(&str, &str)], units: &[&str]) -> Self {
        let scratch = Scratch::new();
        for (name, text) in etc {
            let path = scratch.path(&format!("etc/{name}"));
            fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(scratch.path("etc")).unwrap();
        let cgroup = Cgroup::new(host.name());
        // Unlike `ip netns exec` it leaves the cgroups in sight.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{}", host.name()))
            .arg("tests/netns/systemd/boot.sh")
            .arg(&cgroup.0)
            .arg(scratch.path(""))
            .arg(env!("CARGO_BIN_EXE_dtun"))
            .args(units)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let daemon = Daemon::spawn(command);

        let children = format!("/proc/{0}/task/{0}/children", daemon.id());
        let init = until("process 1", PATIENCE, || {
            let children = fs::read_to_string(&children).ok()?;
            let child = children.split_whitespace().next()?;
            let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
            let ids = status.lines().find(|line| line.starts_with("NSpid:"))?;
            ids.ends_with("\t1").then(|| child.parse().unwrap())
        });
        let machine = Self {
            _daemon: daemon,
            init,
            host,
            scratch,
            _cgroup: cgroup,
        };
        until_true("the machine is up", PATIENCE, || {
            machine.try_systemctl("is-active multi-user.target").is_ok()
        });

        machine
    }

    /// What `systemctl` prints, which must succeed.
    #[track_caller]
    pub(crate) fn systemctl(&self, line: &str) -> String {
        self.try_systemctl(line)
            .unwrap_or_else(|why| panic!("systemctl {line}: {why}"))
    }

    pub(crate) fn try_systemctl(&self, line: &str) -> Result<String, String> {
        self.try_run(&format!("systemctl {line}"))
    }

    /// Runs a line of words in all of the machine's namespaces.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> String {
        self.try_run(line)
            .unwrap_or_else(|why| panic!("`{line}`: {why}"))
    }

    pub(crate) fn try_run(&self, line: &str) -> Result<String, String> {
        let output = Command::new("nsenter")
            .args(["--all", "--target", &self.init.to_string(), "--"])
            .args(line.split_whitespace())
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }

        Err(stdout + &String::from_utf8_lossy(&output.stderr))
    }

    /// A property of a unit.
    #[track_caller]
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        let said = self.systemctl(&format!("show --property={name} --value {unit}"));

        said.trim().to_owned()
    }

    /// Waits until a property of a unit has `text` in it.
    #[track_caller]
    pub(crate) fn becomes(&self, unit: &str, name: &str, text: &str) {
        until_true(&format!("{name} of {unit} has {text:?}"), PATIENCE, || {
            self.property(unit, name).contains(text)
        });
    }

    /// The text of a file in the folder that the machine sees as `/run/test`.
    pub(crate) fn read(&self, name: &str) -> String {
        self.scratch.read(name)
    }

    /// Writes a script there.
    pub(crate) fn script(&self, name: &str, body: &str) {
        self.scratch.script(name, body);
    }

    /// What the services have said.
    pub(crate) fn log(&self) -> String {
        self.read("log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- {}\n{}", self.host.name(), self.log());
        }
    }
}

/// A cgroup, removed with all below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|words| words[2] == "cgroup2")
            .map(|words| words[1].to_owned())
            .expect("systemd needs a cgroup2 file system: mount one");
        let path = Path::new(&mount).join(name);
        fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("{}, for systemd: {error}", path.display()));

        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The processes in it are about to be gone.
        until_true("an empty cgroup", PATIENCE, || remove(&self.0).is_ok());
    }
}

fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }

    fs::remove_dir(cgroup)
}

const PATIENCE: Duration = Duration::from_secs(30);
