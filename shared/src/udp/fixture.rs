//! What tests of sockets have in common.

use std::os::fd::AsFd;
use std::time::Duration;

use super::Path;
use super::recv::RecvBatch;
use super::socket::UdpSocket;
use crate::sys::epoll::{Epoll, Event, Interest};

/// A way to `peer`, from whichever address the kernel takes.
pub(super) fn path(peer: &str) -> Path {
    Path {
        peer: peer.parse().unwrap(),
        local: None,
    }
}

/// Waits for `interest`, or an error: [`Interest::NONE`] is for that alone.
pub(super) fn wait_for(on: &impl AsFd, interest: Interest) {
    let epoll = Epoll::new().unwrap();
    epoll.add(on.as_fd(), 0, interest).unwrap();
    let deadline = Some(Duration::from_secs(5));

    assert_eq!(epoll.wait(&mut [Event::EMPTY], deadline).unwrap(), 1);
}

/// The next datagram, and the way it came.
pub(super) fn recv(socket: &UdpSocket) -> (Vec<u8>, Path) {
    let mut batch = RecvBatch::new(1).unwrap();
    wait_for(socket, Interest::READ);
    assert_eq!(socket.try_recv_batch(&mut batch).unwrap(), 1);
    let (messages, arena) = batch.split();

    (arena[messages[0].range.clone()].to_vec(), messages[0].path)
}
