//! One function per system call; the only `unsafe` of the workspace.
#![allow(
    unsafe_code,
    reason = "system calls that no crate of ours wraps stand here and nowhere else"
)]

pub(crate) mod clock;
pub(crate) mod process;
