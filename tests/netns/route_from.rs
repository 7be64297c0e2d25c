//! Some packets alone go into the tunnel: of a user, by a device, of a source
//! range, or what is passed on for others.

use std::net::{IpAddr, TcpListener};

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, lan};
use crate::nobody;
use crate::picture::{HUB_AT_WWW4, Picture, WWW4, seen};

#[test]
fn a_users_packets_go_in_and_nobody_elses() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    laptop.sysctl("ipv4/ping_group_range", "0 2147483647");
    picture.filter_reverse_paths(&[&laptop]);
    let who = format!("user:{}", nobody::ID);
    let mut spoke = start(&picture, &laptop, &who);
    spoke.line("tunnel up");

    assert_eq!(
        way(&laptop, &format!("203.0.113.2 uid {}", nobody::ID)),
        "dtun0"
    );
    assert_eq!(way(&laptop, "203.0.113.2 uid 0"), "uplink");
    assert_eq!(way(&laptop, "198.18.2.77 uid 65534"), "uplink");
    assert_eq!(
        way(&laptop, &format!("2001:db8:99::2 uid {}", nobody::ID)),
        "dtun0"
    );

    // No router on the way knows www, but the hub.
    let ping = format!("ping -n -q -W 2 -c 1 {WWW4}");
    let as_nobody = format!("setpriv --reuid {} --clear-groups", nobody::ID);
    laptop.run(&format!("{as_nobody} {ping}"));
    assert!(laptop.try_run(&ping).is_err());
}

#[test]
fn a_groups_packets_go_in_and_nobody_elses() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    picture.filter_reverse_paths(&[&laptop]);
    let who = format!("group:{}", nobody::ID);
    let mut spoke = start(&picture, &laptop, &who);
    spoke.line("tunnel up");

    let connect = |group: &str| {
        let listener = picture.www.enter(|| TcpListener::bind((WWW4, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let line = format!(
            "setpriv --regid {group} --clear-groups timeout 2 bash -c </dev/tcp/{WWW4}/{port}"
        );
        let connected = laptop.try_run(&line).is_ok();
        connected.then(|| listener.accept().unwrap().1.ip())
    };
    assert_eq!(connect(nobody::ID), Some(HUB_AT_WWW4.into()));
    assert_eq!(connect("0"), None);
}

#[test]
fn a_router_sends_what_it_forwards_and_nothing_of_its_own() {
    for who in ["forwarded", "dev:lan", "192.168.10.0/29,fd00:10::/64"] {
        let picture = Picture::new();
        let router = picture.network.host(2);
        let pc = lan(&router, 10);
        picture.filter_reverse_paths(&[&router, &pc]);
        let before = router.ip("rule");
        let flags = ["-peernet", "192.168.10.0/24"];
        let mut spoke = start_with(&picture, &router, who, &flags);
        spoke.line("tunnel up");

        assert_eq!(seen(&pc, &picture.www, WWW4), HUB_AT_WWW4, "{who}");
        assert_eq!(way(&router, "203.0.113.2"), "uplink", "{who}");
        assert_eq!(way(&router, "2001:db8:99::2"), "uplink", "{who}");
        let passed_on = "203.0.113.2 from 192.168.10.2 iif lan";
        assert_eq!(way(&router, passed_on), "dtun0", "{who}");
        let own: IpAddr = [192, 168, 10, 2].into();
        assert_eq!(
            seen(&picture.hub.host, &pc, own),
            IpAddr::from([10, 0, 0, 1])
        );

        spoke.terminate();
        assert_eq!(router.ip("rule"), before);
    }
}

#[test]
fn of_a_lan_one_range_goes_in_and_the_rest_goes_out() {
    let picture = Picture::new();
    let router = picture.network.host(2);
    let _pc = lan(&router, 10);
    let mut spoke = start(&picture, &router, "192.168.10.128/25");
    spoke.line("tunnel up");

    assert_eq!(
        way(&router, "192.0.2.1 from 192.168.10.2 iif lan"),
        "uplink"
    );
    assert_eq!(
        way(&router, "192.0.2.1 from 192.168.10.200 iif lan"),
        "dtun0"
    );
}

fn start(picture: &Picture, host: &Host, who: &str) -> Daemon {
    start_with(picture, host, who, &[])
}

fn start_with(picture: &Picture, host: &Host, who: &str, more: &[&str]) -> Daemon {
    let flags = ["-route", "default", "-route-from", who];

    picture.spoke(host, &[&flags[..], more].concat())
}

/// The device by which the kernel would send a packet.
fn way(netns: &Netns, what: &str) -> String {
    let said = netns.ip(&format!("route get {what}"));
    let mut words = said.split_whitespace().skip_while(|word| *word != "dev");

    words.nth(1).unwrap().to_owned()
}
