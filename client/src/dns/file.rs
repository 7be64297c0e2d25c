//! `/etc/resolv.conf` as a thing on a disk: a file, a link, or nothing.
//!
//! It is replaced, not written, so that nobody reads half of it, and a link is
//! replaced by a file and never written through. Where it cannot be replaced,
//! as a container's, which is a mount of its own, it is written in place.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown, symlink};
use std::path::{Path, PathBuf};

use super::mount::{Identity, Place, is_mount};

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Missing,
    Link(PathBuf),
    File {
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

impl Held {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Missing),
            metadata => metadata?,
        };
        if metadata.is_symlink() {
            return Ok(Self::Link(fs::read_link(path)?));
        }

        Ok(Self::File {
            content: fs::read(path)?,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }

    /// What a reader of `path` would find; empty where there is nothing.
    pub(super) fn content(&self, path: &Path) -> Vec<u8> {
        match self {
            Self::Missing => Vec::new(),
            Self::File { content, .. } => content.clone(),
            Self::Link(target) => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                fs::read(folder.join(target)).unwrap_or_default()
            }
        }
    }

    /// The file with this content that is to take this one's place.
    pub(super) fn with(&self, content: Vec<u8>) -> Self {
        match *self {
            Self::File { mode, uid, gid, .. } => Self::File {
                content,
                mode,
                uid,
                gid,
            },
            Self::Missing | Self::Link(_) => Self::File {
                content,
                mode: 0o644,
                uid: 0,
                gid: 0,
            },
        }
    }

    /// Makes it stand at a place, `aside` as for [`Self::put`].
    pub(super) fn put_at(&self, place: &Place, aside: &Path) -> io::Result<()> {
        match (self, place.only) {
            (Self::File { content, .. }, Some(only)) => write_in_place(place, content, Some(only)),
            _ => self.put(place, aside),
        }
    }

    /// Makes it stand at `path`; `aside` is a free name in the same folder.
    pub(super) fn put(&self, path: &Path, aside: &Path) -> io::Result<()> {
        if let Self::File { content, .. } = self
            && is_mount(path)
        {
            return write_in_place(path, content, None);
        }

        remove(aside)?;
        let replaced = match self {
            Self::Missing => return remove(path),
            Self::Link(target) => symlink(target, aside),
            Self::File {
                content,
                mode,
                uid,
                gid,
            } => write(aside, content, *mode, (*uid, *gid)),
        };
        let replaced = replaced.and_then(|()| fs::rename(aside, path));
        let Err(error) = replaced else {
            return Ok(());
        };

        // Best effort: where nothing can be made nothing was.
        drop(remove(aside));
        match self {
            Self::File { content, .. } if must_stay(&error) && is_file(path) => {
                write_in_place(path, content, None)
            }
            Self::File { .. } | Self::Link(_) | Self::Missing => Err(error),
        }
    }
}

/// Where `resolv_conf` is to be changed: there, unless it is a link to a file
/// that is a mount. Such a link may be that of the whole machine, in the sight
/// of one namespace that has the mount for its own.
pub(super) fn place(resolv_conf: &Path) -> PathBuf {
    match resolv_conf.canonicalize() {
        Ok(target) if is_mount(&target) => target,
        Ok(_) | Err(_) => resolv_conf.to_owned(),
    }
}

/// Removes a file or link that may not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    // A folder that is not for writing says so before it looks.
    let is_missing = || {
        path.symlink_metadata()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };

    fs::remove_file(path).or_else(|error| if is_missing() { Ok(()) } else { Err(error) })
}

/// A new file, on the disk when this returns.
fn write(path: &Path, content: &[u8], mode: u32, (uid, gid): (u32, u32)) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (uid, gid) {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;

    file.sync_all()
}

/// The end is cut off last: a reader never finds an empty file. Of two files
/// that have the name one after the other, `only` one may be written.
fn write_in_place(path: &Path, content: &[u8], only: Option<Identity>) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    only.map_or(Ok(()), |only| only.check(&file))?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;

    file.sync_all()
}

/// Whether the file may be a mount, or its folder not for writing.
fn must_stay(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    )
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    fn file(content: &[u8], mode: u32) -> Held {
        let scratch = Scratch::new();
        let path = scratch.path("file");
        write(&path, content, mode, own()).unwrap();
        Held::read(&path).unwrap()
    }

    /// The tests' own user and group.
    fn own() -> (u32, u32) {
        let metadata = fs::metadata("/proc/self").unwrap();
        (metadata.uid(), metadata.gid())
    }

    #[test]
    fn each_kind_can_take_the_place_of_each() {
        let kinds = [
            Held::Missing,
            Held::Link("../run/other".into()),
            file(b"nameserver 192.0.2.1\n", 0o640),
            file(b"", 0o600),
        ];
        for before in &kinds {
            for after in &kinds {
                let scratch = Scratch::new();
                let (path, aside) = (scratch.path("resolv.conf"), scratch.path(".aside"));

                before.put(&path, &aside).unwrap();
                after.put(&path, &aside).unwrap();

                assert_eq!(Held::read(&path).unwrap(), *after);
                assert!(!aside.exists());
            }
        }
    }

    #[test]
    fn a_link_is_not_written_through_and_what_is_aside_is_no_hindrance() {
        let scratch = Scratch::new();
        let (path, aside) = (scratch.path("resolv.conf"), scratch.path(".aside"));
        fs::write(scratch.path("theirs"), "theirs").unwrap();
        fs::write(&aside, "of a process that was killed").unwrap();
        symlink("theirs", &path).unwrap();
        let before = Held::read(&path).unwrap();
        assert_eq!(before.content(&path), b"theirs");

        let ours = before.with(b"ours".to_vec());
        ours.put(&path, &aside).unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert_eq!(fs::read(scratch.path("theirs")).unwrap(), b"theirs");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        before.put(&path, &aside).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("theirs"));
    }

    #[test]
    fn a_file_in_the_place_of_another_has_its_rights() {
        let before = file(b"before", 0o640);

        assert_eq!(before.with(b"ours".to_vec()), file(b"ours", 0o640));
    }
}
