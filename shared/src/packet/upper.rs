//! Where the transport header of a packet begins. Pure.

/// The transport header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Upper {
    /// The protocol's number.
    pub(super) protocol: u8,
    /// Bytes before its header.
    pub(super) at: usize,
}

impl Upper {
    /// Looks past the options of IPv4 and the extension headers of IPv6 (RFC
    /// 8200, section 4; RFC 4302 for AH); none where the header is cut short or
    /// the packet is a fragment but the first.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::of4(packet),
            6 => Self::of6(packet),
            _ => None,
        }
    }

    fn of4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let at = usize::from(header[0] & 0x0f) * 4;
        let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;

        (at >= header.len() && at <= packet.len() && offset == 0).then_some(Self {
            protocol: header[9],
            at,
        })
    }

    fn of6(packet: &[u8]) -> Option<Self> {
        let mut protocol = *packet.get(6)?;
        let mut at = 40;
        // Every header but the fixed one has 8 bytes at least, so this ends.
        loop {
            let len = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => 8 + usize::from(*packet.get(at + 1)?) * 8,
                AUTHENTICATION => 8 + usize::from(*packet.get(at + 1)?) * 4,
                FRAGMENT => {
                    let offset = [*packet.get(at + 2)?, *packet.get(at + 3)?];
                    if u16::from_be_bytes(offset) & !0x7 != 0 {
                        return None;
                    }
                    8
                }
                _ => return (at <= packet.len()).then_some(Self { protocol, at }),
            };
            protocol = *packet.get(at)?;
            at += len;
        }
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An IPv6 header followed by `rest`, whose first header is `next`.
    fn six(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next;
        packet.extend(rest);
        packet
    }

    #[test]
    fn extension_headers_are_passed_whatever_their_length() {
        let mut rest = vec![60, 0, 0, 0, 0, 0, 0, 0]; // Hop-by-hop, 8 bytes.
        rest.extend([51, 1]); // Destination options, 16 bytes.
        rest.extend([0; 14]);
        rest.extend([44, 4]); // Authentication, (4 + 2) * 4 bytes.
        rest.extend([0; 22]);
        rest.extend([6, 0, 0, 1, 0, 0, 0, 9]); // First fragment, more follow.
        rest.extend([0; 20]);

        assert_eq!(
            Upper::of(&six(0, &rest)),
            Some(Upper {
                protocol: 6,
                at: 40 + 8 + 16 + 24 + 8
            })
        );
    }

    #[test]
    fn a_later_fragment_has_no_transport_header() {
        assert_eq!(Upper::of(&six(44, &[6, 0, 0, 8, 0, 0, 0, 9])), None);

        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[7] = 1;
        assert_eq!(Upper::of(&packet), None);
    }

    #[test]
    fn ipv4_options_are_passed() {
        let mut packet = vec![0; 60];
        packet[0] = 0x47;
        packet[9] = 17;

        assert_eq!(
            Upper::of(&packet),
            Some(Upper {
                protocol: 17,
                at: 28
            })
        );
    }

    proptest! {
        #[test]
        fn what_is_found_lies_in_the_packet(
            version in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60]),
            next in prop::sample::select(vec![0u8, 6, 43, 44, 51, 60]),
            mut packet in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(vec![0u8, 43, 44, 51, 60])],
                0..120,
            ),
        ) {
            if let [first, _, _, _, _, _, at_6, ..] = packet.as_mut_slice() {
                (*first, *at_6) = (version, next);
            }
            if let Some(upper) = Upper::of(&packet) {
                prop_assert!(upper.at <= packet.len());
            }
        }
    }
}
