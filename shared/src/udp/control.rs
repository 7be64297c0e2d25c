//! The control messages of a datagram, in the kernel's own layout: its local
//! address (ip(7), RFC 3542 section 6.1), its congestion mark (RFC 3542
//! section 6.5), and the size of a run's datagrams (udp(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::LocalAddr;
use crate::packet::ecn::Ecn;

/// Room for control messages, aligned as the kernel wants it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; ROOM],
    len: usize,
}

impl Control {
    pub(super) const EMPTY: Self = Self {
        bytes: [0; ROOM],
        len: 0,
    };

    /// What was emitted.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Makes a datagram leave from `local`.
    pub(super) fn leave_from(&mut self, local: LocalAddr) {
        match local.ip {
            IpAddr::V4(ip) => {
                // struct in_pktinfo: the interface, the source, nothing.
                let octets = ip.octets();
                self.emit(
                    libc::IPPROTO_IP,
                    libc::IP_PKTINFO,
                    &[&[0; 4], &octets, &[0; 4]],
                );
            }
            IpAddr::V6(ip) => {
                // A reply to a routed address may have to leave by another
                // interface than the question came in by.
                let ifindex = if ip.is_unicast_link_local() {
                    local.ifindex
                } else {
                    0
                };
                self.emit(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_PKTINFO,
                    &[&ip.octets(), &ifindex.to_ne_bytes()],
                );
            }
        }
    }

    /// Marks a datagram to a peer of the family `ipv6`.
    pub(super) fn mark(&mut self, ecn: Ecn, ipv6: bool) {
        let (level, kind) = if ipv6 {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        } else {
            (libc::IPPROTO_IP, libc::IP_TOS)
        };
        self.emit(level, kind, &[&i32::from(ecn.bits()).to_ne_bytes()]);
    }

    /// Has the kernel cut what is sent into datagrams of `segment` bytes.
    pub(super) fn cut(&mut self, segment: u16) {
        self.emit(libc::SOL_UDP, libc::UDP_SEGMENT, &[&segment.to_ne_bytes()]);
    }

    /// One message: a `struct cmsghdr`, which is a size_t and two ints whatever
    /// the C library says, and its body.
    fn emit(&mut self, level: i32, kind: i32, body: &[&[u8]]) {
        let len: usize = HEADER + body.iter().map(|part| part.len()).sum::<usize>();
        let end = align(self.len + len);
        self.push(&len.to_ne_bytes());
        self.push(&level.to_ne_bytes());
        self.push(&kind.to_ne_bytes());
        for part in body {
            self.push(part);
        }
        self.len = end;
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// What the control messages of a datagram say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) local: Option<LocalAddr>,
    pub(super) ecn: Ecn,
    /// Bytes of each datagram but the last, where several came at once.
    pub(super) segment: Option<usize>,
}

/// Reads the control messages of a datagram; what is cut short is left out.
pub(super) fn parse(control: &[u8]) -> Arrival {
    let mut arrival = Arrival::default();
    for message in Messages(control) {
        match (message.level, message.kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                arrival.local = pktinfo4(message.body).or(arrival.local);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                arrival.local = arrival.local.or_else(|| pktinfo6(message.body));
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                if let Some(byte) = message.body.first() {
                    arrival.ecn = Ecn::from_bits(*byte);
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                if let Some(class) = int(message.body) {
                    arrival.ecn = Ecn::from_bits(class as u8);
                }
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                arrival.segment = int(message.body)
                    .and_then(|segment| usize::try_from(segment).ok())
                    .filter(|segment| *segment > 0);
            }
            _ => {}
        }
    }

    arrival
}

/// The path MTU in bytes, if the control messages of the error queue hold one
/// that a router reported (`struct sock_extended_err`, ip(7)).
pub(super) fn parse_mtu(control: &[u8]) -> Option<usize> {
    Messages(control)
        .filter(|message| {
            matches!(
                (message.level, message.kind),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            )
        })
        .find_map(|message| {
            // Number, origin, type, code, padding, then what the number means.
            let error = int(message.body)?;
            let mtu = int(message.body.get(8..)?)?;
            let origin = *message.body.get(4)?;
            if error != libc::EMSGSIZE || origin == libc::SO_EE_ORIGIN_LOCAL {
                return None;
            }
            usize::try_from(mtu).ok().filter(|mtu| *mtu > 0)
        })
}

/// Who said what of a datagram, if the control messages of the error queue hold
/// an ICMP message of IPv4: its sender and its type (`struct sock_extended_err`
/// with the offender behind it, ip(7)).
pub(super) fn parse_icmp(control: &[u8]) -> Option<(IpAddr, u8)> {
    let is_error = |it: &Message| (it.level, it.kind) == (libc::IPPROTO_IP, libc::IP_RECVERR);
    let body = Messages(control).find(is_error)?.body;
    let (origin, kind) = (*body.get(4)?, *body.get(5)?);
    // Sixteen bytes of the error, then family, port and address.
    let by: [u8; 4] = *body.get(20..)?.first_chunk()?;

    (origin == libc::SO_EE_ORIGIN_ICMP).then(|| (Ipv4Addr::from(by).into(), kind))
}

struct Message<'a> {
    level: i32,
    kind: i32,
    body: &'a [u8],
}

/// The control messages in some bytes, up to the first that is cut short.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let (len, rest) = self.0.split_first_chunk()?;
        let len = usize::from_ne_bytes(*len);
        let message = Message {
            level: int(rest)?,
            kind: int(rest.get(4..)?)?,
            body: self.0.get(HEADER..len)?,
        };
        self.0 = self.0.get(align(len)..).unwrap_or_default();

        Some(message)
    }
}

/// The address to answer from is the second field: the third is the
/// destination in the header, which may be a broadcast address.
fn pktinfo4(body: &[u8]) -> Option<LocalAddr> {
    let (ifindex, rest) = body.split_first_chunk()?;
    let (ip, _) = rest.split_first_chunk::<4>()?;

    Some(LocalAddr {
        ip: Ipv4Addr::from(*ip).into(),
        ifindex: u32::from_ne_bytes(*ifindex),
    })
}

fn pktinfo6(body: &[u8]) -> Option<LocalAddr> {
    let (ip, rest) = body.split_first_chunk::<16>()?;
    let (ifindex, _) = rest.split_first_chunk()?;

    Some(LocalAddr {
        ip: Ipv6Addr::from(*ip).to_canonical(),
        ifindex: u32::from_ne_bytes(*ifindex),
    })
}

fn int(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

const HEADER: usize = size_of::<libc::cmsghdr>();

/// An IPv6 address, a mark and a size are 88 bytes; a dual-stack socket gets
/// an address of both kinds for an IPv4 datagram, 72 bytes.
const ROOM: usize = 96;

const _: () = assert!(HEADER == size_of::<usize>() + 8);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_control_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            parse(&bytes);
            parse_mtu(&bytes);
            parse_icmp(&bytes);
        }

        #[test]
        fn no_length_makes_the_parser_panic(lens in prop::collection::vec(0..80_usize, 0..5)) {
            let mut bytes = Vec::new();
            for len in lens {
                bytes.extend(len.to_ne_bytes());
                bytes.extend([0; 16]);
            }
            parse(&bytes);
        }

        #[test]
        fn a_link_local_address_keeps_its_interface(ifindex: u32, low: u64) {
            let ip = IpAddr::from(Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(low)));
            let local = LocalAddr { ip, ifindex };
            let mut control = Control::EMPTY;
            control.leave_from(local);

            prop_assert_eq!(parse(control.bytes()).local, Some(local));
        }
    }

    #[test]
    fn a_routed_address_names_no_interface() {
        let ip = IpAddr::from(Ipv6Addr::LOCALHOST);
        let mut control = Control::EMPTY;
        control.leave_from(LocalAddr { ip, ifindex: 7 });

        let sent = parse(control.bytes()).local;

        assert_eq!(sent, Some(LocalAddr { ip, ifindex: 0 }));
    }

    #[test]
    fn the_messages_of_one_datagram_fit_and_do_not_hide_each_other() {
        for (ip, ipv6) in [("192.0.2.1", false), ("2001:db8::1", true)] {
            let local = LocalAddr {
                ip: ip.parse().unwrap(),
                ifindex: 0,
            };
            let mut control = Control::EMPTY;
            control.cut(1400);
            control.mark(Ecn::Ce, ipv6);
            control.leave_from(local);

            let arrival = parse(control.bytes());

            assert_eq!((arrival.local, arrival.ecn), (Some(local), Ecn::Ce));
            // Sizes go out as 16 bits (`UDP_SEGMENT`) and come in as an int.
            assert_eq!(arrival.segment, None);
        }
    }
}
