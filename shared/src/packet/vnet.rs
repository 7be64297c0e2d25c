//! The virtio-net header that stands before each packet of a TUN with
//! `IFF_VNET_HDR` (virtio 1.2, section 5.1.6; `linux/virtio_net.h`). Pure.

/// What a packet still lacks, and what it is a run of.
///
/// | bytes | field |
/// | --- | --- |
/// | 0 | flags: 1 a checksum is needed, 2 checksums were verified |
/// | 1 | kind of run: 0 none, 1 TCP/IPv4, 4 TCP/IPv6, 5 UDP; 0x80 TCP with CWR |
/// | 2..4 | bytes of the headers before the payload (a hint) |
/// | 4..6 | bytes of payload in each segment but the last |
/// | 6..8 | where the checksum begins to count: the transport header |
/// | 8..10 | the checksum field, from there |
///
/// Numbers are in the byte order of the machine, as the TUN driver has them
/// unless it was asked for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum field holds the pseudo-header's sum only, not inverted.
    pub needs_csum: bool,
    /// The transport checksum is known to be right.
    pub data_valid: bool,
    pub gso: Gso,
    /// The first segment of a TCP run has CWR set (RFC 3168).
    pub ecn: bool,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

/// What a packet longer than the MTU is a run of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    None,
    Tcp4,
    Tcp6,
    /// Datagrams of equal size (`UDP_L4`), over IPv4 or IPv6.
    Udp,
}

impl VnetHeader {
    /// Bytes of the header.
    pub const LEN: usize = 10;

    /// The header of a packet that is complete: ten zeros.
    pub const PLAIN: Self = Self {
        needs_csum: false,
        data_valid: false,
        gso: Gso::None,
        ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// None if the kind of run is one that was not asked for.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let [flags, kind, numbers @ ..] = bytes;
        let number = |at: usize| u16::from_ne_bytes([numbers[2 * at], numbers[2 * at + 1]]);
        let gso = match kind & !ECN {
            0 => Gso::None,
            TCP4 => Gso::Tcp4,
            TCP6 => Gso::Tcp6,
            UDP_L4 => Gso::Udp,
            _ => return None,
        };

        Some(Self {
            needs_csum: flags & NEEDS_CSUM != 0,
            data_valid: flags & DATA_VALID != 0,
            gso,
            ecn: kind & ECN != 0,
            hdr_len: number(0),
            gso_size: number(1),
            csum_start: number(2),
            csum_offset: number(3),
        })
    }

    #[must_use]
    pub fn emit(&self) -> [u8; Self::LEN] {
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let kind = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => TCP4,
            Gso::Tcp6 => TCP6,
            Gso::Udp => UDP_L4,
        };
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();

        [
            flag(self.needs_csum, NEEDS_CSUM) | flag(self.data_valid, DATA_VALID),
            kind | flag(self.ecn, ECN),
            h0,
            h1,
            g0,
            g1,
            s0,
            s1,
            o0,
            o1,
        ]
    }
}

/// What the kernel takes from, and leaves to, the program at the other side of
/// a TUN. Without `csum` the others mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums that are only begun.
    pub csum: bool,
    /// Runs of TCP segments over IPv4.
    pub tso4: bool,
    /// Runs of TCP segments over IPv6.
    pub tso6: bool,
    /// Runs of UDP datagrams over IPv4.
    pub uso4: bool,
    /// Runs of UDP datagrams over IPv6.
    pub uso6: bool,
}

impl Offloads {
    pub const ALL: Self = Self {
        csum: true,
        tso4: true,
        tso6: true,
        uso4: true,
        uso6: true,
    };

    pub const NONE: Self = Self {
        csum: false,
        tso4: false,
        tso6: false,
        uso4: false,
        uso6: false,
    };
}

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP_L4: u8 = 5;
const ECN: u8 = 0x80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tcp_run_has_the_bytes_of_the_kernels_struct() {
        let header = VnetHeader {
            needs_csum: true,
            gso: Gso::Tcp6,
            ecn: true,
            hdr_len: 72,
            gso_size: 1428,
            csum_start: 40,
            csum_offset: 16,
            ..VnetHeader::PLAIN
        };

        let mut bytes = vec![1, 0x84];
        for number in [72u16, 1428, 40, 16] {
            bytes.extend(number.to_ne_bytes());
        }
        assert_eq!(header.emit()[..], bytes);
        assert_eq!(VnetHeader::PLAIN.emit(), [0; 10]);
    }

    #[test]
    fn a_kind_of_run_that_was_not_asked_for_is_refused() {
        for kind in [2, 3, 6, 0x25, 0x41] {
            assert_eq!(VnetHeader::parse(&[0, kind, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_emitted_again(
            mut bytes in any::<[u8; 10]>(),
            kind in prop::sample::select(vec![0u8, 1, 4, 5, 0x80, 0x81, 0x84, 0x85]),
        ) {
            bytes[0] &= 3;
            bytes[1] = kind;
            prop_assert_eq!(VnetHeader::parse(&bytes).unwrap().emit(), bytes);
        }
    }
}
