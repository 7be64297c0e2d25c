//! Which HelloVerifyRequest the library answers next (pure).
//!
//! Anyone can forge one, and the wrong cookie gets no ServerHello. So the first
//! goes to the library, later ones wait: only when the hello with the first has
//! gone unanswered for long does another have its turn.

use std::collections::VecDeque;

/// The HelloVerifyRequests that have come, as message bodies.
#[derive(Debug, Default)]
pub(super) struct Cookies {
    current: Vec<u8>,
    untried: VecDeque<Vec<u8>>,
    /// How many the library was shown.
    shown: u16,
    /// Hellos sent since it was shown the last.
    unanswered: u32,
}

impl Cookies {
    /// Takes one that came; returns it when the library is to be shown it.
    pub(super) fn offer(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if self.shown == 0 {
            return Some(self.show(body.to_vec()));
        }
        if self.current != body && !self.untried.iter().any(|known| known == body) {
            // The right one comes again with every wrong hello, so it is never lost.
            if self.untried.len() == MAX_UNTRIED {
                self.untried.pop_front();
            }
            self.untried.push_back(body.to_vec());
        }

        None
    }

    /// Counts a hello; returns the next to show when the current one fails.
    pub(super) fn hello_sent(&mut self) -> Option<Vec<u8>> {
        self.unanswered += 1;
        if self.unanswered < PATIENCE {
            return None;
        }
        let next = self.untried.pop_front()?;
        self.untried.push_back(std::mem::take(&mut self.current));

        Some(self.show(next))
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
