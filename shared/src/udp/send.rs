//! Sending many datagrams at once.

use std::array;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::Path;
use super::control::Control;
use super::socket::UdpSocket;
use crate::packet::ecn::Ecn;
use crate::sys::mmsg::{self, OUTGOING, Outgoing};

/// A run of datagrams to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    pub path: &'a Path,
    /// The datagrams, one after the other; the kernel takes up to 64 of them
    /// and 65,507 bytes at once, and more are cut here.
    pub contents: &'a [u8],
    /// Bytes of each datagram but the last, which may be shorter.
    pub segment: usize,
    pub ecn: Ecn,
    /// Don't Fragment: a datagram larger than the link's MTU is refused, the
    /// path MTU that the kernel knows is ignored. Without it the kernel and
    /// the routers fragment. What any path carries goes as the socket's last
    /// datagram went: 576 bytes over IPv4, 1280 over IPv6, with their headers.
    pub df: bool,
}

/// How far a batch got.
#[derive(Debug)]
pub enum SendOutcome {
    Sent,
    /// The send buffer is full; the socket tells when it has room again.
    Blocked {
        /// Messages that went.
        sent: usize,
        /// Bytes of the next that went too: whole datagrams.
        part: usize,
    },
    /// A queue of this machine is full, most likely that of the uplink
    /// (`ENOBUFS`), and took nothing of the next datagrams.
    Refused {
        /// Messages that went.
        sent: usize,
        /// Bytes of the next that went too: whole datagrams.
        part: usize,
    },
    /// One message failed; those before it went, and the caller may go on with
    /// those behind it.
    Failed {
        at: usize,
        error: io::Error,
        /// Its datagrams are larger than the link's MTU.
        too_big: bool,
    },
}

impl UdpSocket {
    /// Sends `messages` in order. A connected socket sends to its peer
    /// whatever the paths say.
    ///
    /// Where the kernel refuses a run, the run is sent datagram by datagram;
    /// if that shows that the fault is not the datagrams' size, runs are cut
    /// here from then on, and a warning says so once. An error that an earlier
    /// datagram left behind is no error of these messages: see
    /// [`take_error`](Self::take_error).
    pub fn try_send_batch(&self, messages: &[Transmit<'_>]) -> SendOutcome {
        let mut cursor = Cursor::default();
        while cursor.at < messages.len() {
            let rest = &messages[cursor.at..];
            let df = rest.iter().find_map(|message| self.wants_df(message));
            let alike = rest
                .iter()
                .map(|message| self.wants_df(message))
                .take_while(|wanted| wanted.is_none() || *wanted == df)
                .count();
            let _held = match self.hold_df(df) {
                Ok(held) => held,
                Err(error) => return failed(cursor.at, error),
            };
            if let Err(outcome) = self.send_alike(&messages[..cursor.at + alike], &mut cursor) {
                return outcome;
            }
        }

        SendOutcome::Sent
    }

    /// Sends from the cursor to the end of `messages`.
    fn send_alike(
        &self,
        messages: &[Transmit<'_>],
        cursor: &mut Cursor,
    ) -> Result<(), SendOutcome> {
        let mut refused: Option<Refused> = None;
        let mut doubtful: Option<io::Error> = None;
        while cursor.at < messages.len() {
            let whole = self.segmenting.load(Ordering::Relaxed);
            let cut = refused.as_ref().map(|refused| refused.at);
            let pieces = Pieces {
                messages,
                cursor: *cursor,
                whole,
                cut,
            };
            match self.submit(pieces.clone()) {
                Ok(sent) => {
                    *cursor = pieces.after(sent);
                    if let Some(error) = doubtful.take() {
                        self.keep_error(&error);
                    }
                    if let Some(done) = refused.take_if(|refused| refused.at < cursor.at) {
                        self.cut_was_right(&done, messages[done.at].df);
                    } else if refused.is_none() && pieces.starts_with_a_run() {
                        self.run_was_right();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(SendOutcome::Blocked {
                        sent: cursor.at,
                        part: cursor.part,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Err(SendOutcome::Refused {
                        sent: cursor.at,
                        part: cursor.part,
                    });
                }
                // The first error may be what an ICMP message about another
                // datagram left behind; reporting it took it away.
                Err(error) if doubtful.is_none() => doubtful = Some(error),
                Err(error) if may_be_the_run(&error) && pieces.starts_with_a_run() => {
                    refused = Some(Refused {
                        at: cursor.at,
                        error,
                    });
                    doubtful = None;
                }
                Err(error) => return Err(failed(cursor.at, error)),
            }
        }

        Ok(())
    }

    /// What its datagrams ask of Don't Fragment; nothing where any path carries
    /// them whole, so that control messages among data change no option.
    fn wants_df(&self, message: &Transmit<'_>) -> Option<bool> {
        let longest = message.segment.min(message.contents.len());
        let carried = if self.sends_ipv6(message.path) {
            CARRIED6
        } else {
            CARRIED4
        };

        (message.df || longest > carried).then_some(message.df)
    }

    /// Hands the first few pieces to the kernel and says how many it took.
    fn submit<'a>(&self, pieces: Pieces<'a>) -> io::Result<usize> {
        let mut controls = [Control::EMPTY; OUTGOING];
        let mut chosen: [Option<Piece<'a>>; OUTGOING] = [None; OUTGOING];
        let mut count = 0;
        for (piece, control) in pieces.zip(&mut controls) {
            self.describe(&piece, control);
            chosen[count] = Some(piece);
            count += 1;
        }
        let outgoing: [Outgoing<'_>; OUTGOING] = array::from_fn(|i| Outgoing {
            peer: chosen[i].and_then(|piece| self.outer(piece.message.path)),
            contents: chosen[i].map_or(&[], |piece| piece.contents),
            control: controls[i].bytes(),
        });

        if self.batching.load(Ordering::Relaxed) {
            match mmsg::sendmmsg(self.as_fd(), &outgoing[..count]) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                    self.batching.store(false, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        mmsg::sendmsg(self.as_fd(), &outgoing[0])?;

        Ok(1)
    }

    fn describe(&self, piece: &Piece<'_>, control: &mut Control) {
        let Transmit { path, ecn, .. } = piece.message;
        if let Some(segment) = piece.segment {
            control.cut(segment);
        }
        // With any of the others the kernel looks a connected socket's route
        // up anew.
        if *ecn != Ecn::NotEct {
            control.mark(*ecn, self.sends_ipv6(path));
        }
        if let Some(local) = path.local.filter(|_| !self.connected) {
            control.leave_from(local);
        }
    }

    /// A run was refused, and all its datagrams went one by one.
    fn cut_was_right(&self, refused: &Refused, df: bool) {
        // Without Don't Fragment single datagrams are fragmented where a run is
        // refused for its size; with it they are refused too.
        let lasting = match refused.error.raw_os_error() {
            Some(libc::EIO) => true,
            Some(libc::EINVAL) => df,
            Some(libc::EMSGSIZE) if !df => false,
            // ICMP messages make these too, so anyone can now and then.
            _ => self.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= MANY_REFUSALS,
        };
        if lasting && self.segmenting.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                error = %refused.error,
                "the kernel refuses to cut what is sent (UDP_SEGMENT): datagrams go one by one"
            );
        }
    }

    /// A run went whole.
    fn run_was_right(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }
}

/// A run that the kernel would not cut.
struct Refused {
    at: usize,
    error: io::Error,
}

/// A place in a batch.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    at: usize,
    part: usize,
}

/// What one message to the kernel carries.
#[derive(Clone, Copy)]
struct Piece<'a> {
    message: &'a Transmit<'a>,
    contents: &'a [u8],
    /// The kernel shall cut it.
    segment: Option<u16>,
}

/// A batch as the kernel gets it: runs whole, or datagram by datagram.
#[derive(Clone)]
struct Pieces<'a> {
    messages: &'a [Transmit<'a>],
    cursor: Cursor,
    /// Whether runs stay whole,
    whole: bool,
    /// but for this one.
    cut: Option<usize>,
}

impl Pieces<'_> {
    fn starts_with_a_run(&self) -> bool {
        self.clone()
            .next()
            .is_some_and(|piece| piece.segment.is_some())
    }

    /// Where the batch goes on when the first `count` are done.
    fn after(&self, count: usize) -> Cursor {
        let mut pieces = self.clone();
        if count > 0 {
            pieces.nth(count - 1);
        }

        pieces.cursor
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let message = self.messages.get(self.cursor.at)?;
        let rest = &message.contents[self.cursor.part..];
        let several = message.segment > 0 && rest.len() > message.segment;
        let segment = u16::try_from(message.segment).ok().filter(|_| {
            several
                && self.whole
                && self.cut != Some(self.cursor.at)
                && rest.len() <= RUN_BYTES
                && rest.len().div_ceil(message.segment) <= RUN
        });

        let len = if several && segment.is_none() {
            message.segment
        } else {
            rest.len()
        };
        if len == rest.len() {
            self.cursor = Cursor {
                at: self.cursor.at + 1,
                part: 0,
            };
        } else {
            self.cursor.part += len;
        }

        Some(Piece {
            message,
            contents: &rest[..len],
            segment,
        })
    }
}

/// Whether a run may be refused this way of which the datagrams are not: the
/// device or the path (IPsec) can't cut it, or it does not fit the MTU, for
/// which the number depends on the kernel's version.
fn may_be_the_run(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}

fn failed(at: usize, error: io::Error) -> SendOutcome {
    SendOutcome::Failed {
        at,
        too_big: error.raw_os_error() == Some(libc::EMSGSIZE),
        error,
    }
}

/// So many errors of others, each at the very moment of two calls, and no run
/// between them that went: nobody has that much luck.
const MANY_REFUSALS: u32 = 8;

/// UDP payload in the 576 bytes that every host takes (RFC 791, section 3.1).
const CARRIED4: usize = 576 - 20 - 8;

/// UDP payload in the 1280 bytes that every link carries (RFC 8200, section 5).
const CARRIED6: usize = 1280 - 40 - 8;

/// Datagrams in a run: `UDP_MAX_SEGMENTS` before Linux 6.9.
const RUN: usize = 64;

/// Bytes in a run: the largest UDP payload over IPv4.
const RUN_BYTES: usize = 65_507;

#[cfg(test)]
mod tests;
