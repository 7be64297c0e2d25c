//! The limit of open files: a hub holds a descriptor for each lease.

use std::{fs, io};

use crate::sys;

/// Raises the limit of open files as far as this process may, and returns it.
pub fn raise_nofile() -> io::Result<u64> {
    let (soft, hard) = sys::limits::nofile()?;

    // Only a privileged process may lift its own hard limit.
    let most = nr_open().unwrap_or(hard);
    if most > hard && sys::limits::set_nofile(most, most).is_ok() {
        return Ok(most);
    }
    if soft < hard {
        sys::limits::set_nofile(hard, hard)?;
    }

    Ok(hard)
}

/// What the kernel allows any process.
fn nr_open() -> Option<u64> {
    fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_ends_at_the_hard_limit() {
        let raised = raise_nofile().unwrap();

        assert_eq!(sys::limits::nofile().unwrap(), (raised, raised));
    }
}
