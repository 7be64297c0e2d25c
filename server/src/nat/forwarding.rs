//! Forwarding, switched on and left on.

use std::fs;
use std::io;
use std::path::Path;

use dtun_shared::link;

/// Switches it on where it is off, and says so. Where it cannot, the hub says
/// at its start what to do.
pub(super) fn switch_on(ip6: bool) {
    if !link::forwarding4() {
        report("IPv4", write(Path::new(FORWARD4)));
    }
    if ip6 && !link::forwarding6() {
        // First: the kernel forgets at once what routers have announced to devices
        // that no longer listen.
        match keep_listening() {
            Ok(devices) if devices.is_empty() => {}
            Ok(devices) => {
                let devices = devices.join(", ");
                tracing::info!(devices, "routers are still listened to: accept_ra is 2 now");
            }
            Err(error) => warn_of_routers(&error),
        }
        report("IPv6", write(Path::new(FORWARD6)));
    }
}

/// Lets devices go on taking addresses and routes from router advertisements:
/// one that forwards takes them with the value 2 only (ip-sysctl.rst of Linux).
/// Returns those that had another, but for those that cannot be set.
fn keep_listening() -> io::Result<Vec<String>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir(CONF6)? {
        let entry = entry?;
        let file = entry.path().join("accept_ra");
        let device = entry.file_name().to_string_lossy().into_owned();
        let may_listen = !["all", "default", "lo"].contains(&device.as_str());
        if may_listen && fs::read_to_string(&file).is_ok_and(|value| value.trim() == "1") {
            match fs::write(file, "2") {
                Ok(()) => devices.push(device),
                Err(error) => warn_of_routers(&error),
            }
        }
    }
    devices.sort();

    Ok(devices)
}

fn warn_of_routers(error: &io::Error) {
    tracing::warn!("routes that routers announce by IPv6 may be lost: {error}");
}

fn report(family: &str, result: io::Result<()>) {
    match result {
        Ok(()) => tracing::info!(family, "forwarding is switched on, and stays on"),
        Err(error) => tracing::warn!(family, %error, "forwarding cannot be switched on"),
    }
}

fn write(file: &Path) -> io::Result<()> {
    fs::write(file, "1")
}

const FORWARD4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const CONF6: &str = "/proc/sys/net/ipv6/conf";
