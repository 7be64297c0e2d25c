//! Whether the hub is still there. Pure: no clock, no socket.
//!
//! Any authenticated record is life; nothing else is. When something was sent
//! and nothing came back for [`SILENCE`], or when an unauthenticated sign (an
//! ICMP error, a plaintext alert: anyone can forge them) speaks of an end, a
//! probe goes out every second, and a third one unanswered is death. While
//! nothing is sent, a probe every keepalive keeps the mapping of a NAT, and
//! three keepalives of silence are death.
//!
//! A probe is a control message to a hub of ours and an ICMP echo to a hub
//! that knows nothing else. Such a hub may be set not to answer echoes: as
//! long as it never answered one, only a sign of the end counts against it.

use std::time::{Duration, Instant};

use dtun_shared::association::Heard;

/// The state of one session's heartbeat.
#[derive(Debug)]
pub(crate) struct Liveness {
    keepalive: Duration,
    /// Whether silence after probes is proof.
    answers: bool,
    /// When the last authenticated record came.
    life: Instant,
    /// When the last record of any kind was sent.
    sent: Instant,
    /// The first packet sent since the last sign of life.
    owed: Option<Instant>,
    /// When the run of probes ended that proved nothing: what was sent before
    /// is owed no more.
    forgiven: Option<Instant>,
    /// The run of probes in progress.
    probing: Option<Probing>,
    /// When the newest probe was sent.
    probed: Option<Instant>,
    /// The newest probe's number, until its answer comes.
    open: Option<u64>,
    next_id: u64,
}

/// What the owner is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Send a probe with this number.
    Probe(u64),
    /// Give the session up.
    Dead(Death),
}

/// How a session was found dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Death {
    #[error("no answer to {PROBES} probes")]
    Probes,
    #[error("nothing from the hub for three keepalives")]
    Idle,
}

#[derive(Clone, Copy, Debug)]
struct Probing {
    sent: u32,
    next: Instant,
    /// Whether a sign of the end was seen since the last sign of life.
    suspect: bool,
}

impl Liveness {
    pub(crate) fn set_keepalive(&mut self, keepalive: Duration) {
        self.keepalive = keepalive;
    }

    /// A session that is up `now`. `answers` says whether the hub is known to
    /// answer probes.
    pub(crate) fn new(now: Instant, keepalive: Duration, answers: bool) -> Self {
        Self {
            keepalive,
            answers,
            life: now,
            sent: now,
            owed: None,
            forgiven: None,
            probing: None,
            probed: None,
            open: None,
            next_id: 1,
        }
    }

    /// Takes over what the data path has heard and sent. To be called before
    /// anything else is told or asked.
    pub(crate) fn sync(&mut self, heard: &Heard) {
        if heard.record > self.life {
            self.life = heard.record;
            self.owed = None;
            self.probing = None;
        }
        if let Some(sent) = heard.sent {
            self.sent = self.sent.max(sent);
        }
        // A packet that is forgiven stays the first without an answer.
        let unforgiven = |at: &Instant| self.forgiven.is_none_or(|forgiven| *at > forgiven);
        if self.owed.is_none() && heard.owed.is_some() {
            self.owed = [heard.owed, heard.sent]
                .into_iter()
                .flatten()
                .find(unforgiven);
        }
    }

    /// A record went out that calls for no answer.
    pub(crate) fn record_sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// The answer to a probe came, in an authenticated record. Returns the
    /// round-trip time when it answers the newest.
    pub(crate) fn answered(&mut self, now: Instant, id: u64) -> Option<Duration> {
        if self.open != Some(id) {
            return None;
        }
        self.answers = true;
        self.open = None;

        Some(now.saturating_duration_since(self.probed?))
    }

    /// Something that anyone could have forged speaks of an end.
    pub(crate) fn suspect(&mut self, now: Instant) {
        let next = self.probed.map_or(now, |at| now.max(at + PROBE_EVERY));
        self.probing
            .get_or_insert(Probing {
                sent: 0,
                next,
                suspect: true,
            })
            .suspect = true;
    }

    /// Sends a probe out of turn, to learn the round-trip time.
    pub(crate) fn probe(&mut self, now: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.probed = Some(now);
        self.open = Some(id);
        self.sent = now;

        id
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let mut at = self.idle_probe();
        if self.answers {
            at = at.min(self.idle_death());
        }
        match (self.probing, self.owed) {
            (Some(probing), _) => at.min(probing.next),
            (None, Some(owed)) => at.min(owed + SILENCE),
            (None, None) => at,
        }
    }

    /// Does what is due; to be called again while it returns something.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Act> {
        if self.answers && now >= self.idle_death() {
            return Some(Act::Dead(Death::Idle));
        }
        if self.probing.is_none() && self.owed.is_some_and(|owed| now >= owed + SILENCE) {
            self.probing = Some(Probing {
                sent: 0,
                next: now,
                suspect: false,
            });
        }
        if let Some(probing) = self.probing
            && now >= probing.next
        {
            return self.next_probe(now, probing);
        }
        if now >= self.idle_probe() {
            return Some(Act::Probe(self.probe(now)));
        }

        None
    }

    fn next_probe(&mut self, now: Instant, probing: Probing) -> Option<Act> {
        if probing.sent < PROBES {
            self.probing = Some(Probing {
                sent: probing.sent + 1,
                next: now + PROBE_EVERY,
                ..probing
            });
            return Some(Act::Probe(self.probe(now)));
        }
        if self.answers || probing.suspect {
            return Some(Act::Dead(Death::Probes));
        }

        self.probing = None;
        self.owed = None;
        self.forgiven = Some(now);
        None
    }

    /// Either direction's silence lets a NAT forget the mapping.
    fn idle_probe(&self) -> Instant {
        let quiet = self.sent.min(self.life);

        self.probed.map_or(quiet, |at| quiet.max(at)) + self.keepalive
    }

    fn idle_death(&self) -> Instant {
        self.life + self.keepalive * IDLE_KEEPALIVES
    }
}

/// How long a packet may stay without any answer.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBES: u32 = 3;
const IDLE_KEEPALIVES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// A session in virtual time: seconds since its start.
    struct Session {
        start: Instant,
        live: Liveness,
        /// What a data path would say.
        heard: Heard,
        log: Vec<(u64, Act)>,
    }

    impl Session {
        fn new(answers: bool) -> Self {
            let start = Instant::now();
            Self {
                start,
                live: Liveness::new(start, Duration::from_secs(25), answers),
                heard: Heard {
                    datagram: start,
                    record: start,
                    sent: None,
                    large: None,
                    stalled: None,
                    owed: None,
                },
                log: Vec::new(),
            }
        }

        fn packet_sent(&mut self, now: Instant) {
            self.heard.sent = Some(now);
            self.heard.owed.get_or_insert(now);
            self.live.sync(&self.heard);
        }

        fn received(&mut self, now: Instant) {
            (self.heard.record, self.heard.owed) = (now, None);
            self.live.sync(&self.heard);
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        /// Runs the timers up to `second`, without it; `answer` says whether
        /// the hub answers probes.
        fn run_to(&mut self, second: u64, answer: bool) {
            loop {
                let at = self.live.poll_timeout();
                if at >= self.at(second) {
                    return;
                }
                self.live.sync(&self.heard);
                while let Some(act) = self.live.handle_timeout(at) {
                    self.log.push(((at - self.start).as_secs(), act));
                    match act {
                        Act::Dead(_) => return,
                        Act::Probe(id) if answer => {
                            self.received(at);
                            self.live.answered(at, id).unwrap();
                        }
                        Act::Probe(_) => {}
                    }
                }
                assert!(self.live.poll_timeout() > at, "a timer that does not move");
                if matches!(self.log.last(), Some((_, Act::Dead(_)))) {
                    return;
                }
            }
        }

        fn probes(&self) -> Vec<u64> {
            self.log
                .iter()
                .filter(|(_, act)| matches!(act, Act::Probe(_)))
                .map(|(second, _)| *second)
                .collect()
        }

        fn death(&self) -> Option<(u64, Death)> {
            self.log.iter().find_map(|(second, act)| match act {
                Act::Dead(death) => Some((*second, *death)),
                Act::Probe(_) => None,
            })
        }
    }

    #[test]
    fn a_packet_without_an_answer_is_followed_by_three_probes_and_death() {
        let mut session = Session::new(true);

        session.packet_sent(session.at(10));
        session.packet_sent(session.at(12));
        session.run_to(100, false);

        assert_eq!(session.probes(), [13, 14, 15]);
        assert_eq!(session.death(), Some((16, Death::Probes)));
    }

    #[test]
    fn any_record_ends_the_probing() {
        let mut session = Session::new(true);

        session.packet_sent(session.at(10));
        session.run_to(15, false);
        session.received(session.at(15));
        session.run_to(39, false);

        assert_eq!(session.probes(), [13, 14]);
        assert_eq!(session.death(), None);
    }

    #[test]
    fn an_idle_session_is_probed_at_the_keepalive_and_gone_after_three() {
        let mut session = Session::new(true);

        session.run_to(1000, false);

        assert_eq!(session.probes(), [25, 50]);
        assert_eq!(session.death(), Some((75, Death::Idle)));
    }

    #[test]
    fn an_idle_session_whose_hub_answers_lives_for_ever() {
        let mut session = Session::new(true);

        session.run_to(101, true);

        assert_eq!(session.probes(), [25, 50, 75, 100]);
        assert_eq!(session.death(), None);
    }

    #[test]
    fn a_spoke_that_only_receives_keeps_its_mapping() {
        let mut session = Session::new(true);
        for second in 1..60 {
            session.received(session.at(second));
            session.run_to(second + 1, false);
        }

        assert_eq!(session.probes(), [25, 50]);
    }

    #[test]
    fn a_forged_sign_starts_probing_and_no_more() {
        let mut session = Session::new(true);

        session.live.suspect(session.at(5));
        session.run_to(20, true);

        assert_eq!(session.probes(), [5]);
        assert_eq!(session.death(), None);
    }

    #[test]
    fn a_flood_of_forged_signs_costs_a_probe_a_second() {
        let mut session = Session::new(true);

        for milliseconds in 0..10_000 {
            let now = session.start + Duration::from_millis(milliseconds);
            session.live.suspect(now);
            if session.live.poll_timeout() <= now
                && let Some(act) = session.live.handle_timeout(now)
            {
                session.log.push((milliseconds / 1000, act));
                let Act::Probe(id) = act else { break };
                session.received(now);
                session.live.answered(now, id).unwrap();
            }
        }

        assert!(session.probes().len() <= 10, "{:?}", session.log);
        assert_eq!(session.death(), None);
    }

    #[test]
    fn a_refusal_that_nobody_contradicts_is_death_in_three_seconds() {
        let mut session = Session::new(true);

        session.live.suspect(session.at(5));
        session.run_to(100, false);

        assert_eq!(session.probes(), [5, 6, 7]);
        assert_eq!(session.death(), Some((8, Death::Probes)));
    }

    #[test]
    fn a_hub_that_never_answered_an_echo_is_not_dead_for_want_of_echoes() {
        let mut session = Session::new(false);

        for second in 0..300 {
            session.packet_sent(session.at(second));
            session.run_to(second + 1, false);
        }

        assert_eq!(session.death(), None);
    }

    #[test]
    fn a_packet_that_no_probe_explains_is_forgiven_until_the_next() {
        let mut session = Session::new(false);

        session.packet_sent(session.at(1));
        session.run_to(9, false);
        assert_eq!(session.probes(), [4, 5, 6]);

        session.packet_sent(session.at(9));
        session.packet_sent(session.at(10));
        session.run_to(20, false);
        assert_eq!(session.probes()[3..], [12, 13, 14]);
        assert_eq!(session.death(), None);
    }

    #[test]
    fn a_hub_that_answered_one_echo_is_dead_without_the_next() {
        let mut session = Session::new(false);
        session.run_to(26, true);

        session.packet_sent(session.at(30));
        session.run_to(100, false);

        assert_eq!(session.death(), Some((36, Death::Probes)));
    }

    #[test]
    fn a_silent_go_hub_whose_port_is_closed_is_dead() {
        let mut session = Session::new(false);

        session.live.suspect(session.at(5));
        session.run_to(100, false);

        assert_eq!(session.death(), Some((8, Death::Probes)));
    }

    #[test]
    fn the_round_trip_time_is_that_of_the_newest_probe() {
        let mut session = Session::new(true);
        let first = session.live.probe(session.at(1));
        let second = session.live.probe(session.at(2));

        assert_eq!(session.live.answered(session.at(3), first), None);
        assert_eq!(
            session.live.answered(session.at(4), second),
            Some(Duration::from_secs(2))
        );
        assert_eq!(session.live.answered(session.at(5), second), None);
    }
}
