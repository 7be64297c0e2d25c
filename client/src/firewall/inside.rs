//! Which devices lead to nobody but this machine's own guests: bridges of
//! containers and virtual machines. Pure.
//!
//! One without ports leads to nobody yet, and the first may be any. A bridge with a port that may lead further (a network card, a VLAN, a tunnel)
//! is the network outside, and so is one that a default route leaves by: a guest
//! is the router there.

#![deny(clippy::disallowed_methods, reason = "this is pure")]

use std::collections::BTreeSet;

use dtun_shared::link::{Link, Route};

use super::plan::is_plain;

/// The names of the inside devices among `links`.
pub(super) fn inside(links: &[Link], routes: &[Route]) -> BTreeSet<String> {
    let leads_out = |index: u32| {
        let mut defaults = routes.iter().filter(|route| route.net.prefix_len() == 0);

        defaults.any(|route| route.oif == Some(index))
    };
    let has_guests_alone = |index: u32| {
        let mut ports = links
            .iter()
            .filter(|link| link.master == Some(index))
            .peekable();

        ports.peek().is_some() && ports.all(is_guests)
    };

    bridges(links)
        .filter(|bridge| is_plain(&bridge.name))
        .filter(|bridge| has_guests_alone(bridge.index) && !leads_out(bridge.index))
        .map(|bridge| bridge.name.clone())
        .collect()
}

/// What [`inside`] may name.
pub(super) fn bridges(links: &[Link]) -> impl Iterator<Item = &Link> {
    links
        .iter()
        .filter(|link| link.kind.as_deref() == Some("bridge"))
}

/// Whether a bridge's port is a guest's: one end of a pair, or what a virtual
/// machine opened. A network card is of no kind.
fn is_guests(port: &Link) -> bool {
    port.kind
        .as_deref()
        .is_some_and(|kind| ["veth", "tun", "dummy"].contains(&kind))
}

#[cfg(test)]
mod tests {
    use dtun_shared::link::RouteKind;

    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            alias: None,
            group: 0,
            up: true,
            carrier: true,
            mtu: 1500,
            kind: kind.map(str::to_owned),
            master,
        }
    }

    fn route(net: &str, oif: u32) -> Route {
        Route {
            net: net.parse().unwrap(),
            gateway: Some("192.0.2.1".parse().unwrap()),
            oif: Some(oif),
            kind: RouteKind::Unicast,
            table: 254,
            protocol: 4,
            metric: 0,
        }
    }

    #[test]
    fn a_bridge_is_inside_while_all_its_ports_are_guests() {
        let guests = [
            link(1, "lo", None, None),
            link(2, "eth0", None, None),
            link(3, "docker0", Some("bridge"), None),
            link(4, "veth1", Some("veth"), Some(3)),
            link(5, "virbr0", Some("bridge"), None),
            link(6, "vnet0", Some("tun"), Some(5)),
            link(7, "empty", Some("bridge"), None),
            link(8, "lan", Some("bridge"), None),
            link(9, "eth1", None, Some(8)),
            link(10, "veth2", Some("veth"), Some(8)),
            link(11, "overlay", Some("bridge"), None),
            link(12, "vx", Some("vxlan"), Some(11)),
        ];
        let names = ["docker0", "virbr0"].map(str::to_owned);

        assert_eq!(inside(&guests, &[route("0.0.0.0/0", 2)]), names.into());
    }

    #[test]
    fn a_bridge_that_the_default_route_leaves_by_is_outside() {
        let links = [
            link(3, "br0", Some("bridge"), None),
            link(4, "br1", Some("bridge"), None),
            link(5, "br2", Some("bridge"), None),
            link(6, "veth0", Some("veth"), Some(3)),
            link(7, "veth1", Some("veth"), Some(4)),
            link(8, "veth2", Some("veth"), Some(5)),
        ];
        let routes = [
            route("0.0.0.0/0", 3),
            route("::/0", 4),
            route("10.5.0.0/16", 5),
        ];

        assert_eq!(inside(&links, &routes), ["br2".to_owned()].into());
    }

    #[test]
    fn a_name_that_nft_would_take_for_another_is_no_inside_device() {
        let links = ["b*", "b\"", "b c", "br-1.2_@+"].map(|name| {
            let index = name.len() as u32;
            let port = link(100 + index, "veth", Some("veth"), Some(index));
            [link(index, name, Some("bridge"), None), port]
        });
        let links = links.concat();

        assert_eq!(inside(&links, &[]), ["br-1.2_@+".to_owned()].into());
    }
}
