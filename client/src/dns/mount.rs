//! A resolv.conf that is a mount of its own, as `ip netns exec` gives one to a
//! network namespace, and container engines to a container.
//!
//! Such a mount lasts only until somebody outside puts another file in the place
//! of the one below it, as DHCP clients do: then the kernel takes it away
//! (mount_namespaces(7)), and what has the name is the whole machine's. That is
//! not ours to change. The namespace's own file is still where it comes from.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where resolv.conf is to be changed.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// The one file that may be written there, where it is a mount.
    pub(super) only: Option<Identity>,
}

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// A file that was mounted when this process began.
#[derive(Debug)]
pub(super) struct Mounted {
    at: PathBuf,
    file: Identity,
    /// Its other name, where this process can see it.
    origin: Option<PathBuf>,
    told: AtomicBool,
}

impl Place {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, only: None }
    }
}

impl Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Identity {
    /// An error for a file that is another.
    pub(super) fn check(self, file: &File) -> io::Result<()> {
        if Self::from(&file.metadata()?) == self {
            return Ok(());
        }

        Err(is_another())
    }

    fn of(path: &Path) -> Option<Self> {
        Some(Self::from(&fs::metadata(path).ok()?))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Mounted {
    /// What is mounted where that path leads; none for a file that is no mount.
    pub(super) fn find(path: &Path) -> Option<Self> {
        let at = path.canonicalize().ok()?;
        let mounts = mounts();
        if !is_mount_in(&mounts, &at) {
            return None;
        }
        let file = Identity::of(&at)?;
        let is_it = |path: &PathBuf| Identity::of(path) == Some(file);

        Some(Self {
            origin: origins(&mounts, &at).into_iter().find(is_it),
            file,
            at,
            told: AtomicBool::new(false),
        })
    }

    /// For the guard, which may begin when the mount is gone.
    pub(super) fn emit(&self) -> OsString {
        let Identity { device, inode } = self.file;
        let len = self.at.as_os_str().len();
        let mut text = OsString::from(format!("{device} {inode} {len} "));
        text.push(&self.at);
        text.push(self.origin.as_deref().unwrap_or(Path::new("")));

        text
    }

    /// What [`Self::emit`] made.
    pub(super) fn parse(text: &OsStr) -> Option<Self> {
        let mut fields = text.as_bytes().splitn(4, |byte| *byte == b' ');
        let mut number = || {
            std::str::from_utf8(fields.next()?)
                .ok()?
                .parse::<u64>()
                .ok()
        };
        let (device, inode, len) = (number()?, number()?, number()?);
        let (at, origin) = fields.next()?.split_at_checked(len.try_into().ok()?)?;
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));

        Some(Self {
            at: path(at),
            file: Identity { device, inode },
            origin: Some(path(origin)).filter(|origin| origin.is_absolute()),
            told: AtomicBool::new(false),
        })
    }

    /// Where the file is now: it is changed there and nowhere else.
    ///
    /// # Errors
    ///
    /// When it has no name any more.
    pub(super) fn place(&self) -> io::Result<Place> {
        let is_it = |path: &Path| Identity::of(path) == Some(self.file);
        if is_mount(&self.at) && is_it(&self.at) {
            return Ok(self.place_at(&self.at));
        }
        let origin = self.origin.as_deref().filter(|path| is_it(path));
        if !self.told.swap(true, Ordering::Relaxed) {
            let at = self.at.display();
            match origin {
                Some(origin) => tracing::warn!(
                    origin = %origin.display(),
                    "{at} is no longer this namespace's own file: somebody replaced the machine's, \
                     which ends the mount; programs that run already ask whom the machine asks"
                ),
                None => tracing::warn!(
                    "{at} is no longer the file that was mounted there: it is left alone"
                ),
            }
        }

        origin
            .map(|origin| self.place_at(origin))
            .ok_or_else(is_another)
    }

    fn place_at(&self, path: &Path) -> Place {
        Place {
            path: path.to_owned(),
            only: Some(self.file),
        }
    }
}

/// Whether something is mounted at that path.
pub(super) fn is_mount(path: &Path) -> bool {
    is_mount_in(&mounts(), path)
}

fn mounts() -> String {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();

    String::from_utf8_lossy(&mounts).into_owned()
}

fn is_mount_in(mounts: &str, path: &Path) -> bool {
    lines(mounts).any(|line| line.at == path)
}

/// Other names that what is mounted at `path` may have.
fn origins(mounts: &str, path: &Path) -> Vec<PathBuf> {
    let Some(mount) = lines(mounts).filter(|line| line.at == path).last() else {
        return Vec::new();
    };

    lines(mounts)
        .filter(|other| other.filesystem == mount.filesystem && other.at != path)
        .filter_map(|other| Some(other.at.join(mount.root.strip_prefix(&other.root).ok()?)))
        .collect()
}

/// A line of proc_pid_mountinfo(5).
struct Line<'a> {
    /// `MAJOR:MINOR`.
    filesystem: &'a str,
    /// Which part of it is mounted.
    root: PathBuf,
    at: PathBuf,
}

fn lines(mounts: &str) -> impl Iterator<Item = Line<'_>> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);

        Some(Line {
            filesystem: fields.next()?,
            root: unescaped(fields.next()?),
            at: unescaped(fields.next()?),
        })
    })
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        let escaped = more.get(..3).filter(|_| *first == b'\\').and_then(octal);
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &more[3..] } else { more };
    }

    OsString::from_vec(bytes).into()
}

fn is_another() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        "it is no longer the file that was mounted there",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 29 8:2 /deep /mnt/a\\040b rw - ext4 /dev/sdb1 rw\n\
        40 29 8:1 /etc/netns/x/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw\n\
        41 29 8:2 /deep/r /run/r rw - ext4 /dev/sdb1 rw\n";

    #[test]
    fn the_guard_knows_the_mount_that_its_maker_knew() {
        for origin in [None, Some("/etc/netns/a b/resolv.conf".into())] {
            let mounted = Mounted {
                at: "/etc/re solv.conf".into(),
                file: Identity {
                    device: 7,
                    inode: 99,
                },
                origin,
                told: AtomicBool::new(true),
            };

            let known = Mounted::parse(&mounted.emit()).unwrap();

            assert_eq!((&known.at, known.file), (&mounted.at, mounted.file));
            assert_eq!(known.origin, mounted.origin);
        }
        assert!(Mounted::parse(OsStr::new("7 99 80 /etc")).is_none());
    }

    #[test]
    fn a_mount_is_found_among_mounts_with_where_it_comes_from() {
        let origins_of = |path: &str| origins(MOUNTS, Path::new(path));

        assert!(is_mount_in(MOUNTS, Path::new("/etc/resolv.conf")));
        assert!(is_mount_in(MOUNTS, Path::new("/mnt/a b")));
        assert!(!is_mount_in(MOUNTS, Path::new("/etc")));
        assert!(is_mount(Path::new("/proc")));
        assert_eq!(
            origins_of("/etc/resolv.conf"),
            [Path::new("/etc/netns/x/resolv.conf")]
        );
        assert_eq!(origins_of("/run/r"), [Path::new("/mnt/a b/r")]);
        assert!(origins_of("/etc").is_empty());
    }
}
