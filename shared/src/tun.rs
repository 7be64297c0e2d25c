//! TUN devices with offloads: made by the `tun` crate, read and written here.
//!
//! A packet is one read or one write. Beside it travels a virtio-net header:
//! the packet may lack its checksum, and may be a run of segments up to 64 KiB
//! long. The device of a lease is persistent and is attached to again after a
//! restart, with offloads even if it was made without; that takes no more
//! rights than the kernel asks.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::packet::vnet::{Gso, Offloads, VnetHeader};
use crate::sys;

/// An open TUN device, which any number of threads may read and write.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    index: u32,
    /// `TUN_F_*` that hold for what is written.
    offloads: AtomicU32,
    warned: AtomicBool,
}

impl Tun {
    /// Makes the device `name`, or attaches to a persistent one that nobody
    /// holds. `%d` in the name stands for the next free number.
    ///
    /// `persistent: false` leaves a persistent device persistent; `offload:
    /// false` has packets of the MTU's size with their checksums, both ways.
    pub fn create(name: &str, persistent: bool, offload: bool) -> Result<Self, DeviceError> {
        let (fd, name) = open(name, true)?;
        let tun = Self::of(fd, name, offload)?;
        if persistent {
            tun.set_persistent(true)?;
        }

        Ok(tun)
    }

    /// Takes over a device by the descriptor that an earlier process of this
    /// program had: its packets wait in it. `Mismatch` where its packets have
    /// another form, `EBADFD` where the device was deleted.
    pub fn take_over(fd: OwnedFd, offload: bool) -> Result<Self, DeviceError> {
        let (name, flags) = sys::tun::interface(fd.as_fd())?;
        if flags & FORMS != libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR {
            return Err(DeviceError::Mismatch(name));
        }
        sys::tun::prepare(fd.as_fd())?;

        Self::of(fd, name, offload)
    }

    fn of(fd: OwnedFd, name: String, offload: bool) -> Result<Self, DeviceError> {
        let index = sys::tun::index(&name)?;
        // Both stay with the device, whoever set them.
        sys::tun::set_header_len(fd.as_fd(), VnetHeader::LEN as libc::c_int)?;
        let offloads = negotiate(fd.as_fd(), if offload { &LADDER } else { &[0] })?;

        Ok(Self {
            file: File::from(fd),
            name,
            index,
            offloads: AtomicU32::new(offloads),
            warned: AtomicBool::new(false),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    /// What the kernel takes: what it agreed to, less what was
    /// [refused](Self::refuse).
    pub fn offloads(&self) -> Offloads {
        let flags = self.offloads.load(Ordering::Relaxed);
        let has = |flag| flags & flag != 0;

        Offloads {
            csum: has(libc::TUN_F_CSUM),
            tso4: has(libc::TUN_F_TSO4),
            tso6: has(libc::TUN_F_TSO6),
            uso4: has(libc::TUN_F_USO4),
            uso6: has(libc::TUN_F_USO6),
        }
    }

    /// Reads one packet if there is one, into `buf`, which holds 64 KiB and a
    /// header or cuts longer packets short.
    ///
    /// A device that is down has no packets; one that was deleted says
    /// `EBADFD` for ever. A header of a kind that was not asked for is
    /// `InvalidData`, and its packet lost.
    pub fn try_recv<'a>(&self, buf: &'a mut [u8]) -> io::Result<(VnetHeader, &'a mut [u8])> {
        // In one piece: the kernel looks at each part of a vector anew.
        let read = (&self.file).read(buf)?;
        let (header, packet) = buf[..read]
            .split_first_chunk_mut()
            .ok_or(io::ErrorKind::InvalidData)?;
        let header = VnetHeader::parse(header).ok_or(io::ErrorKind::InvalidData)?;

        Ok((header, packet))
    }

    /// Writes one packet, which is `parts` together, at most 1023 of them.
    ///
    /// A TUN that is down says `EIO`. `EINVAL` for a run is the run's fault or
    /// the kernel's: if its segments go one by one, the offload is to be
    /// [refused](Self::refuse).
    pub fn try_send(&self, header: VnetHeader, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let header = header.emit();
        let header = IoSlice::new(&header);

        match parts.len() {
            0..FEW => self.write::<FEW>(header, parts),
            FEW..MANY => self.write::<MANY>(header, parts),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Packets like this are not written any more: [`offloads`](Self::offloads)
    /// says so from now on, and a warning once for the device. A plain packet
    /// that lacks its checksum takes all the others with it.
    pub fn refuse(&self, gso: Gso) {
        let refused = match gso {
            Gso::None => u32::MAX,
            Gso::Tcp4 => libc::TUN_F_TSO4,
            Gso::Tcp6 => libc::TUN_F_TSO6,
            Gso::Udp => USO,
        };
        let before = self.offloads.fetch_and(!refused, Ordering::Relaxed);
        if before & refused != 0 && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                device = self.name,
                ?gso,
                "the kernel refuses packets put together: they go one by one"
            );
        }
    }

    /// Whether the device outlives this value.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        sys::tun::set_persistent(self.file.as_fd(), persistent)
    }

    /// One write of the header and `parts`, of which there are fewer than `N`.
    fn write<const N: usize>(&self, header: IoSlice<'_>, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut all = [IoSlice::new(&[]); N];
        all[0] = header;
        all[1..=parts.len()].copy_from_slice(parts);
        let all = &all[..=parts.len()];
        let written = (&self.file).write_vectored(all)?;
        debug_assert_eq!(
            written,
            all.iter().map(|part| part.len()).sum::<usize>(),
            "a TUN takes a packet whole"
        );

        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("{CLONE} is missing: run `modprobe tun`, or give the container that device")]
    NoTunModule,
    #[error("not allowed to make a TUN device: run as root or with CAP_NET_ADMIN")]
    NotPermitted,
    #[error("device {0} is in use by another process")]
    Busy(String),
    /// The device exists and is not a TUN, or has several queues.
    #[error("device {0} exists and is of another kind: delete it, or choose another name")]
    Mismatch(String),
    #[error("{0:?} is no name for a device: 1 to 15 bytes without blanks and slashes")]
    Name(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The first of some sets of flags that the kernel takes; older ones know
/// fewer of them.
fn negotiate(fd: BorrowedFd<'_>, sets: &[u32]) -> io::Result<u32> {
    let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
    for set in sets {
        match sys::tun::set_offload(fd, *set) {
            Ok(()) => return Ok(*set),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = error,
            Err(error) => return Err(error),
        }
    }

    Err(refusal)
}

/// Opens the clone device and binds it to `name`.
pub(crate) fn open(name: &str, headers: bool) -> Result<(OwnedFd, String), DeviceError> {
    if !is_name(name) {
        return Err(DeviceError::Name(name.to_owned()));
    }

    let mut config = tun::Configuration::default();
    config.tun_name(name).platform_config(|platform| {
        // Else the crate sets addresses and flags by itself.
        platform.ensure_root_privileges(false).vnet_hdr(headers);
    });
    let device = tun::create(&config).map_err(|error| refusal(name, error))?;
    let name = tun::AbstractDevice::tun_name(&device).map_err(|error| refusal(name, error))?;

    Ok((sys::tun::adopt(device)?, name))
}

fn refusal(name: &str, error: tun::Error) -> DeviceError {
    let error = io::Error::from(error);
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::NoTunModule,
        Some(libc::EACCES | libc::EPERM) if Path::new(CLONE).exists() => DeviceError::NotPermitted,
        Some(libc::EBUSY) => DeviceError::Busy(name.to_owned()),
        Some(libc::EINVAL) => DeviceError::Mismatch(name.to_owned()),
        _ => DeviceError::Io(error),
    }
}

/// As the kernel's `dev_valid_name`.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() < libc::IFNAMSIZ
        && !name.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace())
}

/// Flags in the order in which they are done without.
const LADDER: [u32; 6] = [
    TSO | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN | USO,
    // Linux 6.1 and older; both kinds came together.
    TSO | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN,
    TSO | libc::TUN_F_TSO6,
    TSO,
    libc::TUN_F_CSUM,
    0,
];

const TSO: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4;
const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Parts, with the header, for which little of the stack is written: a TCP run
/// at the usual MTUs.
const FEW: usize = 72;

/// Parts, with the header, that one write takes: `IOV_MAX`.
const MANY: usize = 1024;

/// What says which form the packets of a device have.
const FORMS: libc::c_int =
    libc::IFF_TUN | libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

const CLONE: &str = "/dev/net/tun";

#[cfg(test)]
mod tests;
