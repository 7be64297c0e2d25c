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

/// Makes a descriptor that came from another process as [`adopt`] leaves one.
pub(crate) fn prepare(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `F_SETFD` takes an int and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: `F_GETFL` takes nothing and touches no memory.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: `F_SETFL` takes an int and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;

    Ok(())
}

/// The name of the interface that the descriptor is bound to, and its `IFF_*`
/// flags; `EBADFD` for one that is bound to none.
pub(crate) fn interface(fd: BorrowedFd<'_>) -> io::Result<(String, libc::c_int)> {
    // SAFETY: `ifreq` is plain bytes, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: `TUNGETIFF` writes one `ifreq`, and `request` lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    let name = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    // SAFETY: the kernel wrote the flags, and every pattern of bits is a short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };

    Ok((
        String::from_utf8_lossy(&name).into_owned(),
        flags.cast_unsigned().into(),
    ))
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

/// Says what the program at the device's other side takes (`TUN_F_*`); the
/// kernel takes all of it or says `EINVAL`.
pub(crate) fn set_offload(fd: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: `TUNSETOFFLOAD` takes its argument by value.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    })?;

    Ok(())
}

/// Sets the bytes of the header that stands before each packet.
pub(crate) fn set_header_len(fd: BorrowedFd<'_>, len: libc::c_int) -> io::Result<()> {
    // SAFETY: `TUNSETVNETHDRSZ` reads one int, and `len` lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })?;

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
