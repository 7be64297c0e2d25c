//! A restart or an upgrade that the service manager announces (SIGUSR1): what
//! stands stays, and connections go on.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::namespace::Netns;
use crate::picture::{HUB_AT_WWW4, Picture, WWW4, seen};
use crate::traffic::Flow;
use crate::tunnel::{SOON, devices};

#[test]
fn a_full_tunnel_stays_while_its_spoke_is_upgraded() {
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let before = state(&laptop);
    let mut spoke = picture.spoke(&laptop, &["-route", "default", "-bypass", &picture.list()]);
    spoke.line("tunnel up");
    let device = devices(&laptop);
    let out = Flow::start(&laptop, &picture.www, WWW4);
    out.moves_within(SOON);
    let ways = Ways::watch(&laptop, WWW4.into());

    for _ in 0..2 {
        spoke.signal(Signal::SIGUSR1);
        assert!(spoke.wait().success());
        spoke.line(LEFT);
        assert_eq!(devices(&laptop), device);
        spoke.restart();
        spoke.line(TAKEN_OVER);
        spoke.line_within("tunnel up", BACK);
        out.moves_within(SOON);
    }

    assert_eq!(ways.others(), [""; 0]);
    out.finish();
    assert_eq!(devices(&laptop), device);
    assert_eq!(seen(&laptop, &picture.www, WWW4), HUB_AT_WWW4);
    let direct = picture.direct.ip4();
    assert_eq!(seen(&laptop, &picture.direct, direct), laptop.ip4());
    assert!(spoke.terminate().success());
    assert_eq!(state(&laptop), before);
}

/// Rules, routes, addresses, links and filters of a machine.
fn state(netns: &Netns) -> String {
    let mut text: String = [
        "-4 rule",
        "-6 rule",
        "-4 route show table all",
        "-6 route show table all",
        "-brief link",
        "-brief addr",
    ]
    .map(|line| netns.ip(line))
    .concat();
    text += &netns.run("nft list ruleset");

    text
}

/// Asks the kernel all the time by which device an address is reached.
struct Ways {
    enough: Arc<AtomicBool>,
    asker: JoinHandle<Vec<String>>,
}

impl Ways {
    fn watch(netns: &Netns, to: IpAddr) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&enough);
        let name = netns.name().to_owned();
        let asker = thread::spawn(move || {
            let mut others = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut ip = std::process::Command::new("ip");
                let said = ip.args(["-n", &name, "route", "get", &to.to_string()]);
                let said = said.output().unwrap();
                let way = String::from_utf8_lossy(&said.stdout).into_owned();
                if !way.contains(" dev dtun0 ") {
                    others.push(way);
                }
            }
            others
        });

        Self { enough, asker }
    }

    /// Other ways than the tunnel that it ever had.
    fn others(self) -> Vec<String> {
        self.enough.store(true, Ordering::Relaxed);

        self.asker.join().unwrap()
    }
}

const LEFT: &str = "the tunnel is left for the next start";
const TAKEN_OVER: &str = "the tunnel of the last run is taken over";

/// From the start to the session.
const BACK: Duration = Duration::from_secs(2);
