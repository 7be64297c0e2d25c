//! Signals that a process is to outlive.

use std::io;

use crate::sys;

/// From now on only SIGKILL ends this process before its work is done: what
/// asks a whole group or service to end is not heard.
pub fn ignore_requests_to_end() -> io::Result<()> {
    sys::process::ignore_requests_to_end()
}
