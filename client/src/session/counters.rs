//! What a session dropped, by reason.

use std::fmt;

/// Packets and records that went nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Records that do not authenticate, are old or malformed.
    pub(crate) refused: u64,
    /// Content that is neither a packet nor a message.
    pub(crate) unknown: u64,
    /// Datagrams that the socket did not take.
    pub(crate) unsent: u64,
    /// Packets that the device did not take.
    pub(crate) undelivered: u64,
    /// Packets of a link's own: multicast and link-local.
    pub(crate) link_scope: u64,
    /// Our own datagrams, read from our own device.
    pub(crate) looped: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for (name, count) in [
            ("refused", self.refused),
            ("unknown", self.unknown),
            ("unsent", self.unsent),
            ("undelivered", self.undelivered),
            ("link_scope", self.link_scope),
            ("looped", self.looped),
        ] {
            if count > 0 {
                write!(f, "{}{name}={count}", if any { " " } else { "" })?;
                any = true;
            }
        }

        if any { Ok(()) } else { f.write_str("none") }
    }
}
