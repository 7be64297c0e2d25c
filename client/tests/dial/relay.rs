//! A relay between a spoke and a server, whose policy may lose, hold and forge.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

/// Where a policy says what goes out, in this order.
#[derive(Default)]
pub(crate) struct Out {
    forward: Vec<Vec<u8>>,
    back: Vec<Vec<u8>>,
}

impl Out {
    /// Sends on in the direction of the datagram at hand.
    pub(crate) fn forward(&mut self, datagram: &[u8]) {
        self.forward.push(datagram.to_vec());
    }

    /// Sends to where the datagram at hand came from.
    pub(crate) fn back(&mut self, datagram: &[u8]) {
        self.back.push(datagram.to_vec());
    }
}

impl Relay {
    /// Relays for one spoke. The policy is asked about each datagram and told
    /// whether it is the server's; what it does not send on is lost.
    pub(crate) fn start(
        server: SocketAddr,
        policy: impl FnMut(bool, &[u8], &mut Out) + Send + 'static,
    ) -> Self {
        let outside = bound();
        let addr = outside.local_addr().unwrap();
        let inside = bound();

        Self {
            addr,
            task: tokio::spawn(run(outside, inside, server, policy)),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    outside: Arc<UdpSocket>,
    inside: Arc<UdpSocket>,
    server: SocketAddr,
    mut policy: impl FnMut(bool, &[u8], &mut Out),
) {
    let mut spoke = None;
    let (mut from_spoke, mut from_server) = (vec![0; 65_535], vec![0; 65_535]);
    loop {
        let (is_server, datagram) = tokio::select! {
            Ok((len, peer)) = outside.recv_from(&mut from_spoke) => {
                spoke = Some(peer);
                (false, &from_spoke[..len])
            }
            Ok((len, _)) = inside.recv_from(&mut from_server) => (true, &from_server[..len]),
        };
        let mut out = Out::default();
        policy(is_server, datagram, &mut out);

        let spoke = spoke.expect("the spoke speaks first");
        let (to_spoke, to_server) = if is_server {
            (out.forward, out.back)
        } else {
            (out.back, out.forward)
        };
        for datagram in to_spoke {
            // A spoke that is gone or a server not up yet is a lost datagram.
            outside.send_to(&datagram, spoke).await.ok();
        }
        for datagram in to_server {
            inside.send_to(&datagram, server).await.ok();
        }
    }
}

fn bound() -> Arc<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();

    Arc::new(UdpSocket::from_std(socket).unwrap())
}
