//! The pre-shared key: from `-key`, a file, the environment or the credentials
//! of a service.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dtun_shared::dtls::schedule::Psk;

use super::Usage;

/// A flag wins over `DTUN_KEY`, so that a script can override a unit's environment.
pub(super) fn find(
    key: Option<OsString>,
    file: Option<PathBuf>,
    env: &impl Fn(&str) -> Option<OsString>,
    warnings: &mut Vec<String>,
) -> Result<Psk, Usage> {
    let (place, bytes) = match (key, file) {
        (Some(_), Some(_)) => {
            return Err(Usage::new("-key and -key-file", "give one of them"));
        }
        (Some(key), None) => ("-key".to_owned(), key.into_vec()),
        (None, Some(path)) => {
            let place = format!("-key-file {}", path.display());
            let bytes = read(&path, warnings).map_err(|fault| Usage::new(&place, fault))?;
            (place, bytes)
        }
        (None, None) => match (env("DTUN_KEY"), credential(env)) {
            (Some(key), _) => ("DTUN_KEY".to_owned(), key.into_vec()),
            (None, Some(path)) => {
                let place = path.display().to_string();
                let bytes = read(&path, warnings).map_err(|fault| Usage::new(&place, fault))?;
                (place, bytes)
            }
            (None, None) => return Err(Usage::new("no key", MISSING)),
        },
    };
    if bytes.len() > LONGEST {
        return Err(Usage::new(&place, format!("longer than {LONGEST} bytes")));
    }

    Psk::new(bytes).map_err(|fault| {
        Usage::new(
            &place,
            format!("{fault}: openssl rand -base64 32 makes a good one"),
        )
    })
}

/// The credential `key`, which systemd has made a file (systemd.exec(5),
/// `LoadCredential=`).
fn credential(env: &impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = Path::new(&env("CREDENTIALS_DIRECTORY")?).join("key");

    path.exists().then_some(path)
}

/// The bytes of the file but one newline at their end.
fn read(path: &Path, warnings: &mut Vec<String>) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Err("a directory, not a file".to_owned());
    }
    warnings.extend(exposed(path, &metadata));

    let mut bytes = Vec::new();
    file.take(LONGEST as u64 + 2)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.last() == Some(&b'\r') {
        warnings.push(format!(
            "the key in {} ends with a carriage return, which counts as part of it",
            path.display()
        ));
    }

    Ok(bytes)
}

/// What to say of a file with a key in it that others can read.
pub(super) fn exposed(path: &Path, metadata: &Metadata) -> Option<String> {
    let is_exposed = metadata.is_file() && metadata.mode() & 0o044 != 0;

    is_exposed.then(|| {
        format!(
            "{} can be read by other users: chmod 600 {0}",
            path.display()
        )
    })
}

/// Far above any sensible key, and far below /dev/zero.
const LONGEST: usize = 4096;

const MISSING: &str =
    "give -key-file PATH, -key S or DTUN_KEY; openssl rand -base64 32 > PATH makes one";
