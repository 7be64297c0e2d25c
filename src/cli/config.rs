//! `-config FILE`: flags one a line, in the syntax that dtun(8) describes.
//!
//! A line is a flag's name and its value, with blanks, an equals sign or both
//! between them: `key-file /etc/dtun/key`. A value is one word, or stands in
//! quotes; in double ones `\"` and `\\` are a quote and a backslash, and nothing
//! else is ever replaced. `#` where a word could begin starts a comment.
//!
//! On a command line the last flag of a name wins. Here a second one is a
//! mistake, but for those that are a list: whoever writes two lines wants both.
//! What is no flag is not shown in
//! an error, for it may be a key.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Command};
use dtun_client::BypassWord;

use super::argv::{self, Token};
use super::table::{self, Takes};
use super::{Usage, key};

/// What a file says.
pub(super) struct Config {
    path: PathBuf,
    /// Each flag once, if it is no list, with its line's number, counted from 1.
    lines: Vec<(usize, Token)>,
}

impl Config {
    pub(super) fn read(
        path: &Path,
        command: &Command,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Usage> {
        let place = format!("-config {}", path.display());
        let unreadable = |error: std::io::Error| Usage::new(&place, error.to_string());
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mut text = Vec::new();
        file.take(LONGEST + 1)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > LONGEST {
            return Err(Usage::new(&place, format!("longer than {LONGEST} bytes")));
        }

        let mut config = Self {
            path: path.to_owned(),
            lines: Vec::new(),
        };
        config.parse(&text, command)?;
        if config.lines.iter().any(|(_, token)| token.flag == "key") {
            warnings.extend(key::exposed(path, &metadata));
        }

        Ok(config)
    }

    fn parse(&mut self, text: &[u8], command: &Command) -> Result<(), Usage> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
            let refused = |fault: &str| Usage::new(&self.place(number), fault);
            let Some((name, value)) = split(line).map_err(refused)? else {
                continue;
            };
            let arg = argv::find(command, name)
                .ok_or_else(|| refused("no flag has this name: dtun -h lists them"))?;
            let flag = arg.get_long().unwrap_or_default();
            if COMMAND_LINE_ONLY.contains(&flag) {
                return Err(refused(&format!("-{flag} is for the command line")));
            }
            let is_list = matches!(arg.get_action(), ArgAction::Append);
            let mut before = self.lines.iter().filter(|_| !is_list);
            if let Some((first, _)) = before.find(|(_, known)| known.flag == flag) {
                return Err(refused(&format!(
                    "-{flag} stands in line {first} as well: put all that it says into one line"
                )));
            }
            if value.is_none() && !arg.is_require_equals_set() {
                return Err(argv::valueless(flag).within(&self.place(number)));
            }

            let value = value.map(|value| self.beside(flag, value));
            let flag = flag.to_owned();
            self.lines.push((number, Token { flag, value }));
        }

        Ok(())
    }

    /// A relative path in the value begins at the folder of the file. The name
    /// of a program alone is one there, if there is one.
    fn beside(&self, flag: &str, value: OsString) -> OsString {
        let takes = table::flag(flag).map(|flag| flag.takes);
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let is_path = matches!(takes, Some(Takes::File | Takes::Directory));
        let bare = Path::new(&value).components().count() == 1;
        match flag {
            _ if !is_path || value.is_empty() => value,
            "bypass" => match value.into_string() {
                Ok(list) => beside_list(folder, &list).into(),
                Err(value) => value,
            },
            "up" | "down" if bare && !folder.join(&value).is_file() => value,
            _ => folder.join(value).into(),
        }
    }

    /// What the command line leaves of it.
    pub(super) fn unless(&self, given: &[Token]) -> impl Iterator<Item = &Token> {
        self.effective(given).map(|(_, token)| token)
    }

    /// Says the file and line as well, if the flag stands there.
    pub(super) fn locate(&self, usage: Usage, given: &[Token]) -> Usage {
        let flag = usage.flag();
        let line = self
            .effective(given)
            .find(|(_, token)| Some(token.flag.as_str()) == flag)
            .map(|(number, _)| *number);

        match line {
            Some(number) => usage.within(&self.place(number)),
            None => usage,
        }
    }

    /// One key is enough, in whichever way it is given.
    fn effective(&self, given: &[Token]) -> impl Iterator<Item = &(usize, Token)> {
        let is_key = |flag: &str| ["key", "key-file"].contains(&flag);

        self.lines.iter().filter(move |(_, token)| {
            !given.iter().any(|beats| {
                beats.flag == token.flag || (is_key(&beats.flag) && is_key(&token.flag))
            })
        })
    }

    fn place(&self, number: usize) -> String {
        format!("{}:{number}", self.path.display())
    }
}

/// The same for the files among networks.
fn beside_list(folder: &Path, list: &str) -> String {
    let word = |word: &str| match word.trim().parse() {
        Ok(BypassWord::File(path)) if !word.trim().is_empty() => {
            folder.join(path).display().to_string()
        }
        Ok(_) | Err(_) => word.to_owned(),
    };

    list.split(',').map(word).collect::<Vec<_>>().join(",")
}

/// The name, without dashes, and the value of a line that has any.
fn split(line: &[u8]) -> Result<Option<(&OsStr, Option<OsString>)>, &'static str> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    let line = line
        .strip_prefix(b"--")
        .or(line.strip_prefix(b"-"))
        .unwrap_or(line);
    let end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'=';
    let (name, rest) = line.split_at(line.iter().position(end).unwrap_or(line.len()));
    let rest = rest.trim_ascii_start();
    let equals = rest.strip_prefix(b"=");
    let rest = equals.unwrap_or(rest).trim_ascii_start();

    let (value, rest) = match rest.first() {
        None | Some(b'#') => (equals.map(|_| Vec::new()), rest),
        Some(quote @ (b'\'' | b'"')) => {
            let (value, rest) = quoted(&rest[1..], *quote)?;
            (Some(value), rest)
        }
        Some(_) => {
            let end = rest.iter().position(u8::is_ascii_whitespace);
            let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
            (Some(word.to_owned()), rest)
        }
    };
    let rest = rest.trim_ascii_start();
    if !rest.is_empty() && rest[0] != b'#' {
        return Err("more than one word: put quotes around a value that has blanks");
    }

    Ok(Some((
        OsStr::from_bytes(name),
        value.map(OsString::from_vec),
    )))
}

/// What stands before the closing quote, and what behind it.
fn quoted(mut text: &[u8], quote: u8) -> Result<(Vec<u8>, &[u8]), &'static str> {
    let mut value = Vec::new();
    loop {
        let (byte, rest) = match text {
            [] => return Err("the quote at the value's beginning is not closed"),
            [byte, rest @ ..] if *byte == quote => return Ok((value, rest)),
            [b'\\', byte @ (b'"' | b'\\'), rest @ ..] if quote == b'"' => (byte, rest),
            [byte, rest @ ..] => (byte, rest),
        };
        value.push(*byte);
        text = rest;
    }
}

/// A file's flags are for one role or both; these are for the one who types.
const COMMAND_LINE_ONLY: [&str; 4] = ["config", "version", "h", "help"];

/// Some editors begin a file with it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Far above any list on one line, and far below /dev/zero.
const LONGEST: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(line: &str) -> Result<Option<String>, &'static str> {
        let (name, value) = split(line.as_bytes())?.expect("a line with a flag");
        assert_eq!(name, "key", "{line}");

        Ok(value.map(|value| value.into_string().unwrap()))
    }

    #[test]
    fn a_value_is_a_word_or_quoted() {
        for (line, expected) in [
            ("key", None),
            ("  -key # none", None),
            ("--key foo", Some("foo")),
            ("key\t foo  # comment", Some("foo")),
            ("key=foo=", Some("foo=")),
            ("key = foo", Some("foo")),
            ("key foo#bar\r", Some("foo#bar")),
            (r"key C:\foo", Some(r"C:\foo")),
            ("key it's", Some("it's")),
            ("key -dashed", Some("-dashed")),
            ("key = # nothing", Some("")),
            ("key ''", Some("")),
            ("key '# \"a\" \\ b '", Some("# \"a\" \\ b ")),
            (
                r#"key "a \"b\" \\ \n 'c' $HOME" # d"#,
                Some(r#"a "b" \ \n 'c' $HOME"#),
            ),
        ] {
            assert_eq!(value(line), Ok(expected.map(str::to_owned)), "{line}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for line in [
            "key foo bar",
            "key 'foo' bar",
            "key 'foo'bar",
            "key foo 'bar'",
        ] {
            assert!(value(line).unwrap_err().starts_with("more than one word"));
        }
        for line in ["key 'foo", "key \"foo\\\"", "key '", "key \"foo'"] {
            assert!(value(line).unwrap_err().ends_with("is not closed"));
        }
    }

    #[test]
    fn blank_lines_and_comments_say_nothing() {
        for line in ["", " \t\r", "# key foo", "  #"] {
            assert_eq!(split(line.as_bytes()), Ok(None));
        }
    }

    #[test]
    fn a_relative_path_begins_beside_the_file() {
        let config = |path: &str, line: &str| {
            let mut config = Config {
                path: path.into(),
                lines: Vec::new(),
            };
            let command = <super::super::flags::Flags as clap::CommandFactory>::command();
            config.parse(line.as_bytes(), &command).unwrap();
            let (_, token) = config.lines.remove(0);
            token.value.unwrap().into_string().unwrap()
        };

        for (line, expected) in [
            ("key-file key", "/etc/dtun/key"),
            ("key-file /key", "/key"),
            ("state ../x", "/etc/dtun/../x"),
            ("state ''", ""),
            ("up hooks/up", "/etc/dtun/hooks/up"),
            ("up true", "true"),
            ("key key", "key"),
            ("tun key", "key"),
            (
                "bypass @private,list,10.0.0.0/8,/lists/b",
                "@private,/etc/dtun/list,10.0.0.0/8,/lists/b",
            ),
        ] {
            assert_eq!(config("/etc/dtun/home.conf", line), expected, "{line}");
        }
        assert_eq!(config("home.conf", "key-file key"), "key");
        assert_eq!(config("a/home.conf", "key-file key"), "a/key");
    }

    proptest! {
        #[test]
        fn any_value_can_be_quoted(text in "[^\n\r]{0,12}", tail in "( |\t|#.*)?") {
            let escaped = text.replace('\\', r"\\").replace('"', r#"\""#);

            prop_assert_eq!(value(&format!("key \"{escaped}\"{tail}")), Ok(Some(text)));
        }
    }
}
