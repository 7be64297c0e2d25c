//! TUN devices: made by the `tun` crate, read and written here.
//!
//! A packet is one read or one write, without any header. The device of a
//! lease is persistent and is attached to again after a restart; attaching
//! sets nothing on it, so it takes no more rights than the kernel asks.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use tokio::io::unix::AsyncFd;

use crate::sys;

/// An open TUN device.
#[derive(Debug)]
pub struct Tun {
    io: AsyncFd<File>,
    name: String,
    index: u32,
}

impl Tun {
    /// Makes the device `name`, or attaches to a persistent one that nobody
    /// holds. `%d` in the name stands for the next free number.
    ///
    /// `persistent: false` leaves a persistent device persistent.
    pub fn create(name: &str, persistent: bool) -> Result<Self, DeviceError> {
        let (fd, name) = open(name)?;
        let index = sys::tun::index(&name)?;
        if persistent {
            sys::tun::set_persistent(fd.as_fd(), true)?;
        }

        Ok(Self {
            io: sys::readiness::register(File::from(fd))?,
            name,
            index,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn index(&self) -> u32 {
        self.index
    }

    /// Reads one packet. A device that was set down gives `EBADFD` until it is
    /// up again; one that was deleted gives it for ever.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.io.readable().await?;
            if let Ok(result) = ready.try_io(|io| io.get_ref().read(buf)) {
                return result;
            }
        }
    }

    /// Reads one packet if there is one.
    pub fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.io.get_ref().read(buf)
    }

    /// Writes one packet. A TUN that is down says `EIO`; the caller drops the
    /// packet and counts it.
    pub fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        let written = self.io.get_ref().write(packet)?;
        debug_assert_eq!(written, packet.len(), "a TUN takes a packet whole");

        Ok(())
    }

    /// Whether the device outlives this value.
    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        sys::tun::set_persistent(self.io.get_ref().as_fd(), persistent)
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
    /// The device exists and is not a TUN, or has other flags than ours.
    #[error("device {0} exists and is of another kind: delete it, or choose another name")]
    Mismatch(String),
    #[error("{0:?} is no name for a device: 1 to 15 bytes without blanks and slashes")]
    Name(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opens the clone device and binds it to `name`.
fn open(name: &str) -> Result<(OwnedFd, String), DeviceError> {
    if !is_name(name) {
        return Err(DeviceError::Name(name.to_owned()));
    }

    let mut config = tun::Configuration::default();
    config.tun_name(name).platform_config(|platform| {
        // Else the crate sets addresses and flags by itself.
        platform.ensure_root_privileges(false);
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

const CLONE: &str = "/dev/net/tun";
