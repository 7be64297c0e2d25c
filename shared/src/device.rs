//! TUN devices: made by the `tun` crate, read and written here.
//!
//! A packet is one read or one write, without any header. The device of a
//! lease is persistent and is attached to again after a restart; attaching
//! sets nothing on it, so it takes no more rights than the kernel asks.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use crate::tun::DeviceError;
use crate::{sys, tun};

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
        let (fd, name) = tun::open(name, false)?;
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

    /// Reads one packet. A device that is down has none; one that was deleted
    /// says `EBADFD` for ever.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            // A deleted device is no more than an error to poll.
            let mut ready = self.io.ready(Interest::READABLE | Interest::ERROR).await?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UdpSocket;
    use tokio::time::timeout;

    use super::*;
    use crate::link::{Netlink, Via};
    use crate::netns::isolated;

    #[test]
    fn a_persistent_device_is_found_again_with_its_index_and_addresses() {
        isolated(|netlink| async move {
            let first = Tun::create("dtun%d", true).unwrap();
            let (name, index) = (first.name().to_owned(), first.index());
            prepare(&netlink, &first).await;
            let addresses = netlink.addresses(index).await.unwrap();
            drop(first);

            let second = Tun::create(&name, false).unwrap();

            assert_eq!((second.name(), second.index()), ("dtun0", index));
            assert_eq!(netlink.addresses(index).await.unwrap(), addresses);
            drop(second);
            assert!(netlink.link(&name).await.unwrap().is_some());

            Tun::create(&name, false)
                .unwrap()
                .set_persistent(false)
                .unwrap();
            assert_eq!(netlink.link(&name).await.unwrap(), None);
        });
    }

    #[test]
    fn the_pattern_gives_the_next_free_number() {
        isolated(|netlink| async move {
            let first = Tun::create("dtun%d", false).unwrap();
            let second = Tun::create("dtun%d", false).unwrap();
            assert_eq!((first.name(), second.name()), ("dtun0", "dtun1"));

            drop(first);
            assert_eq!(netlink.link("dtun0").await.unwrap(), None);
            assert_eq!(Tun::create("dtun%d", false).unwrap().name(), "dtun0");
        });
    }

    #[test]
    fn each_refusal_names_its_reason() {
        isolated(|_| async {
            let _held = Tun::create("dtun0", true).unwrap();

            let busy = Tun::create("dtun0", true).unwrap_err();
            assert!(
                matches!(&busy, DeviceError::Busy(name) if name == "dtun0"),
                "{busy:?}"
            );
            let other = Tun::create("lo", true).unwrap_err();
            assert!(
                matches!(&other, DeviceError::Mismatch(name) if name == "lo"),
                "{other:?}"
            );
            for name in ["", ".", "a/b", "a b", "sixteen_letters_"] {
                let error = Tun::create(name, false).unwrap_err();
                assert!(matches!(error, DeviceError::Name(_)), "{name:?}: {error:?}");
            }
        });
    }

    #[test]
    fn packets_go_both_ways_and_the_kernel_adds_none_of_its_own() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false).unwrap();
            prepare(&netlink, &tun).await;
            let socket = UdpSocket::bind("10.0.0.1:700").await.unwrap();
            socket.send_to(b"out", "10.0.0.2:700").await.unwrap();

            let mut buf = [0; 2048];
            let received = timeout(Duration::from_secs(5), tun.recv(&mut buf)).await;
            let packet = &mut buf[..received.unwrap().unwrap()];
            assert_eq!(packet[12..16], [10, 0, 0, 1]);
            assert_eq!(&packet[28..], b"out");

            // Swapping both ends leaves the checksums as they are.
            let (source, destination) = (packet[12..16].to_vec(), packet[16..20].to_vec());
            packet[12..16].copy_from_slice(&destination);
            packet[16..20].copy_from_slice(&source);
            tun.try_send(packet).unwrap();

            let mut back = [0; 16];
            let received = timeout(Duration::from_secs(5), socket.recv_from(&mut back)).await;
            assert_eq!(
                received.unwrap().unwrap(),
                (3, "10.0.0.2:700".parse().unwrap())
            );
            let nothing = tun.try_recv(&mut buf).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        });
    }

    #[test]
    fn setting_the_device_down_takes_its_routes_and_keeps_its_addresses() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false).unwrap();
            prepare(&netlink, &tun).await;
            let before = netlink.addresses(tun.index()).await.unwrap();
            assert_eq!(before.len(), 2);
            let net = "10.9.0.0/16".parse().unwrap();
            netlink
                .add_route(net, Via::Device(tun.index()))
                .await
                .unwrap();

            netlink.set_down(tun.index()).await.unwrap();

            let routes = netlink.routes().await.unwrap();
            assert!(
                routes.iter().all(|route| route.oif != Some(tun.index())),
                "{routes:?}"
            );
            assert_eq!(netlink.addresses(tun.index()).await.unwrap(), before);

            netlink.set_up(tun.index(), 1400).await.unwrap();
            assert_eq!(netlink.addresses(tun.index()).await.unwrap(), before);
            let socket = UdpSocket::bind("10.0.0.1:0").await.unwrap();
            socket.send_to(b"out", "10.0.0.2:700").await.unwrap();
            let received = timeout(Duration::from_secs(5), tun.recv(&mut [0; 2048])).await;
            received.unwrap().unwrap();
        });
    }

    #[test]
    fn a_device_that_is_down_is_silent_and_a_deleted_one_tells() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", true).unwrap();
            prepare(&netlink, &tun).await;
            netlink.set_down(tun.index()).await.unwrap();
            let mut buf = [0; 2048];
            let silent = timeout(Duration::from_millis(20), tun.recv(&mut buf)).await;
            assert!(silent.is_err(), "{silent:?}");

            let (received, ()) =
                tokio::join!(timeout(Duration::from_secs(5), tun.recv(&mut buf)), async {
                    netlink.delete_link(tun.index()).await.unwrap()
                },);

            let deleted = received.unwrap().unwrap_err();
            assert_eq!(deleted.raw_os_error(), Some(libc::EBADFD));
        });
    }

    #[test]
    fn writing_to_a_device_that_is_down_is_an_error_and_no_more() {
        isolated(|_| async {
            let tun = Tun::create("dtun%d", false).unwrap();

            let down = tun.try_send(&[0x45; 28]).unwrap_err();

            assert_eq!(down.raw_os_error(), Some(libc::EIO));
        });
    }

    async fn prepare(netlink: &Netlink, tun: &Tun) {
        let (index, name) = (tun.index(), tun.name());
        netlink.quiet(index, name).await.unwrap();
        netlink
            .add_address_ptp4(
                index,
                "10.0.0.1".parse().unwrap(),
                "10.0.0.2".parse().unwrap(),
            )
            .await
            .unwrap();
        let (local, peer) = ("fc00::1".parse().unwrap(), "fc00::2".parse().unwrap());
        netlink
            .add_address6(index, local, Some(peer))
            .await
            .unwrap();
        netlink.set_up(index, 1400).await.unwrap();
    }
}
