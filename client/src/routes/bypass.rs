//! Networks that stay out of the tunnel: as the user wrote them, and as a list
//! that a table can hold.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Words joined by commas, each a network, an address, a file of them, or
/// `@private`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BypassSource {
    pub words: Vec<BypassWord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BypassWord {
    Net(IpNet),
    /// Private, shared, link-local, multicast and reserved ranges.
    Private,
    /// One network a line; blank lines, and all behind a `#`, are skipped.
    File(PathBuf),
}

impl BypassSource {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.words.iter().filter_map(|word| match word {
            BypassWord::File(path) => Some(path.as_path()),
            BypassWord::Net(_) | BypassWord::Private => None,
        })
    }

    /// Reads the files and joins all networks; an error names its file.
    pub(crate) fn read(&self) -> Result<Bypass, Unread> {
        let mut bypass = Bypass::default();
        for word in &self.words {
            match word {
                BypassWord::Net(net) => bypass.add(*net),
                BypassWord::Private => PRIVATE.iter().for_each(|net| bypass.add(*net)),
                BypassWord::File(path) => {
                    let text = read_regular(path).map_err(|source| Unread {
                        path: path.clone(),
                        source,
                    })?;
                    bypass.add_lines(&path.as_path().into(), &String::from_utf8_lossy(&text));
                }
            }
        }
        bypass.merge();

        Ok(bypass)
    }
}

impl FromStr for BypassSource {
    type Err = NotABypass;

    fn from_str(text: &str) -> Result<Self, NotABypass> {
        let words = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let words: Vec<_> = words.map(str::parse).collect::<Result<_, _>>()?;
        if words.is_empty() {
            return Err(NotABypass::Nothing);
        }

        Ok(Self { words })
    }
}

impl FromStr for BypassWord {
    type Err = NotABypass;

    fn from_str(word: &str) -> Result<Self, NotABypass> {
        if word == "@private" {
            return Ok(Self::Private);
        }
        if word.starts_with('@') {
            return Err(NotABypass::Name(word.to_owned()));
        }
        match network(word) {
            Some(net) if net.prefix_len() == 0 => Err(NotABypass::Everything),
            Some(net) => Ok(Self::Net(net)),
            None => Ok(Self::File(word.into())),
        }
    }
}

/// Why a text names no networks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABypass {
    #[error("empty: give networks, a file of them, or @private")]
    Nothing,
    #[error("{0} is no list that is known: @private is")]
    Name(String),
    #[error("nothing would be left for the tunnel: leave -route out instead")]
    Everything,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub(crate) struct Unread {
    path: PathBuf,
    source: io::Error,
}

/// Networks of both families, none inside another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bypass {
    pub(crate) ip4: Vec<Ipv4Net>,
    pub(crate) ip6: Vec<Ipv6Net>,
    /// Lines that are no networks.
    pub(crate) bad: Vec<BadLine>,
}

/// A line of a file, counted from 1, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    pub(crate) file: Arc<Path>,
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Bypass {
    pub(crate) fn len(&self) -> usize {
        self.ip4.len() + self.ip6.len()
    }

    pub(crate) fn nets(&self) -> impl Iterator<Item = IpNet> {
        let four = self.ip4.iter().copied().map(IpNet::V4);

        four.chain(self.ip6.iter().copied().map(IpNet::V6))
    }

    /// Whether all of a network is on the list.
    pub(crate) fn covers(&self, net: IpNet) -> bool {
        match net {
            IpNet::V4(net) => self.ip4.iter().any(|kept| kept.contains(&net)),
            IpNet::V6(net) => self.ip6.iter().any(|kept| kept.contains(&net)),
        }
    }

    fn add(&mut self, net: IpNet) {
        match net.trunc() {
            IpNet::V4(net) => self.ip4.push(net),
            IpNet::V6(net) => self.ip6.push(net),
        }
    }

    fn add_lines(&mut self, file: &Arc<Path>, text: &str) {
        // Some editors put a mark before the first line.
        let text = text.trim_start_matches('\u{feff}');
        for (at, line) in text.lines().enumerate() {
            let word = line.split('#').next().unwrap_or_default().trim();
            if word.is_empty() {
                continue;
            }
            match network(word).filter(|net| net.prefix_len() > 0) {
                Some(net) => self.add(net),
                None => self.bad.push(BadLine {
                    file: Arc::clone(file),
                    line: at + 1,
                    text: word.chars().take(SHOWN).collect(),
                }),
            }
        }
    }

    /// Joins neighbours, but never to everything: the default is the tunnel's.
    fn merge(&mut self) {
        self.ip4 = Ipv4Net::aggregate(&self.ip4);
        self.ip6 = Ipv6Net::aggregate(&self.ip6);
        if self.ip4 == [Ipv4Net::default()] {
            self.ip4 = Ipv4Net::default()
                .subnets(1)
                .into_iter()
                .flatten()
                .collect();
        }
        if self.ip6 == [Ipv6Net::default()] {
            self.ip6 = Ipv6Net::default()
                .subnets(1)
                .into_iter()
                .flatten()
                .collect();
        }
    }
}

/// Reads a file that can be read again and again. A pipe would hold the caller
/// up until somebody writes to it.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }

    std::fs::read(path)
}

/// A network, or an address for the network of it alone.
fn network(word: &str) -> Option<IpNet> {
    let host = || word.parse::<IpAddr>().map(IpNet::from);

    word.parse()
        .or_else(|_| host())
        .ok()
        .map(|net: IpNet| net.trunc())
}

const fn four(a: u8, b: u8, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(
        std::net::Ipv4Addr::new(a, b, 0, 0),
        prefix,
    ))
}

const fn six(first: u16, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(
        std::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0),
        prefix,
    ))
}

/// RFC 6890 and the registries that it names; loopback comes before any rule.
const PRIVATE: [IpNet; 12] = [
    four(0, 0, 8),
    four(10, 0, 8),
    four(100, 64, 10),
    four(127, 0, 8),
    four(169, 254, 16),
    four(172, 16, 12),
    four(192, 168, 16),
    four(224, 0, 4),
    four(240, 0, 4),
    six(0xfc00, 7),
    six(0xfe80, 10),
    six(0xff00, 8),
];

/// Characters of a bad line that are told.
const SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> Bypass {
        let mut bypass = Bypass::default();
        bypass.add_lines(&Path::new("list").into(), text);
        bypass.merge();
        bypass
    }

    fn shown(bypass: &Bypass) -> Vec<String> {
        let four = bypass.ip4.iter().map(ToString::to_string);
        four.chain(bypass.ip6.iter().map(ToString::to_string))
            .collect()
    }

    #[test]
    fn words_are_networks_addresses_files_and_private() {
        let source: BypassSource = "10.1.2.3/8, 192.0.2.7,@private,/etc/list,2001:db8::/32"
            .parse()
            .unwrap();

        assert_eq!(
            source.words,
            [
                BypassWord::Net("10.0.0.0/8".parse().unwrap()),
                BypassWord::Net("192.0.2.7/32".parse().unwrap()),
                BypassWord::Private,
                BypassWord::File("/etc/list".into()),
                BypassWord::Net("2001:db8::/32".parse().unwrap()),
            ]
        );
    }

    #[test]
    fn what_leaves_nothing_for_the_tunnel_or_is_not_known_is_refused() {
        for (text, why) in [
            (" ,", NotABypass::Nothing),
            ("0.0.0.0/0", NotABypass::Everything),
            ("10.0.0.0/8,::/0", NotABypass::Everything),
            ("@privat", NotABypass::Name("@privat".to_owned())),
        ] {
            assert_eq!(text.parse::<BypassSource>(), Err(why), "{text}");
        }
    }

    #[test]
    fn a_list_is_read_with_comments_and_crlf_and_its_neighbours_are_joined() {
        let bypass = lines(
            "# chnroutes\r\n\r\n1.0.0.0/24\r\n1.0.1.9/24 # the next\r\n1.0.0.128/25\r\n\
             8.8.8.8\r\n2001:db8::/33\r\n2001:db8:8000::/33\r\n",
        );

        assert_eq!(
            shown(&bypass),
            ["1.0.0.0/23", "8.8.8.8/32", "2001:db8::/32"]
        );
        assert_eq!(bypass.bad, []);
    }

    #[test]
    fn a_mark_before_the_first_line_is_none_of_it() {
        let bypass = lines("\u{feff}1.0.0.0/24");

        assert_eq!(shown(&bypass), ["1.0.0.0/24"]);
        assert!(bypass.bad.is_empty());
    }

    #[test]
    fn bad_lines_are_told_and_stop_nothing() {
        let bypass = lines("300.0.0.0/8\n1.0.0.0/24\n0.0.0.0/0\n1.0.2.0/24 via 1.2.3.4");

        assert_eq!(shown(&bypass), ["1.0.0.0/24"]);
        let bad: Vec<_> = bypass.bad.iter().map(|bad| bad.line).collect();
        assert_eq!(bad, [1, 3, 4]);
        assert_eq!(*bypass.bad[0].file, *Path::new("list"));
    }

    #[test]
    fn what_is_no_regular_file_is_not_read() {
        let source: BypassSource = "/dev/null".parse().unwrap();

        let said = source.read().unwrap_err().to_string();

        assert_eq!(said, "/dev/null: not a regular file");
    }

    #[test]
    fn two_halves_do_not_become_the_default() {
        let bypass = lines("0.0.0.0/1\n128.0.0.0/1\n::/1\n8000::/1");

        assert_eq!(
            shown(&bypass),
            ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]
        );
    }

    proptest! {
        #[test]
        fn joining_changes_no_address(
            nets in prop::collection::vec((0u32..1 << 12, 21u8..=32), 0..40),
            probes in prop::collection::vec(0u32..1 << 12, 100),
        ) {
            let nets: Vec<_> = nets
                .into_iter()
                .map(|(ip, prefix)| Ipv4Net::new(ip.into(), prefix).unwrap())
                .collect();
            let text: String = nets.iter().map(|net| format!("{net}\n")).collect();
            let bypass = lines(&text);

            for probe in probes {
                let ip = std::net::Ipv4Addr::from(probe);
                prop_assert_eq!(
                    bypass.ip4.iter().filter(|net| net.contains(&ip)).count(),
                    usize::from(nets.iter().any(|net| net.contains(&ip)))
                );
            }
        }
    }
}
