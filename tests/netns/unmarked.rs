//! A machine without nft, where nothing gives packets marks: answers are told by
//! addresses, also under strict reverse path filters, or nothing is routed.

use crate::namespace::Netns;
use crate::network::connect;
use crate::nobody;
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, PATIENCE, Picture, WWW4, WWW6, seen};
use crate::traffic::{Flow, reaches};

#[test]
fn a_full_tunnel_stands_and_who_comes_by_the_uplink_is_answered_by_it() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let admin = picture.network.host(4);
    picture.filter_reverse_paths(&[&laptop]);
    let before = rules(&laptop);
    let list = picture.list();
    let flags = ["-route", "default", "-bypass", &list];

    let mut spoke = picture.spoke_without_nft(&laptop, &flags);
    spoke.line("nft is missing");
    spoke.line("tunnel up");

    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    assert_eq!(seen(&laptop, &picture.www, WWW6), HUB_AT_WWW6);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());
    assert_eq!(seen(&admin, &laptop, laptop.ip4()), admin.ip4());
    assert_eq!(seen(&admin, &laptop, laptop.ip6()), admin.ip6());
    reaches(&admin, laptop.ip4());
    reaches(&admin, laptop.ip6());

    // Other addresses than when it began.
    let flow = Flow::start(&laptop, &picture.www, WWW4);
    picture.move_laptop(&laptop);
    spoke.line("tunnel up");
    flow.moves_within(PATIENCE);
    flow.finish();
    let gone = format!("from {} lookup main", laptop.ip4());
    assert!(!rules(&laptop).contains(&gone), "{}", rules(&laptop));

    assert!(spoke.terminate().success());
    assert_eq!(rules(&laptop), before);
}

#[test]
fn one_users_packets_go_in_and_are_answered() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.sysctl("ipv4/ping_group_range", "0 2147483647");
    picture.filter_reverse_paths(&[&laptop]);
    let who = format!("user:{}", nobody::ID);
    let flags = ["-route", "default", "-route-from", &who];

    let mut spoke = picture.spoke_without_nft(&laptop, &flags);
    spoke.line("tunnel up");

    let ping = format!("ping -n -q -W 2 -c 1 {WWW4}");
    let as_nobody = format!("setpriv --reuid {} --clear-groups", nobody::ID);
    laptop.run(&format!("{as_nobody} {ping}"));
    assert!(laptop.try_run(&ping).is_err());
}

#[test]
fn what_only_marks_can_tell_is_not_routed_and_that_is_said() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let pc = Netns::new("pc");
    connect(&laptop, "lan", &pc, "lan");
    picture.filter_reverse_paths(&[&laptop]);
    let before = rules(&laptop);

    for (who, said) in [
        ("forwarded", "-route-from with what comes in by a device"),
        ("dev:lan", "-route-from with what comes in by a device"),
        ("group:4242", "-route-from with a group needs the firewall"),
    ] {
        let flags = ["-route", "default", "-route-from", who];
        let mut spoke = picture.spoke_without_nft(&laptop, &flags);

        let line = spoke.line("nothing is routed into the tunnel");

        assert!(line.contains(said), "{line}");
        spoke.line("tunnel up");
        assert_eq!(rules(&laptop), before, "{who}");
        if who == "forwarded" {
            laptop.sysctl("ipv4/conf/all/rp_filter", "2");
            crate::wait::until_true("rules", PATIENCE, || rules(&laptop) != before);
            laptop.sysctl("ipv4/conf/all/rp_filter", "1");
        }
        assert!(spoke.terminate().success());
        assert_eq!(rules(&laptop), before, "{who}");
    }
}

fn rules(netns: &Netns) -> String {
    netns.ip("rule") + &netns.ip("-6 rule")
}
