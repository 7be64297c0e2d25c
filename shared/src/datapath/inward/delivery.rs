//! Packets and runs of them go to a device.

use std::io::{self, IoSlice};

use crate::datapath::side::{Dropped, Side};
use crate::packet::coalesce::Sink;
use crate::packet::segment::Segments;
use crate::packet::vnet::{Gso, VnetHeader};
use crate::tun::Tun;

/// The way into one device.
pub(super) struct Delivery<'a, S> {
    pub(super) side: &'a S,
    pub(super) tun: &'a Tun,
    pub(super) writer: &'a mut Writer,
}

impl<S: Side> Sink for Delivery<'_, S> {
    fn write(&mut self, header: VnetHeader, parts: &[IoSlice<'_>]) {
        let Err(error) = self.tun.try_send(header, parts) else {
            return;
        };
        if header.gso == Gso::None {
            tracing::trace!(device = self.tun.name(), %error, "packet dropped at the device");
            self.side.count(Dropped::Device, 1);
            return;
        }
        self.write_cut(header, parts, &error);
    }
}

impl<S: Side> Delivery<'_, S> {
    /// Writes a run that the device refused packet by packet. Where it takes
    /// them, it was the run that it could not take.
    fn write_cut(&mut self, header: VnetHeader, parts: &[IoSlice<'_>], error: &io::Error) {
        let Writer { run, piece } = &mut *self.writer;
        let Ok(mut segments) = Segments::of_parts(header, parts, run) else {
            self.side.count(Dropped::Device, 1);
            return;
        };
        let mut takes_all = true;
        while let Some(len) = segments.next_len() {
            piece.resize(len, 0);
            segments.write_next(piece);
            match self.tun.try_send(VnetHeader::PLAIN, &[IoSlice::new(piece)]) {
                Ok(()) => {}
                Err(_) => {
                    takes_all = false;
                    self.side.count(Dropped::Device, 1);
                }
            }
        }
        // Memory may be short for a moment; that says nothing of runs.
        let is_lasting = matches!(
            error.raw_os_error(),
            Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE)
        );
        if takes_all && is_lasting {
            self.tun.refuse(header.gso);
        }
    }
}

/// Buffers for a device that refuses a run.
#[derive(Debug, Default)]
pub(super) struct Writer {
    run: Vec<u8>,
    piece: Vec<u8>,
}
