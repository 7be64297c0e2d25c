//! The completions of bash, zsh and fish, in `scripts/completions`, made from
//! the table of flags. `DTUN_REGENERATE=1 cargo test -p dtun cli` writes them anew,
//! and the options in the manual with them.

mod bash;
mod fish;
mod zsh;

use std::process::Command;

use super::table::{Arguments, COMMANDS, Flag, GROUPS};

fn flags() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// Of the commands that take other arguments than the tunnel.
fn others() -> impl Iterator<Item = &'static super::table::Command> {
    COMMANDS
        .iter()
        .filter(|command| !matches!(command.arguments, Arguments::Flags))
}

fn own(command: &'static super::table::Command) -> &'static [Flag] {
    match command.arguments {
        Arguments::These(flags) => flags,
        Arguments::Flags | Arguments::VerbAndFile(_) => &[],
    }
}

/// Fails where the file is not what the table makes of it, or writes it.
pub(super) fn assert_committed(path: &str, made: &str) {
    if std::env::var_os("DTUN_REGENERATE").is_some() {
        std::fs::write(path, made).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == made,
        "{path} is behind src/cli/table: DTUN_REGENERATE=1 cargo test -p dtun cli"
    );
}

/// What a program that the test needs prints; it may not complain.
pub(super) fn output(command: &mut Command) -> String {
    let name = command.get_program().to_owned();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", name.display()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaint.is_empty(),
        "{}: {complaint}",
        name.display()
    );

    String::from_utf8(output.stdout).unwrap()
}
