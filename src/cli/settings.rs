//! What was asked for, for a comparison with what a later reading of the file
//! asks for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use dtun_shared::dtls::schedule::Psk;

use super::argv::Token;
use super::table::{self, Reload};

/// The flags that count, of the file and of the command line.
#[derive(Clone)]
pub(crate) struct Settings {
    flags: BTreeMap<String, Vec<Option<OsString>>>,
    psk: Psk,
}

/// What is otherwise in a later reading.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Flags that can be taken over, without dashes.
    pub(crate) taken: Vec<String>,
    pub(crate) restart: Vec<String>,
}

impl Settings {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = &'a Token>, psk: Psk) -> Self {
        let mut flags: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for Token { flag, value } in tokens {
            if !KEYS.contains(&flag.as_str()) {
                flags.entry(flag.clone()).or_default().push(value.clone());
            }
        }

        Self { flags, psk }
    }

    /// What another reading has otherwise than this.
    pub(crate) fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        if self.psk.as_bytes() != new.psk.as_bytes() {
            changes.restart.push("key".to_owned());
        }
        let mut names: Vec<_> = self.flags.keys().chain(new.flags.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (before, after) = (self.flags.get(name), new.flags.get(name));
            if before == after {
                continue;
            }
            // Sockets are marked and the packet filter has its part with any
            // route, and only then.
            let is_switched = name == "route" && before.is_some() != after.is_some();
            match table::flag(name).map(|flag| flag.reload) {
                Some(Reload::Taken) if !is_switched => changes.taken.push(name.clone()),
                Some(Reload::Never) => {}
                Some(Reload::Taken | Reload::Restart) | None => changes.restart.push(name.clone()),
            }
        }

        changes
    }

    /// Holds from now on what was taken over of another reading.
    pub(crate) fn take_over(&mut self, new: &Self, changes: &Changes) {
        for name in &changes.taken {
            match new.flags.get(name) {
                Some(value) => self.flags.insert(name.clone(), value.clone()),
                None => self.flags.remove(name),
            };
        }
    }
}

/// Without values: one may be a secret where a name is mistyped.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.flags.keys()).finish()
    }
}

/// Compared by what they say.
const KEYS: [&str; 2] = ["key", "key-file"];
