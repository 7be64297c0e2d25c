//! What the path's routers said about sizes.

use std::io;
use std::net::SocketAddr;

use super::socket::UdpSocket;
use super::{canonical, control};
use crate::sys;

impl UdpSocket {
    /// Empties the socket's error queue, and calls `event` with the peer and
    /// the MTU in bytes, IP header included, for each datagram that was too
    /// big for a router's link. What our own link refuses, sending reports.
    ///
    /// The queue shows as an error of the descriptor until it is empty, and
    /// takes room from the receive buffer. Anyone who guesses a peer's address
    /// and port can forge such a message: an MTU is a hint to be tried.
    pub fn path_mtu_events(&self, mut event: impl FnMut(SocketAddr, usize)) -> io::Result<()> {
        let mut control = [0; CONTROL];
        for _ in 0..EVENTS {
            let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
            let received = sys::socket::recvmsg(&self.socket, &mut [0; 1], &mut control, flags);
            let (_, peer, filled) = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            if let (Some(peer), Some(mtu)) = (peer, control::parse_mtu(&control[..filled])) {
                event(canonical(peer), mtu);
            }
        }

        Ok(())
    }
}

/// Room for an error with its sender's address, and what else comes with a
/// datagram.
const CONTROL: usize = 256;

/// Messages read in one call; more come with the next.
const EVENTS: usize = 256;

#[cfg(test)]
mod tests;
