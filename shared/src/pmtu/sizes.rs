//! From an outer MTU to the packets that it carries.

use std::net::IpAddr;

use crate::dtls::{CipherSuite, MAX_PLAINTEXT};

/// Bytes that an IP packet to `peer` is longer than the inner packet in it:
/// outer headers without options, and the record's own.
#[must_use]
pub fn overhead(peer: IpAddr, suite: CipherSuite) -> u16 {
    let headers = match peer.to_canonical() {
        IpAddr::V4(_) => 20 + 8,
        IpAddr::V6(_) => 40 + 8,
    };

    headers + suite.overhead() as u16
}

/// The largest inner packet, in bytes, that a path with an MTU of `outer`
/// carries whole.
#[must_use]
pub fn carried(outer: u32, peer: IpAddr, suite: CipherSuite) -> u16 {
    let inner = outer.saturating_sub(overhead(peer, suite).into());

    inner.min(MAX_PLAINTEXT as u32) as u16
}

/// The inner sizes that paths have in practice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ladder {
    overhead: u16,
}

impl Ladder {
    pub(super) fn new(overhead: u16) -> Self {
        Self { overhead }
    }

    /// What any path with IPv6 carries, in bytes.
    pub(super) fn base(self) -> u16 {
        LEAST_OUTER6.saturating_sub(self.overhead)
    }

    /// Both ends and the rungs between, ascending.
    pub(super) fn between(self, low: u16, high: u16) -> Vec<u16> {
        let rungs = OUTER.map(|outer| outer.saturating_sub(self.overhead));
        let inside = rungs
            .into_iter()
            .filter(|rung| (low + 1..high).contains(rung));

        [low].into_iter().chain(inside).chain([high]).collect()
    }
}

/// RFC 8200, section 5.
const LEAST_OUTER6: u16 = 1280;

/// MTUs met in practice: slow links, IPv6's least, mobile networks, tunnels of
/// several kinds, clouds, 6in4, PPPoE, Ethernet, Wi-Fi, FDDI, jumbo frames.
const OUTER: [u16; 16] = [
    1006, 1280, 1340, 1358, 1400, 1420, 1430, 1440, 1450, 1460, 1480, 1492, 1500, 2304, 4352, 9000,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_carries_depends_on_suite_and_family() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let carried_by = |outer, suite| [v4, mapped, v6].map(|peer| carried(outer, peer, suite));

        for suite in [CipherSuite::Gcm, CipherSuite::Ccm] {
            assert_eq!(carried_by(1500, suite), [1435, 1435, 1415]);
            assert_eq!(carried_by(1280, suite), [1215, 1215, 1195]);
        }
        assert_eq!(carried_by(1500, CipherSuite::Ccm8), [1443, 1443, 1423]);
        assert_eq!(carried_by(1280, CipherSuite::Ccm8), [1223, 1223, 1203]);
        assert_eq!(carried_by(65_536, CipherSuite::Gcm), [16_384; 3]);
        assert_eq!(carried_by(60, CipherSuite::Gcm), [0; 3]);
    }

    #[test]
    fn the_ladder_has_both_ends_once() {
        let ladder = Ladder::new(65);

        assert_eq!(ladder.between(1215, 1435).first(), Some(&1215));
        assert_eq!(ladder.between(1215, 1435).last(), Some(&1435));
        assert!(ladder.between(576, 1435).is_sorted_by(|a, b| a < b));
        assert_eq!(ladder.between(1400, 1402), [1400, 1402]);
    }
}
