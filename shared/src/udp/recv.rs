//! Receiving many datagrams at once.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::socket::UdpSocket;
use super::{Path, canonical, control};
use crate::packet::ecn::Ecn;
use crate::sys::mmsg::Inbox;

impl UdpSocket {
    /// Receives what is there, as far as it fits, and says how many messages
    /// it is; `WouldBlock` if there is nothing.
    ///
    /// An unconnected socket has no other errors to tell: they are about
    /// single peers. Of a connected one `ECONNREFUSED` and its like are the
    /// peer's.
    pub fn try_recv_batch(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.messages.clear();
        let mut pending = PENDING;
        let count = loop {
            match self.receive(batch) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) if pending == 0 => return Err(error),
                Err(error) if self.connected && !is_too_big(&error) => return Err(error),
                // Reporting the error took it away.
                Err(_) => pending -= 1,
            }
        };
        batch.take(count);

        Ok(batch.messages.len())
    }

    fn receive(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        if self.batching.load(Ordering::Relaxed) {
            match batch.inbox.recvmmsg(self.as_fd(), batch.width) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                    self.batching.store(false, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        batch.inbox.recvmsg(self.as_fd())?;

        Ok(1)
    }
}

/// Room for many messages of up to 64 KiB, and what was received last.
///
/// Only memory that was written to counts. Few buffers are used as long as
/// they do, the lowest first; what a burst touched beyond stays until
/// [`give_back`](Self::give_back).
#[derive(Debug)]
pub struct RecvBatch {
    inbox: Inbox,
    messages: Vec<Message>,
    /// Buffers offered to the next call.
    width: usize,
    /// Whether any memory was touched.
    touched: bool,
}

impl RecvBatch {
    /// Room for `n` messages, at least 1.
    pub fn new(n: usize) -> io::Result<Self> {
        let n = n.max(1);

        Ok(Self {
            inbox: Inbox::new(n, BUFFER)?,
            messages: Vec::with_capacity(n),
            width: NARROW.min(n),
            touched: false,
        })
    }

    /// What was received last, and the bytes that the messages' ranges are in.
    #[must_use]
    pub fn split(&mut self) -> (&[Message], &mut [u8]) {
        (&self.messages, self.inbox.arena())
    }

    /// Forgets the messages and gives the memory back to the kernel; the next
    /// call to receive costs a page fault per 4 KiB again. For when nothing
    /// has come for a second or so.
    pub fn give_back(&mut self) -> io::Result<()> {
        self.messages.clear();
        self.width = NARROW.min(self.inbox.capacity());
        if !self.touched {
            return Ok(());
        }
        self.touched = false;

        self.inbox.discard()
    }

    /// Offers more buffers where all were used, fewer where most were not: or
    /// where they hold so much already that it leaves the processor's cache.
    fn fit(&mut self, count: usize, bytes: usize) {
        if count < self.width / 4 || bytes > 2 * PLENTY {
            self.width = (self.width / 2).max(NARROW.min(self.inbox.capacity()));
        } else if count == self.width && bytes <= PLENTY {
            self.width = (2 * self.width).min(self.inbox.capacity());
        }
    }

    /// Reads what the kernel wrote about the first `count` buffers.
    fn take(&mut self, count: usize) {
        self.touched |= count > 0;
        let bytes: usize = (0..count).map(|i| self.inbox.received(i).len).sum();
        self.fit(count, bytes);

        for i in 0..count {
            let received = self.inbox.received(i);
            let Some(sender) = received.sender else {
                continue;
            };
            let arrival = control::parse(received.control);
            let start = i * BUFFER;
            self.messages.push(Message {
                path: Path {
                    peer: canonical(sender),
                    local: arrival.local,
                },
                range: start..start + received.len,
                segment: arrival.segment.unwrap_or(received.len).max(1),
                ecn: arrival.ecn,
            });
        }
    }
}

/// One datagram, or several of one peer that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub path: Path,
    /// Where its bytes are in the arena.
    pub range: Range<usize>,
    /// Bytes of each datagram but the last, which may be shorter; never 0.
    pub segment: usize,
    pub ecn: Ecn,
}

/// An error that says only that a datagram sent before was too big.
fn is_too_big(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// Bytes of one buffer: the largest message there is, and on a page's border.
const BUFFER: usize = 1 << 16;

/// Buffers offered at low load.
const NARROW: usize = 8;

/// Bytes that make a batch worth while.
const PLENTY: usize = 256 << 10;

/// Errors skipped in one call; more come with the next.
const PENDING: usize = 16;
