//! What the handshakes hold, and what became of what came.

/// A snapshot: the first group are gauges, the rest only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounters {
    /// Handshakes in progress.
    pub half_open: usize,
    /// Bytes held for messages that have not come whole.
    pub fragment_bytes: usize,
    /// Finished handshakes whose last flight may be asked for again.
    pub final_flights: usize,

    /// HelloVerifyRequests sent.
    pub cookies_issued: u64,
    /// Hellos that came back with a good cookie, repeats included.
    pub cookies_returned: u64,
    /// Handshakes done.
    pub established: u64,
    /// Handshakes whose Finished none of the keys verified.
    pub rejected: u64,
    /// Hellos without a suite that the hub speaks.
    pub no_common_suite: u64,
    /// Handshakes given up after their time.
    pub expired: u64,
    /// Handshakes that gave way to a newer one at a limit.
    pub displaced: u64,
    /// ServerHello flights and final flights sent again.
    pub resent: u64,

    /// Datagrams, records and messages that do not parse.
    pub malformed: u64,
    /// ClientHellos in fragments.
    pub fragmented_hellos: u64,
    /// Messages and records that no handshake waits for.
    pub out_of_turn: u64,
    /// Fragments for which the budget had no room.
    pub over_budget: u64,
    /// Plaintext alerts.
    pub alerts: u64,
    /// Epoch-1 handshake records that no key opened or no Finished explained.
    pub unverified: u64,
}
