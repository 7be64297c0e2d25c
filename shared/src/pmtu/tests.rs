use proptest::prelude::*;

use super::*;

/// A prober, the path that its probes take and the far end that answers, in
/// virtual time.
struct Link {
    start: Instant,
    now: Instant,
    prober: Prober,
    /// What the path carries, as inner sizes.
    carries: u16,
    /// What the own link carries; a larger probe is refused.
    own: u16,
    /// Whether anything comes back at all.
    silent: bool,
    rtt: Duration,
    /// Of 100 probes, and what chooses them.
    loss: u64,
    random: u64,
    /// Answers on their way, by arrival.
    answers: Vec<(Instant, u64)>,
    /// Every probe: milliseconds since the start, size.
    log: Vec<(u128, u16)>,
}

impl Link {
    fn new(max: u16, carries: u16) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            prober: Prober::new(start, max, 65),
            carries,
            own: u16::MAX,
            silent: false,
            rtt: Duration::from_millis(20),
            loss: 0,
            random: 1,
            answers: Vec::new(),
            log: Vec::new(),
        }
    }

    /// One that has found its limit.
    fn settled(max: u16, carries: u16) -> Self {
        let mut link = Self::new(max, carries);
        link.run(Duration::from_secs(60));
        assert_eq!(link.prober.poll_timeout(), None);
        link.log.clear();
        link
    }

    /// Lets `time` pass, without any traffic.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self
                .prober
                .poll_timeout()
                .into_iter()
                .chain(self.answers.iter().map(|(at, _)| *at))
                .min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            self.step();
        }
        self.now = end;
    }

    /// Lets `seconds` pass with traffic, noticed every three seconds.
    fn run_busy(&mut self, seconds: u64) {
        for _ in 0..seconds / 3 {
            self.prober.used(self.now);
            self.run(Duration::from_secs(3));
        }
    }

    fn step(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.answers)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.answers = later;
        for (_, id) in due {
            self.prober.answered(now, id);
        }
        let before = self.log.len();
        while let Some(Probe { id, size }) = self.prober.handle_timeout(now) {
            self.log.push(((now - self.start).as_millis(), size));
            if size > self.own {
                self.prober.refused(now, id);
            } else if size <= self.carries && !self.silent && !self.is_lost() {
                self.answers.push((now + self.rtt, id));
            }
            assert!(self.log.len() < before + 40, "a burst without end");
        }
        if let Some(at) = self.prober.poll_timeout() {
            assert!(at > now, "a timer that does not move");
        }
    }

    fn is_lost(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005) + 1;
        (self.random >> 33) % 100 < self.loss
    }

    fn sizes(&self) -> Vec<u16> {
        self.log.iter().map(|(_, size)| *size).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_path_that_carries_all_costs_two_probes_and_no_timer() {
    let mut link = Link::new(1435, 1435);
    assert_eq!(link.prober.limit(), 1435);

    link.run(Duration::from_millis(20));

    assert_eq!(link.log, [(0, 1435), (0, 1215)]);
    assert_eq!(link.prober.poll_timeout(), None);
    assert_eq!(link.prober.limit(), 1435);
}

#[test]
fn a_black_hole_of_1280_is_found_within_two_seconds() {
    for rtt in [1, 20, 200] {
        let mut link = Link::new(1435, 1215);
        link.rtt = Duration::from_millis(rtt);

        link.run(2 * SECOND + 3 * link.rtt);

        assert_eq!(link.prober.limit(), 1215, "rtt of {rtt} ms");
    }
}

#[test]
fn a_slow_path_is_not_taken_for_a_small_one() {
    let mut link = Link::new(1435, 1435);
    link.rtt = 3 * SECOND;

    link.run(10 * SECOND);

    assert_eq!(link.prober.limit(), 1435);
    assert_eq!(link.prober.doubt, None);
}

#[test]
fn a_limit_below_1280_is_found_too() {
    let mut link = Link::new(1435, 941);

    link.run(60 * SECOND);

    assert_eq!(link.prober.limit(), 941);
}

#[test]
fn what_the_own_link_refuses_is_not_asked_twice() {
    let mut link = Link::new(1435, 1215);
    link.own = 1215;

    link.run(Duration::from_millis(200));
    assert_eq!(link.prober.limit(), 1215);
    link.run(60 * SECOND);

    assert_eq!(link.sizes().iter().filter(|&&size| size == 1435).count(), 1);
    assert_eq!(link.prober.limit(), 1215);
}

#[test]
fn nothing_is_sent_while_nothing_is_used() {
    let mut link = Link::settled(1435, 1215);

    link.run(5000 * SECOND);

    assert_eq!(link.log, []);
}

#[test]
fn the_limit_is_confirmed_every_ten_seconds_of_use_by_one_probe() {
    let mut link = Link::settled(1435, 1435);

    link.run_busy(300);

    assert_eq!(link.sizes(), [1435; 25]);
}

#[test]
fn a_path_that_shrinks_under_traffic_is_found() {
    let mut link = Link::settled(1435, 1435);

    link.carries = 1335;
    link.run_busy(18);

    assert_eq!(link.prober.limit(), 1335);
}

#[test]
fn a_path_that_grows_is_found_after_ten_minutes_of_use() {
    let mut link = Link::settled(1435, 1215);

    link.carries = 1435;
    link.run_busy(530);
    assert_eq!(link.prober.limit(), 1215);
    link.run_busy(30);

    assert_eq!(link.prober.limit(), 1435);
}

#[test]
fn silence_says_nothing_about_size() {
    let mut link = Link::settled(1435, 1435);

    link.silent = true;
    link.run_busy(120);
    assert_eq!(link.prober.limit(), 1435);
    link.silent = false;
    link.carries = 1215;
    link.run_busy(9);

    assert_eq!(link.prober.limit(), 1215);
}

#[test]
fn a_forged_hint_costs_one_probe_a_second_and_lowers_nothing() {
    let mut link = Link::settled(1435, 1435);

    for _ in 0..1000 {
        link.prober.hint(link.now, 700);
        link.prober.suspect(link.now);
        link.run(Duration::from_millis(10));
        assert_eq!(link.prober.limit(), 1435);
    }

    assert!(link.log.len() <= 22, "{}", link.log.len());
}

#[test]
fn a_true_hint_names_the_limit_to_the_byte() {
    let mut link = Link::settled(1435, 1435);

    link.carries = 1333;
    link.prober.hint(link.now, 1333);
    link.run(2 * SECOND);

    assert_eq!(link.prober.limit(), 1333);
}

#[test]
fn a_true_hint_in_a_round_names_it_too_and_a_flood_of_others_costs_one_probe_a_try() {
    let mut link = Link::settled(1435, 1435);

    link.carries = 1333;
    link.prober.suspect(link.now);
    link.run(Duration::from_millis(20));
    link.prober.hint(link.now, 1333);
    let before = link.log.len();
    for size in 1300..1330 {
        link.prober.hint(link.now, size);
    }
    link.run(3 * SECOND);

    assert_eq!(link.prober.limit(), 1333);
    assert!(link.log.len() - before < 40, "{:?}", link.log);
}

#[test]
fn a_hint_just_after_a_round_is_followed_up_at_the_next_use() {
    let mut link = Link::new(1435, 1435);
    link.run(Duration::from_millis(20));

    link.carries = 1215;
    link.prober.hint(link.now, 1215);
    link.run(3 * SECOND);
    assert_eq!(link.prober.limit(), 1435);
    link.run_busy(6);

    assert_eq!(link.prober.limit(), 1215);
}

#[test]
fn a_foreign_peer_gets_no_probe_and_its_hints_hold_for_ten_minutes() {
    let start = Instant::now();
    let mut prober = Prober::foreign(start, 1443, 57);

    prober.hint(start + SECOND, 1343);
    assert_eq!(prober.limit(), 1343);
    prober.hint(start + 2 * SECOND, 68);
    assert_eq!(prober.limit(), 1223);
    prober.used(start + 601 * SECOND);
    assert_eq!(prober.limit(), 1223);
    prober.used(start + 602 * SECOND);
    assert_eq!(prober.limit(), 1443);

    prober.suspect(start + 700 * SECOND);
    assert_eq!(prober.poll_timeout(), None);
    assert_eq!(prober.handle_timeout(start + 900 * SECOND), None);
}

#[test]
fn another_path_is_searched_from_the_start() {
    let mut link = Link::settled(1435, 1215);

    link.carries = 1400;
    link.prober.restart(link.now, 1420);
    link.run(20 * SECOND);

    assert!((1393..=1400).contains(&link.prober.limit()));
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut link = Link::settled(1435, 1215);

    for id in [0, 1000, u64::MAX] {
        link.prober.answered(link.now, id);
    }

    assert_eq!(link.prober.limit(), 1215);
}

#[test]
fn a_late_answer_of_more_than_was_found_to_fail_is_believed() {
    let mut link = Link::new(1435, 1300);
    while link.prober.limit() == 1435 {
        link.run(Duration::from_millis(1));
    }
    assert!(link.prober.poll_timeout().is_some(), "it is being refined");

    let first = 1;
    link.prober.answered(link.now, first);

    assert_eq!(link.log[0], (0, 1435));
    assert_eq!(link.prober.limit(), 1435);
    assert_eq!(link.prober.poll_timeout(), None);
}

proptest! {
    #[test]
    fn the_limit_is_what_the_path_carries_less_a_grain(
        max in 1280u16..9000,
        carries in LEAST..9000,
        rtt in 1u64..400,
    ) {
        let mut link = Link::new(max, carries);
        link.rtt = Duration::from_millis(rtt);

        link.run(60 * SECOND);

        let carries = carries.min(max);
        prop_assert!(link.prober.limit() <= carries);
        prop_assert!(link.prober.limit() + GRAIN >= carries);
        prop_assert_eq!(link.prober.poll_timeout(), None);
        prop_assert!(link.log.len() < 150);
    }

    #[test]
    fn a_lossy_path_is_never_used_beyond_what_it_carries(
        carries in LEAST..1500,
        loss in 0u64..30,
        random: u64,
    ) {
        let mut link = Link::new(1435, carries);
        (link.loss, link.random) = (loss, random);

        link.run_busy(1200);

        prop_assert!(link.prober.limit() <= carries);
    }
}

/// Far less than it carries only after an unlikely streak of losses.
#[test]
fn a_path_that_loses_a_fifth_is_rarely_taken_for_a_small_one() {
    let limits = (0..200).map(|seed| {
        let mut link = Link::new(1435, 1219);
        (link.loss, link.random) = (20, seed);
        link.run_busy(1200);

        link.prober.limit()
    });

    let small = limits.filter(|limit| *limit < 941).count();
    assert!(small <= 10, "{small} of 200");
}
