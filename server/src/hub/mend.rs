//! Puts back what others take from the devices of leases: their state, their
//! addresses, and the routes that went with these.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dtun_shared::link::{Change, Changes, Netlink, Via};
use dtun_shared::repairs::Repairs;

use super::Hub;
use super::port::{Plan, Port, give_addresses};
use crate::pool::Addresses;

/// What is known of changes to devices.
pub(super) struct Mending {
    pub(super) changes: Changes,
    /// Devices to look at, by their indexes.
    touched: HashSet<u32>,
    due: Option<Instant>,
    repairs: Repairs,
}

impl Mending {
    pub(super) fn new(netlink: &Netlink) -> io::Result<Self> {
        Ok(Self {
            changes: netlink.watch_devices()?,
            touched: HashSet::new(),
            due: None,
            repairs: Repairs::of("devices"),
        })
    }

    /// When to [`Hub::mend_ports`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn call(&mut self, at: Instant) {
        let at = self.due.map_or(at, |due| due.min(at));
        self.due = Some(self.repairs.not_before().map_or(at, |not| not.max(at)));
    }
}

impl Hub {
    /// Notes what may have been a change to one of the devices, or more.
    pub(super) fn note_change(&mut self, change: io::Result<Change>) {
        let all = || self.ports.values().map(|port| port.tun.index());
        let touched: Vec<_> = match change {
            Ok(Change::Lost) => all().collect(),
            Ok(
                Change::Link {
                    index,
                    up: false,
                    removed: false,
                }
                | Change::Address {
                    index,
                    added: false,
                    ..
                },
            ) => all().filter(|port| *port == index).collect(),
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "changes of devices are not told");
                return;
            }
        };
        if !touched.is_empty() {
            self.mending.touched.extend(touched);
            self.mending.call(Instant::now() + REST);
        }
    }

    /// Looks at the devices that were touched, if that is due.
    pub(super) async fn mend_ports(&mut self, now: Instant) {
        if self.mending.due.is_none_or(|due| now < due) {
            return;
        }
        self.mending.due = None;
        let touched = std::mem::take(&mut self.mending.touched);
        let hub = self.leases.pools().hub();
        let mut mended = HashSet::new();
        for (hint, port) in &mut self.ports {
            let index = port.tun.index();
            let Some(lease) = self.leases.get(hint).filter(|_| touched.contains(&index)) else {
                continue;
            };
            match mend(&self.netlink, port, hint, lease.addresses, hub).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(
                        hint,
                        device = port.tun.name(),
                        "somebody changed the device: it is as it was again"
                    );
                    mended.insert(index);
                }
                Err(error) => {
                    let device = port.tun.name();
                    tracing::warn!(hint, device, %error, "device was changed and not put right");
                }
            }
        }
        if mended.is_empty() {
            return;
        }
        let wait = self.mending.repairs.made(now);
        if !wait.is_zero() {
            self.mending.touched = mended;
            self.mending.call(now + wait);
        }
    }
}

/// True if something was missing.
async fn mend(
    netlink: &Netlink,
    port: &Port,
    hint: &str,
    lease: Addresses,
    hub: Addresses,
) -> io::Result<bool> {
    let index = port.tun.index();
    let Some(link) = netlink.link_by_index(index).await? else {
        return Ok(false); // That is seen to elsewhere.
    };
    let present = netlink.addresses(index).await?;
    let is_there = |ip: IpAddr| present.iter().any(|net| net.addr() == ip);
    let has_all =
        is_there(hub.ip4.addr().into()) && hub.ip6.is_none_or(|ip6| is_there(ip6.addr().into()));
    if link.up && has_all {
        return Ok(false);
    }

    let plan = Plan {
        name: port.tun.name(),
        hint,
        lease,
        hub,
        mtu: port.mtu(),
        offload: false, // Of no interest to a device that is there.
    };
    give_addresses(netlink, index, plan).await?;
    for net in &port.routed {
        netlink.add_route(*net, Via::Device(index)).await?;
    }

    Ok(true)
}

/// A burst of changes is looked at once.
const REST: Duration = Duration::from_millis(100);
