//! The name a spoke goes by when none was given: the host name and four hex
//! digits, since host names of laptops collide.
//!
//! The digits come from the machine-id; where there is none, from a random
//! number that is kept in the state.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use dtun_shared::places::STATE;

/// The default hint of this machine; `state` is where a random number is kept
/// if one is needed.
pub(crate) fn default_hint(state: Option<&Path>) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let id = MACHINE_ID
        .iter()
        .find_map(|path| machine_id(Path::new(path)))
        .unwrap_or_else(|| kept_id(state.unwrap_or(Path::new(STATE))));

    compose(&host, &id)
}

/// A number spread over all of `u32`, not for secrets.
pub(crate) fn random() -> u32 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};

    (RandomState::new().build_hasher().finish() >> 32) as u32
}

fn compose(host: &str, id: &str) -> String {
    let mut name = String::new();
    for c in host.trim().chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > LONGEST_NAME {
            break;
        }
        name.push(c);
    }
    if name.is_empty() {
        name.push_str("dtun");
    }

    format!("{name}-{:04x}", digest(id.as_bytes()))
}

fn machine_id(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let id = text.trim();

    // While a system is installed the file is empty or says "uninitialized".
    (id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

fn kept_id(dir: &Path) -> String {
    let path = dir.join("spoke-id");
    if let Ok(id) = fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return id.trim().to_owned();
    }

    let id = match random_id() {
        Ok(id) => id,
        Err(error) => {
            tracing::warn!(%error, "failed to read a random number, the digits of the hint say nothing");
            return String::new();
        }
    };
    if let Err(error) = fs::create_dir_all(dir).and_then(|()| fs::write(&path, &id)) {
        tracing::warn!(
            path = %path.display(), %error,
            "failed to keep this machine's number: its hint changes with each start; give it one with -id",
        );
    }

    id
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;

    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// FNV-1a, folded to 16 bits: the same in every release, unlike the standard
/// library's, and too little of the machine-id to know it by.
fn digest(bytes: &[u8]) -> u16 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });

    (hash ^ (hash >> 16) ^ (hash >> 32) ^ (hash >> 48)) as u16
}

const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// Leaves room for the digits in the 128 bytes of a hint.
const LONGEST_NAME: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_a_machine_never_changes() {
        let id = "0123456789abcdef0123456789abcdef";

        assert_eq!(compose("laptop\n", id), compose("laptop", id));
        assert_ne!(
            compose("laptop", id),
            compose("laptop", &id.replace('0', "1"))
        );
        assert_eq!(compose("laptop", ""), "laptop-f011");
    }

    #[test]
    fn a_hint_fits_128_bytes_and_has_no_control_characters() {
        let hint = compose(&"ü\u{7}".repeat(200), "x");

        assert!(hint.len() <= 128 && hint.len() > 120, "{hint}");
        assert!(!hint.chars().any(char::is_control));
        assert!(compose(" \n", "x").starts_with("dtun-"));
    }

    #[test]
    fn a_number_that_was_kept_is_found_again() {
        let dir = std::env::temp_dir().join(format!("spoke-id-{}", std::process::id()));

        let first = kept_id(&dir);
        let second = kept_id(&dir);
        fs::remove_dir_all(&dir).unwrap();

        assert_eq!(first.len(), 32);
        assert_eq!(first, second);
    }
}
