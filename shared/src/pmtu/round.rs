//! Sizes that are probed side by side until it is clear which of them pass.

use std::time::{Duration, Instant};

/// A round of probes.
#[derive(Debug)]
pub(super) struct Round {
    /// Of the first try, ascending.
    first: Vec<u16>,
    /// Of the round, ascending.
    sizes: Vec<u16>,
    tries: u32,
    /// Sizes of this try that are still to be sent.
    unsent: Vec<u16>,
    /// Sizes of this try that may be answered yet.
    awaited: Vec<u16>,
    /// When the next try, or the end, is due.
    deadline: Instant,
    /// The largest that was answered.
    passed: Option<u16>,
    /// The smallest that is known not to pass without a try.
    ceiling: Option<u16>,
    /// Whether somebody has named a size since.
    is_hinted: bool,
}

impl Round {
    /// The first try, due `now`, has the sizes of `first`, the others those of
    /// `sizes` too; `ceiling` is known not to pass.
    pub(super) fn new(
        now: Instant,
        mut first: Vec<u16>,
        mut sizes: Vec<u16>,
        ceiling: Option<u16>,
    ) -> Self {
        sizes.extend(&first);
        for list in [&mut first, &mut sizes] {
            list.sort_unstable();
            list.dedup();
        }

        Self {
            first,
            sizes,
            tries: 0,
            unsent: Vec::new(),
            awaited: Vec::new(),
            deadline: now,
            passed: None,
            ceiling,
            is_hinted: false,
        }
    }

    /// Has one more size tried, which somebody has named: the first only, as
    /// anyone may name any number of them.
    pub(super) fn hint(&mut self, size: u16) {
        let is_inside = Some(size) > self.passed && self.sizes.last() > Some(&size);
        if self.is_hinted || !is_inside {
            return;
        }
        self.is_hinted = true;
        if let Err(at) = self.sizes.binary_search(&size) {
            self.sizes.insert(at, size);
        }
    }

    /// The largest size that was answered.
    pub(super) fn passed(&self) -> Option<u16> {
        self.passed
    }

    /// The smallest size above it that does not pass, if any is known. An answer
    /// to a probe of an earlier round may have shown that the ceiling is none.
    pub(super) fn fails(&self) -> Option<u16> {
        let is_above = |size: &u16| Some(*size) > self.passed;
        let unanswered = self.sizes.iter().copied().find(is_above);

        unanswered.or(self.ceiling.filter(is_above))
    }

    /// Whether no further probe could tell more.
    pub(super) fn is_decided(&self) -> bool {
        self.passed >= self.sizes.last().copied()
    }

    /// Whether the last try has had its time.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.tries == TRIES && self.unsent.is_empty() && now >= self.deadline
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.deadline
    }

    /// The next size to be sent.
    pub(super) fn next(&mut self, now: Instant) -> Option<u16> {
        if self.unsent.is_empty() && now >= self.deadline {
            self.next_try(now);
        }

        let size = self.unsent.pop()?;
        self.awaited.push(size);

        Some(size)
    }

    /// A probe of `size` was answered after `rtt`.
    pub(super) fn answered(&mut self, now: Instant, size: u16, rtt: Duration) {
        self.passed = self.passed.max(Some(size));
        self.unsent.retain(|&unsent| unsent > size);
        self.awaited.retain(|&awaited| awaited > size);
        // What was sent beside it is due as well, give or take a queue.
        let grace = if self.awaited.is_empty() {
            Duration::ZERO
        } else {
            rtt.max(GRACE * 2u32.pow(self.tries.saturating_sub(1)))
        };
        self.deadline = self.deadline.min(now + grace);
    }

    /// The own link carries nothing of `size` and above.
    pub(super) fn refused(&mut self, size: u16) {
        for list in [
            &mut self.first,
            &mut self.sizes,
            &mut self.unsent,
            &mut self.awaited,
        ] {
            list.retain(|&other| other < size);
        }
        self.ceiling = Some(self.ceiling.map_or(size, |least| least.min(size)));
    }

    /// The largest size that passed goes along: its answer says when those of
    /// the others are overdue.
    fn next_try(&mut self, now: Instant) {
        let sizes = if self.tries == 0 {
            &self.first
        } else {
            &self.sizes
        };
        let passed = self.passed.unwrap_or(0);
        self.unsent = sizes
            .iter()
            .copied()
            .filter(|&size| size >= passed)
            .collect();
        self.awaited.clear();
        self.deadline = now + ANSWER_WITHIN * 2u32.pow(self.tries);
        self.tries += 1;
    }
}

/// Of each size: MAX_PROBES of RFC 8899, section 5.1.2.
const TRIES: u32 = 3;

/// For the first try when nothing is answered; doubles with each.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// For the first try when something is answered; doubles with each.
const GRACE: Duration = Duration::from_millis(250);
