//! Files that a user may change while we run.
//!
//! Editors and package managers write a new file and move it over the old
//! one, so it is the directory that is watched, and that of what a symbolic
//! link leads to. A file that is a mount is written where another directory
//! has it, so it is watched itself as well.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Tells when one of some files may be another.
#[derive(Debug)]
pub struct Files {
    inotify: AsyncFd<OwnedFd>,
    paths: Vec<PathBuf>,
}

impl Files {
    /// Watches from now on; to be called within a runtime. An error says that
    /// no file is watched.
    pub fn watch<'a>(paths: impl Iterator<Item = &'a Path>) -> io::Result<Self> {
        let inotify = sys::inotify::open()?;
        let mut watched = Vec::new();
        for path in paths {
            let leads_to = path.canonicalize().ok();
            for path in [Some(path), leads_to.as_deref()].into_iter().flatten() {
                let Some(directory) = path.parent() else {
                    continue; // The root is no file.
                };
                let directory = match directory.as_os_str().as_bytes() {
                    b"" => CString::from(c"."),
                    bytes => CString::new(bytes)?,
                };
                sys::inotify::watch(&inotify, &directory)?;
                watched.push(path.to_owned());
            }
            if let Some(file) = leads_to {
                let file = CString::new(file.as_os_str().as_bytes())?;
                sys::inotify::watch(&inotify, &file)?;
            }
        }

        Ok(Self {
            inotify: sys::readiness::register(inotify)?,
            paths: watched,
        })
    }

    /// Waits until one was written to its end, replaced or removed. One that is
    /// made but not yet written says nothing.
    /// Cancelling the wait loses nothing.
    pub async fn changed(&self) -> io::Result<()> {
        let mut events = [0; EVENTS];
        loop {
            let mut ready = self.inotify.ready(Interest::READABLE).await?;
            match ready.try_io(|inotify| sys::inotify::read(inotify.get_ref(), &mut events)) {
                Ok(Ok(len)) if self.concern(&events[..len]) => return Ok(()),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Whether one of the events is about one of the files, or about a queue
    /// that ran over.
    fn concern(&self, mut events: &[u8]) -> bool {
        while let Some((header, rest)) = events.split_first_chunk::<HEADER>() {
            let field = |at: usize| {
                let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
                u32::from_ne_bytes(bytes)
            };
            let len = (field(12) as usize).min(rest.len());
            let name = rest[..len].split(|byte| *byte == 0).next();
            let mask = field(4);
            let concerns = |path: &PathBuf| {
                path.file_name().map(OsStr::as_bytes) == name
                    && (mask & libc::IN_CREATE == 0 || is_complete(path))
            };
            let is_of_file = len == 0 && mask & libc::IN_CLOSE_WRITE != 0;
            let is_lost = mask & libc::IN_Q_OVERFLOW != 0;
            if is_of_file || is_lost || self.paths.iter().any(concerns) {
                return true;
            }
            events = &rest[len..];
        }

        false
    }
}

/// Whether nothing more needs to be written: a link, a directory, a pipe.
fn is_complete(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| !metadata.is_file())
}

/// `struct inotify_event` without the name behind it: descriptor, mask,
/// cookie, length of the name.
const HEADER: usize = 16;

/// Room for some events with names as long as they get.
const EVENTS: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("dtun-files-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    async fn told(files: &Files) {
        timeout(Duration::from_secs(5), files.changed())
            .await
            .unwrap()
            .unwrap();
    }

    /// Nothing is told: an event would be there as soon as the file is.
    async fn silent(files: &Files) {
        timeout(Duration::from_millis(50), files.changed())
            .await
            .unwrap_err();
    }

    async fn drain(files: &Files) {
        while timeout(Duration::from_millis(50), files.changed())
            .await
            .is_ok()
        {}
    }

    #[tokio::test]
    async fn a_file_that_is_written_or_replaced_is_told_and_its_neighbours_are_not() {
        let folder = Folder::new("plain");
        let list = folder.path("list");
        fs::write(&list, "1").unwrap();
        let files = Files::watch([list.as_path()].into_iter()).unwrap();

        fs::write(folder.path("other"), "1").unwrap();
        silent(&files).await;

        fs::write(&list, "2").unwrap();
        told(&files).await;
        drain(&files).await;
        fs::rename(folder.path("other"), &list).unwrap();
        told(&files).await;
        drain(&files).await;
        fs::remove_file(&list).unwrap();
        told(&files).await;
        fs::create_dir(&list).unwrap();
        told(&files).await;
        fs::remove_dir(&list).unwrap();
        told(&files).await;
        let mut half = fs::File::create(&list).unwrap();
        half.write_all(b"1").unwrap();
        silent(&files).await;
        drop(half);
        told(&files).await;
    }

    #[tokio::test]
    async fn what_a_link_leads_to_is_watched_as_is_the_link() {
        let (folder, elsewhere) = (Folder::new("link"), Folder::new("target"));
        let (link, target) = (folder.path("list"), elsewhere.path("chnroutes"));
        fs::write(&target, "1").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let files = Files::watch([link.as_path()].into_iter()).unwrap();

        fs::write(&target, "2").unwrap();
        told(&files).await;
        drain(&files).await;
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        told(&files).await;
    }
}
