//! What stands on a hub besides dtun, and more than one of them.

use std::net::IpAddr;

use super::{Machine, recipe, seen_at};
use crate::picture::{PATIENCE, Picture, seen};
use crate::policy::everything;
use crate::tunnel::devices;
use crate::wait::until_true;

#[test]
fn a_port_of_the_hub_is_a_spokes() {
    let [address, dtun, table, undo_hub, undo] = recipe("A spoke's port on the hub");
    let picture = Picture::new();
    let (home, hub) = (picture.network.host(2), &picture.hub.host);
    let other = picture.network.host(4);
    let (machine, vps) = (Machine::new(&home), Machine::new(hub));
    let firewall = || hub.run("nft -s list ruleset");
    let before = [everything(&home), firewall()];

    machine.run(&address);
    machine.run(&address);
    let mut spoke = machine.spoke(&dtun);
    vps.run(&table);
    vps.run(&table);

    let (four, six) = (IpAddr::from(hub.ip4()), IpAddr::from(hub.ip6()));
    let inner = [
        [10, 0, 0, 1].into(),
        IpAddr::from([0xfc00, 0, 0, 0, 0, 0, 0, 1]),
    ];
    assert_eq!(seen_at(&other, (four, 8080), &home, 80), inner[0]);
    assert_eq!(seen_at(&other, (six, 8080), &home, 80), inner[1]);

    // Behind a full tunnel nothing has to be translated.
    assert!(spoke.terminate().success());
    hub.run("nft flush chain inet dtun-publish postrouting");
    let mut spoke = machine.spoke(&format!("{} -route default", dtun.trim()));
    assert_eq!(seen_at(&other, (four, 8080), &home, 80), other.ip4());
    assert_eq!(seen_at(&other, (six, 8080), &home, 80), other.ip6());

    assert!(spoke.terminate().success());
    vps.run(&undo_hub);
    machine.run(&undo);
    assert_eq!([everything(&home), firewall()], before);
}

#[test]
fn a_second_hub_is_a_spare() {
    let [second, one, two, _, _] = recipe("Two hubs");
    let mut picture = Picture::new();
    let (laptop, vps2) = (picture.network.host(2), picture.network.host(5));
    picture.filter_reverse_paths(&[&laptop, &vps2]);
    let other = picture.network.host(4);
    let (machine, hub2) = (Machine::new(&laptop), Machine::new(&vps2));
    let before = everything(&laptop);
    let first: [IpAddr; 2] = [picture.hub.host.ip4().into(), picture.hub.host.ip6().into()];
    let spare: [IpAddr; 2] = [vps2.ip4().into(), vps2.ip6().into()];
    let by = |both: [IpAddr; 2]| {
        assert_eq!(seen(&laptop, &other, other.ip4()), both[0]);
        assert_eq!(seen(&laptop, &other, other.ip6()), both[1]);
    };
    let mut hub2 = hub2.start(&second);
    hub2.line("listening");

    let mut spare_spoke = machine.spoke(&two);
    by(spare);
    let mut first_spoke = machine.spoke(&one);
    by(first);
    picture.hub.terminate();
    until_true("the spare hub", PATIENCE, || {
        seen(&laptop, &other, other.ip4()) == spare[0]
    });
    by(spare);
    picture.hub.restart();
    first_spoke.line("tunnel up");
    by(first);

    assert!(first_spoke.terminate().success());
    by(spare);
    assert!(spare_spoke.terminate().success());
    assert_eq!(everything(&laptop), before);
}

#[test]
fn some_networks_go_by_the_second_hub() {
    let [second, _, _, one, two] = recipe("Two hubs");
    for first_is_first in [true, false] {
        let picture = Picture::new();
        let (laptop, vps2) = (picture.network.host(2), picture.network.host(5));
        picture.filter_reverse_paths(&[&laptop, &vps2]);
        let other = picture.network.host(4);
        let (machine, hub2) = (Machine::new(&laptop), Machine::new(&vps2));
        let before = everything(&laptop);
        let office: IpAddr = [172, 20, 0, 5].into();
        vps2.ip("addr add 172.20.0.5 dev lo");
        let mut hub2 = hub2.start(&second);
        hub2.line("listening");
        let mut blocks = [&one, &two];
        if !first_is_first {
            blocks.reverse();
        }

        let mut spokes = blocks.map(|block| machine.spoke(block));

        let inner: IpAddr = [10, 0, 1, 2].into();
        let hub = &picture.hub.host;
        assert_eq!(seen(&laptop, &other, other.ip4()), hub.ip4());
        assert_eq!(seen(&laptop, &other, other.ip6()), hub.ip6());
        assert_eq!(seen(&laptop, &vps2, office), inner);
        // And back, from a network that only the second hub has.
        let device = &devices(&vps2)[0].name;
        vps2.ip(&format!("route replace {inner} dev {device} src {office}"));
        assert_eq!(seen(&vps2, &laptop, inner), office);

        for spoke in &mut spokes {
            assert!(spoke.terminate().success());
        }
        assert_eq!(everything(&laptop), before);
    }
}
