//! What the kernel must be told beside rules and routes.

use std::fs;
use std::path::Path;

/// Lets strict reverse-path filters look up answers to our own datagrams by
/// the mark that the firewall gives them.
pub(super) fn honour_marks_of_answers() {
    set("ipv4/conf/all/src_valid_mark", "1");
}

/// Keeps routes into a device that nobody holds from being used: one that is
/// persistent outlives us.
pub(super) fn pass_by_without_carrier(device: &str) {
    carry(device, "1");
}

/// Has routes into a device that nobody holds lead there all the same: until
/// somebody does, nothing is to pass beside it.
pub(super) fn stay_without_carrier(device: &str) {
    carry(device, "0");
}

fn carry(device: &str, value: &str) {
    for family in ["ipv4", "ipv6"] {
        let name = format!("{family}/conf/{device}/ignore_routes_with_linkdown");
        set(&name, value);
    }
}

fn set(name: &str, value: &str) {
    let path = Path::new("/proc/sys/net").join(name);
    let is_set = || fs::read_to_string(&path).is_ok_and(|text| text.trim() == value);
    if !is_set()
        && let Err(error) = fs::write(&path, value)
    {
        tracing::debug!(path = %path.display(), %error, "sysctl not set");
    }
}
