//! Thousands of routes in one go, written as `ip -batch` has them.

use std::io;

use super::Netlink;

impl Netlink {
    /// Adds or deletes the routes of `text`, one a line, in the main table:
    /// `[route VERB] NET|default [via GATEWAY] [dev NAME|INDEX] [metric N]`.
    ///
    /// The action decides, not the verb of the line, so one file serves both.
    /// A line that is malformed or refused does not stop the others.
    pub async fn batch(&self, action: Action, text: &str) -> io::Result<Loaded> {
        let _ = (action, text);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What happens to the routes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// As `ip route replace`.
    Add,
    /// As `ip route del`, but a route that is gone is no error.
    Delete,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Lines carried out.
    pub done: usize,
    pub bad: Vec<BadLine>,
}

/// A line that was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    pub why: io::Error,
}
