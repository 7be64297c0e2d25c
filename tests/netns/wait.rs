//! The one place that sleeps.

use std::thread;
use std::time::{Duration, Instant};

/// Asks until there is an answer; fails the test at the deadline.
#[track_caller]
pub(crate) fn until<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            start.elapsed() < deadline,
            "{what}: not within {deadline:?}"
        );
        thread::sleep(PAUSE);
    }
}

/// [`until`] for a question of yes or no.
#[track_caller]
pub(crate) fn until_true(what: &str, deadline: Duration, mut ask: impl FnMut() -> bool) {
    until(what, deadline, || ask().then_some(()));
}

const PAUSE: Duration = Duration::from_millis(20);
