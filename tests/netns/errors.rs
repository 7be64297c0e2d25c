//! What users read when something is wrong: one line that says what to do.

use std::net::UdpSocket;
use std::time::Duration;

use crate::daemon::{Daemon, field};
use crate::namespace::Netns;
use crate::network::Network;
use crate::nobody::Nobody;
use crate::scratch::Scratch;
use crate::tunnel::{Hub, Spoke};

#[test]
fn a_wrong_key_is_said_with_the_hint() {
    let network = Network::new();
    let _hub = Hub::start(&network, &[]);

    let mut spoke = Spoke::start(&network, 2, &["-key", "bar", "-once"]);

    let line = fails(&mut spoke, 1);
    for part in ["accept", "key", "spoke2"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_spoke_with_a_wrong_key_goes_on_trying() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let mut spoke = Spoke::start(&network, 2, &["-key", "bar"]);
    spoke.line("accept");

    hub.terminate();
    let _hub = Hub::start_on(hub.into_host(), &["-key", "bar"]);

    spoke.line_within("tunnel up", Duration::from_secs(60));
}

#[test]
fn a_port_without_a_hub_is_said() {
    let network = Network::new();
    let _nobody = network.host(1);

    let mut spoke = Spoke::start(&network, 2, &["-once"]);

    let early = spoke.line("WARN");
    assert!(early.contains("does not run on it"), "{early}");
    let line = fails(&mut spoke, 1);
    for part in ["198.18.1.2:443", "refused"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(spoke.count("does not run on it"), 1, "{}", spoke.text());
}

#[test]
fn silence_is_said_while_the_spoke_goes_on_trying() {
    let network = Network::new();
    let hub = network.host(1);
    hub.run("nft add table inet wall");
    hub.run("nft add chain inet wall in { type filter hook input priority 0 ; }");
    hub.run("nft add rule inet wall in udp dport 443 drop");

    let mut spoke = Spoke::start(&network, 2, &[]);
    let line = spoke.line("WARN");

    assert!(line.contains("198.18.1.2:443"), "{line}");
    assert!(line.contains("firewall"), "{line}");
    hub.run("nft delete table inet wall");
    let _hub = Hub::start_on(hub, &[]);
    spoke.lease();
}

#[test]
fn what_a_firewall_on_the_way_says_keeps_no_datagram_from_leaving() {
    let network = Network::new();
    let hub = network.host(1);
    hub.run("nft add table inet wall");
    hub.run("nft add chain inet wall in { type filter hook input priority 0 ; }");
    hub.run("nft add rule inet wall in udp dport 443 reject with icmp type prot-unreachable");

    let mut spoke = Spoke::start(&network, 2, &[]);
    let line = spoke.line("WARN");

    assert!(line.contains("198.18.1.2:443 is silent"), "{line}");
    hub.run("nft delete table inet wall");
    let _hub = Hub::start_on(hub, &[]);
    spoke.lease();
}

#[test]
fn a_name_that_is_not_found_is_said() {
    let network = Network::new();
    let host = network.host(2);
    host.etc("hosts", "127.0.0.1 localhost\n");
    host.etc("resolv.conf", "nameserver 127.0.0.1\n");

    let mut spoke = Spoke::start_on(host, &["-connect", "nowhere.test:443", "-once"]);

    let line = fails(&mut spoke, 1);
    assert!(line.contains("nowhere.test"), "{line}");
}

#[test]
fn a_name_that_is_not_found_any_more_is_said_beside_the_hub_s_silence() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    let host = network.host(2);
    host.etc("hosts", "198.18.1.2 hub.example\n");
    host.etc("resolv.conf", "nameserver 127.0.0.1\n");
    let flags = ["-connect", "hub.example:443", "-fallback", "never"];
    let mut spoke = Spoke::start_on(host, &flags);
    spoke.lease();

    spoke.host.etc("hosts", "");
    hub.terminate();

    let line = spoke.line("WARN");
    for part in [
        "198.18.1.2:443 refused",
        "hub.example:443 cannot be resolved",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_port_that_is_taken_is_said() {
    let network = Network::new();
    let host = network.host(1);
    let _taken = host.enter(|| UdpSocket::bind("0.0.0.0:443").unwrap());

    for listen in [&[][..], &["-listen", "0.0.0.0:443"]] {
        let args = [&["-key", "foo"], listen].concat();
        let line = fails(&mut Daemon::dtun(&host, &args), 1);
        assert!(line.contains("443"), "{line}");
        assert!(line.contains("-listen"), "{line}");
    }
}

#[test]
fn a_hub_that_lets_nobody_out_prints_what_to_run_here_and_on_the_laptop() {
    let network = Network::new();
    let mut hub = Hub::start(&network, &[]);
    hub.line("on the laptop");
    let text = hub.text();
    let commands: Vec<_> = text
        .lines()
        .filter(|line| line.contains("WARN"))
        .filter_map(|line| field(line, "run"))
        .collect();
    assert_eq!(commands.len(), 4, "{text}");

    for command in commands {
        let mut shell = hub.host.command("sh");
        assert!(shell.args(["-c", &command]).status().unwrap().success());
    }
    hub.terminate();
    hub.restart();

    hub.line("forwarding is on family=IPv4 masquerade=found");
    hub.line("forwarding is on family=IPv6 masquerade=found");
    let laptop = hub.line("on the laptop");
    for part in ["-connect 198.18.1.2:443", "-route default"] {
        assert!(laptop.contains(part), "{part} in {laptop}");
    }
}

#[test]
fn a_missing_tun_module_is_said() {
    let network = Network::new();
    let host = network.host(1);

    let hide = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let mut command = host.command("unshare");
    command.args(["-m", "sh", "-c", hide, "sh", DTUN, "-key", "foo", "-once"]);
    command.args(["-connect", "198.18.9.2:443"]);

    let line = fails(&mut Daemon::spawn(command), 1);
    assert!(line.contains("/dev/net/tun"), "{line}");
}

#[test]
fn a_hub_without_the_tun_module_says_so() {
    let network = Network::new();
    let host = network.host(1);

    let hide = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let mut command = host.command("unshare");
    command.args(["-m", "sh", "-c", hide, "sh", DTUN, "-key", "foo"]);

    let line = fails(&mut Daemon::spawn(command), 1);
    assert!(line.contains("/dev/net/tun"), "{line}");
}

#[test]
fn a_hub_that_is_refused_nat_leaves_no_route_behind() {
    let network = Network::new();
    let host = network.host(1);
    let before = host.run("ip route show");

    let refuse = "mount --bind /bin/false /usr/sbin/nft && exec \"$@\"";
    let mut command = host.command("unshare");
    command.args(["-m", "sh", "-c", refuse, "sh", DTUN, "-key", "foo", "-nat"]);
    let scratch = Scratch::new();
    command.args(["-state", &scratch.path("state")]);

    let line = fails(&mut Daemon::spawn(command), 1);
    assert!(line.contains("-nat cannot be had"), "{line}");
    assert_eq!(host.run("ip route show"), before);
}

#[test]
fn a_user_without_rights_is_told_what_to_do() {
    let network = Network::new();
    let host = network.host(1);

    let nobody = Nobody::new();

    for role in [
        &["-once", "-connect", "198.18.9.2:443"][..],
        &["-listen", "0.0.0.0:4443"],
    ] {
        let args = [&["-key", "foo"], role].concat();
        let command = nobody.command(&host, &args);

        let line = fails(&mut Daemon::spawn(command), 1);
        assert!(line.contains("root") || line.contains("sudo"), "{line}");
        assert!(
            line.contains("CAP_NET_ADMIN") || line.contains("cap_net_admin"),
            "{line}"
        );
    }
}

#[test]
fn so_is_one_who_uses_a_command() {
    let netns = Netns::new("alone");
    let nobody = Nobody::new();

    for (command, flags) in [
        ("lock", &[][..]),
        ("unlock", &["-for", "5m"]),
        ("clean", &[]),
    ] {
        let args = [&[command], flags].concat();
        let mut daemon = Daemon::spawn(nobody.command(&netns, &args));

        let line = fails(&mut daemon, 1);

        assert!(
            line.contains(&format!("dtun {command} needs root")),
            "{line}"
        );
        assert_eq!(daemon.text().lines().count(), 1, "{}", daemon.text());
    }
}

#[test]
fn an_argument_that_is_wrong_is_named() {
    let netns = Netns::new("alone");
    let files = Scratch::new();
    let empty = files.script("empty", "");
    std::fs::write(&empty, "\n").unwrap();

    for (args, named) in [
        (&[][..], "-key"),
        (&["-key", ""], "-key"),
        (&["-key-file", &empty], "-key"),
        (&["-key-file", "/nonexistent"], "-key-file"),
        (&["-key", "foo", "-connect", "host"], "-connect"),
        (&["-key", "foo", "-connect", "host:99999"], "-connect"),
        (&["-key", "foo", "-listen", "nonsense"], "-listen"),
        (&["-key", "foo", "-pool4", "10.0.0.0"], "-pool4"),
        (&["-key", "foo", "-pool6", "10.0.0.0/24"], "-pool6"),
        (&["-key", "foo", "-lease", "soon"], "-lease"),
        (&["-key", "foo", "-mtu", "1000"], "-mtu"),
        (&["-key", "foo", "-wrong"], "-wrong"),
        (
            &["-key", "foo", "-connect", "h:1", "-peernet", "10.0.0.1/33"],
            "-peernet",
        ),
        (&["-key", "foo", "-connect", "h:1", "-id", "a\nb"], "-id"),
    ] {
        let line = fails(&mut Daemon::dtun(&netns, args), 2);
        assert!(line.contains(named), "{args:?}: {line}");
    }
}

/// Waits for the end with this exit code, and returns the only line of error.
#[track_caller]
fn fails(daemon: &mut Daemon, code: i32) -> String {
    let status = daemon.wait();
    let text = daemon.text();
    assert_eq!(status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(!text.contains("backtrace"), "{text}");

    text.lines().last().unwrap_or_default().to_owned()
}

const DTUN: &str = env!("CARGO_BIN_EXE_dtun");
