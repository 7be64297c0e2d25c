//! The flags and commands as users see them: the one source of `-h`, of the
//! options in dtun(8) and of the shells' completions.
//!
//! Text in backquotes stands as it would be typed.

mod both;
mod commands;
mod hub;
mod spoke;

pub(super) use commands::COMMANDS;

/// The flags of one role.
pub(super) struct Group {
    pub(super) role: Role,
    pub(super) flags: &'static [Flag],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Hub,
    Spoke,
    Both,
}

pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    /// What a SIGHUP makes of it.
    pub(super) reload: Reload,
    /// What stands for its value; empty for a switch.
    pub(super) value: &'static str,
    pub(super) takes: Takes,
    /// A few words.
    pub(super) brief: &'static str,
    /// What holds without the flag, where that can be said in a few words.
    pub(super) default: &'static str,
    /// All that there is to know.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the manual"))]
    pub(super) text: &'static str,
}

/// What becomes of a flag that stands otherwise when the file is read again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    /// It is taken over, and nothing breaks.
    Taken,
    Restart,
    /// It stands in no file, or says what is to be done instead.
    Never,
}

/// What a shell completes a value with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Text,
    Words(&'static [&'static str]),
    File,
    Directory,
    Device,
}

/// A word in the first place that makes the program do something else.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What follows the name.
    pub(super) usage: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the completions"))]
    pub(super) arguments: Arguments,
    pub(super) brief: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "for the manual"))]
    pub(super) text: &'static str,
}

#[cfg_attr(not(test), expect(dead_code, reason = "for the completions"))]
pub(super) enum Arguments {
    /// Those of the tunnel.
    Flags,
    These(&'static [Flag]),
    VerbAndFile(&'static [&'static str]),
}

impl Role {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Hub => "HUB",
            Self::Spoke => "SPOKE",
            Self::Both => "BOTH",
        }
    }
}

/// The flag of that name.
pub(super) fn flag(name: &str) -> Option<&'static Flag> {
    let mut flags = GROUPS.iter().flat_map(|group| group.flags);

    flags.find(|flag| flag.name == name)
}

pub(super) const GROUPS: [Group; 3] = [
    Group {
        role: Role::Hub,
        flags: hub::FLAGS,
    },
    Group {
        role: Role::Spoke,
        flags: spoke::FLAGS,
    },
    Group {
        role: Role::Both,
        flags: both::FLAGS,
    },
];
