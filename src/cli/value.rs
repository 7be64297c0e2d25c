//! One parser for each kind of value. An error says what is wrong and what would do.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dtun_client::{BypassSource, BypassWord, NotABypass, RouteWhat};
use dtun_server::Pool6;
use dtun_shared::dtls::{CipherSuite, MAX_PLAINTEXT};
use dtun_shared::leaving::Bind;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::flags::{Fallback, Networks, Resolvers};
use crate::log::Format;

/// As Go's `strconv.ParseBool` has it.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false".to_owned()),
    }
}

pub(super) fn offload(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("neither on nor off".to_owned()),
    }
}

/// With no address before the port: every address of the machine.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    const FIX: &str = "not an address and port such as [::]:443 or 192.0.2.1:443";

    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| FIX)?;
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }

    text.parse().map_err(|_| FIX.to_owned())
}

pub(super) fn pool4(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| "not a network such as 10.0.0.0/24")?;
    if net.prefix_len() > 30 {
        return Err("no room for a spoke: /30 at least, /24 for 253 of them".to_owned());
    }
    if net.prefix_len() < 8 {
        return Err("too much of the internet: /8 at most, such as 10.0.0.0/8".to_owned());
    }
    let first = net.network();
    if first.is_loopback()
        || first.is_multicast()
        || first.is_link_local()
        || first.octets()[0] == 0
        || first.octets()[0] >= 240
    {
        return Err(
            "addresses no device can have: use a private network such as 10.0.0.0/24".to_owned(),
        );
    }

    Ok(net.trunc())
}

pub(super) fn pool6(text: &str) -> Result<Pool6, String> {
    if text == "none" {
        return Ok(Pool6::None);
    }
    let net: Ipv6Net = text
        .parse()
        .map_err(|_| "neither a network such as fd00:77::/120 nor the word none")?;
    if net.prefix_len() > 126 {
        return Err("no room for a spoke: /126 at least, /120 for 254 of them".to_owned());
    }
    if net.prefix_len() < 16 {
        return Err("too much of the internet: /16 at most, such as fd00::/16".to_owned());
    }
    let first = net.network();
    let unusable = first.is_multicast()
        || first.is_unicast_link_local()
        || first.segments()[0] == 0
        || first.segments()[..4] == [0x100, 0, 0, 0];
    if unusable {
        return Err(
            "addresses no device can have: use a ULA network such as fd00:77::/120".to_owned(),
        );
    }

    Ok(Pool6::Net(net.trunc()))
}

/// A host stays a name: it is resolved at every dial.
pub(super) fn connect(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "empty: give the hub as HOST:PORT, or leave the flag out to be the hub".to_owned(),
        );
    }
    if text.parse::<Ipv6Addr>().is_ok() && !text.starts_with('[') {
        return Err("an IPv6 address goes in brackets, with a port: [2001:db8::1]:443".to_owned());
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("the port is missing: {text}:443"));
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!(
            "no port from 1 to 65535 after the colon: {host}:443"
        ));
    }
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match inner {
        Some(address) => is_ipv6_with_scope(address),
        None => {
            !host.is_empty()
                && !host
                    .contains(|c: char| c.is_whitespace() || c.is_control() || "[]:/@".contains(c))
        }
    };
    if !is_host {
        return Err("not HOST:PORT such as vpn.example.com:443 or [2001:db8::1]:443".to_owned());
    }

    Ok(text.to_owned())
}

fn is_ipv6_with_scope(text: &str) -> bool {
    let (address, scope) = text.split_once('%').unwrap_or((text, "eth0"));

    address.parse::<Ipv6Addr>().is_ok() && !scope.is_empty()
}

pub(super) fn hint(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 {
        return Err(format!("{} bytes: a name has 1 to 128", text.len()));
    }
    if text.contains(char::is_control) {
        return Err("a name has no control characters".to_owned());
    }

    Ok(text.to_owned())
}

/// `empty` is the Go program's word for none.
pub(super) fn peernet(text: &str) -> Result<Networks, String> {
    if text == "empty" {
        return Ok(Networks::default());
    }
    let networks = networks(text)?;
    let told: usize = networks.0.iter().map(|net| net.to_string().len() + 1).sum();
    if told > PEERNET {
        return Err(format!(
            "{} networks do not fit into one message: join neighbours into larger ones",
            networks.0.len()
        ));
    }

    Ok(networks)
}

pub(super) fn networks(text: &str) -> Result<Networks, String> {
    let mut networks = Networks::default();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let net: IpNet = part.parse().map_err(|_| {
            let whole = if part.contains(':') { 128 } else { 32 };
            match part.parse::<IpAddr>() {
                Ok(_) => format!("{part} has no prefix length: {part}/{whole} for the one address"),
                Err(_) => format!("{part:?} is not a network such as 192.168.1.0/24"),
            }
        })?;
        let net = net.trunc();
        if !networks.0.contains(&net) {
            networks.0.push(net);
        }
    }

    Ok(networks)
}

pub(super) fn route(text: &str) -> Result<RouteWhat, String> {
    if text == "default" {
        return Ok(RouteWhat::Everything(Vec::new()));
    }
    let (is_everything, text) = match text.strip_prefix("default,") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let networks = networks(text).map_err(|fault| format!("{fault}, or the word default"))?;
    if networks.0.is_empty() {
        return Err("empty: give networks, or the word default".to_owned());
    }
    if networks.0.iter().any(|net| net.prefix_len() == 0) {
        return Err("a prefix of length 0 is everything: -route default".to_owned());
    }

    Ok(if is_everything {
        RouteWhat::Everything(networks.0)
    } else {
        RouteWhat::Nets(networks.0)
    })
}

/// Files are read when the tunnel comes up, and whenever they change; one that
/// is not there now is a mistake all the same.
pub(super) fn bypass(text: &str) -> Result<BypassSource, String> {
    let mut source: BypassSource = text
        .parse()
        .map_err(|error: NotABypass| error.to_string())?;
    for word in &mut source.words {
        if let BypassWord::File(path) = word {
            *path = std::path::absolute(&path).map_err(|error| error.to_string())?;
            let metadata = path.metadata().map_err(|error| {
                let path = path.display();
                format!("neither a network, nor @private, nor a file ({path}: {error})")
            })?;
            if !metadata.is_file() {
                return Err(format!(
                    "{} is no regular file, and it is read again whenever it changes",
                    path.display()
                ));
            }
        }
    }

    Ok(source)
}

/// The kernel's own tables are 253 to 255; those up to 252 may bear names.
pub(super) fn table(text: &str) -> Result<u32, String> {
    let refused =
        || "not a number from 1 to 250 or from 256 on: three tables begin there".to_owned();
    let table: u32 = text.parse().map_err(|_| refused())?;
    let taken = table..=table.saturating_add(2);
    if table == 0 || table > u32::MAX - 2 || (253..=255).any(|own| taken.contains(&own)) {
        return Err(refused());
    }

    Ok(table)
}

/// The rules of the tables main and default stand at 32766 and 32767.
pub(super) fn rule_pref(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|pref| (1..=32_750).contains(pref))
        .ok_or_else(|| "not a number from 1 to 32750: sixteen rules begin there".to_owned())
}

/// An address, or the device of an uplink.
pub(super) fn bind(text: &str) -> Result<Bind, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return if ip.is_unspecified() || ip.is_multicast() {
            Err("not an address of this machine, nor one of its devices".to_owned())
        } else {
            Ok(Bind::Address(ip.to_canonical()))
        };
    }

    device(text).map(Bind::Device)
}

pub(super) fn resolvers(text: &str) -> Result<Resolvers, String> {
    let mut resolvers = Resolvers::default();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let ip: IpAddr = part
            .parse()
            .map_err(|_| format!("{part:?} is not an address such as 1.1.1.1"))?;
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(format!(
                "{part} is nobody's address: give one such as 1.1.1.1"
            ));
        }
        if !resolvers.0.contains(&ip) {
            resolvers.0.push(ip);
        }
    }
    if resolvers.0.is_empty() {
        return Err("empty: give an address such as 1.1.1.1, or leave the flag out".to_owned());
    }
    if resolvers.0.len() > RESOLVERS {
        return Err(format!(
            "{} addresses: the C library asks the first {RESOLVERS} at most",
            resolvers.0.len()
        ));
    }

    Ok(resolvers)
}

/// What the kernel takes as a device's name, without its `%d`.
pub(super) fn device(text: &str) -> Result<String, String> {
    let refused = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(refused) {
        return Err(
            "not a device's name such as dtun0: 1 to 15 bytes, no blank, / : or %".to_owned(),
        );
    }

    Ok(text.to_owned())
}

pub(super) fn lease(text: &str) -> Result<Duration, String> {
    duration(text, Duration::ZERO, LONGEST)
}

/// The hub forgets a session after an hour without a record.
pub(super) fn keepalive(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1), Duration::from_secs(20 * 60))
}

pub(super) fn fallback(text: &str) -> Result<Fallback, String> {
    if text == "never" {
        return Ok(Fallback(None));
    }

    duration(text, Duration::from_secs(1), LONGEST)
        .map(|time| Fallback(Some(time)))
        .map_err(|fault| format!("{fault}, or the word never"))
}

/// How long the lock stays open.
pub(super) fn unlocked(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1), Duration::from_secs(24 * 3600))
}

fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|_| "not a time with its unit, such as 25s, 10m or 1h")?;
    if time < least || time > most {
        return Err(format!(
            "not within {} and {}",
            humantime::format_duration(least),
            humantime::format_duration(most)
        ));
    }

    Ok(time)
}

/// A packet goes in one record.
pub(super) fn mtu(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|mtu| (1280..=MAX_PLAINTEXT).contains(&usize::from(*mtu)))
        .ok_or_else(|| {
            format!(
                "not a number from 1280 to {MAX_PLAINTEXT}, or without it what the path carries"
            )
        })
}

pub(super) fn suite(text: &str) -> Result<CipherSuite, String> {
    match text {
        "gcm" => Ok(CipherSuite::Gcm),
        "ccm" => Ok(CipherSuite::Ccm),
        "ccm8" => Ok(CipherSuite::Ccm8),
        _ => Err("none of gcm, ccm and ccm8".to_owned()),
    }
}

pub(super) fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("neither text nor json".to_owned()),
    }
}

pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    absolute(text, "the name of a directory is missing")
}

/// A program that can be run, found as a shell finds it or else in the
/// directory the user stands in; absolute, for hooks run elsewhere.
pub(super) fn program(text: &str) -> Result<PathBuf, String> {
    let here = absolute(text, "the name of a program is missing")?;
    let path = if text.contains('/') {
        here
    } else {
        std::env::var_os("PATH")
            .iter()
            .flat_map(std::env::split_paths)
            .map(|directory| directory.join(text))
            .find(|path| is_program(path))
            .unwrap_or(here)
    };

    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a file".to_owned());
    }
    if !is_program(&path) {
        return Err(format!("cannot be run: chmod +x {}", path.display()));
    }

    Ok(path)
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn absolute(text: &str, missing: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err(missing.to_owned());
    }

    std::path::absolute(text).map_err(|error| error.to_string())
}

/// `MAXNS` in resolv.h.
const RESOLVERS: usize = 3;

/// A meta has at most 1,200 bytes; the rest of it needs less than a hundred.
const PEERNET: usize = 1100;

/// Longer would overflow the clocks it is added to.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
