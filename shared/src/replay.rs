//! Anti-replay window for one receive epoch (RFC 6347, section 4.1.2.6).
//!
//! A record meets the window twice: [`ReplayWindow::check`] runs before
//! decryption, so a duplicate costs no cryptography, and
//! [`ReplayWindow::accept`] runs after it, so a forged sequence number cannot
//! move the window and lock out the real peer.
//!
//! A sequence number keeps its bit for as long as it is in the window, so the
//! usual record, one past the newest, sets a bit and shifts nothing.

/// The sequence numbers received in one epoch.
#[derive(Debug)]
pub struct ReplayWindow {
    /// Highest sequence number accepted.
    newest: u64,
    /// One bit per sequence number, 64 to a block; blocks reuse words in turn.
    words: [u64; WORDS],
}

impl ReplayWindow {
    /// Records the sequence number of an authenticated record.
    pub fn accept(&mut self, seq: u64) -> Result<(), Refused> {
        self.check(seq)?;

        // Words entered for the first time this lap still hold the last lap's bits.
        for block in (self.newest / 64 + 1..=seq / 64).take(WORDS) {
            self.words[word(block)] = 0;
        }
        self.newest = self.newest.max(seq);
        self.words[word(seq / 64)] |= 1 << (seq % 64);

        Ok(())
    }

    /// Returns why `seq` must be dropped, if it must; changes nothing.
    pub fn check(&self, seq: u64) -> Result<(), Refused> {
        if seq > self.newest {
            return Ok(());
        }
        if self.newest - seq >= WIDTH {
            return Err(Refused::Stale);
        }
        if self.words[word(seq / 64)] & (1 << (seq % 64)) != 0 {
            return Err(Refused::Duplicate);
        }

        Ok(())
    }

    /// The highest sequence number accepted; 0 before.
    pub fn newest(&self) -> u64 {
        self.newest
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            newest: 0,
            words: [0; WORDS],
        }
    }
}

/// Why a record was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("sequence number was already received")]
    Duplicate,
    #[error("sequence number is older than the window")]
    Stale,
}

fn word(block: u64) -> usize {
    (block % WORDS as u64) as usize
}

/// Lets several 64-segment GSO batches overtake each other without loss.
const WORDS: usize = 64;

/// The newest block may be one bit full, so only the other words are whole.
const WIDTH: u64 = 64 * (WORDS as u64 - 1);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_that_forgets_nothing(
            seqs in prop::collection::vec(0..4 * WIDTH, 1..800),
        ) {
            let mut window = ReplayWindow::default();
            let mut received = HashSet::new();
            let mut newest = 0;

            for seq in seqs {
                let expected = if seq + WIDTH <= newest {
                    Err(Refused::Stale)
                } else if !received.insert(seq) {
                    Err(Refused::Duplicate)
                } else {
                    newest = newest.max(seq);
                    Ok(())
                };

                prop_assert_eq!(window.accept(seq), expected);
            }
        }
    }

    #[test]
    fn a_record_that_fails_authentication_leaves_no_trace() {
        let mut window = ReplayWindow::default();
        window.accept(6).unwrap();

        window.check(6 + 10 * WIDTH).unwrap(); // Forged: never reaches `accept`.

        assert_eq!(window.accept(5), Ok(()));
        assert_eq!(window.accept(6), Err(Refused::Duplicate));
    }
}
