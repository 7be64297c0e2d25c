//! When the hub must do something about a session without being asked: repeat
//! the meta, probe a silent spoke, give up. Pure; the caller holds the clock.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use std::time::{Duration, Instant};

use dtun_shared::association::Heard;

/// The timers of one session.
#[derive(Debug)]
pub(crate) struct Upkeep {
    born: Instant,
    /// The meta told the spoke why it gets no lease.
    rejected: bool,
    meta_sent: Instant,
    repeats: u8,
    probed: Instant,
}

impl Upkeep {
    /// The meta has been sent for the first time.
    pub(crate) fn new(now: Instant, rejected: bool) -> Self {
        Self {
            born: now,
            rejected,
            meta_sent: now,
            repeats: 0,
            probed: now,
        }
    }

    pub(crate) fn is_rejected(&self) -> bool {
        self.rejected
    }

    /// What is due; the caller does it before it asks again.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        heard: &Heard,
        confirmed: bool,
        keepalive: Duration,
    ) -> Option<Due> {
        if self.rejected && now >= self.born + REJECTED_LIVES {
            return Some(Due::End(Ended::Rejected));
        }
        if !confirmed {
            return self.poll_meta(now, heard);
        }
        if now >= heard.record + SILENT_LIVES {
            return Some(Due::End(Ended::Silent));
        }
        if now >= heard.record.max(self.probed) + keepalive {
            self.probed = now;
            return Some(Due::Probe);
        }

        None
    }

    /// When [`Self::poll`] may have something, as far as is known now.
    pub(crate) fn due(&self, heard: &Heard, confirmed: bool, keepalive: Duration) -> Instant {
        let due = if confirmed {
            let probe = heard.record.max(self.probed) + keepalive;
            probe.min(heard.record + SILENT_LIVES)
        } else {
            heard.datagram.max(self.meta_sent) + META_SILENCE
        };
        if self.rejected {
            return due.min(self.born + REJECTED_LIVES);
        }

        due
    }

    /// A second record before the spoke's first would hang a pion dial that
    /// still waits for our Finished, so the meta waits for silence: a spoke
    /// that is in its handshake repeats its flight sooner.
    fn poll_meta(&mut self, now: Instant, heard: &Heard) -> Option<Due> {
        if now < heard.datagram.max(self.meta_sent) + META_SILENCE {
            return None;
        }
        if self.repeats == META_REPEATS {
            return Some(Due::End(Ended::Unconfirmed));
        }
        self.repeats += 1;
        self.meta_sent = now;

        Some(Due::Meta)
    }
}

/// What a session needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Meta,
    Probe,
    End(Ended),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the spoke said goodbye")]
    Goodbye,
    #[error("replaced by a newer session of the hint")]
    Replaced,
    #[error("nothing heard for an hour")]
    Silent,
    #[error("the spoke never answered the meta")]
    Unconfirmed,
    #[error("no lease was free")]
    Rejected,
    #[error("its device was deleted")]
    DeviceGone,
    #[error("the hub stops")]
    Stopped,
}

const META_SILENCE: Duration = Duration::from_secs(3);
const META_REPEATS: u8 = 5;
const REJECTED_LIVES: Duration = Duration::from_secs(10);
const SILENT_LIVES: Duration = Duration::from_secs(3600);

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
mod tests {
    use super::*;

    const KEEPALIVE: Duration = Duration::from_secs(25);

    fn heard(at: Instant) -> Heard {
        Heard {
            datagram: at,
            record: at,
            sent: None,
            large: None,
            stalled: None,
            owed: None,
        }
    }

    /// What comes due in `seconds` of a peer that was heard at the start only.
    fn dues(upkeep: &mut Upkeep, start: Instant, confirmed: bool, seconds: u64) -> Vec<(u64, Due)> {
        let heard = heard(start);

        (0..=seconds)
            .filter_map(|second| {
                let now = start + Duration::from_secs(second);
                let due = upkeep.poll(now, &heard, confirmed, KEEPALIVE)?;
                Some((second, due))
            })
            .collect()
    }

    #[test]
    fn the_meta_is_repeated_five_times_into_silence_and_then_given_up() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start, false);

        assert_eq!(
            dues(&mut upkeep, start, false, 18),
            [
                (3, Due::Meta),
                (6, Due::Meta),
                (9, Due::Meta),
                (12, Due::Meta),
                (15, Due::Meta),
                (18, Due::End(Ended::Unconfirmed)),
            ]
        );
    }

    #[test]
    fn a_spoke_that_still_repeats_its_flight_gets_no_second_meta() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start, false);

        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            let last = heard(start + Duration::from_secs(second / 2 * 2));
            assert_eq!(upkeep.poll(now, &last, false, KEEPALIVE), None);
        }
    }

    #[test]
    fn a_silent_spoke_is_probed_each_keepalive_and_given_up_after_an_hour() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start, false);

        let dues = dues(&mut upkeep, start, true, 3600);

        assert_eq!(dues[0], (25, Due::Probe));
        assert_eq!(dues[1], (50, Due::Probe));
        assert_eq!(dues.last(), Some(&(3600, Due::End(Ended::Silent))));
    }

    #[test]
    fn a_rejected_spoke_is_forgotten_after_ten_seconds() {
        let start = Instant::now();
        let mut upkeep = Upkeep::new(start, true);

        let dues = dues(&mut upkeep, start, false, 10);

        assert_eq!(dues.last(), Some(&(10, Due::End(Ended::Rejected))));
    }
}
