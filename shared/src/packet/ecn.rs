//! Congestion marks across the tunnel (RFC 6040). Pure.
//!
//! A datagram wears its packet's mark (normal mode, section 4.1), so a router
//! on the way can mark instead of drop; what it marked is put into the packet
//! that comes out (section 4.2). Marks that only an error or an attack can
//! make are mapped as the RFC says, and the one dangerous pair is dropped.

use super::checksum::update;

/// The ECN field (RFC 3168, section 5): the low two bits of the former TOS or
/// traffic class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// The transport would not understand a mark.
    #[default]
    NotEct,
    Ect1,
    Ect0,
    /// Congestion experienced.
    Ce,
}

impl Ecn {
    /// Reads the low two bits of a TOS or traffic class byte.
    #[must_use]
    pub fn from_bits(byte: u8) -> Self {
        match byte & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The field's two bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0b00,
            Self::Ect1 => 0b01,
            Self::Ect0 => 0b10,
            Self::Ce => 0b11,
        }
    }
}

/// The mark of an inner packet; what is no packet has none.
#[must_use]
pub fn of(packet: &[u8]) -> Ecn {
    match packet {
        [first, second, ..] if first >> 4 == 4 => Ecn::from_bits(*second),
        [first, second, ..] if first >> 4 == 6 => Ecn::from_bits(second >> 4),
        _ => Ecn::NotEct,
    }
}

/// The mark of the datagram around a packet with the mark `inner`.
#[must_use]
pub fn outer(inner: Ecn) -> Ecn {
    inner
}

/// Puts into `packet` what the marks of both headers together mean (RFC 6040,
/// figure 4), with the header checksum of IPv4. False: the packet is to be
/// dropped, as the way is congested and its transport can't be told otherwise.
#[must_use]
pub fn decapsulate(packet: &mut [u8], outer: Ecn) -> bool {
    let inner = of(packet);
    let Some(mark) = combine(inner, outer) else {
        return false;
    };
    if mark != inner {
        set(packet, mark);
    }

    true
}

fn combine(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) => Some(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (Ecn::Ect0 | Ecn::Ect1, _) => Some(inner),
    }
}

/// Writes the mark of a packet whose [`of`] says another.
fn set(packet: &mut [u8], mark: Ecn) {
    let Some((head, rest)) = packet.split_first_chunk_mut::<2>() else {
        return;
    };
    let old = *head;
    if head[0] >> 4 == 6 {
        head[1] = head[1] & !0x30 | mark.bits() << 4;
        return;
    }

    head[1] = head[1] & !0b11 | mark.bits();
    if let Some(field) = rest
        .get_mut(8..10)
        .and_then(|field| field.first_chunk_mut())
    {
        update(field, old, *head);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::checksum;
    use super::*;

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    fn four(tos: u8, ident: [u8; 2]) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 28, ident[0], ident[1], 0x40, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 2, 10, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        let sum = checksum(0, &packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet
    }

    fn six(class: u8) -> Vec<u8> {
        let mut packet = vec![0; 48];
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | 0x5;
        packet
    }

    /// Figure 4 of RFC 6040, row by row; `None` is a drop.
    #[test]
    fn marks_are_combined_as_the_rfc_tabulates() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let columns = [NotEct, Ect0, Ect1, Ce];
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];

        for (inner, row) in table {
            for (outer, expected) in columns.into_iter().zip(row) {
                for mut packet in [four(0xb8 | inner.bits(), [1, 2]), six(0xb8 | inner.bits())] {
                    let kept = decapsulate(&mut packet, outer);
                    assert_eq!(
                        kept.then(|| of(&packet)),
                        expected,
                        "{inner:?} in {outer:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_the_mark_changes() {
        let mut packet = six(0xb8 | Ecn::Ect0.bits());
        assert!(decapsulate(&mut packet, Ecn::Ce));

        assert_eq!(packet, six(0xb8 | Ecn::Ce.bits()));
    }

    #[test]
    fn a_mark_goes_out_as_it_is() {
        for mark in ALL {
            assert_eq!(outer(mark), mark);
            assert_eq!(Ecn::from_bits(0xfc | mark.bits()), mark);
        }
    }

    proptest! {
        #[test]
        fn the_header_checksum_follows(tos: u8, ident: [u8; 2], outer in 0u8..4) {
            let mut packet = four(tos, ident);

            if decapsulate(&mut packet, Ecn::from_bits(outer)) {
                let expected = four(packet[1], ident);
                prop_assert_eq!(packet, expected);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            mut packet in prop::collection::vec(any::<u8>(), 0..40),
            outer in 0u8..4,
        ) {
            let _: bool = decapsulate(&mut packet, Ecn::from_bits(outer));
        }
    }
}
