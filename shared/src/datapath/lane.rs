//! A socket of the data path.

use crate::udp::UdpSocket;

/// A socket, and what waits while it is full.
#[derive(Debug)]
pub struct Lane {
    socket: UdpSocket,
}

impl Lane {
    #[must_use]
    pub fn new(socket: UdpSocket) -> Self {
        Self { socket }
    }

    /// For what is not a packet of a device.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}
