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
        if let Err(error) = keep_listening() {
            tracing::warn!("routes that routers announce by IPv6 may run out: {error}");
        }
        report("IPv6", write(Path::new(FORWARD6)));
    }
}

/// Lets devices go on taking addresses and routes from router advertisements:
/// one that forwards takes them with the value 2 only (ip-sysctl.rst of Linux).
fn keep_listening() -> io::Result<()> {
    for entry in fs::read_dir(CONF6)? {
        let entry = entry?;
        let file = entry.path().join("accept_ra");
        let own = entry.file_name() != "all" && entry.file_name() != "default";
        if own && fs::read_to_string(&file).is_ok_and(|value| value.trim() == "1") {
            fs::write(file, "2")?;
        }
    }

    Ok(())
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
