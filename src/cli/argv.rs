//! Go's flag syntax, read into one token for each flag, which clap takes as one
//! argument.
//!
//! `-key foo`, `--key foo` and `-key=foo` become `--key=foo`. What follows a
//! flag that takes a value is its value, even where it begins with a dash: a
//! key may. A stray word is never quoted in the error, for it may be the rest
//! of a key that the shell has split.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

use super::Usage;

/// A flag that was given.
#[derive(Clone)]
pub(super) struct Token {
    /// Without dashes.
    pub(super) flag: String,
    pub(super) value: Option<OsString>,
}

impl Token {
    /// As clap takes it.
    pub(super) fn to_arg(&self) -> OsString {
        let mut arg = OsString::from(format!("--{}", self.flag));
        if let Some(value) = &self.value {
            arg.push("=");
            arg.push(value);
        }

        arg
    }
}

/// The flags in the order in which they were given.
pub(super) fn tokens(
    command: &Command,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Vec<Token>, Usage> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut args = args.into_iter();

    while let Some(word) = args.next() {
        let last = tokens.last().map(|token| token.flag.as_str());
        let (name, value) = split(&word).ok_or_else(|| stray(last))?;
        let arg = find(command, name).ok_or_else(|| unknown(name))?;
        let flag = arg.get_long().unwrap_or_default().to_owned();

        let value = match value {
            Some(value) => Some(value.to_owned()),
            None if arg.is_require_equals_set() => None,
            None => Some(args.next().ok_or_else(|| valueless(&flag))?),
        };
        tokens.push(Token { flag, value });
    }

    Ok(tokens)
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

/// The flag of this name, without dashes.
pub(super) fn find<'a>(command: &'a Command, name: &OsStr) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long().is_some_and(|long| name == long))
}

fn stray(last: Option<&str>) -> Usage {
    match last {
        None => Usage::new("the first argument", "not a flag: dtun -h lists them"),
        Some(last) => Usage::new(
            &format!("after -{last}"),
            "a word that is no flag: quote a value that has blanks",
        ),
    }
}

pub(super) fn valueless(flag: &str) -> Usage {
    Usage::new(&format!("-{flag}"), "needs a value after it")
}

fn unknown(name: &OsStr) -> Usage {
    let name = String::from_utf8_lossy(&name.to_owned().into_vec()).into_owned();

    Usage::new(&format!("-{name}"), "no such flag: dtun -h lists them")
}
