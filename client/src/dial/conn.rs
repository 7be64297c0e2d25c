//! The library's view of a socket: two queues.

use std::any::Any;
use std::future;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use webrtc_util::Error;

/// What the library holds in place of a socket. When the far ends of its queues
/// are gone it is switched off: receiving pends, because an error would make the
/// library's reader spin, and what is sent is dropped.
pub(super) struct Conn {
    /// The lock is the trait's doing: the library has one reader.
    inbound: Mutex<mpsc::Receiver<Vec<u8>>>,
    outbound: mpsc::Sender<Vec<u8>>,
}

/// A `Conn`, what to show it, and what it sends.
pub(super) fn pair(queue: usize) -> (Conn, mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>) {
    let (to_library, inbound) = mpsc::channel(queue);
    let (outbound, from_library) = mpsc::channel(queue);
    let conn = Conn {
        inbound: Mutex::new(inbound),
        outbound,
    };

    (conn, to_library, from_library)
}

#[async_trait]
impl webrtc_util::Conn for Conn {
    async fn recv(&self, buf: &mut [u8]) -> Result<usize, Error> {
        let Some(datagram) = self.inbound.lock().await.recv().await else {
            return future::pending().await;
        };
        let room = buf.get_mut(..datagram.len()).ok_or(Error::ErrBufferShort)?;
        room.copy_from_slice(&datagram);

        Ok(datagram.len())
    }

    async fn send(&self, datagram: &[u8]) -> Result<usize, Error> {
        if self.outbound.send(datagram.to_vec()).await.is_err() {
            tracing::trace!("the library sends after the handshake");
        }

        Ok(datagram.len())
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        None
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    async fn connect(&self, _: SocketAddr) -> Result<(), Error> {
        Err(unused())
    }

    async fn recv_from(&self, _: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        Err(unused())
    }

    async fn send_to(&self, _: &[u8], _: SocketAddr) -> Result<usize, Error> {
        Err(unused())
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        Err(unused())
    }
}

/// The library's client calls none of these.
fn unused() -> Error {
    Error::Other("not a socket".to_owned())
}
