//! `poll`, for one descriptor.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Waits until there is something to read, or an error to be told; false when
/// nothing came before `timeout`, in whole milliseconds, or after a signal.
pub(crate) fn is_readable(fd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut wanted = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer is to one live `pollfd`, as the count says.
    let ready = unsafe { libc::poll(&raw mut wanted, 1, timeout) };

    ready > 0
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn only_what_has_come_is_readable() {
        let (reader, mut writer) = std::io::pipe().unwrap();

        assert!(!is_readable(reader.as_fd(), Duration::from_millis(1)));
        writer.write_all(b"x").unwrap();
        assert!(is_readable(reader.as_fd(), Duration::from_secs(60)));
    }
}
