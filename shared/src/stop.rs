//! The request to stop.

/// What a program that stops leaves on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// Nothing.
    #[default]
    ForGood,
    /// As little, but for a spoke's lock: the terminal went away, which nobody
    /// may have wanted.
    Hangup,
    /// What the next start takes over: a hub's devices, a spoke's lock.
    Restart,
}
