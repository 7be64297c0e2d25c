//! Go's flag syntax, rewritten into one token of clap's for each flag.
//!
//! `-key foo`, `--key foo` and `-key=foo` become `--key=foo`. What follows a
//! flag that takes a value is its value, even where it begins with a dash: a
//! key may. A stray word is never quoted in the error, for it may be the rest
//! of a key that the shell has split.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

use super::Usage;

/// The arguments as clap takes them, behind a program name.
pub(super) fn normalise(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, Usage> {
    let mut normal = vec![OsString::from("dtun")];
    let mut last = String::new();
    let mut args = args.into_iter();

    while let Some(word) = args.next() {
        let (name, value) = split(&word).ok_or_else(|| stray(&last))?;
        let arg = find(command, name).ok_or_else(|| unknown(name))?;
        let long = arg.get_long().unwrap_or_default();

        let mut token = OsString::from(format!("--{long}"));
        let value = match value {
            Some(value) => Some(value.to_owned()),
            None if arg.is_require_equals_set() => None,
            None => Some(
                args.next()
                    .ok_or_else(|| Usage::new(&format!("-{long}"), "needs a value after it"))?,
            ),
        };
        if let Some(value) = value {
            token.push("=");
            token.push(value);
        }
        normal.push(token);
        last = format!("-{long}");
    }

    Ok(normal)
}

/// Takes the dashes off and splits at the first `=`; `None` for what is no flag.
fn split(word: &OsStr) -> Option<(&OsStr, Option<&OsStr>)> {
    let bytes = word.as_bytes();
    let flag = bytes.strip_prefix(b"--").or(bytes.strip_prefix(b"-"))?;
    let mut halves = flag.splitn(2, |byte| *byte == b'=');
    let name = halves.next().filter(|name| !name.is_empty())?;

    Some((
        OsStr::from_bytes(name),
        halves.next().map(OsStr::from_bytes),
    ))
}

fn find<'a>(command: &'a Command, name: &OsStr) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long().is_some_and(|long| name == long))
}

fn stray(last: &str) -> Usage {
    match last {
        "" => Usage::new("the first argument", "not a flag: dtun -h lists them"),
        last => Usage::new(
            &format!("after {last}"),
            "a word that is no flag: quote a value that has blanks",
        ),
    }
}

fn unknown(name: &OsStr) -> Usage {
    let name = String::from_utf8_lossy(&name.to_owned().into_vec()).into_owned();

    Usage::new(&format!("-{name}"), "no such flag: dtun -h lists them")
}
