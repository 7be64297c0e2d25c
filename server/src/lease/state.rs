//! The state file: what a hub remembers across restarts, as JSON.
//!
//! It is replaced as a whole (a new file, synced, renamed over the old one), so
//! a crash leaves the old or the new one. A file that can't be read is set
//! aside, never overwritten: it may hold the only record of who had which address.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The pools chosen where the owner named none.
    pub(crate) default_pool4: Option<Ipv4Net>,
    pub(crate) default_pool6: Option<Ipv6Net>,
    pub(crate) leases: Vec<Saved>,
}

impl State {
    pub(crate) fn new(
        default_pool4: Option<Ipv4Net>,
        default_pool6: Option<Ipv6Net>,
        leases: Vec<Saved>,
    ) -> Self {
        Self {
            version: VERSION,
            default_pool4,
            default_pool6,
            leases,
        }
    }
}

/// A lease as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) hint: String,
    pub(crate) ip4: Ipv4Addr,
    pub(crate) ip6: Option<Ipv6Addr>,
    pub(crate) device: Option<String>,
    /// Seconds since 1970; none while a session is alive.
    pub(crate) ended: Option<u64>,
}

/// The directory that the file lives in, held by one hub at a time.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Locked while this hub lives; the kernel unlocks it whatever happens.
    _lock: File,
}

impl Store {
    /// Opens `dir`, making it where it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let lock = File::create(dir.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => StoreError::Held(dir.to_owned()),
            fs::TryLockError::Error(error) => StoreError::Io(error),
        })?;

        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    /// Reads the file. One that is damaged is set aside and counts as missing;
    /// the second value then says where it is and what is wrong with it.
    pub(crate) fn load(&self) -> io::Result<(State, Option<SetAside>)> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((State::new(None, None, Vec::new()), None));
            }
            Err(error) => return Err(error),
        };

        match parse(&bytes) {
            Ok(state) => Ok((state, None)),
            Err(why) => {
                let aside = self.aside()?;
                fs::rename(&path, &aside)?;
                Ok((
                    State::new(None, None, Vec::new()),
                    Some(SetAside { path: aside, why }),
                ))
            }
        }
    }

    /// Replaces the file.
    pub(crate) fn save(&self, state: &State) -> io::Result<()> {
        let new = self.dir.join("leases.json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(state)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;

        // The rename itself is on disk only when the directory is.
        File::open(&self.dir)?.sync_all()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("leases.json")
    }

    /// A name that no damaged file has yet.
    fn aside(&self) -> io::Result<PathBuf> {
        let mut aside = self.dir.join("leases.json.damaged");
        let mut n = 1;
        while aside.try_exists()? {
            n += 1;
            aside = self.dir.join(format!("leases.json.damaged-{n}"));
        }

        Ok(aside)
    }
}

/// Why there is no state to keep.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("state directory {0} belongs to a hub that is running: give this one another -state")]
    Held(PathBuf),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A damaged file's new place.
#[derive(Debug)]
pub(crate) struct SetAside {
    pub(crate) path: PathBuf,
    pub(crate) why: Damage,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("not a state file: {0}")]
    Json(#[from] serde_json::Error),
    #[error("version {0} is not {VERSION}")]
    Version(u32),
}

fn parse(bytes: &[u8]) -> Result<State, Damage> {
    // The version first: what a later one adds or renames is not damage.
    let Version { version } = serde_json::from_slice(bytes)?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }

    Ok(serde_json::from_slice(bytes)?)
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, removed at the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("dtun-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn state() -> State {
        State::new(
            Some("10.77.0.0/24".parse().unwrap()),
            None,
            vec![Saved {
                hint: "laptop".to_owned(),
                ip4: "10.77.0.2".parse().unwrap(),
                ip6: None,
                device: Some("dtun0".to_owned()),
                ended: Some(1_700_000_000),
            }],
        )
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let dir = Dir::new("read-back");
        let store = Store::open(&dir.0).unwrap();

        assert!(store.load().unwrap().0.leases.is_empty());
        store.save(&state()).unwrap();
        store.save(&state()).unwrap();

        let (read, aside) = store.load().unwrap();
        assert_eq!(read, state());
        assert!(aside.is_none());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_kept() {
        let dir = Dir::new("damaged");
        let store = Store::open(&dir.0).unwrap();
        let mut kept = Vec::new();
        for damage in ["{\"version\":1,\"lea", "", "{\"version\":9}", "[]"] {
            fs::write(store.path(), damage).unwrap();

            let (read, aside) = store.load().unwrap();

            assert!(read.leases.is_empty());
            kept.push((aside.unwrap().path, damage));
            for (aside, damage) in &kept {
                assert_eq!(fs::read_to_string(aside).unwrap(), *damage);
            }
            assert!(kept[0].0.ends_with("leases.json.damaged"));
            assert!(!store.path().exists());
        }
    }

    #[test]
    fn a_second_hub_is_kept_off_the_first_ones_state() {
        let dir = Dir::new("second");
        let first = Store::open(&dir.0).unwrap();

        assert!(matches!(Store::open(&dir.0), Err(StoreError::Held(_))));
        drop(first);
        Store::open(&dir.0).unwrap();
    }
}
