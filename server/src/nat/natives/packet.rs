//! Whether a packet of ours meets the conditions of a rule of nft.

use ipnet::IpNet;
use serde_json::Value;

use super::Fate;
use crate::hub::GROUP;

/// What a chain is asked about.
#[derive(Clone, Copy, Debug)]
pub(in crate::nat) enum Packet {
    /// The first of a connection out of the tunnel, from one of these.
    Forwarded(IpNet),
    /// The first datagram of a spoke, for this port of the machine.
    Udp { port: u16, ip6: bool },
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) handle: u64,
    pub(super) comment: Option<String>,
    statements: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict<'a> {
    Ends(Fate),
    Returns,
    Jumps(&'a str),
    Goes(&'a str),
}

impl Rule {
    pub(super) fn parse(entry: &Value) -> Option<Self> {
        Some(Self {
            handle: entry["handle"].as_u64()?,
            comment: entry["comment"].as_str().map(str::to_owned),
            statements: entry["expr"].as_array()?.clone(),
        })
    }

    pub(super) fn is_tagged(&self, tag: &str) -> bool {
        let rest = self.comment.as_deref().and_then(|it| it.strip_prefix(tag));

        rest.is_some_and(|rest| rest.starts_with(' '))
    }

    /// Where the packet may go by this rule, one after the other: more than one
    /// way only where the rule looks it up in a map.
    pub(super) fn verdicts(&self, packet: Packet) -> Vec<(Holds, Verdict<'_>)> {
        let mut holds = Holds::Yes;
        let (mut is_meant, mut unknown_way_out) = (false, false);
        for statement in &self.statements {
            let Some((kind, body)) = only(statement) else {
                return Vec::new();
            };
            let unsure = if unknown_way_out {
                Holds::Unknown
            } else {
                Holds::Yes
            };
            if kind == "vmap" {
                return look_up(packet, holds.and(unsure), body);
            }
            if let Some(verdict) = verdict(kind, body) {
                // One that names the tunnel lets it out by the ways it means to.
                let is_open = is_meant && matches!(verdict, Verdict::Ends(Fate::Passes));
                let unsure = if is_open { Holds::Yes } else { unsure };
                return vec![(holds.and(unsure), verdict)];
            }
            if kind == "match" {
                let (left, right) = (&body["left"], &body["right"]);
                let this = match body["op"].as_str() {
                    Some("==" | "in") => packet.meets(left, right),
                    Some("!=") => packet.meets(left, right).not(),
                    _ => Holds::Unknown,
                };
                if is_way_out(left) && this == Holds::Unknown {
                    unknown_way_out = true;
                    continue;
                }
                is_meant |= names_tunnel(left) && this == Holds::Yes;
                holds = holds.and(this);
            } else if !PASSIVE.contains(&kind) {
                holds = holds.and(Holds::Unknown);
            }
        }

        Vec::new()
    }
}

impl Packet {
    fn ip6(self) -> bool {
        match self {
            Self::Forwarded(net) => net.addr().is_ipv6(),
            Self::Udp { ip6, .. } => ip6,
        }
    }

    fn meets(self, left: &Value, right: &Value) -> Holds {
        let Some((kind, what)) = only(left) else {
            return Holds::Unknown;
        };
        let Some(values) = values(right) else {
            return Holds::Unknown;
        };
        let key = what["key"].as_str().unwrap_or_default();
        let is = |value: &&Value, text: &str| value.as_str() == Some(text);
        let has = |text| Holds::certainly(values.iter().any(|value| is(value, text)));

        match (kind, key) {
            ("ct", "state") => has("new"),
            ("meta", "nfproto") => has(if self.ip6() { "ipv6" } else { "ipv4" }),
            ("meta", "protocol") => has(if self.ip6() { "ip6" } else { "ip" }),
            ("meta", "l4proto") => match self {
                Self::Udp { .. } => has("udp"),
                Self::Forwarded(_) => Holds::Unknown,
            },
            ("meta", "iifname" | "iif") => any(&values, |value| self.comes_by(value)),
            ("meta", "iifgroup") => match self {
                Self::Forwarded(_) => any(&values, |it| Holds::certainly(*it == GROUP)),
                Self::Udp { .. } => Holds::Unknown,
            },
            ("meta", "oifname" | "oif") => any(&values, |value| {
                if value == "lo" {
                    Holds::No
                } else {
                    Holds::Unknown
                }
            }),
            ("payload", _) => self.has_field(what, &values),
            _ => Holds::Unknown,
        }
    }

    /// Whether it comes by the device of that name, which may end in a star.
    fn comes_by(self, name: &Value) -> Holds {
        let name = name.as_str().unwrap_or_default();
        match self {
            Self::Udp { .. } if name == "lo" => Holds::No,
            Self::Udp { .. } => Holds::Unknown,
            Self::Forwarded(_) => match name.strip_suffix('*') {
                Some(start) if OURS.starts_with(start) => Holds::Yes,
                _ if name.starts_with(OURS) => Holds::Unknown,
                _ => Holds::No,
            },
        }
    }

    fn has_field(self, what: &Value, values: &[&Value]) -> Holds {
        let protocol = what["protocol"].as_str().unwrap_or_default();
        let field = what["field"].as_str().unwrap_or_default();
        match (self, protocol) {
            (_, "ip") if self.ip6() => return Holds::No,
            (_, "ip6") if !self.ip6() => return Holds::No,
            (Self::Udp { .. }, "tcp" | "icmp" | "icmpv6") => return Holds::No,
            _ => {}
        }
        match (self, field) {
            (Self::Udp { port, .. }, "dport") => any(values, |value| covers(value, port)),
            (Self::Udp { .. }, "protocol" | "nexthdr") => {
                any(values, |value| Holds::certainly(value == "udp"))
            }
            (Self::Forwarded(net), "saddr") => any(values, |value| has_net(value, net)),
            _ => Holds::Unknown,
        }
    }
}

impl Holds {
    fn certainly(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unknown,
        }
    }
}

/// Where a map of verdicts leads to; one with a name is not known here.
fn look_up(packet: Packet, holds: Holds, body: &Value) -> Vec<(Holds, Verdict<'_>)> {
    let Some(entries) = body["data"]["set"].as_array() else {
        return vec![(holds.and(Holds::Unknown), Verdict::Jumps(""))];
    };
    let ways = entries.iter().filter_map(|entry| {
        let this = packet.meets(&body["key"], &entry[0]);
        let (kind, body) = only(&entry[1])?;
        Some((holds.and(this), verdict(kind, body)?))
    });

    ways.collect()
}

fn verdict<'a>(kind: &str, body: &'a Value) -> Option<Verdict<'a>> {
    let target = || body["target"].as_str();

    match kind {
        "accept" => Some(Verdict::Ends(Fate::Passes)),
        "drop" | "reject" => Some(Verdict::Ends(Fate::Dropped)),
        "return" => Some(Verdict::Returns),
        "jump" => target().map(Verdict::Jumps),
        "goto" => target().map(Verdict::Goes),
        _ => None,
    }
}

/// A statement or an expression is an object with one key.
fn only(object: &Value) -> Option<(&str, &Value)> {
    let (kind, body) = object.as_object()?.iter().next()?;

    Some((kind, body))
}

/// What something is compared with; none where that is a set with a name.
fn values(right: &Value) -> Option<Vec<&Value>> {
    let lists = [right, &right["set"], &right["|"]];
    let list = lists.into_iter().find_map(Value::as_array);
    let list = list.map_or_else(|| vec![right], |list| list.iter().collect());
    let bare = list.into_iter().map(|value| {
        let inner = &value["elem"]["val"];
        if inner.is_null() { value } else { inner }
    });
    let bare: Vec<_> = bare.collect();

    let is_named = |it: &&Value| it.as_str().is_some_and(|text| text.starts_with('@'));
    (!bare.iter().any(is_named)).then_some(bare)
}

fn any(values: &[&Value], meets: impl Fn(&Value) -> Holds) -> Holds {
    let all = values.iter().map(|value| meets(value));

    all.fold(Holds::No, |any, this| any.not().and(this.not()).not())
}

fn covers(ports: &Value, port: u16) -> Holds {
    let (low, high) = match ports["range"].as_array().map(Vec::as_slice) {
        Some([low, high]) => (low.as_u64(), high.as_u64()),
        _ => (ports.as_u64(), ports.as_u64()),
    };

    match low.zip(high) {
        Some((low, high)) => Holds::certainly((low..=high).contains(&port.into())),
        None => Holds::Unknown,
    }
}

fn has_net(value: &Value, net: IpNet) -> Holds {
    let prefix = &value["prefix"];
    let text = value.as_str().or_else(|| prefix["addr"].as_str());
    let Some(ip) = text.and_then(|text| text.parse().ok()) else {
        return Holds::Unknown;
    };
    let len = prefix["len"].as_u64().and_then(|len| len.try_into().ok());
    let Ok(theirs) = len.map_or_else(|| Ok(IpNet::from(ip)), |len| IpNet::new(ip, len)) else {
        return Holds::Unknown;
    };
    if theirs.contains(&net) {
        return Holds::Yes;
    }

    if net.contains(&theirs) {
        Holds::Unknown
    } else {
        Holds::No
    }
}

fn is_way_out(left: &Value) -> bool {
    ["oifname", "oif"]
        .iter()
        .any(|key| left["meta"]["key"] == *key)
}

/// Whether what is looked at tells the tunnel's packets from others.
fn names_tunnel(left: &Value) -> bool {
    let by = ["iifname", "iifgroup"];

    left["payload"]["field"] == "saddr" || by.iter().any(|key| left["meta"]["key"] == *key)
}

/// Statements that do nothing to a packet's way.
const PASSIVE: [&str; 5] = ["counter", "log", "mangle", "ct helper", "notrack"];

/// How the names of the hub's devices begin.
const OURS: &str = "dtun";
