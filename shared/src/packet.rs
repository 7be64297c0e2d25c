//! Views of inner packets: addresses, and the ICMP echo that keeps watch
//! over a peer without control messages. Pure.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

pub mod checksum;
pub mod coalesce;
pub mod ecn;
pub mod fragment;
#[cfg(test)]
mod kernel_tests;
pub mod mss;
pub mod no_route;
#[cfg(test)]
pub(crate) mod reference;
pub mod segment;
pub mod shorten;
pub mod too_big;
mod upper;
pub mod vnet;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a packet comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: IpAddr,
    pub destination: IpAddr,
}

impl Ends {
    /// Reads the addresses of an IPv4 (RFC 791) or IPv6 (RFC 8200) packet;
    /// none if the header is cut short or the version is another.
    #[must_use]
    pub fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 if packet.len() >= IP4_HEADER => Some(Self {
                source: ip4(packet, 12).into(),
                destination: ip4(packet, 16).into(),
            }),
            6 if packet.len() >= IP6_HEADER => Some(Self {
                source: ip6(packet, 8).into(),
                destination: ip6(packet, 24).into(),
            }),
            _ => None,
        }
    }

    /// Whether the packet has its meaning on one link only: neither a lease
    /// nor a route can cover it.
    #[must_use]
    pub fn link_scope(&self) -> bool {
        self.destination.is_multicast()
            || is_link_local(self.source)
            || is_link_local(self.destination)
    }
}

/// Whether `packet` is a UDP datagram to `peer`, first fragment or whole.
#[must_use]
pub fn is_udp_to(packet: &[u8], peer: SocketAddr) -> bool {
    let Some((ends, proto, payload)) = transport(packet) else {
        return false;
    };
    proto == UDP
        && ends.destination == peer.ip()
        && payload.get(2..4) == Some(&peer.port().to_be_bytes())
}

/// An ICMP or ICMPv6 echo (RFC 792, RFC 4443 section 4) without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    pub id: u16,
    pub seq: u16,
}

impl Echo {
    /// The whole packet of a request; none if the addresses are of two families.
    #[must_use]
    pub fn request(self, ends: Ends) -> Option<Vec<u8>> {
        match (ends.source, ends.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(self.request4(source, destination))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Some(self.request6(source, destination))
            }
            _ => None,
        }
    }

    /// The echo and the addresses of a packet that is an echo reply.
    #[must_use]
    pub fn reply(packet: &[u8]) -> Option<(Self, Ends)> {
        let (ends, proto, icmp) = transport(packet)?;
        let kind = match ends.source {
            IpAddr::V4(_) if proto == ICMP => ECHO_REPLY4,
            IpAddr::V6(_) if proto == ICMP6 => ECHO_REPLY6,
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        let head: [u8; ECHO_HEADER] = icmp.get(..ECHO_HEADER)?.try_into().ok()?;
        let [found, code, _, _, id0, id1, seq0, seq1] = head;
        (found == kind && code == 0).then_some((
            Self {
                id: u16::from_be_bytes([id0, id1]),
                seq: u16::from_be_bytes([seq0, seq1]),
            },
            ends,
        ))
    }

    fn request4(self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend(((IP4_HEADER + ECHO_HEADER) as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, ICMP, 0, 0]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        let sum = checksum(0, &packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        self.append(&mut packet, ECHO_REQUEST4, 0);
        packet
    }

    fn request6(self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((ECHO_HEADER as u16).to_be_bytes());
        packet.extend([ICMP6, 64]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        // The pseudo-header of RFC 8200, section 8.1, without its addresses.
        let pseudo = sum(ECHO_HEADER as u32 + u32::from(ICMP6), &packet[8..]);
        self.append(&mut packet, ECHO_REQUEST6, pseudo);
        packet
    }

    fn append(self, packet: &mut Vec<u8>, kind: u8, pseudo: u32) {
        let at = packet.len();
        packet.extend([kind, 0, 0, 0]);
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.seq.to_be_bytes());
        let sum = checksum(pseudo, &packet[at..]).to_be_bytes();
        packet[at + 2..at + 4].copy_from_slice(&sum);
    }
}

const IP4_HEADER: usize = 20;
const IP6_HEADER: usize = 40;
const ECHO_HEADER: usize = 8;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const ECHO_REPLY4: u8 = 0;
const ECHO_REQUEST4: u8 = 8;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

/// Addresses, protocol and payload of a packet; extension headers are not
/// followed, and a fragment that is not the first has no such payload.
fn transport(packet: &[u8]) -> Option<(Ends, u8, &[u8])> {
    let ends = Ends::of(packet)?;
    match ends.source {
        IpAddr::V4(_) => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let offset = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
            (header >= IP4_HEADER && offset == 0)
                .then(|| packet.get(header..))
                .flatten()
                .map(|payload| (ends, packet[9], payload))
        }
        IpAddr::V6(_) => Some((ends, packet[6], &packet[IP6_HEADER..])),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn ip4(packet: &[u8], at: usize) -> Ipv4Addr {
    let octets: [u8; 4] = packet[at..at + 4].try_into().expect("length was checked");
    octets.into()
}

fn ip6(packet: &[u8], at: usize) -> Ipv6Addr {
    let octets: [u8; 16] = packet[at..at + 16].try_into().expect("length was checked");
    octets.into()
}

/// The Internet checksum (RFC 1071) of `bytes` after `start`.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = sum(start, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn sum(start: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// As a kernel answers: addresses turned round, type changed, checksum left
    /// alone, as nobody reads it here.
    fn answer(request: &[u8]) -> Vec<u8> {
        let mut reply = request.to_vec();
        let (at, len, icmp, kind) = match request[0] >> 4 {
            4 => (12, 4, 20, 0),
            _ => (8, 16, 40, 129),
        };
        let (source, destination) = reply[at..at + 2 * len].split_at_mut(len);
        source.swap_with_slice(destination);
        reply[icmp] = kind;
        reply
    }

    #[test]
    fn an_ipv4_request_has_the_bytes_that_ping_sends() {
        let packet = Echo { id: 0x1234, seq: 7 }
            .request(ends("10.0.0.2", "10.0.0.1"))
            .unwrap();

        assert_eq!(
            packet,
            [
                0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0x26, 0xdf, 10, 0, 0, 2, 10, 0, 0, 1, 8, 0,
                0xe5, 0xc4, 0x12, 0x34, 0, 7
            ]
        );
    }

    #[test]
    fn a_checksum_over_its_own_packet_is_zero() {
        let packet = Echo { id: 9, seq: 2 }
            .request(ends("fc00::2", "fc00::1"))
            .unwrap();

        // Addresses, length and next header, then the message (RFC 8200, 8.1).
        let mut covered = packet[8..40].to_vec();
        covered.extend([0, 0, 0, 8, 0, 0, 0, 58]);
        covered.extend(&packet[40..]);
        assert_eq!(checksum(0, &covered), 0);
    }

    #[test]
    fn a_reply_is_told_from_a_request() {
        for (source, destination) in [("10.0.0.2", "10.0.0.1"), ("fc00::2", "fc00::1")] {
            let echo = Echo { id: 77, seq: 3 };
            let request = echo.request(ends(source, destination)).unwrap();

            assert_eq!(Echo::reply(&request), None);
            assert_eq!(
                Echo::reply(&answer(&request)),
                Some((echo, ends(destination, source)))
            );
        }
    }

    #[test]
    fn our_own_datagram_is_known_by_address_and_port() {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([192, 0, 2, 1, 198, 51, 100, 1]);
        packet.extend([0x30, 0x39, 0x01, 0xbb, 0, 8, 0, 0]);

        assert!(is_udp_to(&packet, "198.51.100.1:443".parse().unwrap()));
        assert!(!is_udp_to(&packet, "198.51.100.1:444".parse().unwrap()));
        assert!(!is_udp_to(&packet, "198.51.100.2:443".parse().unwrap()));
    }

    #[test]
    fn what_stays_on_a_link_is_told_from_what_is_routed() {
        assert!(ends("fe80::1", "fc00::1").link_scope());
        assert!(ends("10.0.0.2", "224.0.0.251").link_scope());
        assert!(!ends("10.0.0.2", "10.0.0.1").link_scope());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(packet in prop::collection::vec(any::<u8>(), 0..100)) {
            let _: Option<Ends> = Ends::of(&packet);
            let _: Option<(Echo, Ends)> = Echo::reply(&packet);
            let _: bool = is_udp_to(&packet, SocketAddr::from(([10, 0, 0, 1], 443)));
        }
    }
}
