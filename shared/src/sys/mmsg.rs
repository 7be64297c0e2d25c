//! `sendmmsg` and `recvmmsg`: many datagrams a call.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::check;
use super::memory::Mapping;

/// Datagrams taken by one [`sendmmsg`]. Each may be a run that the kernel
/// cuts, so more would save little.
pub(crate) const OUTGOING: usize = 16;

/// What goes out by one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'a> {
    /// None on a connected socket.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) contents: &'a [u8],
    /// Control messages as the kernel lays them out.
    pub(crate) control: &'a [u8],
}

/// Sends the first [`OUTGOING`] of `messages` and says how many went; an error
/// is about the first that did not.
pub(crate) fn sendmmsg(fd: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let mut names = [const { MaybeUninit::<Name>::uninit() }; OUTGOING];
    let mut buffers = [const { MaybeUninit::<libc::iovec>::uninit() }; OUTGOING];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; OUTGOING];
    let count = messages.len().min(OUTGOING);
    for (i, message) in messages.iter().take(OUTGOING).enumerate() {
        let (name, name_len) = Name::of(message.peer);
        headers[i].write(header(
            names[i].write(name),
            name_len,
            buffers[i].write(buffer(message.contents)),
            message.control.as_ptr().cast_mut(),
            message.control.len(),
        ));
    }
    // SAFETY: `count` headers are written; each points to a name, a buffer and
    // control bytes that live through the call and are only read.
    let sent = check(unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr().cast(),
            count as libc::c_uint,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    })?;

    Ok(sent as usize)
}

/// Sends one message, for where `sendmmsg` is missing.
pub(crate) fn sendmsg(fd: BorrowedFd<'_>, message: &Outgoing<'_>) -> io::Result<()> {
    let (mut name, name_len) = Name::of(message.peer);
    let mut buffer = buffer(message.contents);
    let header = header(
        &mut name,
        name_len,
        &mut buffer,
        message.control.as_ptr().cast_mut(),
        message.control.len(),
    );
    // SAFETY: the header points to a name, a buffer and control bytes that
    // live through the call and are only read.
    let sent = unsafe {
        libc::sendmsg(
            fd.as_raw_fd(),
            &raw const header.msg_hdr,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }

    Ok(())
}

/// Buffers for a number of datagrams, with the headers that describe them to
/// the kernel made once.
pub(crate) struct Inbox {
    /// One buffer after the other.
    arena: Mapping,
    /// Senders, and control bytes, for each buffer.
    slots: Mapping,
    headers: Box<[libc::mmsghdr]>,
    /// Bytes of one buffer.
    size: usize,
}

/// What belongs to one buffer; all zeros are a value of it.
#[repr(C)]
struct Slot {
    control: Control,
    name: Name,
    buffer: libc::iovec,
}

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Inbox {
    /// `count` buffers of `size` bytes.
    pub(crate) fn new(count: usize, size: usize) -> io::Result<Self> {
        let arena = Mapping::new(count * size)?;
        let slots = Mapping::new(count * size_of::<Slot>())?;
        let headers = (0..count)
            .map(|i| {
                // SAFETY: `i` is below the number of slots mapped.
                let slot = unsafe { slots.start().cast::<Slot>().add(i) };
                // SAFETY: the slot is mapped, aligned, and borrowed only here.
                let slot = unsafe { &mut *slot };
                slot.buffer = libc::iovec {
                    // SAFETY: `i * size` is within the arena.
                    iov_base: unsafe { arena.start().add(i * size) }.cast(),
                    iov_len: size,
                };
                header(
                    &raw mut slot.name,
                    0,
                    &raw mut slot.buffer,
                    (&raw mut slot.control).cast(),
                    0,
                )
            })
            .collect();

        Ok(Self {
            arena,
            slots,
            headers,
            size,
        })
    }

    /// Buffers there are.
    pub(crate) fn capacity(&self) -> usize {
        self.headers.len()
    }

    /// All buffers; number `i` starts at `i` times the size given.
    pub(crate) fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// Gives the memory of the buffers back to the kernel.
    pub(crate) fn discard(&mut self) -> io::Result<()> {
        self.arena.discard()
    }

    /// Receives what is there, into at most the first `count` buffers, and
    /// says how many were used.
    pub(crate) fn recvmmsg(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<usize> {
        let count = count.min(self.capacity());
        self.reset(count);
        // SAFETY: `count` headers point to names, buffers and control bytes of
        // this inbox, which nobody borrows during the call.
        let received = check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        })?;

        Ok(received as usize)
    }

    /// Receives one datagram, into the first buffer, for where `recvmmsg` is
    /// missing.
    pub(crate) fn recvmsg(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.reset(1);
        // SAFETY: the header points to a name, a buffer and control bytes of
        // this inbox, which nobody borrows during the call.
        let len = unsafe {
            libc::recvmsg(
                fd.as_raw_fd(),
                &raw mut self.headers[0].msg_hdr,
                libc::MSG_DONTWAIT,
            )
        };
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        self.headers[0].msg_len = len as libc::c_uint;

        Ok(())
    }

    /// What the last call put into buffer `i`.
    pub(crate) fn received(&self, i: usize) -> Received<'_> {
        let header = &self.headers[i];
        // SAFETY: there is a slot for each header.
        let slot = unsafe { self.slots.start().cast::<Slot>().add(i) };
        // SAFETY: the slot is mapped and aligned; between calls nobody writes
        // to it, and every bit pattern is a value of it.
        let slot = unsafe { &*slot };

        let filled: usize = header.msg_hdr.msg_controllen as _;

        Received {
            len: (header.msg_len as usize).min(self.size),
            sender: slot.name.addr(header.msg_hdr.msg_namelen as usize),
            control: &slot.control.0[..filled.min(CONTROL)],
        }
    }

    /// Says again how much room there is: the kernel overwrote it.
    fn reset(&mut self, count: usize) {
        for header in &mut self.headers[..count] {
            header.msg_hdr.msg_namelen = size_of::<Name>() as _;
            header.msg_hdr.msg_controllen = CONTROL as _;
            header.msg_hdr.msg_flags = 0;
            header.msg_len = 0;
        }
    }
}

// SAFETY: the pointers in the headers lead into memory that the inbox owns.
unsafe impl Send for Inbox {}

// SAFETY: what a shared borrow can do only reads.
unsafe impl Sync for Inbox {}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("count", &self.headers.len())
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What came with one message.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// Bytes of its buffer that were filled.
    pub(crate) len: usize,
    pub(crate) sender: Option<SocketAddr>,
    pub(crate) control: &'a [u8],
}

/// A socket address of either family, as the kernel writes it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    /// The address and its length; a length of 0 is none.
    fn of(addr: Option<SocketAddr>) -> (Self, usize) {
        match addr {
            Some(SocketAddr::V4(addr)) => (
                Self {
                    v4: libc::sockaddr_in {
                        sin_family: libc::AF_INET as libc::sa_family_t,
                        sin_port: addr.port().to_be(),
                        sin_addr: libc::in_addr {
                            s_addr: u32::from_ne_bytes(addr.ip().octets()),
                        },
                        sin_zero: [0; 8],
                    },
                },
                size_of::<libc::sockaddr_in>(),
            ),
            Some(SocketAddr::V6(addr)) => (
                Self {
                    v6: libc::sockaddr_in6 {
                        sin6_family: libc::AF_INET6 as libc::sa_family_t,
                        sin6_port: addr.port().to_be(),
                        sin6_flowinfo: addr.flowinfo(),
                        sin6_addr: libc::in6_addr {
                            s6_addr: addr.ip().octets(),
                        },
                        sin6_scope_id: addr.scope_id(),
                    },
                },
                size_of::<libc::sockaddr_in6>(),
            ),
            None => (Self { v6: ZERO6 }, 0),
        }
    }

    /// The address in `len` bytes that the kernel wrote.
    fn addr(&self, len: usize) -> Option<SocketAddr> {
        if len < size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: both fields are plain integers that start with the family,
        // so each bit pattern is a value of either.
        let v4 = unsafe { self.v4 };
        if i32::from(v4.sin_family) == libc::AF_INET {
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            return Some(SocketAddrV4::new(ip.into(), u16::from_be(v4.sin_port)).into());
        }
        // SAFETY: as above.
        let v6 = unsafe { self.v6 };
        if i32::from(v6.sin6_family) != libc::AF_INET6 || len < size_of::<Self>() {
            return None;
        }

        Some(
            SocketAddrV6::new(
                v6.sin6_addr.s6_addr.into(),
                u16::from_be(v6.sin6_port),
                v6.sin6_flowinfo,
                v6.sin6_scope_id,
            )
            .into(),
        )
    }
}

fn buffer(contents: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: contents.as_ptr().cast_mut().cast(),
        iov_len: contents.len(),
    }
}

/// A header that points to one name, one buffer and one stretch of control
/// bytes.
fn header(
    name: *mut Name,
    name_len: usize,
    buffer: *mut libc::iovec,
    control: *mut u8,
    control_len: usize,
) -> libc::mmsghdr {
    // SAFETY: an `mmsghdr` is integers and pointers, for which zeros are values.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = name.cast();
    header.msg_hdr.msg_namelen = name_len as _;
    header.msg_hdr.msg_iov = buffer;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = control.cast();
    header.msg_hdr.msg_controllen = control_len as _;

    header
}

const ZERO6: libc::sockaddr_in6 = libc::sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};

/// Room for the control messages of one datagram. A dual-stack socket gets
/// an address of each family, a traffic class and the size of a run: 120 bytes.
const CONTROL: usize = 160;

const _: () = assert!(size_of::<Name>() == 28 && size_of::<Slot>().is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_kernels_form() {
        for addr in ["192.0.2.1:443", "[2001:db8::1]:65535"] {
            let addr: SocketAddr = addr.parse().unwrap();
            let (name, len) = Name::of(Some(addr));
            assert_eq!(name.addr(len), Some(addr));
        }
        let link_local = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 9).into();
        let (name, len) = Name::of(Some(link_local));
        assert_eq!(name.addr(len), Some(link_local));
        assert_eq!(name.addr(8), None);
        assert_eq!(Name::of(None).0.addr(28), None);
    }
}
