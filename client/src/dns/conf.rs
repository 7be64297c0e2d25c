//! The text of resolv.conf(5): whom it asks, and what we write there. No file
//! is touched.
//!
//! The first line of ours names the file that keeps what was there before, so
//! that another process of ours, and a puzzled owner, can find it.

#![warn(clippy::disallowed_methods)]

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The name servers, as the C library reads them; a link-local one whose link
/// is not there is none.
pub(super) fn name_servers(text: &[u8]) -> Vec<SocketAddr> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|word| is_address(word))
        .filter_map(|word| (word, PORT).to_socket_addrs().ok()?.next())
        .collect()
}

/// Our resolv.conf in the place of `before`, which `record` keeps: our
/// servers, and the search list and options of before.
pub(super) fn compose(record: &Path, servers: &[IpAddr], before: &[u8]) -> Vec<u8> {
    let mut text = first_line(record);
    text.extend(b"# dtun's resolvers, for the time of its tunnel: then it comes back.\n");
    for server in servers {
        text.extend(format!("nameserver {server}\n").as_bytes());
    }
    for line in before.split(|byte| *byte == b'\n') {
        if let Some(line) = kept(line) {
            text.extend(line.as_bytes());
            text.push(b'\n');
        }
    }

    text
}

/// Whether `now` is still `ours`. Somebody may have added options, but not
/// other servers. A kill amid writing in place leaves one text with the end of
/// the other, which is ours too.
pub(super) fn is_ours(now: &[u8], ours: &[u8], before: &[u8]) -> bool {
    let asks_ours = || name_servers(now) == name_servers(ours);
    let has_first_line = || record_in(now).is_some_and(|record| Some(record) == record_in(ours));

    now == ours
        || (has_first_line() && asks_ours())
        || is_torn(now, ours, before)
        || is_torn(now, before, ours)
}

/// The record that keeps what was there before this text of a process of ours.
pub(super) fn record_in(text: &[u8]) -> Option<PathBuf> {
    let line = text.split(|byte| *byte == b'\n').next()?;
    let path = line.strip_prefix(FIRST)?;

    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// Whether the system's resolver takes a text for an address, and asks nobody.
fn is_address(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);

    address.parse::<IpAddr>().is_ok()
}

fn first_line(record: &Path) -> Vec<u8> {
    let mut line = FIRST.to_vec();
    line.extend(record.as_os_str().as_bytes());
    line.push(b'\n');

    line
}

/// What of a line of another's resolv.conf holds for our servers, too. That
/// the way to a server is trusted (`trust-ad`) was said of another.
fn kept(line: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    match words.next()? {
        "search" | "domain" | "sortlist" => Some(line.to_owned()),
        "options" => {
            let options: Vec<_> = words.filter(|word| *word != "trust-ad").collect();
            (!options.is_empty()).then(|| format!("options {}", options.join(" ")))
        }
        _ => None,
    }
}

/// Whether a write of `new` over `old` was cut off before the file was.
fn is_torn(now: &[u8], new: &[u8], old: &[u8]) -> bool {
    now.len() == old.len()
        && old.len() > new.len()
        && now.starts_with(new)
        && now[new.len()..] == old[new.len()..]
}

const PORT: u16 = 53;

/// How the first line of ours begins; the record's path follows.
const FIRST: &[u8] = b"# dtun keeps what was here in ";

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "/var/lib/dtun/dns-dtun0-7";

    fn ips<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ours(before: &[u8]) -> Vec<u8> {
        compose(Path::new(RECORD), &ips(["10.0.0.1", "fc00::1"]), before)
    }

    #[test]
    fn name_servers_are_read_as_the_c_library_reads_them() {
        let text =
            b"# local\nnameserver 192.0.2.53\nsearch lan\nnameserver\tfe80::1%lo # router\n\
                     nameserver\nnameserver ns.example\nnameservers 192.0.2.1\n nameserver 192.0.2.2\n\xffnameserver 1\n";

        let expected = ["192.0.2.53:53", "[fe80::1%1]:53"];
        assert_eq!(
            name_servers(text),
            expected.map(|text| text.parse::<SocketAddr>().unwrap())
        );
    }

    #[test]
    fn search_and_options_stay_servers_and_trust_do_not() {
        let before = b"# NetworkManager\nnameserver 192.0.2.53\nsearch lan home\n\
                       options edns0 trust-ad timeout:1\noptions trust-ad\n";
        let text = String::from_utf8(ours(before)).unwrap();
        let (comments, rest): (Vec<_>, Vec<_>) = text.lines().partition(|l| l.starts_with('#'));

        assert_eq!(comments.len(), 2);
        assert_eq!(
            rest,
            [
                "nameserver 10.0.0.1",
                "nameserver fc00::1",
                "search lan home",
                "options edns0 timeout:1"
            ]
        );
        assert_eq!(record_in(text.as_bytes()), Some(RECORD.into()));
        assert_eq!(record_in(before), None);
    }

    #[test]
    fn ours_with_another_option_is_ours_with_another_server_it_is_not() {
        let before = b"nameserver 192.0.2.53\n";
        let ours = ours(before);
        let with = |more: &[u8]| [&ours[..], more].concat();

        assert!(is_ours(&ours, &ours, before));
        assert!(is_ours(&with(b"options edns0\n"), &ours, before));
        assert!(!is_ours(&with(b"nameserver 192.0.2.1\n"), &ours, before));
        assert!(!is_ours(b"nameserver 10.0.0.1\n", &ours, before));
        assert!(!is_ours(b"", &ours, before));
        assert!(!is_ours(before, &ours, before));
        let other = compose(Path::new("/other"), &ips(["10.0.0.1", "fc00::1"]), before);
        assert!(!is_ours(&other, &ours, before));
    }

    #[test]
    fn half_a_write_in_place_is_ours_either_way() {
        let long = [&b"nameserver 192.0.2.53\n"[..], &[b'#'; 500]].concat();
        let short = &b"nameserver 192.0.2.53\n"[..];
        let half = |new: &[u8], old: &[u8]| [new, &old[new.len()..]].concat();

        assert!(is_ours(&half(&ours(&long), &long), &ours(&long), &long));
        assert!(is_ours(&half(short, &ours(short)), &ours(short), short));
        assert!(!is_ours(&long, &ours(&long), &long));
    }
}
