//! Thousands of routes in one go, written as `ip -batch` has them.
//!
//! Many requests share one send, and only the last of them asks for an
//! answer: the kernel answers a request that failed in any case.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::task;

use super::{Netlink, route};

impl Netlink {
    /// Adds or deletes the routes of `text`, one a line:
    /// `[route VERB] [throw] NET|default [via GATEWAY] [dev NAME|INDEX]
    /// [metric N] [proto N] [table N] [onlink]`. Without a table it is main.
    ///
    /// The action decides, not the verb of the line, so one file serves both.
    /// A line that is malformed or refused does not stop the others; blank
    /// lines and comments are skipped.
    pub async fn batch(&self, action: Action, text: &str) -> io::Result<Loaded> {
        // Opened here: a thread for blocking work may be in another namespace.
        let socket = socket()?;

        let mut loaded = Loaded::default();
        let mut requests = Vec::new();
        let mut indices = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            if line.trim().is_empty() {
                continue;
            }
            let result = match Line::parse(line) {
                Ok(line) => self.resolve(line, action, &mut indices).await,
                Err(malformed) => Err(io::Error::new(io::ErrorKind::InvalidInput, malformed)),
            };
            match result {
                Ok(Some(message)) => requests.push((at + 1, request(action, message))),
                Ok(None) => loaded.done += 1,
                Err(why) => loaded.bad.push(BadLine { line: at + 1, why }),
            }
        }

        let (done, refused) =
            task::spawn_blocking(move || load(&socket, action, requests, &AtomicBool::new(true)))
                .await
                .map_err(io::Error::other)??;
        loaded.done += done;
        loaded.bad.extend(refused);
        loaded.bad.sort_by_key(|bad| bad.line);

        Ok(loaded)
    }

    /// Finds the line's device; `None` means that there is nothing to delete.
    async fn resolve<'a>(
        &self,
        line: Line<'a>,
        action: Action,
        indices: &mut HashMap<&'a str, Option<u32>>,
    ) -> io::Result<Option<RouteMessage>> {
        let oif = match line.device {
            None => None,
            Some(name) => {
                if !indices.contains_key(name) {
                    let link = self.link(name).await?;
                    let index = link.map(|link| link.index).or_else(|| name.parse().ok());
                    indices.insert(name, index);
                }
                match indices[name] {
                    // The routes of a device go with it.
                    None if action == Action::Delete => return Ok(None),
                    None => return Err(io::Error::from_raw_os_error(libc::ENODEV)),
                    index => index,
                }
            }
        };

        Ok(Some(line.message(oif, action)))
    }
}

pub(super) type Request = NetlinkMessage<RouteNetlinkMessage>;

/// What happens to the routes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// As `ip route add`: a route that is there already stays as it is.
    Add,
    /// As `ip route del`, but a route that is gone is no error, and one of
    /// another protocol than the line's, where it names one, stays.
    Delete,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Lines carried out.
    pub done: usize,
    pub bad: Vec<BadLine>,
}

/// A line that was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    /// Counted from 1.
    pub line: usize,
    pub why: io::Error,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("there is no network")]
    NoNetwork,
    #[error("the network is malformed")]
    Network,
    #[error("the gateway is malformed, or of the other address family")]
    Gateway,
    #[error("there is neither a gateway nor a device")]
    NoHop,
    #[error("the metric is malformed")]
    Metric,
    #[error("the protocol is no number from 1 to 255")]
    Protocol,
    #[error("the table is no number from 1 up")]
    Table,
    #[error("a word is unknown: only via, dev, metric, proto, table and onlink are understood")]
    Word,
}

/// One route as written.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    net: IpNet,
    gateway: Option<IpAddr>,
    device: Option<&'a str>,
    metric: Option<u32>,
    protocol: Option<NonZeroU8>,
    table: Option<NonZeroU32>,
    onlink: bool,
    /// The search goes on in the next table, as for a network that is not here.
    throw: bool,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Result<Self, Malformed> {
        let mut words = line.split_whitespace().peekable();
        if words.next_if_eq(&"route").is_some() {
            words.next();
        }
        let throw = words.next_if_eq(&"throw").is_some();
        let net = words.next().ok_or(Malformed::NoNetwork)?;

        let mut gateway = None;
        let mut device = None;
        let mut metric = None;
        let mut protocol = None;
        let mut table = None;
        let mut onlink = false;
        while let Some(word) = words.next() {
            match word {
                "via" => gateway = Some(parse(words.next()).ok_or(Malformed::Gateway)?),
                "dev" => device = Some(words.next().ok_or(Malformed::NoHop)?),
                "metric" => metric = Some(parse(words.next()).ok_or(Malformed::Metric)?),
                "proto" => protocol = Some(parse(words.next()).ok_or(Malformed::Protocol)?),
                "table" => table = Some(parse(words.next()).ok_or(Malformed::Table)?),
                "onlink" => onlink = true,
                _ => return Err(Malformed::Word),
            }
        }
        if gateway.is_none() && device.is_none() && !throw {
            return Err(Malformed::NoHop);
        }

        let net = network(net, gateway)?;
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != net.addr().is_ipv4()) {
            return Err(Malformed::Gateway);
        }

        Ok(Self {
            net,
            gateway,
            device,
            metric,
            protocol,
            table,
            onlink,
            throw,
        })
    }

    fn message(&self, oif: Option<u32>, action: Action) -> RouteMessage {
        let mut message = route::unicast(self.net, self.gateway, oif);
        match (self.protocol, action) {
            (Some(protocol), _) => message.header.protocol = protocol.get().into(),
            (None, Action::Add) => {}
            (None, Action::Delete) => message.header.protocol = RouteProtocol::Unspec,
        }
        if let Some(table) = self.table {
            message.header.table = RouteHeader::RT_TABLE_UNSPEC;
            message.attributes.push(RouteAttribute::Table(table.get()));
        }
        if self.throw {
            message.header.kind = RouteType::Throw;
            message.header.scope = RouteScope::Universe;
        }
        if self.onlink {
            message.header.flags |= RouteFlags::Onlink;
        }
        message
            .attributes
            .extend(self.metric.map(RouteAttribute::Priority));

        message
    }
}

/// A socket for [`load`], in the namespace of this thread.
pub(super) fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    Ok(socket)
}

/// Sends the requests, as long as they are wanted; returns how many were
/// carried out, and the others.
pub(super) fn load(
    socket: &Socket,
    action: Action,
    mut requests: Vec<(usize, Request)>,
    is_wanted: &AtomicBool,
) -> io::Result<(usize, Vec<BadLine>)> {
    let mut refused = Vec::new();
    for chunk in requests.chunks_mut(CHUNK) {
        if !is_wanted.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let last = chunk.len() - 1;
        let mut bytes = Vec::with_capacity(chunk.len() * 64);
        for (at, (_, request)) in chunk.iter_mut().enumerate() {
            request.header.sequence_number = at as u32;
            if at == last {
                request.header.flags |= NLM_F_ACK;
            }
            request.finalize();
            let start = bytes.len();
            bytes.resize(start + request.buffer_len(), 0);
            request.serialize(&mut bytes[start..]);
        }
        socket.send(&bytes, 0)?;

        while let Answer::More = answer(socket, last, |at, code| {
            let gone = action == Action::Delete && code == libc::ESRCH;
            if let Some((line, _)) = chunk.get(at)
                && !gone
            {
                refused.push(BadLine {
                    line: *line,
                    why: io::Error::from_raw_os_error(code),
                });
            }
        })? {}
    }

    Ok((requests.len() - refused.len(), refused))
}

/// Whether the answer to the last request has come.
enum Answer {
    More,
    Last,
}

/// Reads one datagram of answers and tells of each that is an error.
fn answer(
    socket: &Socket,
    last: usize,
    mut failed: impl FnMut(usize, libc::c_int),
) -> io::Result<Answer> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    if let Err(error) = socket.recv(&mut buffer, 0) {
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(Answer::More),
            _ => Err(error),
        };
    }

    let mut datagram = buffer.as_slice();
    let mut state = Answer::More;
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        let at = message.sequence_number() as usize;
        if let Some(code) = message.payload().first_chunk()
            && libc::c_int::from(message.message_type()) == libc::NLMSG_ERROR
        {
            let code = i32::from_ne_bytes(*code);
            if code != 0 {
                failed(at, -code);
            }
            if at == last {
                state = Answer::Last;
            }
        }
        let len = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(len..).unwrap_or_default();
    }

    Ok(state)
}

pub(super) fn request(action: Action, mut message: RouteMessage) -> Request {
    match action {
        Action::Add => {
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
            request.header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL;
            request
        }
        Action::Delete => {
            message.header.scope = RouteScope::NoWhere;
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelRoute(message));
            request.header.flags = NLM_F_REQUEST;
            request
        }
    }
}

/// `default` is of the gateway's family; a bare address is a host.
fn network(word: &str, gateway: Option<IpAddr>) -> Result<IpNet, Malformed> {
    if word == "default" {
        return Ok(match gateway {
            Some(IpAddr::V6(_)) => Ipv6Net::default().into(),
            _ => Ipv4Net::default().into(),
        });
    }

    let host = || word.parse::<IpAddr>().map(IpNet::from);
    let net = word.parse::<IpNet>().or_else(|_| host());

    net.map_err(|_| Malformed::Network)
}

fn parse<T: std::str::FromStr>(word: Option<&str>) -> Option<T> {
    word?.parse().ok()
}

/// If every request of a chunk fails, the answers must fit the receive buffer:
/// at most 1280 bytes each, with what the kernel adds, of its default 208 KiB.
const CHUNK: usize = 128;

/// An answer repeats the request; each comes in a datagram of its own.
const DATAGRAM: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::super::RouteKind;
    use super::*;
    use crate::netns::isolated;

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in "(route|add|via|dev|default|metric|throw|table|[0-9a-f:./ ]){0,12}") {
            let _ = Line::parse(&line);
        }
    }

    #[test]
    fn a_line_is_read_as_ip_batch_reads_it() {
        let line = Line::parse("route add 10.1.0.0/16 via 192.0.2.1 dev eth0 metric 7 proto 117\r");

        let expected = Line {
            net: "10.1.0.0/16".parse().unwrap(),
            gateway: Some("192.0.2.1".parse().unwrap()),
            device: Some("eth0"),
            metric: Some(7),
            protocol: NonZeroU8::new(117),
            table: None,
            onlink: false,
            throw: false,
        };
        assert_eq!(line, Ok(expected));
    }

    #[test]
    fn a_throw_route_of_another_table_comes_and_goes() {
        isolated(|netlink| async move {
            let text = "route add throw 10.9.0.0/16 table 764 proto 117\n\
                        throw fd00:9::/48 table 764 proto 117\n";
            let before = netlink.routes().await.unwrap().len();

            let added = netlink.batch(Action::Add, text).await.unwrap();
            let there = netlink.routes().await.unwrap().len();
            let again = netlink.batch(Action::Add, text).await.unwrap();
            let main_only = text.replace(" table 764", "");
            let other = netlink.batch(Action::Delete, &main_only).await.unwrap();
            let still = netlink.batch(Action::Add, text).await.unwrap();
            let gone = netlink.batch(Action::Delete, text).await.unwrap();
            let anew = netlink.batch(Action::Add, text).await.unwrap();

            assert_eq!((added.done, added.bad.len()), (2, 0));
            assert_eq!(there, before + 2);
            assert_eq!((again.done, again.bad.len()), (0, 2));
            assert_eq!(other.bad.len(), 0);
            assert_eq!(
                (still.done, still.bad.len()),
                (0, 2),
                "another table's went"
            );
            assert_eq!((gone.done, gone.bad.len()), (2, 0));
            assert_eq!((anew.done, anew.bad.len()), (2, 0));
        });
    }

    #[test]
    fn a_malformed_line_says_what_is_wrong() {
        for (line, why) in [
            ("route add", Malformed::NoNetwork),
            ("10.0.0.0/33 dev lo", Malformed::Network),
            ("10.0.0.0/8", Malformed::NoHop),
            ("10.0.0.0/8 via ::1", Malformed::Gateway),
            ("10.0.0.0/8 via nobody", Malformed::Gateway),
            ("10.0.0.0/8 dev lo metric x", Malformed::Metric),
            ("10.0.0.0/8 dev lo proto static", Malformed::Protocol),
            ("10.0.0.0/8 dev lo table main", Malformed::Table),
            ("throw", Malformed::NoNetwork),
            ("10.0.0.0/8 dev lo scope 7", Malformed::Word),
        ] {
            assert_eq!(Line::parse(line), Err(why), "{line}");
        }
    }

    #[test]
    fn ten_thousand_routes_load_and_go_and_leave_the_watcher_sane() {
        isolated(|netlink| async move {
            let mut changes = netlink.watch().unwrap();
            let before = netlink.routes().await.unwrap().len();
            let text = routes("lo");

            let started = Instant::now();
            let loaded = netlink.batch(Action::Add, &text).await.unwrap();
            let took = started.elapsed();

            assert_eq!((loaded.done, loaded.bad.len()), (10_000, 0));
            let now = netlink.routes().await.unwrap();
            assert_eq!(now.len(), before + 10_000);
            assert!(now.iter().all(|route| route.kind == RouteKind::Unicast));
            println!("10,000 routes in {took:?}");
            assert!(took < Duration::from_secs(2), "took {took:?}");
            changes.recv().await.unwrap();

            let again = netlink.batch(Action::Add, &text).await.unwrap();
            assert_eq!((again.done, again.bad.len()), (0, 10_000));
            assert_eq!(again.bad[0].why.raw_os_error(), Some(libc::EEXIST));

            for _ in 0..2 {
                let deleted = netlink.batch(Action::Delete, &text).await.unwrap();
                assert_eq!((deleted.done, deleted.bad.len()), (10_000, 0));
            }
            assert_eq!(netlink.routes().await.unwrap().len(), before);
        });
    }

    #[test]
    fn bad_lines_are_told_by_number_and_stop_nothing() {
        isolated(|netlink| async move {
            let mut text = String::from("# list\r\n\r\n10.9.0.0/16 dev lo\r\nnonsense dev lo\r\n");
            for third in 0..=255 {
                writeln!(text, "10.8.{third}.0/24 via 192.0.2.1 dev lo").unwrap();
            }
            text.push_str("fd00:9::/48 dev 1\n10.7.0.0/16 dev nowhere\n");

            let loaded = netlink.batch(Action::Add, &text).await.unwrap();

            assert_eq!(loaded.done, 2);
            assert_eq!(loaded.bad.len(), 258);
            assert_eq!(
                loaded.bad[0].to_string(),
                "line 4: the network is malformed"
            );
            let unreachable = loaded.bad[1].why.raw_os_error();
            assert_eq!(unreachable, Some(libc::ENETUNREACH));
            let nowhere = &loaded.bad[257];
            assert_eq!(nowhere.line, 262);
            assert_eq!(nowhere.why.raw_os_error(), Some(libc::ENODEV));

            let deleted = netlink
                .batch(
                    Action::Delete,
                    "10.9.0.0/16 dev lo\n10.7.0.0/16 dev nowhere",
                )
                .await
                .unwrap();
            assert_eq!((deleted.done, deleted.bad.len()), (2, 0));
        });
    }

    #[test]
    fn a_route_of_somebody_else_is_neither_replaced_nor_deleted() {
        isolated(|netlink| async move {
            let theirs = "10.9.0.0/16 dev lo proto 4\nfd00:9::/48 dev lo proto 4\n";
            let ours = "10.9.0.0/16 dev lo proto 117\nfd00:9::/48 dev lo proto 117\n";
            netlink.batch(Action::Add, theirs).await.unwrap();
            let before = netlink.routes().await.unwrap();

            let added = netlink.batch(Action::Add, ours).await.unwrap();
            netlink.batch(Action::Delete, ours).await.unwrap();

            assert_eq!(added.done, 0);
            assert_eq!(netlink.routes().await.unwrap().len(), before.len());
            let gone = netlink.batch(Action::Delete, theirs).await.unwrap();
            assert_eq!((gone.done, gone.bad.len()), (2, 0));
            assert_eq!(netlink.routes().await.unwrap().len(), before.len() - 2);
        });
    }

    /// 9,000 IPv4 networks and 1,000 of IPv6.
    fn routes(device: &str) -> String {
        let mut text = String::new();
        for at in 0..9_000 {
            let (high, low) = (at / 256, at % 256);
            writeln!(text, "route add 100.{high}.{low}.0/24 dev {device}").unwrap();
        }
        for at in 0..1_000 {
            writeln!(text, "route add fd00:{at:x}::/32 dev {device}").unwrap();
        }

        text
    }
}
