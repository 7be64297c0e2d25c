//! Packets become records where they will be sent from.

use super::Outward;
use super::fit::{Pieces, way};
use crate::association::Association;
use crate::datapath::outbox::Outer;
use crate::datapath::side::{Dropped, Side};
use crate::dtls::header::ContentType;
use crate::packet::fragment::{Fragments, Piece};
use crate::packet::segment::{NotCut, Segments};
use crate::packet::vnet::VnetHeader;
use crate::parts::Parts;
use crate::record::{NotSealed, Sealer};

impl Outward {
    /// Cuts, seals and gathers a packet; sends whenever a message is full.
    pub(super) fn gather<S: Side>(
        &mut self,
        side: &S,
        association: &Association,
        header: VnetHeader,
        packet: &mut [u8],
    ) -> Result<(), NotCut> {
        let way = way(header, packet, association)?;
        let mut segments = Segments::new(header, packet, way.limit)?;
        if let Some(pieces) = way.pieces {
            return self.gather_pieces(side, association, way.outer, pieces, segments);
        }
        while let Some(len) = segments.next_len() {
            self.record(side, association, way.outer, len, |plain| {
                segments.write_next(plain);
            })?;
        }

        Ok(())
    }

    /// Gathers packets that are larger than the path carries, in pieces.
    #[cold]
    fn gather_pieces<S: Side>(
        &mut self,
        side: &S,
        association: &Association,
        outer: Outer,
        pieces: Pieces,
        mut segments: Segments<'_>,
    ) -> Result<(), NotCut> {
        let mut whole = Vec::new();
        while let Some(len) = segments.next_len() {
            whole.resize(len, 0);
            segments.write_next(&mut whole);
            let mut add = |piece: Piece<'_>| {
                let write = |plain: &mut [u8]| piece.write(plain);
                self.record(side, association, outer, piece.len(), write)
            };
            if len <= pieces.limit {
                add(Piece::new(&[], &whole))?;
            } else if pieces.fragments {
                Fragments::of(&whole, pieces.limit)
                    .ok_or(NotCut::Malformed)?
                    .try_for_each(add)?;
            } else {
                Parts::of(&whole, pieces.limit, association.next_number())
                    .ok_or(NotCut::TooBig)?
                    .try_for_each(add)?;
            }
        }

        Ok(())
    }

    /// Seals a record of `len` bytes of content; makes room first.
    #[inline]
    fn record<S: Side>(
        &mut self,
        side: &S,
        association: &Association,
        outer: Outer,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), NotCut> {
        let sealer = association.sealer();
        let longest = association.lane().longest();
        let whole = len + sealer.overhead();
        if self.outbox.records() == association.batch()
            || !self.outbox.has_room(whole, outer, longest)
        {
            self.send(side, association);
        }
        let Some(record) = self.outbox.room(whole, outer, longest) else {
            return Err(NotCut::TooBig);
        };
        write(&mut record[Sealer::PLAIN_AT..][..len]);
        if let Err(why) = sealer.seal_in_place(ContentType::ApplicationData, record) {
            self.outbox.take_back(whole);
            side.count(
                match why {
                    NotSealed::Exhausted => Dropped::Exhausted,
                    NotSealed::TooLong => Dropped::TooBig,
                },
                1,
            );
        }

        Ok(())
    }
}
