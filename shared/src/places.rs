//! The folders that are ours on every machine.

/// What outlives a reboot, when nobody says otherwise.
pub const STATE: &str = "/var/lib/dtun";

/// What does not.
pub const RUN: &str = "/run/dtun";
