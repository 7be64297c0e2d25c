//! What a user reads who asked for help or made a mistake.

use std::error::Error;

use clap::error::{ContextKind, ContextValue};

use super::table::{COMMANDS, Flag, GROUPS};

/// One screen.
pub(crate) fn help() -> String {
    let commands = COMMANDS.iter().map(|command| {
        let usage = format!("dtun {} {}", command.name, command.usage);
        format!("  {usage:<42} {}\n", command.brief)
    });
    let groups = GROUPS.iter().map(|group| {
        let flags: String = group.flags.iter().map(line).collect();
        format!("\n{}\n{flags}", group.role.title())
    });

    [HEAD]
        .into_iter()
        .map(str::to_owned)
        .chain(commands)
        .chain(groups)
        .chain([TAIL.to_owned()])
        .collect()
}

/// Flag, meaning and default in columns, which a long text may overrun.
fn line(flag: &Flag) -> String {
    let usage = format!("-{} {}", flag.name, flag.value);
    let line = format!("  {usage:<22} {:<30} {}", flag.brief, flag.default);

    format!("{}\n", line.trim_end())
}

const HEAD: &str = "\
dtun: an IP tunnel over DTLS. One key, a hub and its spokes.

  dtun -key-file PATH                        the hub: a server anyone can reach
  dtun -key-file PATH -connect HOST:PORT     a spoke: a laptop, a router
";

const TAIL: &str = "
A value follows its flag or an equals sign; two dashes do as well as one.
The manual: man dtun
";

/// A mistake in the arguments: one line that names the flag and the fix.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub(crate) struct Usage {
    place: String,
    fault: String,
}

impl Usage {
    pub(super) fn new(place: &str, fault: impl Into<String>) -> Self {
        Self {
            place: printable(place),
            fault: printable(&fault.into()),
        }
    }

    /// The first flag that it is about, without its dash.
    pub(super) fn flag(&self) -> Option<&str> {
        self.place.strip_prefix('-')?.split(' ').next()
    }

    /// The same mistake, in a line of a file.
    pub(super) fn within(self, place: &str) -> Self {
        Self::new(&format!("{place}: {}", self.place), self.fault)
    }

    /// Of a flag whose value was refused by its parser.
    pub(super) fn from_clap(error: &clap::Error) -> Self {
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.as_str(),
            _ => "",
        };
        let flag = context(ContextKind::InvalidArg)
            .split([' ', '=', '['])
            .next()
            .unwrap_or_default()
            .trim_start_matches('-');
        if flag.is_empty() {
            return Self::new("a value", "not UTF-8 text");
        }

        let fault = error
            .source()
            .map_or_else(|| error.kind().to_string(), ToString::to_string);
        match context(ContextKind::InvalidValue) {
            "" => Self::new(&format!("-{flag}"), fault),
            value => Self::new(&format!("-{flag} {value}"), fault),
        }
    }
}

/// On one line, whatever was typed.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}
