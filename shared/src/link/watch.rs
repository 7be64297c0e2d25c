//! What changed in the kernel's network configuration.
//!
//! The events of one burst come coalesced: a script that sets ten thousand
//! routes is one [`Change::Route`] for each time the reader looks. A reader
//! that is too slow gets [`Change::Lost`] and looks at everything again.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkFlags;
use rtnetlink::constants::{
    RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
};
use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

use super::{Address, Netlink};
use crate::rest::Rest;
use crate::sys;

impl Netlink {
    /// Watches links, addresses, routes and rules from now on.
    pub fn watch(&self) -> io::Result<Changes> {
        self.watch_groups(GROUPS)
    }

    /// Watches links and addresses alone.
    pub fn watch_devices(&self) -> io::Result<Changes> {
        self.watch_groups(OF_DEVICES)
    }

    fn watch_groups(&self, groups: u32) -> io::Result<Changes> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(BUFFER)?;
        socket.bind(&SocketAddr::new(0, groups))?;

        Ok(Changes {
            socket: sys::readiness::register(socket)?,
            pending: VecDeque::new(),
            lost: false,
            rest: Rest::default(),
        })
    }
}

/// The stream of changes; dropping it ends the watching.
pub struct Changes {
    socket: AsyncFd<Socket>,
    pending: VecDeque<Change>,
    /// Whether the last that was read was that something is lost.
    lost: bool,
    /// Of what fails for good.
    rest: Rest,
}

impl Changes {
    /// The next change, or an error, and then two seconds of silence: whoever
    /// waits again may look for himself meanwhile. Cancelling the wait loses
    /// nothing.
    pub async fn recv(&mut self) -> io::Result<Change> {
        let Self {
            socket,
            pending,
            lost,
            rest,
        } = self;

        rest.after_errors(next(socket, pending, lost)).await
    }
}

async fn next(
    socket: &AsyncFd<Socket>,
    pending: &mut VecDeque<Change>,
    lost: &mut bool,
) -> io::Result<Change> {
    loop {
        if let Some(change) = pending.pop_front() {
            return Ok(change);
        }
        let mut ready = socket.readable().await?;
        let result =
            ready.try_io(|socket| drain(|buffer| socket.get_ref().recv(buffer, 0), pending, lost));
        if let Ok(result) = result {
            result?;
        }
    }
}

/// Something that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    Link {
        index: u32,
        up: bool,
        removed: bool,
    },
    Address {
        index: u32,
        ip: IpAddr,
        added: bool,
    },
    /// Some route, of whatever table, came or went.
    Route,
    /// Some rule did.
    Rule,
    /// A route of that table went; told beside [`Change::Route`].
    Gone {
        table: u32,
    },
    /// Events were lost: anything may have changed.
    Lost,
}

/// Reads all there is, up to a limit. `WouldBlock` means that nothing is left,
/// so that the caller waits for more.
fn drain(
    mut recv: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
    pending: &mut VecDeque<Change>,
    lost: &mut bool,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(DATAGRAM);
    for _ in 0..ROUND {
        buffer.clear();
        match recv(&mut buffer) {
            Ok(_) => {
                *lost = false;
                parse(&buffer, pending);
            }
            // What is lost is lost once: what comes next can be read.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && !*lost => {
                *lost = true;
                push(pending, Change::Lost);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }

    Ok(())
}

/// Takes the changes out of one datagram of messages.
fn parse(mut datagram: &[u8], pending: &mut VecDeque<Change>) {
    while let Ok(message) = NetlinkBuffer::new_checked(datagram) {
        let len = message.length() as usize;
        if matches!(message.message_type(), RTM_NEWROUTE | RTM_DELROUTE) {
            push(pending, Change::Route);
            if message.message_type() == RTM_DELROUTE
                && let Some(table) = table(&datagram[..len])
            {
                push(pending, Change::Gone { table });
            }
        } else if matches!(message.message_type(), RTM_NEWRULE | RTM_DELRULE) {
            push(pending, Change::Rule);
        } else if let Ok(message) = NetlinkMessage::deserialize(&datagram[..len])
            && let NetlinkPayload::InnerMessage(message) = message.payload
            && let Some(change) = change(&message)
        {
            push(pending, change);
        }
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The table of a route's message, which is taken apart no further: a script
/// may remove ten thousand of them.
fn table(message: &[u8]) -> Option<u32> {
    let mut attributes = message.get(NLMSG_HEADER + RTMSG..)?;
    while let Some((header, rest)) = attributes.split_first_chunk::<4>() {
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == libc::RTA_TABLE {
            return rest.first_chunk().map(|table| u32::from_ne_bytes(*table));
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..)?;
    }

    None
}

/// Appends a change that does not stand there already as the latest word on
/// its subject.
fn push(pending: &mut VecDeque<Change>, change: Change) {
    if matches!(
        change,
        Change::Route | Change::Gone { .. } | Change::Rule | Change::Lost
    ) {
        if pending.contains(&change) {
            return;
        }
    } else if pending.back() == Some(&change) {
        return;
    }
    pending.push_back(change);
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    let (message, added) = match message {
        RouteNetlinkMessage::NewLink(link) => {
            return Some(Change::Link {
                index: link.header.index,
                up: link.header.flags.contains(LinkFlags::Up),
                removed: false,
            });
        }
        RouteNetlinkMessage::DelLink(link) => {
            return Some(Change::Link {
                index: link.header.index,
                up: false,
                removed: true,
            });
        }
        RouteNetlinkMessage::NewAddress(address) => (address, true),
        RouteNetlinkMessage::DelAddress(address) => (address, false),
        _ => return None,
    };
    let address = Address::parse(message)?;

    Some(Change::Address {
        index: address.index,
        ip: address.net.addr(),
        added,
    })
}

const OF_DEVICES: u32 = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;

const GROUPS: u32 =
    OF_DEVICES | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_RULE;

/// Group 19 (`RTNLGRP_IPV6_RULE`), as a bit; it has no older name.
const RTMGRP_IPV6_RULE: u32 = 1 << 18;

/// Some thousand route messages, each counted with its buffer's overhead.
const BUFFER: u32 = 4 << 20;

/// The kernel's own notifications are a page at most; a link with all its
/// statistics is the largest.
const DATAGRAM: usize = 16 << 10;

/// A flood of events must not keep the thread from its other work.
const ROUND: usize = 1024;

/// `struct nlmsghdr` and `struct rtmsg`, in bytes.
const NLMSG_HEADER: usize = 16;
const RTMSG: usize = 12;

const RTM_NEWROUTE: u16 = libc::RTM_NEWROUTE;
const RTM_DELROUTE: u16 = libc::RTM_DELROUTE;
const RTM_NEWRULE: u16 = libc::RTM_NEWRULE;
const RTM_DELRULE: u16 = libc::RTM_DELRULE;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::link::{Entry, Family, Lead, Rule, Then, Via};
    use crate::netns::isolated;
    use crate::tun::Tun;

    #[test]
    fn an_address_that_goes_away_is_told() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false, true).unwrap();
            let index = tun.index();
            for net in ["10.0.0.1/32", "fc00::1/128"] {
                let net = net.parse::<ipnet::IpNet>().unwrap();
                match net.addr() {
                    IpAddr::V4(ip) => netlink.add_address_ptp4(index, ip, ip).await.unwrap(),
                    IpAddr::V6(ip) => netlink.add_address6(index, ip, None).await.unwrap(),
                }
                let mut changes = netlink.watch().unwrap();

                netlink.remove_address(index, net).await.unwrap();

                let gone = Change::Address {
                    index,
                    ip: net.addr(),
                    added: false,
                };
                until(&mut changes, gone).await;
            }
        });
    }

    #[test]
    fn links_and_routes_are_told() {
        isolated(|netlink| async move {
            let mut changes = netlink.watch().unwrap();
            let tun = Tun::create("dtun%d", false, true).unwrap();
            let index = tun.index();
            netlink.set_up(index, 1400).await.unwrap();
            let up = Change::Link {
                index,
                up: true,
                removed: false,
            };
            until(&mut changes, up).await;

            let mut changes = netlink.watch().unwrap();
            netlink
                .add_route("10.8.0.0/16".parse().unwrap(), Via::Device(index))
                .await
                .unwrap();
            until(&mut changes, Change::Route).await;

            for family in Family::BOTH {
                let rule = Rule::new(family, 32500, Then::Lookup(11764));
                netlink.add_rule(&rule).await.unwrap();
                until(&mut changes, Change::Rule).await;
            }

            let entry = Entry {
                net: "10.9.0.0/16".parse().unwrap(),
                lead: Lead::Throw,
            };
            netlink.fill(11764, [entry].into_iter()).await.unwrap();
            netlink.empty(11764).await.unwrap();
            until(&mut changes, Change::Gone { table: 11764 }).await;

            drop(tun);
            let removed = Change::Link {
                index,
                up: false,
                removed: true,
            };
            until(&mut changes, removed).await;
        });
    }

    #[test]
    fn a_reader_that_is_too_slow_is_told_to_look_again() {
        isolated(|netlink| async move {
            let mut changes = netlink.watch().unwrap();
            changes.socket.get_ref().set_rx_buf_sz(1_u32).unwrap();
            let lo = netlink.link("lo").await.unwrap().unwrap().index;
            for third in 0..100 {
                let net = ipnet::Ipv4Net::new([10, 8, third, 0].into(), 24).unwrap();
                netlink
                    .add_route(net.into(), Via::Device(lo))
                    .await
                    .unwrap();
            }

            until(&mut changes, Change::Lost).await;
        });
    }

    #[test]
    fn a_burst_of_routes_is_one_change() {
        let mut pending = VecDeque::new();
        let gone = Change::Link {
            index: 7,
            up: false,
            removed: true,
        };

        for change in [Change::Route, gone, Change::Route, gone, Change::Route] {
            push(&mut pending, change);
        }

        assert_eq!(pending, [Change::Route, gone]);
    }

    #[test]
    fn a_socket_that_loses_all_and_for_good_is_an_error() {
        let (mut pending, mut lost, mut reads) = (VecDeque::new(), false, 0);
        let mut drain = |error: i32| {
            let recv = |_: &mut Vec<u8>| {
                reads += 1;
                Err(io::Error::from_raw_os_error(error))
            };
            drain(recv, &mut pending, &mut lost)
        };

        let code = |result: io::Result<()>| result.unwrap_err().raw_os_error();
        assert_eq!(code(drain(libc::ENOBUFS)), Some(libc::ENOBUFS));
        assert_eq!(code(drain(libc::EPERM)), Some(libc::EPERM));
        assert_eq!(reads, 3);
        assert_eq!(pending, [Change::Lost]);
    }

    async fn until(changes: &mut Changes, wanted: Change) {
        let search = async { while changes.recv().await.unwrap() != wanted {} };

        timeout(Duration::from_secs(5), search).await.unwrap();
    }
}
