//! Who touches one table of the packet filter (linux/netfilter/nf_tables.h).

use std::io;

use rtnetlink::packet_core::NetlinkBuffer;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use tokio::io::unix::AsyncFd;

use crate::rest::Rest;
use crate::sys;

/// Hears of every change to the table of one name, whoever makes it, or of every
/// change to the chains of all others.
pub struct TableWatch {
    socket: AsyncFd<Socket>,
    which: Which,
    /// Whether the last that was read was that something is lost.
    lost: bool,
    /// Of what fails for good.
    rest: Rest,
}

#[derive(Clone, Debug)]
enum Which {
    Only(String),
    /// Tables, their chains and rules; what is in sets changes too often.
    AllBut(String),
}

/// What was touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Elements of the set of that name.
    Elements(String),
    /// The table, its chains, rules or sets; or events were lost, and anything
    /// may have been.
    Any,
}

impl TableWatch {
    /// Watches from now on.
    pub fn new(table: &str) -> io::Result<Self> {
        Self::of(Which::Only(table.to_owned()))
    }

    /// Watches all other tables from now on, but for what is in their sets.
    pub fn all_but(table: &str) -> io::Result<Self> {
        Self::of(Which::AllBut(table.to_owned()))
    }

    fn of(which: Which) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(BUFFER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(NFNLGRP_NFTABLES)?;

        Ok(Self {
            socket: sys::readiness::register(socket)?,
            which,
            lost: false,
            rest: Rest::default(),
        })
    }

    /// The next touch, or an error, and then two seconds of silence: whoever waits
    /// again may look for himself meanwhile. Cancelling the wait loses nothing but
    /// touches that were read together with the one before.
    pub async fn touched(&mut self) -> io::Result<Touch> {
        let Self {
            socket,
            which,
            lost,
            rest,
        } = self;

        rest.after_errors(next(socket, which, lost)).await
    }

    /// Forgets what has been touched up to now. The kernel tells of a change
    /// before its maker hears that it is done.
    pub fn forget(&mut self) {
        while read(self.socket.get_ref(), &self.which, &mut self.lost).is_ok() {}
    }
}

async fn next(socket: &AsyncFd<Socket>, which: &Which, lost: &mut bool) -> io::Result<Touch> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| read(socket.get_ref(), which, lost)) {
            Ok(Ok(Some(touch))) => return Ok(touch),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => return Err(error),
        }
    }
}

/// Reads one datagram; `WouldBlock` when there is none.
fn read(socket: &Socket, which: &Which, lost: &mut bool) -> io::Result<Option<Touch>> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    match socket.recv(&mut buffer, 0) {
        Ok(_) => {
            *lost = false;
            Ok(parse(&buffer, which))
        }
        // What is lost is lost once: what comes next can be read.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && !*lost => {
            *lost = true;
            Ok(Some(Touch::Any))
        }
        Err(error) => Err(error),
    }
}

/// The gravest touch that a datagram of messages tells of.
fn parse(mut datagram: &[u8], which: &Which) -> Option<Touch> {
    let mut gravest = None;
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        let len = message.length() as usize;
        match touch(message.message_type(), &datagram[HEADER..len], which) {
            Some(Touch::Any) => return Some(Touch::Any),
            Some(touch) => gravest = Some(touch),
            None => {}
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }

    gravest
}

/// What one message says: `struct nfgenmsg` of 4 bytes, then attributes, whose
/// first kind is the table's name in all of them.
fn touch(kind: u16, body: &[u8], which: &Which) -> Option<Touch> {
    let mut name = None;
    let mut set = None;
    let mut rest = body.get(GENERIC..)?;
    while let Some((length, kind)) = rest.first_chunk::<4>().map(attribute) {
        let value = rest.get(4..length)?;
        match kind {
            TABLE => name = text(value),
            SET => set = text(value),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    match which {
        Which::Only(table) if name? == table => {}
        Which::AllBut(table) if OF_CHAINS.contains(&kind) && name? != table => {}
        Which::Only(_) | Which::AllBut(_) => return None,
    }

    match (kind, set) {
        (NEW_ELEMENTS | DELETED_ELEMENTS, Some(set)) => Some(Touch::Elements(set.to_owned())),
        _ => Some(Touch::Any),
    }
}

/// Length, with these four bytes, and kind, without its flags.
fn attribute(header: &[u8; 4]) -> (usize, u16) {
    let [a, b, c, d] = *header;
    let kind = u16::from_ne_bytes([c, d]) & !(libc::NLA_F_NESTED as u16);

    (u16::from_ne_bytes([a, b]).max(4).into(), kind)
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0])?).ok()
}

const NFNLGRP_NFTABLES: u32 = 7;

/// Tables, chains and rules, made or deleted.
const OF_CHAINS: [u16; 6] = [
    subsystem(0),
    subsystem(2),
    subsystem(3),
    subsystem(5),
    subsystem(6),
    subsystem(8),
];
const NEW_ELEMENTS: u16 = subsystem(12);
const DELETED_ELEMENTS: u16 = subsystem(14);

/// A message of `NFNL_SUBSYS_NFTABLES`.
const fn subsystem(message: u16) -> u16 {
    10 << 8 | message
}

/// `NFTA_TABLE_NAME`, and the same in chains, rules, sets and elements.
const TABLE: u16 = 1;

/// `NFTA_SET_ELEM_LIST_SET`; in other messages something that is not asked for.
const SET: u16 = 2;

/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// `struct nfgenmsg`.
const GENERIC: usize = 4;

/// A set of a hundred thousand networks comes as some thousand messages.
const BUFFER: u32 = 4 << 20;

/// The kernel puts as many messages into one as fit into two pages or so.
const DATAGRAM: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::netns::isolated;
    use crate::nft::run;

    async fn next(watch: &mut TableWatch) -> Touch {
        timeout(Duration::from_secs(5), watch.touched())
            .await
            .unwrap()
            .unwrap()
    }

    const MINE: &str = "add table inet mine; add chain inet mine c; \
                        add set inet mine s { type ipv4_addr; }";

    #[test]
    fn a_flush_by_another_is_told() {
        isolated(|_| async {
            run(MINE).await.unwrap();
            for change in [
                "flush ruleset",
                "add table inet mine; add chain inet mine c",
                "add rule inet mine c accept",
                "flush table inet mine",
                "delete table inet mine",
            ] {
                let mut watch = TableWatch::new("mine").unwrap();

                run(change).await.unwrap();

                assert_eq!(next(&mut watch).await, Touch::Any, "{change}");
            }
        });
    }

    #[test]
    fn elements_are_told_with_their_sets_name() {
        isolated(|_| async {
            run(MINE).await.unwrap();
            let elements = Touch::Elements("s".to_owned());
            let mut watch = TableWatch::new("mine").unwrap();

            run("add element inet mine s { 192.0.2.1 }").await.unwrap();
            assert_eq!(next(&mut watch).await, elements);
            run("flush set inet mine s").await.unwrap();
            assert_eq!(next(&mut watch).await, elements);
        });
    }

    #[test]
    fn other_tables_are_none_of_its_business_and_what_is_forgotten_is_not_told() {
        isolated(|_| async {
            let mut watch = TableWatch::new("mine").unwrap();
            run(MINE).await.unwrap();
            watch.forget();

            run("add table inet other; add chain inet other c; flush table inet other")
                .await
                .unwrap();
            run("add element inet mine s { 192.0.2.1 }").await.unwrap();

            assert_eq!(
                next(&mut watch).await,
                Touch::Elements("s".to_owned()),
                "the first that is told"
            );
        });
    }

    #[test]
    fn all_others_are_watched_but_for_their_sets() {
        isolated(|_| async {
            run(MINE).await.unwrap();
            run("add table ip other; add set ip other s { type ipv4_addr; }")
                .await
                .unwrap();
            let mut watch = TableWatch::all_but("mine").unwrap();

            run("add rule inet mine c accept").await.unwrap();
            run("add element ip other s { 192.0.2.1 }").await.unwrap();
            let silence = timeout(Duration::from_millis(100), watch.touched());
            silence.await.unwrap_err();

            for change in [
                "add chain ip other c",
                "add rule ip other c accept",
                "flush ruleset",
            ] {
                run(change).await.unwrap();
                assert_eq!(next(&mut watch).await, Touch::Any, "{change}");
                watch.forget();
            }
        });
    }
}
