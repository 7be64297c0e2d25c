//! What this process may do and which signals it ignores, as the kernel tells
//! it in `/proc/self/status` (proc_pid_status(5)).

use std::fs;

/// Whether this process may change devices, addresses and routes; none where
/// the kernel does not say.
pub fn has_net_admin() -> Option<bool> {
    own_bit("CapEff", CAP_NET_ADMIN)
}

/// Says at once what would be found out only half-way: a command of this program
/// that changes the machine's network may not.
pub fn needs_root(command: &'static str) -> Result<(), NotRoot> {
    match has_net_admin() {
        Some(false) => Err(NotRoot(command)),
        Some(true) | None => Ok(()),
    }
}

/// A command that only root can carry out.
#[derive(Debug, thiserror::Error)]
#[error("dtun {0} needs root, or the capability CAP_NET_ADMIN")]
pub struct NotRoot(&'static str);

/// Whether whoever started this process had it ignore SIGHUP, as nohup does;
/// none where the kernel does not say.
pub fn ignores_hangup() -> Option<bool> {
    own_bit("SigIgn", SIGHUP - 1)
}

fn own_bit(field: &str, bit: u32) -> Option<bool> {
    let status = fs::read_to_string("/proc/self/status").ok()?;

    Some(mask(&status, field)? >> bit & 1 == 1)
}

/// The 64 bits, in hexadecimal, behind `field:`.
fn mask(status: &str, field: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;

    u64::from_str_radix(value.trim(), 16).ok()
}

/// In linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;

/// Its number; the kernel's masks of signals begin with number 1.
const SIGHUP: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_read_from_the_kernels_text() {
        let status = "Name:\tdtun\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n";

        assert_eq!(mask(status, "CapEff"), Some(1 << CAP_NET_ADMIN));
        assert_eq!(mask(status, "CapPrm"), Some(0));
        assert_eq!(mask(status, "Cap"), None);
        assert_eq!(mask("", "CapEff"), None);
    }

    #[test]
    fn this_process_is_told_of_itself() {
        assert!(has_net_admin().is_some());
        assert!(ignores_hangup().is_some());
    }
}
