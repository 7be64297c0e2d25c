//! Our units, run by a systemd that the test boots.

use std::time::Duration;

use crate::network::Network;
use crate::systemd::Machine;
use crate::traffic::reaches;
use crate::tunnel::{HUB4, Hub, Spoke, devices};
use crate::wait::until_true;

const KEY: (&str, &str) = ("dtun/key", "foo\n");

#[test]
fn hub_and_spoke_run_as_units_and_their_hooks_may_do_what_hooks_do() {
    let network = Network::new();
    let hub = Machine::boot(
        network.host(1),
        &[KEY, ("dtun/hub.conf", HUB_WITH_HOOKS)],
        &[],
    );
    let spoke = Machine::boot(
        network.host(2),
        &[
            KEY,
            ("dtun/home.conf", SPOKE_WITH_HOOKS),
            ("resolv.conf", "nameserver 192.0.2.99\n"),
            (
                "systemd/system/dtun@.service.d/impatient.conf",
                "[Service]\nTimeoutStopSec=2s\n",
            ),
        ],
        &[],
    );
    for machine in [&hub, &spoke] {
        machine.script("up", &hook("up"));
        machine.script("down", &hook("down"));
    }
    let before = picture(&spoke);

    hub.systemctl("start dtun-hub");
    assert_eq!(hub.property("dtun-hub", "StatusText"), "no spoke");
    spoke.systemctl("start dtun@home");
    let up = "session up, 10.0.0.2 on dtun0 via 198.18.1.2:443, since 2";
    spoke.becomes("dtun@home", "StatusText", up);
    hub.becomes("dtun-hub", "StatusText", "1 spoke");
    reaches(&spoke.host, HUB4);
    for machine in [&hub, &spoke] {
        until_true("an up hook to its end", PATIENCE, || {
            machine.read("up-done") == "dtun0\n"
        });
    }
    assert!(spoke.run("cat /etc/resolv.conf").contains("192.0.2.53"));

    // Nothing is left to those in between, and the machine is in order after.
    spoke.systemctl("kill --kill-whom=main --signal=KILL dtun@home");
    spoke.becomes("dtun@home", "NRestarts", "1");
    spoke.becomes("dtun@home", "StatusText", up);
    reaches(&spoke.host, HUB4);
    let device = || {
        spoke
            .host
            .ip("-o link show dtun0")
            .split(':')
            .next()
            .unwrap()
            .to_owned()
    };
    let index = device();
    spoke.systemctl("restart dtun@home");
    spoke.becomes("dtun@home", "StatusText", up);
    assert_eq!(device(), index, "the device is another");
    let process = spoke.property("dtun@home", "MainPID");
    spoke.run("sed -i s/192.0.2.53/192.0.2.54/ /etc/dtun/home.conf");
    spoke.systemctl("reload dtun@home");
    until_true("the other resolver", PATIENCE, || {
        spoke.run("cat /etc/resolv.conf").contains("192.0.2.54")
    });
    assert_eq!(spoke.property("dtun@home", "MainPID"), process);
    let tables = || hub.run("nft list tables");
    assert!(tables().contains("dtun-hub-443"), "-nat has no table");
    hub.systemctl("restart dtun-hub");
    assert!(tables().contains("dtun-hub-443"), "a restart undid -nat");
    until_true("the tunnel after the hub's restart", PATIENCE, || {
        spoke
            .host
            .try_run(&format!("ping -c 1 -W 1 {HUB4}"))
            .is_ok()
    });
    assert_eq!(hub.property("dtun-hub", "NRestarts"), "0");

    // Its down hook takes longer than the manager waits without being asked.
    spoke.systemctl("stop dtun@home");
    assert_eq!(spoke.read("down-done"), "dtun0\n");
    assert_eq!(spoke.property("dtun@home", "Result"), "success");
    assert_eq!(picture(&spoke), before);
    hub.systemctl("stop dtun-hub");
    assert_eq!(hub.property("dtun-hub", "Result"), "success");
    assert!(!tables().contains("dtun"));
    assert_eq!(hub.read("down-done"), "dtun0\n");
    assert!(!hub.host.ip("link").contains(": dtun"));
}

#[test]
fn a_hub_has_its_devices_back_after_a_crash_and_leaves_none_once_its_file_is_wrong() {
    let network = Network::new();
    let conf = ("dtun/hub.conf", "key-file /etc/dtun/key\nnat\n");
    let hub = Machine::boot(network.host(1), &[KEY, conf], &["dtun-hub.service"]);
    let _spoke = Spoke::up(&network, 2, &[]);
    let device = devices(&hub.host);
    assert_eq!(device.len(), 1);
    let tables = || hub.run("nft list tables");
    assert!(tables().contains("dtun-hub-443"));

    hub.systemctl("kill --kill-whom=main --signal=KILL dtun-hub");
    hub.becomes("dtun-hub", "NRestarts", "1");
    hub.becomes("dtun-hub", "ActiveState", "active");
    assert_eq!(devices(&hub.host), device);

    hub.run("sed -i s/^nat/nta/ /etc/dtun/hub.conf");
    assert!(hub.try_systemctl("restart dtun-hub").is_err());
    assert_eq!(hub.property("dtun-hub", "ActiveState"), "failed");
    assert_eq!(devices(&hub.host), []);
    assert!(!tables().contains("dtun"), "{}", tables());
    assert_eq!(hub.host.ip("route show type blackhole"), "");
    assert_eq!(hub.run("ls -A /run/dtun"), "");
}

#[test]
fn a_process_that_hangs_is_killed_and_started_anew_also_while_the_hub_is_away() {
    let network = Network::new();
    let eager = "[Service]\nWatchdogSec=1s\n";
    let machine = Machine::boot(
        network.host(1),
        &[
            KEY,
            ("dtun/hub.conf", "key-file /etc/dtun/key\n"),
            (
                "dtun/away.conf",
                "key-file /etc/dtun/key\nconnect 198.18.1.1:9\n",
            ),
            ("systemd/system/dtun-hub.service.d/eager.conf", eager),
            ("systemd/system/dtun@.service.d/eager.conf", eager),
        ],
        &["dtun-hub.service", "dtun@away.service"],
    );
    // The boot did not wait for a session.
    machine.becomes("dtun@away", "StatusText", "no session, next dial in");

    for unit in ["dtun-hub", "dtun@away"] {
        for _ in 0..5 {
            let heard = || machine.property(unit, "WatchdogTimestampMonotonic");
            let last = heard();
            until_true("a sign of life", PATIENCE, || heard() != last);
        }
        assert_eq!(machine.property(unit, "NRestarts"), "0");

        machine.systemctl(&format!("kill --kill-whom=main --signal=STOP {unit}"));
        machine.becomes(unit, "NRestarts", "1");
        machine.becomes(unit, "ActiveState", "active");
    }
}

#[test]
fn a_lock_is_closed_before_the_network_is_up_and_over_a_restart() {
    let network = Network::new();
    let conf = "key-file /etc/dtun/key\nconnect 198.18.1.2:443\nroute default\nstrict\n\
                bypass 192.0.2.0/24\n";
    let machine = Machine::boot(
        network.host(2),
        &[
            KEY,
            ("dtun/home.conf", conf),
            ("systemd/system/nftables.service", NFTABLES),
        ],
        &[
            "dtun-lock@home.service",
            "dtun@home.service",
            "nftables.service",
        ],
    );
    let lock = || machine.try_run("nft list table inet dtun-lock");

    let first = machine.read("before-network");
    assert!(first.contains("table inet dtun-lock"), "{first}");
    assert!(first.contains("192.0.2.0/24"), "{first}");

    machine.systemctl("restart dtun@home");
    assert!(lock().is_ok());
    assert_eq!(machine.property("dtun@home", "ActiveState"), "active");
    machine.systemctl("stop dtun@home");
    assert!(lock().is_err());
}

#[test]
fn the_scripts_do_their_work_within_the_unit() {
    let network = Network::new();
    let hub = Hub::start(&network, &[]);
    let spoke = Machine::boot(
        network.host(2),
        &[
            KEY,
            ("dtun/home.conf", SPOKE_WITH_SCRIPTS),
            ("dtun/home.env", "DTUN_BYPASS=/etc/dtun/bypass\n"),
            ("dtun/bypass", "192.0.2.0/24\n"),
        ],
        &[],
    );
    let before = picture(&spoke);

    spoke.systemctl("start dtun@home");
    until_true("the rules of the script", PATIENCE, || {
        spoke.host.ip("rule").contains("lookup 764")
    });
    let table = || spoke.host.ip("route show table 764");
    until_true("its list", PATIENCE, || {
        table().contains("throw 192.0.2.0/24")
    });
    reaches(&spoke.host, HUB4);

    spoke.systemctl("stop dtun@home");
    assert_eq!(picture(&spoke), before);
    drop(hub);
}

#[test]
fn an_upgrade_lets_it_run_and_an_uninstall_leaves_nothing_enabled() {
    let network = Network::new();
    let hub = ("dtun/hub.conf", "key-file /etc/dtun/key\n");
    let machine = Machine::boot(network.host(1), &[KEY, hub], &["dtun-hub.service"]);
    let process = machine.property("dtun-hub", "MainPID");

    machine.run("/run/source/scripts/install.sh -binary /usr/local/bin/dtun");
    assert_eq!(machine.property("dtun-hub", "MainPID"), process);
    assert_eq!(machine.property("dtun-hub", "NeedDaemonReload"), "no");

    machine.run("/run/source/scripts/install.sh -uninstall");
    assert_eq!(machine.property("dtun-hub", "LoadState"), "not-found");
    assert_eq!(machine.property("dtun-hub", "ActiveState"), "inactive");
    let left = machine.run("find /usr/local /etc/systemd /etc/dtun -not -type d");
    assert_eq!(left, "/etc/dtun/hub.conf\n/etc/dtun/key\n");
}

#[test]
fn an_uninstall_opens_the_lock_that_nothing_else_could_open_after() {
    let network = Network::new();
    let conf = "key-file /etc/dtun/key\nconnect 198.18.1.2:443\nroute default\nstrict\n";
    let machine = Machine::boot(
        network.host(2),
        &[KEY, ("dtun/home.conf", conf)],
        &["dtun-lock@home.service"],
    );
    let lock = || machine.try_run("nft list table inet dtun-lock");
    machine.becomes("dtun-lock@home", "ActiveState", "active");
    assert!(lock().is_ok(), "there is no lock");

    let said = machine.run("/run/source/scripts/install.sh -uninstall");

    assert_eq!(
        said,
        "the lock of -strict was closed: it is open now\n/etc/dtun stays: it is not empty\n"
    );
    assert!(lock().is_err(), "the lock stands");
    assert_eq!(
        machine.property("dtun-lock@home", "ActiveState"),
        "inactive"
    );
    let left = machine.run("find /usr/local /etc/systemd -not -type d");
    assert_eq!(left, "");
}

#[test]
fn a_mistake_in_the_file_is_not_tried_again_and_a_key_may_be_a_credential() {
    let network = Network::new();
    let machine = Machine::boot(
        network.host(1),
        &[
            KEY,
            (
                "dtun/wrong.conf",
                "key-file /etc/dtun/key\nconect 198.18.1.1:9\n",
            ),
            ("dtun/hub.conf", "# The key is a credential.\n"),
            (
                "systemd/system/dtun-hub.service.d/key.conf",
                "[Service]\nLoadCredential=key:/etc/dtun/key\n",
            ),
        ],
        &["dtun-hub.service", "dtun@wrong.service"],
    );

    assert_eq!(machine.property("dtun-hub", "ActiveState"), "active");
    machine.becomes("dtun@wrong", "ActiveState", "failed");
    assert_eq!(machine.property("dtun@wrong", "NRestarts"), "0");
    assert_eq!(machine.property("dtun@wrong", "ExecMainStatus"), "2");
    assert!(machine.log().contains("/etc/dtun/wrong.conf:2"));
}

#[test]
fn the_units_are_correct_and_little_is_exposed_to_them() {
    let network = Network::new();
    let machine = Machine::boot(network.host(1), &[KEY], &[]);
    let units = [
        "dtun-hub.service",
        "dtun@home.service",
        "dtun-lock@home.service",
    ];

    let found = machine.run(&format!(
        "{ANALYZE} verify {} dtun-bypass.timer",
        units.join(" ")
    ));
    assert_eq!(found, "");
    for unit in ["dtun-hub.service", "dtun@.service", "dtun-lock@.service"] {
        // In tenths: what is said is rounded.
        machine.run(&format!(
            "{ANALYZE} security --no-pager --offline=yes --threshold=24 \
             /usr/local/lib/systemd/system/{unit}"
        ));
    }
}

/// What a spoke could leave behind.
fn picture(machine: &Machine) -> String {
    [
        "ip link",
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "nft list ruleset",
        "cat /etc/resolv.conf",
        "ls -A /etc",
    ]
    .map(|line| machine.run(line))
    .join("\n")
}

/// Does what hooks of users do, and undoes it.
fn hook(event: &str) -> String {
    let work = match event {
        "up" => {
            "ip route add 192.0.2.0/25 dev $TUN
             nft add table inet hooked
             iptables -t mangle -A FORWARD -i $TUN -j ACCEPT
             echo 2 >/proc/sys/net/ipv4/conf/$TUN/rp_filter
             rm \"$(mktemp)\""
        }
        _ => {
            "ip route del 192.0.2.0/25 dev $TUN
             nft delete table inet hooked
             iptables -t mangle -D FORWARD -i $TUN -j ACCEPT
             ! nft list tables | grep -q 'ip mangle' || nft delete table ip mangle
             sleep 4"
        }
    };

    format!("set -ex\n{work}\necho $TUN >/run/test/{event}-done\n")
}

const HUB_WITH_HOOKS: &str = "key-file /etc/dtun/key\nnat\nup /run/test/up\ndown /run/test/down\n";

const SPOKE_WITH_HOOKS: &str = "key-file /etc/dtun/key\nconnect 198.18.1.2:443\n\
    route default\ndns 192.0.2.53\nup /run/test/up\ndown /run/test/down\n";

const SPOKE_WITH_SCRIPTS: &str = "key-file /etc/dtun/key\nconnect 198.18.1.2:443\n\
    fwmark 0x640000/0xff0000\nup /usr/local/lib/dtun/up-policy.sh\n\
    down /usr/local/lib/dtun/down-policy.sh\n";

/// As Debian has it, on a slow machine.
const NFTABLES: &str = "[Unit]\nDefaultDependencies=no\nBefore=network-pre.target\n\
    [Service]\nType=oneshot\nExecStartPre=sleep 1\nExecStart=nft flush ruleset\n\
    [Install]\nWantedBy=sysinit.target\n";

/// With the units where the machine has them.
const ANALYZE: &str = "env SYSTEMD_UNIT_PATH=/run/units:/usr/local/lib/systemd/system \
    systemd-analyze";

const PATIENCE: Duration = Duration::from_secs(30);
