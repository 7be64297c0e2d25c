//! The sign of a process that keeps something in this network namespace: a
//! locked file in `/run/dtun`. What a killed process kept is known by a file
//! that nobody holds, and by what it has noted there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::places::RUN;

/// Held until it is dropped, or the process ends.
#[derive(Debug)]
pub struct Claim {
    file: File,
    path: PathBuf,
}

impl Claim {
    /// Takes it; none where another process has it.
    ///
    /// # Errors
    ///
    /// When the file cannot be made; they name it.
    pub fn try_take(name: &str) -> io::Result<Option<Self>> {
        let path = path(name);
        let named = |error: io::Error| {
            let text = format!("failed to write {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        };
        loop {
            let file = open(&path).map_err(named)?;
            match file.try_lock() {
                // Not one whose holder has removed it meanwhile.
                Ok(()) if stands(&file, &path) => return Ok(Some(Self { file, path })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(named(error)),
            }
        }
    }

    /// Notes this for whoever takes it after a kill, instead of what was noted
    /// before.
    pub fn note(&self, text: &str) -> io::Result<()> {
        let mut file = &self.file;
        io::Seek::rewind(&mut file)?;
        file.set_len(0)?;

        file.write_all(text.as_bytes())
    }

    /// What was noted last, by us or by one that was killed.
    pub fn noted(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// Forgets that there was one.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

/// What was noted there stays.
fn open(path: &Path) -> io::Result<File> {
    fs::create_dir_all(RUN)?;

    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Whether the file is the one of that name.
fn stands(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(named)) => (file.dev(), file.ino()) == (named.dev(), named.ino()),
        (Ok(_), Err(_)) => false,
        (Err(_), _) => true,
    }
}

/// Names that begin like this and have a file, held or not.
pub fn claims(prefix: &str) -> Vec<String> {
    let Ok(folder) = fs::read_dir(RUN) else {
        return Vec::new(); // Nobody ever kept anything.
    };
    let end = format!("-{}", namespace());

    folder
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_suffix(&end)?.to_owned()))
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// The file of that name.
pub fn path(name: &str) -> PathBuf {
    Path::new(RUN).join(format!("{name}-{}", namespace()))
}

/// The number of the network namespace that this thread is in.
fn namespace() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").map_or(0, |file| file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::isolated;

    #[test]
    fn one_has_it_until_it_ends_and_others_see_that_it_was_there() {
        isolated(|_| async {
            let first = Claim::try_take("test-1").unwrap().unwrap();
            assert!(Claim::try_take("test-1").unwrap().is_none());
            let second = Claim::try_take("test-2").unwrap().unwrap();
            drop(first);

            let mut left = claims("test-");
            left.sort();
            assert_eq!(left, ["test-1", "test-2"]);
            assert_eq!(claims("other-"), [""; 0]);
            let first = Claim::try_take("test-1").unwrap().unwrap();
            first.remove().unwrap();
            second.remove().unwrap();
            assert_eq!(claims("test-"), [""; 0]);
        });
    }

    #[test]
    fn one_that_is_removed_is_none_for_who_has_it_open() {
        isolated(|_| async {
            let first = Claim::try_take("test-5").unwrap().unwrap();
            let file = open(&path("test-5")).unwrap();
            assert!(stands(&file, &path("test-5")));
            first.remove().unwrap();
            assert!(!stands(&file, &path("test-5")));

            let second = Claim::try_take("test-5").unwrap().unwrap();
            file.try_lock().unwrap();
            assert!(!stands(&file, &path("test-5")));
            second.remove().unwrap();
        });
    }

    #[test]
    fn what_one_that_was_killed_has_noted_is_there_for_the_next() {
        isolated(|_| async {
            let killed = Claim::try_take("test-4").unwrap().unwrap();
            killed.note("a long note").unwrap();
            killed.note("short").unwrap();
            drop(killed);

            let next = Claim::try_take("test-4").unwrap().unwrap();
            assert_eq!(next.noted(), "short");
            next.remove().unwrap();
            let new = Claim::try_take("test-4").unwrap().unwrap();
            assert_eq!(new.noted(), "");
            new.remove().unwrap();
        });
    }

    #[test]
    fn another_namespace_has_its_own() {
        isolated(|_| async {
            let claim = Claim::try_take("test-3").unwrap().unwrap();
            isolated(|_| async {
                assert_eq!(claims("test-"), [""; 0]);
            });
            claim.remove().unwrap();
        });
    }
}
