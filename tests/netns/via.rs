//! One group's or user's programs through the tunnel, or beside it: the script
//! with a real spoke, strict reverse path filters, and what each side sees.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use crate::daemon::Daemon;
use crate::laptop::{TOOLS, Tools};
use crate::namespace::Netns;
use crate::network::Host;
use crate::picture::{HUB_AT_WWW4, HUB_AT_WWW6, Picture, WWW4, WWW6};
use crate::policy::{everything, strict};
use crate::scratch::Scratch;
use crate::watch::Watch;

#[test]
fn the_groups_programs_go_through_the_tunnel_and_all_else_does_not() {
    for (tools, nft) in machines() {
        let mut laptop = Laptop::new(tools, nft);
        laptop
            .picture
            .network
            .router
            .ip("addr add 192.168.77.1 dev lo");
        laptop.conf(&format!("bypass={}", laptop.scratch.path("list")));
        let direct = laptop.picture.direct.ip4();
        fs::write(
            laptop.scratch.path("list"),
            format!("{direct}\n2001:db8:3::/48\n"),
        )
        .unwrap();
        let mut spoke = laptop.spoke(&[]);
        spoke.line("tunnel up");
        let (own, hub) = (laptop.host.ip4(), laptop.picture.hub.host.ip4());
        let before = laptop.everything();

        laptop.run(&["start"]).unwrap();
        let once = laptop.everything();
        assert_eq!(once.contains("table inet dtun-via"), nft);
        laptop.run(&["start"]).unwrap();
        assert_eq!(laptop.everything(), once);

        let other = laptop.picture.network.host(4);
        assert_eq!(laptop.seen(T, &other, other.ip4()), hub);
        assert_eq!(laptop.seen(&[], &other, other.ip4()), own);
        let www = &laptop.picture.www;
        assert_eq!(laptop.seen(T, www, WWW4), HUB_AT_WWW4);
        assert_eq!(laptop.seen(T, www, WWW6), HUB_AT_WWW6);
        assert_eq!(
            laptop.seen(T, &other, other.ip6()),
            laptop.picture.hub.host.ip6()
        );
        assert_eq!(laptop.seen(&[], &other, other.ip6()), laptop.host.ip6());
        // What is listed, what is private, and the machine itself.
        assert_eq!(laptop.seen(T, &laptop.picture.direct, direct), own);
        let six = laptop.picture.direct.ip6();
        assert_eq!(
            laptop.seen(T, &laptop.picture.direct, six),
            laptop.host.ip6()
        );
        let router = &laptop.picture.network.router;
        assert_eq!(laptop.seen(T, router, [192, 168, 77, 1]), own);
        assert_eq!(laptop.seen(T, &laptop.host, own), own);
        assert_eq!(
            laptop.seen(T, &laptop.host, Ipv4Addr::LOCALHOST),
            Ipv4Addr::LOCALHOST
        );

        laptop.run(&["stop"]).unwrap();
        assert_eq!(laptop.everything(), before);
        laptop.run(&["stop"]).unwrap();
        assert_eq!(laptop.everything(), before);
        assert_eq!(laptop.seen(T, &other, other.ip4()), own);
        assert_eq!(laptop.records(), 0);
    }
}

#[test]
fn beside_a_full_tunnel_the_groups_programs_go_direct() {
    for (tools, nft) in some() {
        for tunnel in ["built in", "policy", "split"] {
            let mut laptop = Laptop::new(tools, nft);
            laptop.conf("way=direct");
            let up = tools.hook(&laptop.scratch, &format!("up-{tunnel}.sh"));
            let down = tools.hook(&laptop.scratch, &format!("down-{tunnel}.sh"));
            let mut spoke = match tunnel {
                "built in" => laptop.spoke(&["-route", "default"]),
                _ => laptop.spoke(&["-up", &up, "-down", &down]),
            };
            spoke.line("tunnel up");
            let (own, hub) = (laptop.host.ip4(), laptop.picture.hub.host.ip4());
            let other = laptop.picture.network.host(4);
            let before = laptop.everything();
            assert_eq!(laptop.seen(T, &other, other.ip4()), hub);

            laptop.run(&["start"]).unwrap();

            assert_eq!(laptop.seen(T, &other, other.ip4()), own, "{tunnel}");
            assert_eq!(laptop.seen(&[], &other, other.ip4()), hub);
            assert_eq!(laptop.seen(T, &other, other.ip6()), laptop.host.ip6());
            assert_eq!(
                laptop.seen(&[], &other, other.ip6()),
                laptop.picture.hub.host.ip6()
            );
            laptop.run(&["stop"]).unwrap();
            assert_eq!(laptop.everything(), before);
            assert!(spoke.terminate().success());
        }
    }
}

#[test]
fn a_users_programs_go_through_the_tunnel() {
    for (tools, nft) in some() {
        let mut laptop = Laptop::new(tools, nft);
        laptop.conf("users='nobody daemon'");
        let mut spoke = laptop.spoke(&[]);
        spoke.line("tunnel up");
        let other = laptop.picture.network.host(4);

        laptop.run(&["start"]).unwrap();

        let hub = laptop.picture.hub.host.ip4();
        for user in ["nobody", "daemon"] {
            let by = [SETPRIV, "--reuid", user, "--clear-groups"];
            assert_eq!(laptop.seen(&by, &other, other.ip4()), hub, "{user}");
        }
        let by = [SETPRIV, "--reuid", "games", "--clear-groups"];
        assert_eq!(laptop.seen(&by, &other, other.ip4()), laptop.host.ip4());

        laptop.conf("users=root");
        let said = laptop.run(&["start"]).unwrap_err();
        assert!(said.contains("root is the user of dtun itself"), "{said}");
    }
}

#[test]
fn their_names_are_asked_of_the_given_resolver_through_the_tunnel() {
    for (tools, nft) in machines() {
        let mut laptop = Laptop::new(tools, nft);
        laptop.conf(&format!("dns='{WWW4} {WWW6}'"));
        let mut spoke = laptop.spoke(&[]);
        spoke.line("tunnel up");
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        resolver(&laptop.picture.www, "www", any);
        resolver(&laptop.picture.network.router, "router", any);
        resolver(&laptop.host, "stub", [127, 0, 0, 53].into());
        let before = laptop.everything();
        let router = format!("router to {}", laptop.host.ip4());

        laptop.run(&["start"]).unwrap();

        for protocol in ["udp", "tcp"] {
            // A stub on the machine, a resolver on the LAN, one far away.
            for server in ["127.0.0.53", "198.18.2.1", "2001:db8:2::1", "192.0.2.53"] {
                let four = server.contains('.');
                let hub: IpAddr = if four {
                    HUB_AT_WWW4.into()
                } else {
                    HUB_AT_WWW6.into()
                };
                let answer = laptop.ask(T, protocol, server);
                assert_eq!(answer, Ok(format!("www to {hub}")), "{server} {protocol}");
            }
            let stub = laptop.ask(&[], protocol, "127.0.0.53").unwrap();
            assert_eq!(stub, "stub to 127.0.0.1");
            assert_eq!(laptop.ask(&[], protocol, "198.18.2.1").unwrap(), router);
        }

        // Without one of its version, nobody is asked.
        laptop.conf(&format!("dns='{WWW4}'"));
        laptop.run(&["start"]).unwrap();
        let refused = laptop.ask(T, "tcp", "2001:db8:2::1").unwrap_err();
        assert!(refused.contains("onnection refused"), "{refused}");
        assert!(
            laptop
                .ask(T, "udp", "198.18.2.1")
                .unwrap()
                .starts_with("www")
        );

        laptop.run(&["stop"]).unwrap();
        assert_eq!(laptop.everything(), before);
        assert_eq!(laptop.ask(T, "udp", "198.18.2.1").unwrap(), router);
        let localnet = laptop
            .host
            .run("cat /proc/sys/net/ipv4/conf/dtun0/route_localnet");
        assert_eq!(localnet.trim(), "0");
    }
}

#[test]
fn after_a_kill_they_go_direct_or_not_at_all() {
    for (tools, nft) in some() {
        for strict in ["", "1"] {
            let mut laptop = Laptop::new(tools, nft);
            laptop.conf(&format!("strict={strict}"));
            let mut spoke = laptop.spoke(&[]);
            spoke.line("tunnel up");
            let other = laptop.picture.network.host(4);
            let (own, hub) = (laptop.host.ip4(), laptop.picture.hub.host.ip4());
            laptop.run(&["start"]).unwrap();
            assert_eq!(laptop.seen(T, &other, other.ip4()), hub);

            spoke.kill();

            assert_eq!(laptop.seen(&[], &other, other.ip4()), own);
            if strict.is_empty() {
                assert_eq!(laptop.seen(T, &other, other.ip4()), own);
            } else {
                laptop.reached(T, &other, other.ip4()).unwrap_err();
            }
            let said = laptop.run(&["start"]).unwrap_err();
            assert!(said.contains("there is no dtun0"), "{said}");
            assert!(!laptop.everything().contains("0x76000000"));
            assert_eq!(laptop.seen(T, &other, other.ip4()), own);

            spoke.restart();
            spoke.line("tunnel up");
            laptop.run(&["start"]).unwrap();
            assert_eq!(laptop.seen(T, &other, other.ip4()), hub);
        }
    }
}

#[test]
fn after_a_kill_their_resolver_is_not_asked_beside_the_tunnel() {
    for (tools, nft) in some() {
        let mut laptop = Laptop::new(tools, nft);
        laptop.conf(&format!("dns='{WWW4} {WWW6}'"));
        let mut spoke = laptop.spoke(&[]);
        spoke.line("tunnel up");
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        resolver(&laptop.picture.www, "www", any);
        let router = &laptop.picture.network.router;
        let watch = Watch::new(router, "prerouting");
        watch.count("asked", "meta l4proto { tcp, udp } th dport 53", "");
        laptop.run(&["start"]).unwrap();
        let answer = laptop.ask(T, "udp", "127.0.0.53").unwrap();
        assert_eq!(answer, format!("www to {HUB_AT_WWW4}"));

        spoke.kill();

        for (protocol, server) in [("udp", "127.0.0.53"), ("tcp", "2001:db8:2::1")] {
            laptop.ask(T, protocol, server).unwrap_err();
        }
        assert_eq!(watch.packets("asked"), 0);
        let other = laptop.picture.network.host(4);
        assert_eq!(laptop.seen(T, &other, other.ip4()), laptop.host.ip4());
    }
}

#[test]
fn as_a_hook_it_follows_the_tunnel() {
    for tools in TOOLS {
        let mut laptop = Laptop::new(tools, true);
        laptop.conf("");
        let before = laptop.everything();
        let hook = laptop.scratch.script(
            "hook",
            &format!(
                "PATH={} exec {}",
                tools.path(&laptop.scratch),
                tools.script("dtun-via.sh").join(" ")
            ),
        );

        let mut spoke = laptop.spoke(&["-up", &hook, "-down", &hook]);
        spoke.line("tunnel, but for private networks and no list");
        spoke.line("tunnel up");
        let other = laptop.picture.network.host(4);
        let hub = laptop.picture.hub.host.ip4();
        assert_eq!(laptop.seen(T, &other, other.ip4()), hub);
        spoke.kill();
        spoke.restart();
        spoke.line("tunnel up");
        assert_eq!(laptop.seen(T, &other, other.ip4()), hub);

        assert!(spoke.terminate().success());
        assert_eq!(laptop.everything(), before);
    }
}

#[test]
fn without_ipv6_in_the_tunnel_they_are_told_at_once() {
    for (tools, nft) in some() {
        let mut laptop = Laptop::of(Picture::with(&["-pool6", "none"]), tools, nft);
        laptop.conf("");
        let mut spoke = laptop.spoke(&[]);
        spoke.line("tunnel up");
        let other = laptop.picture.network.host(4);

        laptop.run(&["start"]).unwrap();

        let why = laptop.reached(T, &other, other.ip6()).unwrap_err();
        assert!(why.contains("onnection refused"), "{why}");
        let hub = laptop.picture.hub.host.ip4();
        assert_eq!(laptop.seen(T, &other, other.ip4()), hub);
        assert_eq!(laptop.seen(&[], &other, other.ip6()), laptop.host.ip6());
    }
}

#[test]
fn the_wrapper_keeps_words_exit_codes_and_groups() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools, true);
        laptop.conf("");
        let t = laptop.scratch.path("t");
        let echo = [
            &t,
            "sh",
            "-c",
            r#"printf '%s|' "$(/usr/bin/id -g)" "$@"; exit 7"#,
            "sh",
        ];
        let words = ["a 'b'", "", "$HOME;", "\"*\"\\"];

        // Nobody is in the group; with busybox alone only root can change to it.
        let nobody: &[&str] = &[SETPRIV, "--reuid", "nobody", "--init-groups"];
        let users = if tools == Tools::Debian { 2 } else { 1 };
        for by in [&[], nobody].into_iter().take(users) {
            let output = laptop
                .command(&[by, &echo, &words].concat())
                .output()
                .unwrap();

            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(said, "64117|a 'b'||$HOME;|\"*\"\\|", "{by:?} {output:?}");
            assert_eq!(output.status.code(), Some(7));
        }

        let said = laptop.run(&["install", "/bin/sh"]).unwrap_err();
        assert!(said.contains("/bin/sh is something else"), "{said}");
        laptop.run(&["install", &t]).unwrap();
        laptop.run(&["uninstall", &t]).unwrap();
        assert!(!fs::exists(&t).unwrap());
    }
}

/// A laptop of the picture, with strict filters, and the script on it.
struct Laptop {
    tools: Tools,
    nft: bool,
    host: Host,
    picture: Picture,
    scratch: Scratch,
}

impl Laptop {
    fn new(tools: Tools, nft: bool) -> Self {
        Self::of(Picture::new(), tools, nft)
    }

    fn of(picture: Picture, tools: Tools, nft: bool) -> Self {
        let host = picture.network.host(2);
        strict(&[&host, &picture.network.router, &picture.hub.host]);
        host.etc(
            "group",
            "root:x:0:\nnogroup:x:65534:\ndtun-via:x:64117:nobody\n",
        );
        let scratch = Scratch::new();
        tools.lay_out(&scratch);
        let laptop = Self {
            tools,
            nft,
            host,
            picture,
            scratch,
        };
        laptop.their_rules();
        laptop.conf("");
        laptop.run(&["install", &laptop.scratch.path("t")]).unwrap();

        laptop
    }

    /// A firewall's own rules: iptables makes the tables that are not there,
    /// and leaves them. Busybox's machine has the older iptables.
    fn their_rules(&self) {
        let kind = if self.tools == Tools::Busybox {
            "legacy"
        } else {
            "nft"
        };
        fs::create_dir_all(self.scratch.path("bin")).unwrap();
        for tool in ["iptables", "ip6tables"] {
            let path = format!("/usr/sbin/{tool}-{kind}");
            for chain in ["mangle -A OUTPUT", "mangle -A PREROUTING", "nat -A OUTPUT"] {
                self.host
                    .run(&format!("{path} -t {chain} -p sctp -j ACCEPT"));
            }
            self.host
                .run(&format!("{path} -t nat -A POSTROUTING -p sctp -j ACCEPT"));
            self.host
                .run(&format!("{path} -A OUTPUT -p sctp -j ACCEPT"));
            symlink(path, self.scratch.path(&format!("bin/{tool}"))).unwrap();
        }
    }

    /// Writes what the script shall do.
    fn conf(&self, text: &str) {
        fs::write(self.scratch.path("conf"), format!("{text}\n")).unwrap();
    }

    fn spoke(&mut self, flags: &[&str]) -> Daemon {
        let mark = ["-fwmark", "0x640000/0xff0000"];
        self.picture.spoke(&self.host, &[&mark, flags].concat())
    }

    /// A command on the laptop, with the script's environment.
    fn command(&self, words: &[&str]) -> Command {
        let hidden = if self.nft { "" } else { "/usr/sbin/nft" };
        let mut command = self.host.command("sh");
        command
            .args(["-c", crate::laptop::HIDE, hidden])
            .args(["env", "-i", "HOME=/"])
            .arg(format!(
                "PATH={}:/usr/bin:/bin",
                self.tools.path(&self.scratch)
            ))
            .arg(format!("DTUN_VIA={}", self.scratch.path("conf")))
            .arg(format!("DTUN_RUN={}", self.scratch.path("run")))
            .args(words);

        command
    }

    /// Runs the script; what it said, or what it said when it failed.
    fn run(&self, args: &[&str]) -> Result<String, String> {
        let script = self.tools.script("dtun-via.sh");
        let words: Vec<_> = script
            .iter()
            .map(String::as_str)
            .chain(args.iter().copied())
            .collect();
        let output = self.command(&words).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();

        if output.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    }

    /// Runs a line of bash with `$0` and `$1`, by other words: `T`, or setpriv's.
    fn bash(&self, by: &[&str], line: &str, args: [&str; 2]) -> Result<String, String> {
        let t = self.scratch.path("t");
        let by = by.iter().map(|word| if *word == "t" { &t } else { *word });
        let bash = ["/usr/bin/timeout", "3", "/bin/bash", "-c", line];
        let words: Vec<_> = by.chain(bash).chain(args).collect();
        let output = self.command(&words).output().unwrap();

        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// Connects to `at`, an address of `to`; returns the address that `to` sees.
    fn reached(&self, by: &[&str], to: &Netns, at: impl Into<IpAddr>) -> Result<IpAddr, String> {
        let listener = to.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
        let port = listener.local_addr().unwrap().port().to_string();
        let at = at.into().to_string();
        self.bash(by, "exec 3<>/dev/tcp/$0/$1", [&at, &port])?;

        Ok(listener.accept().unwrap().1.ip().to_canonical())
    }

    #[track_caller]
    fn seen(&self, by: &[&str], to: &Netns, at: impl Into<IpAddr>) -> IpAddr {
        let at = at.into();
        self.reached(by, to, at)
            .unwrap_or_else(|why| panic!("{by:?} to {at}: {why}"))
    }

    /// What a resolver answers: its name, and whom it saw.
    fn ask(&self, by: &[&str], protocol: &str, server: &str) -> Result<String, String> {
        let line =
            "exec 3<>/dev/$0/$1/53 || exit; echo who? >&3; /bin/dd bs=99 count=1 <&3 2>/dev/null";
        self.bash(by, line, [protocol, server])
    }

    fn everything(&self) -> String {
        let mut all = everything(&self.host) + &self.host.run("ipset list");
        for save in ["iptables-legacy-save", "ip6tables-legacy-save"] {
            let rules = self.host.run(save);
            // But comments, which have the time, and counters.
            for rule in rules.lines().filter(|line| !line.starts_with('#')) {
                all.push_str(rule.split(" [").next().unwrap());
                all.push('\n');
            }
        }

        all
    }

    fn records(&self) -> usize {
        fs::read_dir(self.scratch.path("run")).unwrap().count()
    }
}

/// Answers on port 53, UDP and TCP, with its name and the address it sees.
fn resolver(netns: &Netns, name: &'static str, at: IpAddr) {
    let answer = move |from: SocketAddr| format!("{name} to {}", from.ip().to_canonical());
    let socket = netns.enter(|| UdpSocket::bind((at, 53)).unwrap());
    thread::spawn(move || {
        let mut question = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut question) {
            socket.send_to(answer(from).as_bytes(), from).unwrap();
        }
    });
    let listener = netns.enter(|| TcpListener::bind((at, 53)).unwrap());
    thread::spawn(move || {
        while let Ok((mut asker, from)) = listener.accept() {
            asker.write_all(answer(from).as_bytes()).unwrap();
        }
    });
}

/// Both shells, both firewalls.
fn some() -> [(Tools, bool); 2] {
    [(Tools::Debian, true), (Tools::Busybox, false)]
}

/// All there are of them.
fn machines() -> impl Iterator<Item = (Tools, bool)> {
    TOOLS
        .into_iter()
        .flat_map(|tools| [true, false].map(|nft| (tools, nft)))
}

const SETPRIV: &str = "/usr/bin/setpriv";

/// The command that the script installs.
const T: &[&str] = &["t"];
