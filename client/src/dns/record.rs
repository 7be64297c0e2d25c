//! What a process did to the machine's resolvers, on disk before it is done,
//! so that whoever comes after a crash can undo it.
//!
//! ```text
//! dtun-dns 1
//! boot 5b5c…            of the machine, as the kernel names it
//! netns net:[4026531840]
//! process 1234 56789    its id, and its start in clock ticks since the boot
//! device dtun0 7        the tunnel's, and its index
//! resolved
//! resolvconf tun.dtun0
//! before file 644 0 0 95
//! ours 151
//!
//! ```
//!
//! and then the bytes of both files, whose lengths the last two lines end in.
//! `before` may be `missing`, or `link` and the length of the target. The lines
//! from `resolved` on stand only where that was touched.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::conf;
use super::file::{Held, remove};

/// One process's changes, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) owner: Owner,
    pub(super) device: String,
    pub(super) index: u32,
    /// systemd-resolved has servers for the device.
    pub(super) resolved: bool,
    /// resolvconf has servers under this name.
    pub(super) resolvconf: Option<String>,
    pub(super) replaced: Option<Replaced>,
}

/// A resolv.conf of ours in the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) before: Held,
    pub(super) ours: Vec<u8>,
}

/// A process, and where it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    boot: String,
    netns: String,
    process: u32,
    start: u64,
}

impl Record {
    pub(super) fn load(path: &Path) -> io::Result<Self> {
        Self::parse(&fs::read(path)?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a record of resolvers"))
    }

    /// Puts it in the place of an older one, on the disk when this returns.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let new = path.with_added_extension(NEW);
        remove(&new)?;
        let mut file = File::create_new(&new)?;
        file.write_all(&self.emit())?;
        file.sync_all()?;

        fs::rename(&new, path)
    }

    fn emit(&self) -> Vec<u8> {
        let Owner {
            boot,
            netns,
            process,
            start,
        } = &self.owner;
        let mut text = format!(
            "{MAGIC}\nboot {boot}\nnetns {netns}\nprocess {process} {start}\ndevice {} {}\n",
            self.device, self.index
        );
        if self.resolved {
            text.push_str("resolved\n");
        }
        if let Some(name) = &self.resolvconf {
            text.push_str(&format!("resolvconf {name}\n"));
        }
        let Some(Replaced { before, ours }) = &self.replaced else {
            return (text + "\n").into_bytes();
        };
        let (kind, bytes): (_, &[u8]) = match before {
            Held::Missing => ("missing".to_owned(), &[]),
            Held::Link(target) => ("link".to_owned(), target.as_os_str().as_bytes()),
            Held::File {
                content,
                mode,
                uid,
                gid,
            } => (format!("file {mode:o} {uid} {gid}"), content),
        };
        text.push_str(&format!(
            "before {kind} {}\nours {}\n\n",
            bytes.len(),
            ours.len()
        ));

        [text.as_bytes(), bytes, ours].concat()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.windows(2).position(|pair| pair == b"\n\n")?;
        let (head, bytes) = (str::from_utf8(&text[..end]).ok()?, &text[end + 2..]);
        let mut lines = head.lines().peekable();
        let mut take = |name: &str| {
            let rest = lines.peek()?.strip_prefix(name)?;
            let value = match rest {
                "" => "",
                rest => rest.strip_prefix(' ')?,
            };
            lines.next();
            Some(value)
        };

        take(MAGIC)?;
        let boot = take("boot")?.to_owned();
        let netns = take("netns")?.to_owned();
        let (process, start) = take("process")?.split_once(' ')?;
        let (device, index) = take("device")?.rsplit_once(' ')?;
        let resolved = take("resolved").is_some();
        let resolvconf = take("resolvconf").map(str::to_owned);
        let replaced = match take("before") {
            Some(before) => Some(replaced(before, take("ours")?, bytes)?),
            None => None,
        };

        Some(Self {
            owner: Owner {
                boot,
                netns,
                process: process.parse().ok()?,
                start: start.parse().ok()?,
            },
            device: device.to_owned(),
            index: index.parse().ok()?,
            resolved,
            resolvconf,
            replaced,
        })
    }
}

impl Replaced {
    /// Whether `now` at `path` is still ours.
    pub(super) fn stands(&self, now: &Held, path: &Path) -> bool {
        match now {
            Held::File { content, .. } => {
                conf::is_ours(content, &self.ours, &self.before.content(path))
            }
            Held::Link(_) | Held::Missing => false,
        }
    }

    /// The servers that were asked before.
    pub(super) fn asked_before(&self, path: &Path) -> Vec<SocketAddr> {
        conf::name_servers(&self.before.content(path))
    }
}

impl Owner {
    /// This process.
    pub(super) fn own() -> Self {
        let process = std::process::id();

        Self {
            boot: boot(),
            netns: netns(),
            process,
            start: start_of(process).unwrap_or_default(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.boot == boot() && start_of(self.process) == Some(self.start)
    }

    /// Whether it is, or was, a process of another network namespace, with a
    /// resolv.conf of its own perhaps.
    pub(super) fn is_foreign(&self) -> bool {
        self.boot == boot() && self.netns != netns()
    }
}

/// The files in these folders that are records by their names.
pub(super) fn all(folders: &[PathBuf]) -> Vec<PathBuf> {
    named(folders)
        .filter(|path| path.extension() != Some(OsStr::new(NEW)))
        .collect()
}

/// Records that a process was about to write that is no more.
pub(super) fn abandoned(folders: &[PathBuf]) -> Vec<PathBuf> {
    let is_abandoned = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let process = name.rsplit_once('-').and_then(|(_, id)| id.parse().ok());

        path.extension() == Some(OsStr::new(NEW))
            && process.is_some_and(|id| start_of(id).is_none())
    };

    named(folders).filter(is_abandoned).collect()
}

/// What the record of this process's tunnel is called.
pub(super) fn name(device: &str) -> String {
    format!("{PREFIX}{device}-{}", std::process::id())
}

fn named(folders: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let has_prefix = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()))
    };

    folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(has_prefix)
}

fn replaced(before: &str, ours: &str, bytes: &[u8]) -> Option<Replaced> {
    let (kind, len) = before.rsplit_once(' ')?;
    let (before, rest) = bytes.split_at_checked(len.parse().ok()?)?;
    let mut words = kind.split(' ');
    let before = match words.next()? {
        "missing" => Held::Missing,
        "link" => Held::Link(OsStr::from_bytes(before).into()),
        "file" => Held::File {
            content: before.to_owned(),
            mode: u32::from_str_radix(words.next()?, 8).ok()?,
            uid: words.next()?.parse().ok()?,
            gid: words.next()?.parse().ok()?,
        },
        _ => return None,
    };

    let len: usize = ours.parse().ok()?;
    (rest.len() == len).then(|| Replaced {
        before,
        ours: rest.to_owned(),
    })
}

/// Of the machine, as the kernel names it.
pub(crate) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();

    id.trim().to_owned()
}

fn netns() -> String {
    fs::read_link("/proc/self/ns/net")
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// When a process started; none when there is none, or only its remains.
fn start_of(process: u32) -> Option<u64> {
    started(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Fields 3 and 22 of proc_pid_stat(5); the second may have blanks.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }

    fields.nth(18)?.parse().ok()
}

const MAGIC: &str = "dtun-dns 1";

const PREFIX: &str = "dns-";

/// Extension of a record that is being written.
const NEW: &str = "new";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::scratch::Scratch;
    use super::*;

    fn records() -> Vec<Record> {
        let plain = Record {
            owner: Owner::own(),
            device: "dtun0".to_owned(),
            index: 7,
            resolved: false,
            resolvconf: None,
            replaced: None,
        };
        let befores = [
            Held::Missing,
            Held::Link("../run/\n\n\u{fc}".into()),
            Held::File {
                content: b"nameserver 1\n\nours 3\n\xff".to_vec(),
                mode: 0o640,
                uid: 1,
                gid: 2,
            },
        ];
        let replaced = befores.map(|before| Record {
            resolvconf: Some("tun.dtun0".to_owned()),
            replaced: Some(Replaced {
                before,
                ours: b"ours\n\n".to_vec(),
            }),
            ..plain.clone()
        });
        let resolved = Record {
            resolved: true,
            ..plain.clone()
        };

        [vec![plain, resolved], replaced.to_vec()].concat()
    }

    #[test]
    fn what_is_kept_is_what_is_found() {
        let scratch = Scratch::new();
        let path = scratch.path(&name("dtun.0"));
        for record in records() {
            record.save(&path).unwrap();
            assert_eq!(Record::load(&path).unwrap(), record);
        }
        fs::write(
            path.with_added_extension(NEW),
            "of a process that was killed",
        )
        .unwrap();
        fs::write(scratch.path("spoke-id"), "another's").unwrap();

        let folders = [scratch.path(""), scratch.path("none")];
        assert_eq!(all(&folders), [path]);
        assert!(abandoned(&folders).is_empty()); // This process lives.
        let old = scratch.path("dns-dtun0-0.new");
        fs::write(&old, "of a process that was killed").unwrap();
        assert_eq!(abandoned(&folders), [old]);
    }

    #[test]
    fn a_record_cut_short_is_none() {
        for record in records() {
            let text = record.emit();
            for len in 0..text.len() {
                assert_eq!(Record::parse(&text[..len]), None, "{len} of {text:?}");
            }
        }
    }

    #[test]
    fn a_process_lives_until_its_end_not_until_somebody_looks() {
        assert!(Owner::own().is_alive());

        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let owner = Owner {
            process: child.id(),
            start: start_of(child.id()).unwrap(),
            ..Owner::own()
        };
        assert!(owner.is_alive());
        child.kill().unwrap();
        while owner.is_alive() {
            std::thread::yield_now();
        }
        assert!(Path::new(&format!("/proc/{}", child.id())).exists());
        child.wait().unwrap();
        assert!(!owner.is_alive());
    }

    #[test]
    fn a_name_with_blanks_and_brackets_hides_nothing() {
        let rest = ["0"; 18].join(" ");

        assert_eq!(started(&format!("7 (a) b) S {rest} 99 5")), Some(99));
        assert_eq!(started(&format!("7 (a) b) Z {rest} 99 5")), None);
        assert_eq!(started("7 (a"), None);
    }
}
