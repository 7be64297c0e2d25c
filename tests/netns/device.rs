//! The tunnel's device, when others change it: what they take comes back.

use std::time::Duration;

use crate::daemon::Daemon;
use crate::network::Host;
use crate::picture::{PATIENCE, Picture, WWW4, WWW6};
use crate::traffic::{Flow, reaches};
use crate::wait::until_true;

#[test]
fn addresses_state_and_name_that_others_take_from_a_spokes_device_come_back() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let flags = "-route default -dns 10.0.0.1";
    laptop.etc("resolv.conf", "nameserver 198.18.2.1\n");
    let mut spoke = picture.spoke(&laptop, &flags.split(' ').collect::<Vec<_>>());
    spoke.line("tunnel up");
    let before = device(&laptop);
    let flow = Flow::start(&laptop, &picture.www, WWW4);

    for change in [
        "addr flush dev dtun0",
        "-6 addr flush dev dtun0",
        "link set dtun0 down",
        "link set dtun0 name mytun",
    ] {
        laptop.ip(change);
        until_true(change, BACK, || device(&laptop) == before);
        flow.moves_within(PATIENCE);
        reaches(&laptop, WWW6);
    }
    // Routes go with the state, and do not come back with it.
    laptop.ip("link set dtun0 down");
    laptop.ip("link set dtun0 up");
    until_true("pools", BACK, || device(&laptop) == before);
    flow.moves_within(PATIENCE);
    flow.finish();

    assert_eq!(spoke.count("tunnel down"), 0, "{}", spoke.text());
    assert_eq!(spoke.count("nothing is routed"), 0, "{}", spoke.text());
}

#[test]
fn who_takes_them_again_and_again_is_not_fought_in_a_loop() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let mut spoke = picture.spoke(&laptop, &["-route", "default"]);
    spoke.line("tunnel up");

    for _ in 0..10 {
        laptop.ip("addr flush dev dtun0");
        until_true("a while", BACK, || {
            laptop.ip("addr show dev dtun0").contains("inet ") || quarrels(&spoke)
        });
    }

    assert!(quarrels(&spoke));
    assert_eq!(spoke.count("tunnel down"), 0, "{}", spoke.text());
}

fn quarrels(spoke: &Daemon) -> bool {
    spoke.count("the tunnel's device again and again") == 1
}

/// Its addresses, and what the main tables lead into it.
fn device(laptop: &Host) -> Vec<String> {
    let show = |line: &str| laptop.try_ip(line).unwrap_or_default();

    [
        "-o addr show dev dtun0",
        "-4 route show table main dev dtun0",
        "-6 route show fc00::/120",
        "-4 route show table 11764 dev dtun0",
        "-6 route show table 11764 dev dtun0",
    ]
    .map(show)
    .into()
}

/// Looking again each second is within it.
const BACK: Duration = Duration::from_secs(2);
