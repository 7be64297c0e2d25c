//! `setsockopt` and `getsockopt` for options socket2 lacks, and `recvmsg` into plain slices.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::slice;

use socket2::{MaybeUninitSlice, MsgHdrMut, SockAddr, Socket};

use super::check;

/// Sets an option whose value is a C int.
pub(crate) fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`, which lives through the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })?;

    Ok(())
}

/// Reads an option whose value is a C int.
pub(crate) fn get_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length describe `value`; both outlive the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;

    Ok(value)
}

/// Bytes that were sent and have not left the machine, as the kernel counts
/// them against the send buffer: with what it needs to hold them.
pub(crate) fn outstanding(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `SIOCOUTQ`, which is `TIOCOUTQ`, writes one int, and `bytes`
    // lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) })?;

    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Receives one datagram: its length, its sender, and the length of `control`
/// that was filled.
pub(crate) fn recvmsg(
    socket: &Socket,
    buf: &mut [u8],
    control: &mut [u8],
    flags: libc::c_int,
) -> io::Result<(usize, Option<SocketAddr>, usize)> {
    let mut sender = SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    let mut buffers = [MaybeUninitSlice::new(uninit(buf))];
    let mut message = MsgHdrMut::new()
        .with_addr(&mut sender)
        .with_buffers(&mut buffers)
        .with_control(uninit(control));
    let len = socket.recvmsg(&mut message, flags)?;
    let filled = message.control_len();

    Ok((len, sender.as_socket(), filled))
}

/// The slice as the kernel may write it.
fn uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let len = bytes.len();
    let start = bytes.as_mut_ptr().cast::<MaybeUninit<u8>>();
    // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, the borrow passes from
    // `bytes` to the result, and `recvmsg` never writes uninitialised bytes.
    unsafe { slice::from_raw_parts_mut(start, len) }
}
