//! The control message that carries the local address of a datagram (ip(7),
//! RFC 3542 section 6.1), in the kernel's own layout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::LocalAddr;

/// Room for control messages, aligned as the kernel wants it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; ROOM],
    len: usize,
}

impl Control {
    /// All of it, for the kernel to fill.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn filled(&self, len: usize) -> &[u8] {
        &self.bytes[..len.min(ROOM)]
    }

    /// What was emitted.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Default for Control {
    fn default() -> Self {
        Self {
            bytes: [0; ROOM],
            len: 0,
        }
    }
}

/// The control message that makes a datagram leave from `local`.
pub(super) fn emit(local: LocalAddr) -> Control {
    let mut control = Control::default();
    match local.ip {
        IpAddr::V4(ip) => {
            header(&mut control, libc::IPPROTO_IP, libc::IP_PKTINFO, PKTINFO4);
            control.push(&0u32.to_ne_bytes());
            control.push(&ip.octets());
            control.push(&[0; 4]);
        }
        IpAddr::V6(ip) => {
            // A reply to a routed address may have to leave by another
            // interface than the question came in by.
            let ifindex = if ip.is_unicast_link_local() {
                local.ifindex
            } else {
                0
            };
            header(
                &mut control,
                libc::IPPROTO_IPV6,
                libc::IPV6_PKTINFO,
                PKTINFO6,
            );
            control.push(&ip.octets());
            control.push(&ifindex.to_ne_bytes());
        }
    }
    control.len = align(control.len);

    control
}

/// The local address among the control messages of a datagram.
pub(super) fn parse(mut control: &[u8]) -> Option<LocalAddr> {
    while let Some((len, rest)) = control.split_first_chunk() {
        let len = usize::from_ne_bytes(*len);
        let (level, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let body = control.get(HEADER..len)?;
        match (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind)) {
            // The address to answer from is the second field: the first is the
            // destination in the header, which may be a broadcast address.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let (ifindex, rest) = body.split_first_chunk()?;
                let (ip, _) = rest.split_first_chunk::<4>()?;
                return Some(LocalAddr {
                    ip: Ipv4Addr::from(*ip).into(),
                    ifindex: u32::from_ne_bytes(*ifindex),
                });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let (ip, rest) = body.split_first_chunk::<16>()?;
                let (ifindex, _) = rest.split_first_chunk()?;
                return Some(LocalAddr {
                    ip: Ipv6Addr::from(*ip).to_canonical(),
                    ifindex: u32::from_ne_bytes(*ifindex),
                });
            }
            _ => control = control.get(align(len)..)?,
        }
    }

    None
}

/// A `struct cmsghdr`: a size_t and two ints, whatever the C library says.
fn header(control: &mut Control, level: i32, kind: i32, body: usize) {
    control.push(&(HEADER + body).to_ne_bytes());
    control.push(&level.to_ne_bytes());
    control.push(&kind.to_ne_bytes());
}

fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

const HEADER: usize = size_of::<libc::cmsghdr>();
const PKTINFO4: usize = size_of::<libc::in_pktinfo>();
const PKTINFO6: usize = size_of::<libc::in6_pktinfo>();

/// A dual-stack socket gets both kinds for an IPv4 datagram.
const ROOM: usize = 96;

const _: () = assert!(HEADER == size_of::<usize>() + 8 && PKTINFO4 == 12 && PKTINFO6 == 20);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_control_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            parse(&bytes);
        }

        #[test]
        fn a_link_local_address_keeps_its_interface(ifindex: u32, low: u64) {
            let ip = IpAddr::from(Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(low)));
            let local = LocalAddr { ip, ifindex };

            prop_assert_eq!(parse(emit(local).bytes()), Some(local));
        }
    }

    #[test]
    fn a_routed_address_names_no_interface() {
        let ip = IpAddr::from(Ipv6Addr::LOCALHOST);

        let sent = parse(emit(LocalAddr { ip, ifindex: 7 }).bytes());

        assert_eq!(sent, Some(LocalAddr { ip, ifindex: 0 }));
    }
}
