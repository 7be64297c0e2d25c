//! What is done with a TUN's descriptor beside reading and writing.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use super::check;

/// Takes the descriptor out of the device, non-blocking and closed on exec.
pub(crate) fn adopt(device: tun::Device) -> io::Result<OwnedFd> {
    device.set_nonblock()?;
    let raw = device.into_raw_fd();
    // SAFETY: `into_raw_fd` gives up the only ownership of an open descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: `F_SETFD` takes an int and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;

    Ok(fd)
}

/// Makes the device outlive its descriptor, or die with it.
pub(crate) fn set_persistent(fd: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    // SAFETY: `TUNSETPERSIST` takes its argument by value.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETPERSIST,
            libc::c_ulong::from(persistent),
        )
    })?;

    Ok(())
}

/// The index of the interface of that name.
pub(crate) fn index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: `name` is a C string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }

    Ok(index)
}
