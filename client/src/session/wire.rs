//! Records on a socket: sealed and sent, received and opened.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use dtun_shared::dtls::header::{ContentType, RecordHeader};
use dtun_shared::dtls::{CipherSuite, RECORD_HEADER};
use dtun_shared::record::{Opener, Refused, Sealer};
use dtun_shared::udp::UdpSocket;

/// The sealed side of a session.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) hub: SocketAddr,
    pub(super) suite: CipherSuite,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) opened: u64,
    pub(super) out: Vec<u8>,
}

impl Wire {
    pub(super) fn open<'a>(
        &mut self,
        record: &'a mut [u8],
    ) -> Result<(ContentType, &'a [u8]), Refused> {
        let (content, plain) = self.opener.open(record)?;
        self.opened += 1;

        Ok((content, plain))
    }

    /// Sends the records of `plains` in one datagram.
    pub(super) fn send(&mut self, content: ContentType, plains: &[&[u8]]) -> io::Result<()> {
        self.out.clear();
        for plain in plains {
            self.sealer
                .seal(content, plain, &mut self.out)
                .map_err(io::Error::other)?;
        }

        match self.socket.try_send_to_peer(&self.out) {
            // The error belongs to an earlier datagram; this one was not sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.socket.try_send_to_peer(&self.out)?;
                Err(error)
            }
            result => result,
        }
    }
}

/// The first record of a datagram, and what follows it.
pub(super) fn split_record(datagram: &mut [u8]) -> Option<(RecordHeader, &mut [u8], &mut [u8])> {
    let header = RecordHeader::parse(datagram)?;
    let (record, rest) = datagram.split_at_mut_checked(RECORD_HEADER + header.len)?;

    Some((header, record, rest))
}
