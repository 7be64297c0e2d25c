//! Which HelloVerifyRequest the library answers next (pure).
//!
//! Anyone can forge one, and the wrong cookie gets no ServerHello. So the first
//! goes to the library, later ones wait: only when the hello with the first has
//! gone unanswered for long does another have its turn. The right one comes
//! again with every wrong hello, so the one that came most often is next.

use std::collections::VecDeque;

/// The HelloVerifyRequests that have come, as message bodies.
#[derive(Debug, Default)]
pub(super) struct Cookies {
    current: Vec<u8>,
    /// The oldest first.
    untried: VecDeque<Untried>,
    /// How many the library was shown.
    shown: u16,
    /// Hellos sent since it was shown the last.
    unanswered: u32,
}

#[derive(Debug)]
struct Untried {
    body: Vec<u8>,
    /// How often it came since it was shown last.
    came: u32,
}

impl Cookies {
    /// Takes one that came; returns it when the library is to be shown it.
    pub(super) fn offer(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if self.shown == 0 {
            return Some(self.show(body.to_vec()));
        }
        if self.current == body {
            return None;
        }
        match self.untried.iter_mut().find(|known| known.body == body) {
            Some(known) => known.came = known.came.saturating_add(1),
            None => self.keep(body.to_vec(), 1),
        }

        None
    }

    /// Counts a hello; returns the next to show when the current one fails.
    pub(super) fn hello_sent(&mut self) -> Option<Vec<u8>> {
        self.unanswered += 1;
        if self.unanswered < PATIENCE {
            return None;
        }
        let most = self.untried.iter().map(|known| known.came).max()?;
        let next = self.take(most)?;
        let current = std::mem::take(&mut self.current);
        self.keep(current, 0);

        Some(self.show(next))
    }

    /// Where there is no room, one of those goes that came least often.
    fn keep(&mut self, body: Vec<u8>, came: u32) {
        if self.untried.len() == MAX_UNTRIED
            && let Some(least) = self.untried.iter().map(|known| known.came).min()
        {
            self.take(least);
        }
        self.untried.push_back(Untried { body, came });
    }

    /// The oldest of those that came so often.
    fn take(&mut self, came: u32) -> Option<Vec<u8>> {
        let at = self.untried.iter().position(|known| known.came == came)?;

        self.untried.remove(at).map(|known| known.body)
    }

    /// The message number of the one shown last.
    pub(super) fn message_seq(&self) -> u16 {
        self.shown.saturating_sub(1)
    }

    fn show(&mut self, body: Vec<u8>) -> Vec<u8> {
        self.current.clone_from(&body);
        self.shown = self.shown.saturating_add(1);
        self.unanswered = 0;

        body
    }
}

/// Hellos without an answer before another cookie is tried: 2 s at the
/// library's interval, since a slow server must not be mistaken for a forgery.
const PATIENCE: u32 = 8;

const MAX_UNTRIED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_shown_at_once_and_the_same_never_again() {
        let mut cookies = Cookies::default();

        assert_eq!(cookies.offer(b"a"), Some(b"a".to_vec()));
        assert_eq!(cookies.offer(b"a"), None);
        for _ in 0..10 * PATIENCE {
            assert_eq!(cookies.hello_sent(), None);
        }
    }

    #[test]
    fn the_one_that_comes_with_every_hello_is_next_whatever_else_comes_once() {
        let mut cookies = Cookies::default();
        cookies.offer(b"forged");

        let mut shown = Vec::new();
        for hello in 0..PATIENCE {
            for forged in 0..3 {
                cookies.offer(&[hello as u8, forged]);
            }
            cookies.offer(b"right");
            shown.extend(cookies.hello_sent());
        }

        assert_eq!(shown, [b"right"]);
    }

    #[test]
    fn each_has_its_turn_however_many_are_forged() {
        let mut cookies = Cookies::default();
        cookies.offer(b"forged");

        let mut shown = Vec::new();
        for round in 0..100u32 {
            for _ in 0..PATIENCE {
                cookies.offer(&round.to_be_bytes());
                cookies.offer(b"right");
                shown.extend(cookies.hello_sent());
            }
        }

        assert!(shown.iter().filter(|body| *body == b"right").count() > 5);
    }
}
