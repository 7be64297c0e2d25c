//! The service manager: what it is told of this process, and what it keeps for
//! the next one.
//!
//! The protocol of sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3):
//! datagrams of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names.
//! Where nobody asked for it every call does nothing, and no timer runs.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::future::Future;
use std::io;
use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::pin::pin;
use std::time::{Duration, Instant};

use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};

use crate::sys;

/// What the service manager listens to; nobody may be there.
#[derive(Debug, Default)]
pub struct Notify {
    manager: Option<Manager>,
    watchdog: Option<Duration>,
    /// When to say next that this process is well: once it is ready, while
    /// somebody watches.
    next: Option<Instant>,
    stored: Vec<(String, OwnedFd)>,
    /// What it was told last.
    status: String,
    has_warned: bool,
}

#[derive(Debug)]
struct Manager {
    socket: Socket,
    addr: SockAddr,
}

impl Notify {
    /// Reads what the service manager asked for and takes it out of what our
    /// children inherit. To be called first of all: only a process with one
    /// thread may change its environment, and only once are the descriptors
    /// there.
    pub fn from_env() -> Self {
        let asked = Asked::of(|name| std::env::var_os(name), std::process::id());
        let fds = sys::process::inherited(asked.names.len());
        if let Err(error) = sys::process::forget_variables(&VARIABLES) {
            tracing::debug!(%error, "children inherit what the service manager set");
        }

        Self {
            manager: asked.socket.and_then(|path| {
                Manager::new(&path)
                    .inspect_err(|error| tracing::warn!(%error, "NOTIFY_SOCKET is of no use"))
                    .ok()
            }),
            watchdog: asked.watchdog,
            stored: asked
                .names
                .into_iter()
                .zip(fds)
                .filter_map(|(name, fd)| Some((name, fd?)))
                .collect(),
            ..Self::default()
        }
    }

    /// The start, or a [reload](Self::reloading), is over.
    pub fn ready(&mut self) {
        self.next = self.every().map(|every| Instant::now() + every);
        self.tell("READY=1");
    }

    /// The configuration is being read again, until [`Self::ready`].
    pub fn reloading(&mut self) {
        let now = sys::clock::monotonic_time().unwrap_or_default();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// The end has begun: from now on no watchdog waits.
    pub fn stopping(&mut self) {
        self.next = None;
        self.tell("STOPPING=1");
    }

    /// One line that `systemctl status` shows; told once while it is the same.
    pub fn status(&mut self, text: impl FnOnce() -> String) {
        if self.manager.is_none() {
            return;
        }
        let text = text().replace(char::is_control, " ");
        if text != self.status {
            self.tell(&format!("STATUS={text}"));
            self.status = text;
        }
    }

    /// The start or the end takes that much longer, from now on.
    pub fn extend_timeout(&mut self, by: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    /// Does work that may take minutes within a start or an end, and has the
    /// manager wait for it, though not for ever.
    pub async fn extending<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if self.manager.is_none() {
            return work.await;
        }
        let begun = Instant::now();
        while begun.elapsed() < LONGEST {
            self.extend_timeout(3 * EXTEND_EVERY);
            if let Ok(done) = tokio::time::timeout(EXTEND_EVERY, &mut work).await {
                return done;
            }
        }

        work.await
    }

    /// When the loop is to call [`Self::beat`] next; never where nobody watches.
    pub fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Says that this process is well, if that is due and it is. The loop says
    /// so that does the work: one that hangs is killed and started again.
    pub fn beat(&mut self, is_well: impl FnOnce() -> bool) {
        let (Some(next), Some(every)) = (self.next, self.every()) else {
            return;
        };
        let now = Instant::now();
        if now < next {
            return;
        }
        self.next = Some(now + every);
        if is_well() {
            self.tell("WATCHDOG=1");
        } else {
            tracing::error!("not well: the watchdog hears nothing");
        }
    }

    fn every(&self) -> Option<Duration> {
        self.watchdog.map(|patience| patience / BEATS)
    }

    /// Has the manager keep a descriptor for the next process of this service
    /// (`FileDescriptorStoreMax=`). A name has no colon and is below 255 bytes;
    /// several descriptors may share it.
    ///
    /// # Errors
    ///
    /// `NotConnected` where no manager listens. One whose store is full or off
    /// says nothing.
    pub fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let manager = self.manager.as_ref().ok_or(io::ErrorKind::NotConnected)?;

        manager.send(&format!("FDSTORE=1\nFDNAME={name}"), Some(fd))
    }

    /// Has the manager close what it keeps under that name.
    pub fn forget(&mut self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    /// Takes what an earlier process of this service [stored](Self::store), with
    /// its names, close-on-exec. The manager keeps its own copies.
    pub fn stored(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.stored)
    }

    fn tell(&mut self, state: &str) {
        let Some(manager) = &self.manager else {
            return;
        };
        if let Err(error) = manager.send(state, None)
            && !std::mem::replace(&mut self.has_warned, true)
        {
            tracing::warn!(%error, "the service manager does not hear us");
        }
    }
}

impl Manager {
    /// Where `path` begins with `@` it is a name in the abstract space
    /// (unix(7)).
    fn new(path: &OsStr) -> io::Result<Self> {
        let mut path = path.as_bytes().to_vec();
        if path.first() == Some(&b'@') {
            path[0] = 0;
        }
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        socket.set_write_timeout(Some(PATIENCE))?;

        Ok(Self {
            socket,
            addr: SockAddr::unix(OsStr::from_bytes(&path))?,
        })
    }

    fn send(&self, state: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let rights = fd.map(rights).unwrap_or_default();
        let bytes = [IoSlice::new(state.as_bytes())];
        let mut message = MsgHdr::new().with_addr(&self.addr).with_buffers(&bytes);
        if fd.is_some() {
            message = message.with_control(&rights);
        }
        self.socket.sendmsg(&message, libc::MSG_NOSIGNAL)?;

        Ok(())
    }
}

/// A control message that passes a descriptor on (unix(7), `SCM_RIGHTS`): a
/// `struct cmsghdr`, which is a size_t and two ints for the kernel, and an int.
/// The control groups that this process is in, one a line (cgroups(7)): a unit's
/// commands are in those of its service.
pub fn group() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

fn rights(fd: BorrowedFd<'_>) -> Vec<u8> {
    let len = size_of::<usize>() + 3 * size_of::<libc::c_int>();
    let mut message = len.to_ne_bytes().to_vec();
    for part in [libc::SOL_SOCKET, libc::SCM_RIGHTS, fd.as_raw_fd()] {
        message.extend(part.to_ne_bytes());
    }
    message.resize(len.next_multiple_of(size_of::<usize>()), 0);

    message
}

/// What the environment asks of this process.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    socket: Option<OsString>,
    watchdog: Option<Duration>,
    /// The names of the descriptors from 3 on.
    names: Vec<String>,
}

impl Asked {
    fn of(variable: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let text = |name: &str| variable(name)?.into_string().ok();
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let is_meant = |whom: Option<u64>| whom == Some(pid.into());

        let watchdog = number(WATCHDOG_USEC)
            .filter(|usec| *usec > 0)
            .filter(|_| variable(WATCHDOG_PID).is_none() || is_meant(number(WATCHDOG_PID)))
            .map(Duration::from_micros);
        let count = number(LISTEN_FDS)
            .filter(|count| *count <= MAX_STORED && is_meant(number(LISTEN_PID)))
            .unwrap_or_default();
        let names = text(LISTEN_FDNAMES).unwrap_or_default();
        let names = names.split(':').map(str::to_owned);
        let nameless = std::iter::repeat(String::new());

        Self {
            socket: variable(NOTIFY_SOCKET).filter(|path| !path.is_empty()),
            watchdog,
            names: names.chain(nameless).take(count as usize).collect(),
        }
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
const LISTEN_PID: &str = "LISTEN_PID";

const VARIABLES: [&str; 6] = [
    NOTIFY_SOCKET,
    WATCHDOG_USEC,
    WATCHDOG_PID,
    LISTEN_FDS,
    LISTEN_FDNAMES,
    LISTEN_PID,
];

/// How often in its time a watchdog hears of us: one that comes late, on a busy
/// machine, still comes in time.
const BEATS: u32 = 3;

/// How long a manager may leave its socket full.
const PATIENCE: Duration = Duration::from_millis(200);

const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// A hook is killed after five minutes; what takes longer than that and a bit
/// hangs.
const LONGEST: Duration = Duration::from_secs(360);

/// More descriptors than anyone stores are a mistake.
const MAX_STORED: u64 = 1024;

#[cfg(test)]
mod tests {
    use fs::File;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd as _;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use socket2::{MaybeUninitSlice, MsgHdrMut};

    use super::*;

    /// A manager that listens to a name in the abstract space, and a process of
    /// it.
    fn pair(name: &str) -> (UnixDatagram, Notify) {
        let name = format!("dtun-notify-{name}-{}", std::process::id());
        let addr = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&addr).unwrap();
        manager.set_nonblocking(true).unwrap();
        let path = OsString::from(format!("@{name}"));
        let notify = Notify {
            manager: Some(Manager::new(&path).unwrap()),
            watchdog: Some(Duration::from_secs(3)),
            ..Notify::default()
        };

        (manager, notify)
    }

    /// What has come, oldest first.
    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut heard = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(len) = manager.recv(&mut buffer) {
            heard.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
        }

        heard
    }

    fn asked(set: &[(&str, &str)]) -> Asked {
        let variable = |name: &str| {
            let (_, value) = set.iter().find(|(set, _)| *set == name)?;
            Some(value.into())
        };

        Asked::of(variable, 7)
    }

    #[test]
    fn the_manager_hears_each_state_as_a_line_and_a_status_once() {
        let (manager, mut notify) = pair("states");

        notify.ready();
        notify.status(|| "3 spokes".to_owned());
        notify.status(|| "3 spokes".to_owned());
        notify.status(|| "4\nREADY=0".to_owned());
        notify.extend_timeout(Duration::from_secs(2));
        notify.forget("dtun0");
        notify.stopping();

        assert_eq!(
            heard(&manager),
            [
                "READY=1",
                "STATUS=3 spokes",
                "STATUS=4 READY=0",
                "EXTEND_TIMEOUT_USEC=2000000",
                "FDSTOREREMOVE=1\nFDNAME=dtun0",
                "STOPPING=1",
            ]
        );
    }

    #[test]
    fn a_reload_tells_the_time_it_began() {
        let (manager, mut notify) = pair("reload");
        let before = sys::clock::monotonic_time().unwrap();

        notify.reloading();

        let heard = heard(&manager).remove(0);
        let usec = heard.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        let told = Duration::from_micros(usec.parse().unwrap());
        let now = sys::clock::monotonic_time().unwrap();
        assert!(before - Duration::from_micros(1) <= told && told <= now);
    }

    #[test]
    fn a_watchdog_hears_of_a_process_that_is_well_three_times_in_its_time() {
        let (manager, mut notify) = pair("watchdog");
        let second = Duration::from_secs(1);
        assert_eq!(notify.due(), None, "the start is not over");

        let before = Instant::now();
        notify.ready();
        let due = notify.due().unwrap();
        assert!(before + second <= due && due <= Instant::now() + second);
        notify.beat(|| true);
        assert_eq!(heard(&manager), ["READY=1"], "before it is due");

        notify.next = Some(before);
        notify.beat(|| true);
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
        assert!(notify.due().unwrap() >= due, "a third of its time later");

        notify.next = Some(before);
        notify.beat(|| false);
        assert_eq!(heard(&manager), [""; 0], "it is not well");
    }

    #[test]
    fn without_a_manager_there_is_no_timer_and_nothing_is_stored() {
        let mut notify = Notify::default();

        notify.ready();
        notify.beat(|| panic!("nobody asked"));
        notify.status(|| panic!("nobody asked"));

        assert_eq!(notify.due(), None);
        let error = notify.store("dtun0", io::stdin().as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn a_stored_descriptor_arrives_with_its_name() {
        let (manager, mut notify) = pair("store");
        let path = std::env::temp_dir().join(format!("dtun-stored-{}", std::process::id()));
        let file = File::create(&path).unwrap();

        notify.store("dtun0", file.as_fd()).unwrap();

        let (mut bytes, mut control) = ([MaybeUninit::uninit(); 64], [MaybeUninit::uninit(); 64]);
        let mut buffers = [MaybeUninitSlice::new(&mut bytes)];
        let mut message = MsgHdrMut::new()
            .with_buffers(&mut buffers)
            .with_control(&mut control);
        let manager = Socket::from(OwnedFd::from(manager));
        let len = manager.recvmsg(&mut message, 0).unwrap();
        let control_len = message.control_len();
        assert_eq!(len, "FDSTORE=1\nFDNAME=dtun0".len());
        assert_eq!(control_len, rights(file.as_fd()).len());
        // The kernel made a second descriptor of the file for the manager.
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let same = open
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| *target == path)
            .count();
        fs::remove_file(&path).unwrap();
        assert_eq!(same, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_manager_waits_for_long_work_but_not_for_ever() {
        let (manager, mut notify) = pair("long");

        let work = tokio::time::sleep(Duration::from_secs(25));
        notify.extending(work).await;

        assert_eq!(heard(&manager), ["EXTEND_TIMEOUT_USEC=30000000"; 3]);
    }

    #[test]
    fn what_is_meant_for_another_process_is_not_taken() {
        let set = [
            (NOTIFY_SOCKET, "/run/systemd/notify"),
            (WATCHDOG_USEC, "30000000"),
            (WATCHDOG_PID, "7"),
            (LISTEN_PID, "7"),
            (LISTEN_FDS, "3"),
            (LISTEN_FDNAMES, "dtun0:dtun1"),
        ];
        assert_eq!(
            asked(&set),
            Asked {
                socket: Some("/run/systemd/notify".into()),
                watchdog: Some(Duration::from_secs(30)),
                names: vec!["dtun0".to_owned(), "dtun1".to_owned(), String::new()],
            }
        );

        let mut others = set;
        (others[2].1, others[3].1) = ("8", "8");
        let asked_others = asked(&others);
        assert_eq!(asked_others.watchdog, None);
        assert_eq!(asked_others.names, [""; 0]);
        assert_eq!(asked(&[]), Asked::default());
        assert_eq!(asked(&[(WATCHDOG_USEC, "0")]), Asked::default());
    }
}
