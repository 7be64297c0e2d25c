//! The parts of `docs/dtun.8` that are made from the table of flags; the rest of
//! it is written by hand. See [`super::completions`] for how.

use std::process::Command;

use super::completions::{assert_committed, output};
use super::table::{self, COMMANDS, Flag, GROUPS, Reload, Role};

/// The page with its two parts made anew.
fn made(page: &str) -> String {
    let commands: String = COMMANDS.iter().map(command).collect();
    let options: String = GROUPS.iter().map(group).collect();

    with_part(&with_part(page, "commands", &commands), "options", &options)
}

fn with_part(page: &str, name: &str, part: &str) -> String {
    let (before, rest) = page
        .split_once(&format!(".\\\" BEGIN {name} "))
        .expect("where the part begins");
    let (comment, rest) = rest.split_once('\n').expect("a line");
    let (_, after) = rest.split_once(".\\\" END").expect("where it ends");

    format!("{before}.\\\" BEGIN {name} {comment}\n{part}.\\\" END{after}")
}

fn command(command: &table::Command) -> String {
    format!(
        ".TP\n\\fBdtun {}\\fR {}\n{}",
        command.name,
        usage(command.usage),
        prose(command.text)
    )
}

fn group(group: &table::Group) -> String {
    let title = match group.role {
        Role::Hub => "Of a hub",
        Role::Spoke => "Of a spoke",
        Role::Both => "Of both",
    };
    let flags: String = group.flags.iter().map(flag).collect();

    format!(".SS {title}\n{flags}")
}

fn flag(flag: &Flag) -> String {
    let default = match flag.default {
        "" => String::new(),
        default => format!(" Default: {default}."),
    };

    let name = escaped(&format!("-{}", flag.name));
    let tag = format!("\\fB{name}\\fR {}", usage(flag.value));
    let reload = match flag.reload {
        Reload::Taken => " A reload takes it over.",
        Reload::Restart => " It needs a restart.",
        Reload::Never => "",
    };
    let text = prose(&format!("{}{default}{reload}", flag.text));

    format!(".TP\n{}\n{text}", tag.trim_end())
}

/// Capitals stand for something, other letters for themselves.
fn usage(text: &str) -> String {
    let mut roff = String::new();
    let mut last = 'R';
    for c in text.chars() {
        let font = match c {
            'A'..='Z' => 'I',
            'a'..='z' | '0'..='9' | '-' => 'B',
            _ => 'R',
        };
        if font != last {
            roff += &format!("\\f{font}");
            last = font;
        }
        roff += &escaped(&c.to_string());
    }
    if last != 'R' {
        roff += "\\fR";
    }

    roff
}

/// Sentences begin on lines of their own, as roff wants it; no flag is hyphenated.
fn prose(text: &str) -> String {
    let mut roff = String::new();
    for (turn, part) in text.split('`').enumerate() {
        // Within backquotes.
        if turn % 2 == 1 {
            roff += &format!("\\fB\\%{}\\fR", escaped(part).replace(' ', " \\%"));
        } else {
            roff += &part.replace('\\', "\\e");
        }
    }

    let sentences = roff.replace(". ", ".\n");
    sentences.lines().flat_map(filled).collect()
}

/// In lines of 80 bytes at most.
fn filled(sentence: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in sentence.split(' ') {
        let line = lines.last_mut().expect("one at least");
        if line.is_empty() {
            *line = word.to_owned();
        } else if line.len() + 1 + word.len() <= 80 {
            *line += &format!(" {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    assert!(
        lines.iter().all(|line| !line.starts_with(['.', '\''])),
        "a request for roff: {sentence}"
    );

    lines.into_iter().map(|line| line + "\n").collect()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('~', "\\(ti")
        .replace('^', "\\(ha")
}

#[test]
fn the_options_are_made_from_the_table() {
    let page = std::fs::read_to_string(PAGE).unwrap();

    assert_committed(PAGE, &made(&page));
}

#[test]
fn the_page_is_of_this_version() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();

    assert!(title.contains(concat!("\"dtun ", env!("CARGO_PKG_VERSION"), "\"")));
}

#[test]
fn man_renders_the_page_without_a_warning() {
    let mut man = Command::new("man");
    man.args(["--warnings", "-E", "UTF-8", "-P", "cat", "-l", PAGE])
        .env("MANWIDTH", "80")
        .env("MAN_KEEP_FORMATTING", "");
    let page = output(&mut man);

    assert!(page.contains("CONFIGURATION FILE"));
    assert!(page.contains("-key-file PATH"));
}

const PAGE: &str = "docs/dtun.8";
