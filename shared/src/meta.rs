//! The JSON messages: the meta that each side sends once after the
//! handshake, and the control messages between two peers that announced
//! `Ext`.
//!
//! The field names and the address syntax are the Go program's; it ignores
//! fields it does not know. A JSON record goes only to a peer that expects
//! one: written to a Go peer's TUN, it would end that peer.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::parts;

/// The hub's first record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubMeta {
    /// What the spoke is to use; none when `error` says why.
    pub addresses: Option<Addresses>,
    /// Whether the hub speaks the extensions.
    pub ext: bool,
    /// Whether the hub takes packets in several records ([`crate::parts`]).
    pub parts: bool,
    /// Largest inner packet the hub sends and takes, in bytes.
    pub mtu: Option<u16>,
    /// Whether the hub has IPv6 to the outside.
    pub out6: bool,
    /// Why there is no lease, for the spoke's user.
    pub error: Option<String>,
}

/// The tunnel's addresses, each with its pool's prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The spoke's.
    pub local4: Ipv4Net,
    /// The hub's.
    pub peer4: Ipv4Net,
    /// The spoke's and the hub's, where the tunnel carries IPv6.
    pub ip6: Option<(Ipv6Net, Ipv6Net)>,
}

/// The spoke's answer to the hub's meta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpokeMeta {
    /// Networks behind the spoke.
    pub peernet: Vec<IpNet>,
    /// Parts of the list that are not networks.
    pub malformed: Vec<String>,
    /// Whether the spoke speaks the extensions.
    pub ext: bool,
    /// Whether the spoke takes packets in several records ([`crate::parts`]).
    pub parts: bool,
    /// Largest inner packet the spoke sends and takes, in bytes.
    pub mtu: Option<u16>,
}

/// A message between two peers that both announced `Ext`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Asks for a [`Control::Pong`] with the same number.
    Ping(u64),
    Pong(u64),
    /// Asks for a [`Control::Probed`] with the same number; it is as long as
    /// the inner packet that it stands for ([`Control::padded`]).
    Probe(u64),
    Probed(u64),
    /// Networks of the spoke's meta that the hub does not route.
    Refused(Vec<Refusal>),
}

/// A network that the hub does not route to the spoke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    #[serde(rename = "Net")]
    pub net: String,
    #[serde(rename = "Why")]
    pub why: String,
}

/// What a record carries, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Ip4,
    Ip6,
    /// JSON.
    Control,
    /// One of several records of a packet ([`parts`]).
    Part,
    Other,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    #[error("message of {0} bytes is longer than {MAX_LEN}")]
    TooLong(usize),
    #[error("message is not the expected JSON")]
    Json(#[from] serde_json::Error),
    #[error("field {field} is not an address with a prefix length: {text:?}")]
    Address { field: &'static str, text: String },
    #[error("message has neither addresses nor an error")]
    Empty,
}

impl Content {
    /// Tells content from its first byte.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        match content.first() {
            Some(b'{') => Self::Control,
            Some(&parts::KIND) => Self::Part,
            Some(byte) if byte >> 4 == 4 => Self::Ip4,
            Some(byte) if byte >> 4 == 6 => Self::Ip6,
            _ => Self::Other,
        }
    }
}

impl HubMeta {
    /// Parses the hub's meta.
    ///
    /// # Errors
    ///
    /// When the bytes are not such a message; nothing of it is to be used then.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetaError> {
        let wire: HubWire = parse(bytes)?;
        let error = wire.error.as_deref().map(printable);
        let addresses = wire.addresses()?;
        if addresses.is_none() && error.is_none() {
            return Err(MetaError::Empty);
        }

        Ok(Self {
            addresses,
            ext: wire.ext >= 1,
            parts: wire.parts,
            mtu: wire.mtu,
            out6: wire.out6,
            error,
        })
    }

    /// The message's bytes.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut wire = HubWire {
            ext: u32::from(self.ext),
            parts: self.parts,
            mtu: self.mtu,
            out6: self.out6,
            error: self.error.clone(),
            ..HubWire::default()
        };
        if let Some(addresses) = self.addresses {
            wire.local4 = addresses.local4.to_string();
            wire.peer4 = addresses.peer4.to_string();
            let (local6, peer6) = addresses
                .ip6
                .map_or_else(Default::default, |(l, p)| (l.to_string(), p.to_string()));
            wire.local6 = local6;
            wire.peer6 = peer6;
        }

        emit(&wire)
    }
}

impl SpokeMeta {
    /// Parses the spoke's meta. Parts of the list that are no networks are
    /// kept in `malformed`: they are refused one by one, not with the rest.
    ///
    /// # Errors
    ///
    /// When the bytes are not such a message.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetaError> {
        let wire: SpokeWire = parse(bytes)?;
        let mut meta = Self {
            ext: wire.ext >= 1,
            parts: wire.parts,
            mtu: wire.mtu,
            ..Self::default()
        };
        for part in wire.routes.split(',').map(str::trim) {
            if part.is_empty() || part == NO_PEERNET {
                continue;
            }
            match part.parse() {
                Ok(net) => meta.peernet.push(net),
                Err(_) => meta.malformed.push(printable(part)),
            }
        }

        Ok(meta)
    }

    /// The message's bytes. More than one network goes only to a hub that
    /// announced `Ext`: the caller has cut the list.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let routes: Vec<_> = self.peernet.iter().map(ToString::to_string).collect();
        emit(&SpokeWire {
            routes: if routes.is_empty() {
                NO_PEERNET.to_owned()
            } else {
                routes.join(",")
            },
            ext: u32::from(self.ext),
            parts: self.parts,
            mtu: self.mtu,
        })
    }
}

impl Control {
    /// Parses a control message.
    ///
    /// # Errors
    ///
    /// When the bytes are not such a message.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetaError> {
        let control: Self = parse(bytes)?;
        Ok(match control {
            Self::Refused(refused) => Self::Refused(
                refused
                    .into_iter()
                    .map(|refusal| Refusal {
                        net: printable(&refusal.net),
                        why: printable(&refusal.why),
                    })
                    .collect(),
            ),
            Self::Ping(_) | Self::Pong(_) | Self::Probe(_) | Self::Probed(_) => control,
        })
    }

    /// The message's bytes.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        emit(self)
    }

    /// The message's bytes, followed by as many blanks as make it `len` bytes
    /// long; a message that is longer stays so.
    #[must_use]
    pub fn padded(&self, len: usize) -> Vec<u8> {
        let mut message = self.emit();
        message.resize(len.max(message.len()), PAD);

        message
    }

    /// Refusals, in as many messages as they need.
    #[must_use]
    pub fn refused(refusals: Vec<Refusal>) -> Vec<Self> {
        let mut messages: Vec<Vec<Refusal>> = Vec::new();
        let mut len = 0;
        for refusal in refusals {
            // Quotes and names of one entry are 21 bytes; escapes double a text at most.
            let need = 2 * (refusal.net.len() + refusal.why.len()) + 21;
            match messages.last_mut() {
                Some(last) if len + need <= MAX_LEN - 16 => {
                    last.push(refusal);
                    len += need;
                }
                _ => {
                    messages.push(vec![refusal]);
                    len = need;
                }
            }
        }
        messages.into_iter().map(Self::Refused).collect()
    }
}

/// The Go program's meta, with our fields.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HubWire {
    local4: String,
    peer4: String,
    local6: String,
    peer6: String,
    routes: String,
    #[serde(skip_serializing_if = "is_zero")]
    ext: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    parts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    out6: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct SpokeWire {
    routes: String,
    #[serde(skip_serializing_if = "is_zero")]
    ext: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    parts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
}

impl HubWire {
    fn addresses(&self) -> Result<Option<Addresses>, MetaError> {
        if self.local4.is_empty() && self.peer4.is_empty() {
            return Ok(None);
        }
        let ip6 = if self.local6.is_empty() && self.peer6.is_empty() {
            None
        } else {
            let local: Ipv6Net = net("Local6", &self.local6)?;
            let peer: Ipv6Net = net("Peer6", &self.peer6)?;
            (!DISCARD_ONLY.contains(&local.addr())).then_some((local, peer))
        };

        Ok(Some(Addresses {
            local4: net("Local4", &self.local4)?,
            peer4: net("Peer4", &self.peer4)?,
            ip6,
        }))
    }
}

/// Stands in for "no IPv6" towards the Go program, which dials for ever when
/// an address does not parse; packets to it go nowhere (RFC 6666).
pub const DISCARD_ONLY: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64);

/// Longest message in bytes without its padding, so that its record fits any
/// path.
pub const MAX_LEN: usize = 1200;

/// White space to JSON.
const PAD: u8 = b' ';

/// The Go program's word for a spoke without networks behind it.
const NO_PEERNET: &str = "empty";

/// Longest text of a peer that reaches a log or a terminal.
const MAX_TEXT: usize = 300;

fn net<N: std::str::FromStr>(field: &'static str, text: &str) -> Result<N, MetaError> {
    text.parse().map_err(|_| MetaError::Address {
        field,
        text: printable(text),
    })
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MetaError> {
    let end = bytes.iter().rposition(|&byte| byte != PAD);
    let bytes = &bytes[..end.map_or(0, |last| last + 1)];
    if bytes.len() > MAX_LEN {
        return Err(MetaError::TooLong(bytes.len()));
    }
    Ok(serde_json::from_slice(bytes)?)
}

fn emit(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("strings, numbers and lists always serialize")
}

/// A peer's text without what a terminal or a log would act on.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT)
        .collect()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes the field by reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> Addresses {
        Addresses {
            local4: "10.0.0.2/24".parse().unwrap(),
            peer4: "10.0.0.1/24".parse().unwrap(),
            ip6: Some((
                "fc00::2/120".parse().unwrap(),
                "fc00::1/120".parse().unwrap(),
            )),
        }
    }

    #[test]
    fn a_hub_without_extensions_sends_the_bytes_of_the_go_program() {
        let meta = HubMeta {
            addresses: Some(addresses()),
            ..HubMeta::default()
        };

        assert_eq!(
            String::from_utf8(meta.emit()).unwrap(),
            r#"{"Local4":"10.0.0.2/24","Peer4":"10.0.0.1/24","Local6":"fc00::2/120","Peer6":"fc00::1/120","Routes":""}"#
        );
    }

    #[test]
    fn a_meta_of_the_go_program_is_understood() {
        let hub = HubMeta::parse(
            br#"{"Local4":"10.0.0.2/24","Peer4":"10.0.0.1/24","Local6":"fc00::2/120","Peer6":"fc00::1/120","Routes":""}"#,
        )
        .unwrap();
        assert_eq!(hub.addresses, Some(addresses()));
        assert!(!hub.ext);

        let spoke = SpokeMeta::parse(
            br#"{"Local4":"","Peer4":"","Local6":"","Peer6":"","Routes":"empty"}"#,
        )
        .unwrap();
        assert_eq!(spoke, SpokeMeta::default());
    }

    #[test]
    fn a_discard_only_address_means_no_ipv6() {
        let hub = HubMeta::parse(
            br#"{"Local4":"10.0.0.2/24","Peer4":"10.0.0.1/24","Local6":"100::2/128","Peer6":"100::1/128"}"#,
        )
        .unwrap();
        assert_eq!(hub.addresses.unwrap().ip6, None);
    }

    #[test]
    fn one_bad_network_does_not_spoil_the_list() {
        let meta = SpokeMeta::parse(br#"{"Routes":"10.1.0.0/16, nonsense,fd00::/64"}"#).unwrap();
        assert_eq!(meta.peernet.len(), 2);
        assert_eq!(meta.malformed, ["nonsense"]);
    }

    #[test]
    fn an_error_text_loses_its_control_characters() {
        let meta = HubMeta::parse(br#"{"Error":"pool\u001b[2J full"}"#).unwrap();
        assert_eq!(meta.error.as_deref(), Some("pool[2J full"));
    }

    #[test]
    fn neither_addresses_nor_error_is_no_meta() {
        assert!(matches!(HubMeta::parse(b"{}"), Err(MetaError::Empty)));
        assert!(matches!(
            HubMeta::parse(br#"{"Local4":"10.0.0.2"}"#),
            Err(MetaError::Address {
                field: "Local4",
                ..
            })
        ));
    }

    #[test]
    fn many_refusals_go_in_messages_that_fit() {
        let refusals: Vec<_> = (0..100)
            .map(|n| Refusal {
                net: format!("10.{n}.0.0/16"),
                why: "\"overlaps\" the pool".into(),
            })
            .collect();

        let messages = Control::refused(refusals.clone());

        let mut told = Vec::new();
        for message in &messages {
            assert!(message.emit().len() <= MAX_LEN);
            let Control::Refused(part) = Control::parse(&message.emit()).unwrap() else {
                panic!("not a refusal: {message:?}");
            };
            told.extend(part);
        }
        assert_eq!(told, refusals);
    }

    #[test]
    fn a_probe_has_the_length_that_was_asked_for() {
        let probe = Control::Probe(u64::MAX);

        for len in [64, 1435, 16_384] {
            let message = probe.padded(len);
            assert_eq!(message.len(), len);
            assert_eq!(Content::of(&message), Content::Control);
            assert_eq!(Control::parse(&message).unwrap(), probe);
        }
        assert_eq!(probe.padded(5), probe.emit());
        let long = Control::Refused(vec![Refusal {
            net: "n".repeat(MAX_LEN),
            why: String::new(),
        }]);
        assert!(matches!(
            Control::parse(&long.padded(16_384)),
            Err(MetaError::TooLong(_))
        ));
        assert!(matches!(Control::parse(b"    "), Err(MetaError::Json(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1400)) {
            let _: Result<_, MetaError> = HubMeta::parse(&bytes);
            let _: Result<_, MetaError> = SpokeMeta::parse(&bytes);
            let _: Result<_, MetaError> = Control::parse(&bytes);
            let _: Content = Content::of(&bytes);
        }

        #[test]
        fn a_spoke_reads_what_a_hub_writes(
            host in 2u8..255,
            mtu in prop::option::of(1280u16..9000),
            out6: bool,
            ext: bool,
            parts: bool,
            six: bool,
        ) {
            let mut addresses = addresses();
            addresses.local4 = format!("10.0.0.{host}/24").parse().unwrap();
            if !six {
                addresses.ip6 = None;
            }
            let meta = HubMeta { addresses: Some(addresses), ext, parts, mtu, out6, error: None };

            prop_assert_eq!(HubMeta::parse(&meta.emit()).unwrap(), meta);
        }

        #[test]
        fn a_hub_reads_what_a_spoke_writes(
            nets in prop::collection::vec((any::<[u8; 4]>(), 0u8..=32), 0..20),
            mtu in prop::option::of(1280u16..9000),
            parts: bool,
        ) {
            let peernet = nets
                .into_iter()
                .map(|(ip, len)| IpNet::new(ip.into(), len).unwrap())
                .collect();
            let meta = SpokeMeta { peernet, malformed: vec![], ext: true, parts, mtu };

            prop_assert_eq!(SpokeMeta::parse(&meta.emit()).unwrap(), meta);
        }
    }
}
