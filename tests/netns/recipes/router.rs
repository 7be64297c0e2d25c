//! Whose traffic a router sends into the tunnel.

use std::net::IpAddr;

use super::{CONNECT, Machine, PC4, PC6, lan, recipe, seen_at};
use crate::picture::{Picture, seen};
use crate::policy::everything;

#[test]
fn only_the_lan_goes_in_with_its_own_addresses_or_translated() {
    let [dtun, table, plain, undo] = recipe("Only the LAN of a router");
    let picture = Picture::new();
    let router = picture.network.host(2);
    let pc = lan(&router);
    picture.filter_reverse_paths(&[&router]);
    let other = picture.network.host(4);
    let hub = &picture.hub.host;
    let machine = Machine::new(&router);
    let before = everything(&router);
    let is_right = || {
        assert_eq!(seen(&pc, &other, other.ip4()), hub.ip4());
        assert_eq!(seen(&pc, &other, other.ip6()), hub.ip6());
        assert_eq!(seen(&router, &other, other.ip4()), router.ip4());
        assert_eq!(seen(&router, &other, other.ip6()), router.ip6());
    };

    let mut spoke = machine.spoke(&dtun);
    is_right();
    let inner: IpAddr = [10, 0, 0, 1].into();
    assert_eq!(seen(&pc, hub, inner), PC4.parse::<IpAddr>().unwrap());
    assert_eq!(seen(hub, &pc, PC4.parse::<IpAddr>().unwrap()), inner);
    assert!(spoke.terminate().success());
    assert_eq!(everything(&router), before);

    machine.run(&table);
    let mut spoke = machine.spoke(&plain);
    machine.run(&table);
    is_right();
    assert!(spoke.terminate().success());
    machine.run(&undo);
    assert_eq!(everything(&router), before);
}

#[test]
fn of_a_lan_one_range_goes_in() {
    let [dtun] = recipe("One address range of it");
    let picture = Picture::new();
    let router = picture.network.host(2);
    let pc = lan(&router);
    picture.filter_reverse_paths(&[&router]);
    let other = picture.network.host(4);
    let hub = &picture.hub.host;
    let machine = Machine::new(&router);

    let _spoke = machine.spoke(&dtun);

    assert_eq!(seen(&pc, &other, other.ip4()), router.ip4());
    assert_eq!(seen(&pc, &other, other.ip6()), router.ip6());
    assert_eq!(seen(&router, &other, other.ip4()), router.ip4());
    pc.ip("addr add 192.168.8.200/24 dev lan");
    pc.ip("addr add fd00:8::8000:0:0:200/64 dev lan nodad");
    pc.ip("route replace default via 192.168.8.1 src 192.168.8.200");
    pc.ip("-6 route replace default via fd00:8::1 src fd00:8::8000:0:0:200");
    assert_eq!(seen(&pc, &other, other.ip4()), hub.ip4());
    assert_eq!(seen(&pc, &other, other.ip6()), hub.ip6());
}

#[test]
fn a_user_and_the_high_ports_of_some_machines_stay_out() {
    let [dtun, user, machines, undo] = recipe("All but some users");
    let picture = Picture::new();
    let router = picture.network.host(2);
    let pc = lan(&router);
    picture.filter_reverse_paths(&[&router]);
    let other = picture.network.host(4);
    let (at4, at6) = (IpAddr::from(other.ip4()), IpAddr::from(other.ip6()));
    let hub = &picture.hub.host;
    let machine = Machine::new(&router);
    machine.run("useradd --system --user-group debian-transmission");
    let before = everything(&router);

    machine.run(&user);
    machine.run(&machines);
    let mut spoke = machine.spoke(&dtun);
    machine.run(&user);
    machine.run(&machines);

    for (at, ours, theirs) in [
        (at4, IpAddr::from(hub.ip4()), IpAddr::from(router.ip4())),
        (at6, hub.ip6().into(), router.ip6().into()),
    ] {
        assert_eq!(machine.seen_by("root", CONNECT, &other, at), ours);
        let user = "debian-transmission";
        assert_eq!(machine.seen_by(user, CONNECT, &other, at), theirs);
        assert_eq!(seen_at(&pc, (at, 443), &other, 443), ours);
        assert_eq!(seen_at(&pc, (at, 51413), &other, 51413), theirs);
        // What others ask of the machine is no connection of its own.
        let pc_at: IpAddr = if at.is_ipv4() { PC4 } else { PC6 }.parse().unwrap();
        seen_at(hub, (pc_at, 80), &pc, 80);
    }
    pc.ip("link set lan address 02:00:5e:00:00:99");
    assert_eq!(seen_at(&pc, (at4, 51413), &other, 51413), hub.ip4());

    assert!(spoke.terminate().success());
    machine.run(&undo);
    assert_eq!(everything(&router), before);
}
