//! `docs/recipes.md`: its commands as they stand there, and what packets do then.

mod hubs;
mod names;
mod program;
mod proxy;
mod router;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::namespace::Netns;
use crate::network::{Host, connect, forward};
use crate::picture::seen_by;
use crate::scratch::Scratch;

#[test]
fn every_recipe_is_run_here() {
    let headings: Vec<_> = sections().map(|(heading, _)| heading).collect();

    assert_eq!(headings, RUN);
}

/// The commands below a heading, block by block, of which there are `N`.
#[track_caller]
fn recipe<const N: usize>(heading: &str) -> [String; N] {
    assert!(RUN.contains(&heading), "{heading}");
    let (_, text) = sections().find(|(it, _)| *it == heading).unwrap();
    let mut blocks = Vec::new();
    let mut block = None;
    for line in text.lines() {
        match (line, &mut block) {
            ("```sh", None) => block = Some(String::new()),
            ("```", Some(_)) => blocks.extend(block.take()),
            (_, Some(block)) => block.extend([line, "\n"]),
            (_, None) => assert!(!line.starts_with("```"), "{heading}: {line}"),
        }
    }

    let count = blocks.len();
    blocks
        .try_into()
        .unwrap_or_else(|_| panic!("{heading} has {count} blocks"))
}

fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    let sections = DOCUMENT.split("\n## ").skip(1);
    sections.map(|section| section.split_once('\n').unwrap())
}

/// A machine with the program and its scripts where the document has them, and
/// with folders of its own for what a recipe writes.
struct Machine<'a> {
    netns: &'a Netns,
    scratch: Scratch,
}

impl<'a> Machine<'a> {
    fn new(netns: &'a Netns) -> Self {
        let scratch = Scratch::new();
        let made = Command::new("sh")
            .args(["-ec", LAY_OUT, &scratch.path("")])
            .args([
                env!("CARGO_BIN_EXE_dtun"),
                concat!(env!("CARGO_MANIFEST_DIR"), "/scripts"),
            ])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let machine = Self { netns, scratch };
        machine.etc("dtun.key", "foo");
        machine.run("chmod 600 /etc/dtun.key");
        let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        machine.etc(
            "hosts",
            &format!("127.0.0.1 {own}198.18.1.2 vps.example.com\n198.18.5.2 vps2.example.com\n"),
        );

        machine
    }

    /// Writes a file of `/etc`.
    fn etc(&self, name: &str, text: &str) {
        let path = self.scratch.path("etc") + "/" + name;
        // It may be a link to another machine's file.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{path}: {error}"),
            Ok(()) | Err(_) => fs::write(path, text).unwrap(),
        }
    }

    /// A shell's command, as root or another user.
    fn command(&self, user: &str, line: &str) -> Command {
        let home = if user == "root" {
            "/root"
        } else {
            "/home/alice"
        };
        let mut command = self.netns.command("sh");
        command
            .args(["-ec", OWN_FOLDERS, &self.scratch.path("")])
            .args(["env", "-i", PATH, &format!("HOME={home}")])
            .args(["setpriv", "--reuid", user, "--regid", user, "--init-groups"])
            .args(["sh", "-ec", line]);

        command
    }

    /// Runs a block of the document, which must succeed.
    #[track_caller]
    fn run(&self, block: &str) -> String {
        self.run_as("root", block)
    }

    #[track_caller]
    fn run_as(&self, user: &str, block: &str) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(user, block).output().unwrap();
        let complaint = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{block}\n{status}: {complaint}");

        String::from_utf8(stdout).unwrap()
    }

    /// Starts the one program of a block.
    fn start(&self, block: &str) -> Daemon {
        Daemon::spawn(self.command("root", &format!("exec {block}")))
    }

    /// [`Machine::start`] for a spoke, and waits for its tunnel.
    #[track_caller]
    fn spoke(&self, block: &str) -> Daemon {
        let mut spoke = self.start(block);
        spoke.line("tunnel up");

        spoke
    }

    /// Whom `to` sees when a user's line connects to `at`, one of its addresses,
    /// with what it finds in `$AT` and `$PORT`.
    #[track_caller]
    fn seen_by(&self, user: &str, line: &str, to: &Netns, at: impl Into<IpAddr>) -> IpAddr {
        let listener = to.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let (at, port) = (at.into(), listener.local_addr().unwrap().port());
        let line = format!("export AT={at} PORT={port}; {line}");
        let over = AtomicBool::new(false);

        thread::scope(|scope| {
            let server = scope.spawn(|| serve(&listener, &over));
            let output = self.command(user, &line).output();
            over.store(true, Ordering::SeqCst);
            let seen = server.join().unwrap();

            *seen
                .first()
                .unwrap_or_else(|| panic!("{line} did not connect: {output:?}"))
        })
    }
}

/// Tells everyone that nothing is there, until it is over; returns who came.
fn serve(listener: &TcpListener, over: &AtomicBool) -> Vec<IpAddr> {
    let mut seen = Vec::new();
    loop {
        let last = over.load(Ordering::SeqCst);
        match listener.accept() {
            Ok((mut client, from)) => {
                seen.push(from.ip().to_canonical());
                // Who does not wait for the answer has it all the same.
                drop(client.write_all(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            Err(_) if last => return seen,
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A machine behind a router that translates what leaves by its uplink.
fn lan(router: &Host) -> Netns {
    let pc = Netns::new("pc");
    connect(router, "br-lan", &pc, "lan");
    forward(router);
    router.ip("addr add 192.168.8.1/24 dev br-lan");
    router.ip("addr add fd00:8::1/64 dev br-lan nodad");
    pc.ip("link set lan address 02:00:5e:00:00:10");
    pc.ip(&format!("addr add {PC4}/24 dev lan"));
    pc.ip(&format!("addr add {PC6}/64 dev lan nodad"));
    pc.ip("route add default via 192.168.8.1");
    pc.ip("route add default via fd00:8::1");
    router.run("nft add table inet home");
    router.run("nft add chain inet home out { type nat hook postrouting priority srcnat ; }");
    router.run("nft add rule inet home out oifname uplink masquerade");

    pc
}

/// Connects to a port of `at`, whose packets end at `to` on `port`; whom that sees.
#[track_caller]
fn seen_at(from: &Netns, at: (IpAddr, u16), to: &Netns, port: u16) -> IpAddr {
    let listener = to.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());

    seen_by(from, at.into(), &listener)
}

const DOCUMENT: &str = include_str!("../../docs/recipes.md");

/// The headings of the recipes that the tests beside this one run.
const RUN: [&str; 9] = [
    "One program through the tunnel",
    "Only the LAN of a router",
    "One address range of it",
    "All but some users",
    "Some domains through the tunnel",
    "Some domains past the tunnel",
    "A spoke's port on the hub",
    "Two hubs",
    "A proxy with a device of its own",
];

/// Fills the folder `$0`; `$1` is the program, `$2` the folder of its scripts.
const LAY_OUT: &str = r#"
mkdir -p "$0/etc" "$0/usr/local/bin" "$0/usr/local/lib/dtun"
# What other tests keep there comes and goes.
find /etc -mindepth 1 -maxdepth 1 ! -name netns -exec cp -a -t "$0/etc" {} +
mkdir -p "$0/etc/dnsmasq.d"
ln -s "$1" "$0/usr/local/bin/dtun"
cp "$2"/*.sh "$0/usr/local/lib/dtun"
"#;

/// Puts the folders below `$0` over the machine's.
const OWN_FOLDERS: &str = r#"
for folder in etc home run/dtun usr/local usr/share/applications \
    var/cache/apt var/lib/apt var/lib/dtun; do
    mkdir -p "/$folder" "$0/$folder"
    mount --bind "$0/$folder" "/$folder"
done
exec "$@"
"#;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Connects to `$AT`.
const CONNECT: &str = "bash -c 'exec 3<>/dev/tcp/$AT/$PORT'";

const PC4: &str = "192.168.8.10";
const PC6: &str = "fd00:8::10";
