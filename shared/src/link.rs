//! Links, addresses and routes, over rtnetlink.
//!
//! Adding what is there already and removing what is gone both succeed, so a
//! restart can repeat all of it. Every error carries the kernel's errno.
//!
//! A socket belongs to the network namespace of the thread that opened it:
//! [`Netlink::new`] and [`Netlink::watch`] decide which one is meant.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are open: what is not known here is of no interest"
)]

mod address;
mod batch;
mod route;
mod rule;
mod table;
mod watch;

use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use tokio::time::sleep;

pub use address::Address;
pub use batch::{Action, BadLine, Loaded};
pub use route::{Hop, Route, RouteKind, Via};
pub use rule::{Family, Rule, Then, Transport};
pub use table::{Entry, Lead};
pub use watch::{Change, Changes};

/// The link group of every hub's devices, "dt" in ASCII.
pub const GROUP_OF_HUBS: u32 = 0x6474;

/// The link group of the devices that spokes have made.
pub const GROUP_OF_SPOKES: u32 = 0x6475;

/// The main table, as in /etc/iproute2/rt_tables.
pub const MAIN: u32 = 254;

/// The origin `kernel` of routes and rules, as in /etc/iproute2/rt_protos.
pub const KERNEL: u8 = 2;

/// A handle on the kernel's network configuration.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
    /// Held while a thread loads routes, so that loads keep their order.
    loading: Arc<Mutex<()>>,
}

impl Netlink {
    /// Opens the socket and spawns the task that serves it; the task ends with
    /// the last clone.
    pub fn new() -> io::Result<Self> {
        // Strict requests let the kernel pick the addresses of one link; before
        // Linux 4.20 it sends them all.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .or_else(|_| rtnetlink::new_connection())?;
        tokio::spawn(connection);

        Ok(Self {
            handle,
            loading: Arc::default(),
        })
    }

    /// The link of that name, if there is one.
    pub async fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name.to_owned());
        let found = request.execute().try_next().await;

        absent(found.map_err(errno), &[libc::ENODEV]).map(|found| found.flatten().map(Link::from))
    }

    /// The link of that index, if there is one.
    pub async fn link_by_index(&self, index: u32) -> io::Result<Option<Link>> {
        let request = self.handle.link().get().match_index(index);
        let found = request.execute().try_next().await;

        absent(found.map_err(errno), &[libc::ENODEV]).map(|found| found.flatten().map(Link::from))
    }

    /// Every link.
    pub async fn links(&self) -> io::Result<Vec<Link>> {
        listed(|| {
            let found = self.handle.link().get().execute();
            found.map_ok(Link::from).map_err(errno).try_collect()
        })
        .await
    }

    /// Every link of one group.
    pub async fn links_in_group(&self, group: u32) -> io::Result<Vec<Link>> {
        let mut links = self.links().await?;
        links.retain(|link| link.group == group);

        Ok(links)
    }

    /// Deletes a link; one that is gone already is no error.
    pub async fn delete_link(&self, index: u32) -> io::Result<()> {
        let result = self.handle.link().del(index).execute().await;

        absent(result.map_err(errno), &[libc::ENODEV]).map(|_| ())
    }

    /// Deletes every link of a group, in the time that one alone takes.
    pub async fn delete_group(&self, group: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelLink(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;

        absent(self.acknowledged(request).await, &[libc::ENODEV]).map(|_| ())
    }

    /// Sets a link up with that MTU.
    pub async fn set_up(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.change(LinkUnspec::new_with_index(index).mtu(mtu).up())
            .await
    }

    /// Sets a link down, which takes every route on it away.
    pub async fn set_down(&self, index: u32) -> io::Result<()> {
        self.change(LinkUnspec::new_with_index(index).down()).await
    }

    /// Renames a link; `ResourceBusy` where it would have to be down for that.
    pub async fn set_name(&self, index: u32, name: &str) -> io::Result<()> {
        self.change(LinkUnspec::new_with_index(index).name(name.to_owned()))
            .await
    }

    pub async fn set_mtu(&self, index: u32, mtu: u32) -> io::Result<()> {
        self.change(LinkUnspec::new_with_index(index).mtu(mtu))
            .await
    }

    /// Sets the text that `ip -d link` shows; at most 255 bytes.
    pub async fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        self.change(LinkUnspec::new_with_index(index).alias(alias))
            .await
    }

    pub async fn set_group(&self, index: u32, group: u32) -> io::Result<()> {
        self.change(LinkUnspec::new_with_index(index).link_group(group))
            .await
    }

    /// Keeps the kernel from sending anything of its own into the device
    /// (link-local address, router solicitations), and its IPv6 addresses from
    /// vanishing when it is set down. Must be called before it goes up.
    ///
    /// A machine without IPv6 has nothing to silence.
    pub async fn quiet(&self, index: u32, name: &str) -> io::Result<()> {
        let silent = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let result = self
            .change(
                LinkUnspec::new_with_index(index)
                    .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![silent])),
            )
            .await;
        absent(
            result,
            &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL],
        )?;

        for (key, value) in [("accept_ra", "0"), ("keep_addr_on_down", "1")] {
            let path = Path::new("/proc/sys/net/ipv6/conf").join(name).join(key);
            if let Err(error) = fs::write(&path, value) {
                // Containers have /proc/sys read-only; a tunnel works without.
                tracing::debug!(path = %path.display(), %error, "sysctl not set");
            }
        }

        Ok(())
    }

    async fn change(&self, link: LinkMessageBuilder<LinkUnspec>) -> io::Result<()> {
        self.handle
            .link()
            .set(link.build())
            .execute()
            .await
            .map_err(errno)
    }
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub group: u32,
    pub up: bool,
    /// Whether packets pass; a TUN's do while a process holds it.
    pub carrier: bool,
    pub mtu: u32,
    /// The kind that `ip -d link` shows (`tun`, `veth`, …), for virtual links.
    pub kind: Option<String>,
    /// The index of the bridge, bond or the like that it is a port of.
    pub master: Option<u32>,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            alias: None,
            group: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            mtu: 0,
            kind: None,
            master: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::LinkInfo(infos) => link.kind = infos.into_iter().find_map(kind),
                _ => {}
            }
        }

        link
    }
}

/// Whether the kernel forwards IPv4.
pub fn forwarding4() -> bool {
    reads_one("/proc/sys/net/ipv4/ip_forward")
}

/// Whether the kernel forwards IPv6.
pub fn forwarding6() -> bool {
    reads_one("/proc/sys/net/ipv6/conf/all/forwarding")
}

/// Whether a device that is made now may have IPv6 addresses.
pub fn takes_ip6() -> bool {
    ["all", "default"].iter().all(|conf| {
        let path = format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6");
        fs::read_to_string(path).is_ok_and(|disabled| disabled.trim() == "0")
    })
}

fn reads_one(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn kind(info: LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// The kernel's errno, as an error of the standard library.
fn errno(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        error => io::Error::other(error),
    }
}

/// Asks for a list, and again where another is being made (`EBUSY`): the kernel makes one
/// at a time for each socket, and all clones of a handle share theirs.
async fn listed<T, F>(mut ask: impl FnMut() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut tries = 0;
    loop {
        match ask().await {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < TRIES => {
                tries += 1;
                sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

/// A list of a hundred thousand routes takes a tenth of a second.
const PAUSE: Duration = Duration::from_millis(5);
const TRIES: u32 = 400;

/// Takes the errors that mean "not there" for `None`.
fn absent<T>(result: io::Result<T>, codes: &[libc::c_int]) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|code| codes.contains(&code)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::isolated;
    use crate::tun::Tun;

    #[test]
    fn a_link_is_found_by_name_index_and_group_as_it_was_set() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", true, true).unwrap();
            netlink.set_alias(tun.index(), "laptop-1a2b").await.unwrap();
            netlink.set_group(tun.index(), 4711).await.unwrap();
            netlink.set_up(tun.index(), 1333).await.unwrap();

            let expected = Link {
                index: tun.index(),
                name: "dtun0".to_owned(),
                alias: Some("laptop-1a2b".to_owned()),
                group: 4711,
                up: true,
                carrier: true,
                mtu: 1333,
                kind: Some("tun".to_owned()),
                master: None,
            };
            let by_name = netlink.link("dtun0").await.unwrap();
            assert_eq!(by_name.as_ref(), Some(&expected));
            let by_index = netlink.link_by_index(tun.index()).await.unwrap();
            assert_eq!(by_index.as_ref(), Some(&expected));
            assert_eq!(netlink.links_in_group(4711).await.unwrap(), [expected]);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_asked_for_again_while_the_kernel_makes_another() {
        let ask = |busy: u32| {
            let mut asked = 0;
            listed(move || {
                asked += 1;
                let result = if asked <= busy {
                    Err(io::ErrorKind::ResourceBusy.into())
                } else {
                    Ok(asked)
                };
                async move { result }
            })
        };

        assert_eq!(ask(0).await.unwrap(), 1);
        assert_eq!(ask(3).await.unwrap(), 4);
        let never = ask(u32::MAX).await.unwrap_err();
        assert_eq!(never.kind(), io::ErrorKind::ResourceBusy);
    }

    #[test]
    fn what_is_gone_is_none_and_can_be_deleted_again() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", true, true).unwrap();

            netlink.delete_link(tun.index()).await.unwrap();
            netlink.delete_link(tun.index()).await.unwrap();

            assert_eq!(netlink.link("dtun0").await.unwrap(), None);
            assert_eq!(netlink.link_by_index(tun.index()).await.unwrap(), None);
        });
    }

    #[test]
    fn a_quiet_device_has_no_link_local_address() {
        isolated(|netlink| async move {
            let tun = Tun::create("dtun%d", false, true).unwrap();

            netlink.quiet(tun.index(), tun.name()).await.unwrap();
            netlink.set_up(tun.index(), 1400).await.unwrap();

            assert_eq!(netlink.addresses(tun.index()).await.unwrap(), []);
            let conf = Path::new("/proc/sys/net/ipv6/conf").join(tun.name());
            for (key, value) in [("accept_ra", "0\n"), ("keep_addr_on_down", "1\n")] {
                assert_eq!(fs::read_to_string(conf.join(key)).unwrap(), value, "{key}");
            }
        });
    }

    #[test]
    fn forwarding_is_read_from_the_threads_own_namespace() {
        isolated(|_| async {
            for value in ["1", "0"] {
                fs::write("/proc/sys/net/ipv4/ip_forward", value).unwrap();
                fs::write("/proc/sys/net/ipv6/conf/all/forwarding", value).unwrap();

                assert_eq!((forwarding4(), forwarding6()), (value == "1", value == "1"));
            }
        });
    }
}
