//! The words of nft's commands. Pure.

use std::fmt::Display;

/// Commands on one table.
pub(super) struct Text<'a> {
    table: &'a str,
    pub(super) commands: Vec<String>,
}

impl<'a> Text<'a> {
    pub(super) fn new(table: &'a str) -> Self {
        Self {
            table,
            commands: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, verb: &str, rest: &str) {
        let command = format!("{verb} inet {} {rest}", self.table);
        self.commands.push(command.trim_end().to_owned());
    }

    /// Adds a chain; an empty `kind` for one that others jump to.
    pub(super) fn chain(&mut self, name: &str, kind: &str) {
        let braced = if kind.is_empty() {
            String::new()
        } else {
            format!(" {{ {kind} }}")
        };
        self.push("add chain", &format!("{name}{braced}"));
    }

    pub(super) fn rule(&mut self, chain: &str, rule: &str) {
        self.push("add rule", &format!("{chain} {rule}"));
    }

    pub(super) fn set(&mut self, name: &str, kind: &str) {
        self.push("add set", &format!("{name} {{ {kind} }}"));
    }

    /// Gives a set these elements and no others.
    pub(super) fn elements<T: Display>(&mut self, set: &str, elements: &[T]) {
        self.push("flush set", set);
        if !elements.is_empty() {
            self.push("add element", &format!("{set} {{ {} }}", join(elements)));
        }
    }
}

pub(super) fn join<T: Display>(items: &[T]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();

    items.join(", ")
}
