//! Where the things are on this machine that have to do with resolvers.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dtun_shared::places::{RUN, STATE};

use super::conf::name_servers;
use super::file;
use super::mount::{Mounted, Place};
use super::record::{self, Record};

/// Paths; tests have their own.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) resolv_conf: PathBuf,
    /// What was mounted there at the start.
    pub(super) mounted: Option<Arc<Mounted>>,
    /// Where systemd-resolved, when it runs, lists the servers of all links.
    pub(super) resolved: PathBuf,
    pub(super) nsswitch: PathBuf,
    /// Debian's resolvconf: whose servers come first.
    pub(super) interface_order: PathBuf,
    /// Where resolvers on this machine have their own servers from.
    pub(super) upstreams: Vec<PathBuf>,
    /// Folders for records, the first one that takes them.
    pub(super) records: Vec<PathBuf>,
    /// Folders with programs, beside those of `PATH`.
    pub(super) programs: Vec<PathBuf>,
    /// Whether a process is to wait for the end of this one.
    pub(super) guarded: bool,
}

impl Places {
    /// Those of the machine, with its own folder for what must outlive the
    /// process.
    pub(super) fn system(state: Option<&Path>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let resolv_conf = PathBuf::from("/etc/resolv.conf");

        Self {
            mounted: Mounted::find(&resolv_conf).map(Arc::new),
            resolv_conf,
            resolved: RESOLVED.into(),
            nsswitch: "/etc/nsswitch.conf".into(),
            interface_order: "/etc/resolvconf/interface-order".into(),
            upstreams: UPSTREAMS.iter().map(PathBuf::from).collect(),
            // The other is for a machine whose state is not for writing.
            records: vec![state.unwrap_or(Path::new(STATE)).to_owned(), RUN.into()],
            programs: std::env::split_paths(&path)
                .filter(|folder| folder.is_absolute())
                .chain(PROGRAMS.iter().map(PathBuf::from))
                .collect(),
            guarded: true,
        }
    }

    /// Where resolv.conf is to be changed.
    ///
    /// # Errors
    ///
    /// When it was a mount and is so no more, and its file has no other name.
    pub(super) fn place(&self) -> io::Result<Place> {
        match &self.mounted {
            Some(mounted) => mounted.place(),
            None => Ok(Place::new(file::place(&self.resolv_conf))),
        }
    }

    /// Keeps other processes of ours from changing anything at the same time.
    pub(super) fn lock(&self) -> Option<File> {
        let folder = self.resolv_conf.parent()?;
        let locked = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));

        locked
            .inspect_err(|error| tracing::debug!(%error, "not locked against others of ours"))
            .ok()
    }

    /// Keeps the record of this process, and returns where.
    pub(super) fn keep(&self, record: &Record) -> io::Result<PathBuf> {
        let name = record::name(&record.device);
        let mut last = io::Error::from(ErrorKind::NotFound);
        for folder in &self.records {
            let path = folder.join(&name);
            match fs::create_dir_all(folder).and_then(|()| record.save(&path)) {
                Ok(()) => return Ok(path),
                Err(error) => last = error,
            }
        }

        Err(last)
    }

    /// The record of this process's changes for a device.
    pub(super) fn own_record(&self, device: &str) -> Option<PathBuf> {
        let name = record::name(device);

        self.records
            .iter()
            .map(|folder| folder.join(&name))
            .find(|path| path.exists())
    }

    /// What a process that is no more has set for the same device, with its
    /// record.
    pub(super) fn inherited(&self, device: &str, index: u32) -> Option<(PathBuf, Record)> {
        let is_left = |record: &Record| {
            record.device == device
                && record.index == index
                && !record.owner.is_alive()
                && !record.owner.is_foreign()
        };

        record::all(&self.records).into_iter().find_map(|path| {
            let record = Record::load(&path).ok()?;
            is_left(&record).then_some((path, record))
        })
    }

    /// The file of this name in the first folder that has programs.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        self.programs
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }

    /// Whom the machine asks now, as resolv.conf says.
    pub(super) fn asked(&self) -> Vec<SocketAddr> {
        name_servers(&fs::read(&self.resolv_conf).unwrap_or_default())
    }

    /// The servers behind those that are asked: a resolver on this machine is
    /// none, where it says whom it asks itself.
    pub(super) fn behind(&self, asked: &[SocketAddr]) -> Vec<SocketAddr> {
        let is_elsewhere = |server: &SocketAddr| !server.ip().is_loopback();
        let elsewhere: Vec<_> = asked.iter().copied().filter(is_elsewhere).collect();
        if !elsewhere.is_empty() {
            return elsewhere;
        }

        self.upstreams
            .iter()
            .filter_map(|path| fs::read(path).ok())
            .map(|text| name_servers(&text))
            .map(|servers| servers.into_iter().filter(is_elsewhere).collect::<Vec<_>>())
            .find(|servers| !servers.is_empty())
            .unwrap_or_else(|| asked.to_vec())
    }

    /// Whether the C library asks systemd-resolved, whatever resolv.conf says.
    pub(super) fn asks_resolved_by_nss(&self) -> bool {
        let text = fs::read_to_string(&self.nsswitch).unwrap_or_default();

        text.lines()
            .filter_map(|line| line.trim_start().strip_prefix("hosts:"))
            .flat_map(|sources| {
                sources
                    .split('#')
                    .next()
                    .unwrap_or_default()
                    .split_whitespace()
            })
            .any(|source| source == "resolve")
    }
}

/// Systemd-resolved's addresses on this machine (systemd-resolved.service(8)).
pub(super) fn is_stub(server: &SocketAddr) -> bool {
    let stubs = [[127, 0, 0, 53], [127, 0, 0, 54]].map(IpAddr::from);

    stubs.contains(&server.ip())
}

const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Of systemd-resolved, NetworkManager's dnsmasq, resolvconf's dnsmasq, and
/// OpenWrt's new and old.
const UPSTREAMS: [&str; 5] = [
    RESOLVED,
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/dnsmasq/resolv.conf",
    "/tmp/resolv.conf.d/resolv.conf.auto",
    "/tmp/resolv.conf.auto",
];

const PROGRAMS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
