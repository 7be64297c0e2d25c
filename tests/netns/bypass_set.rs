//! The script that fills a set of the firewall with a list, and what it does
//! with a list that is not to be trusted.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use ipnet::IpNet;

use crate::laptop::{TOOLS, Tools};
use crate::namespace::Netns;
use crate::scratch::Scratch;

#[test]
fn a_set_has_the_networks_of_the_list_and_no_other() {
    for (tools, target) in everywhere() {
        let machine = Machine::new(tools);
        machine.list(
            "one",
            "\u{feff}# chnroutes\r\n1.0.2.0/23\r\n1.0.3.0/24 # inside\n 1.0.1.9/24\n8.8.8.8\n\
             2001:DB8:77::5/48\n2001:db8:77:1::/64\nhello\n1.2.3.4/33\n0.0.0.0/0\n1:::2/32\n",
        );
        machine.list("two", "fd00::/8\n1.0.1.0/24");

        let said = machine.fill(target, &["one", "two"]).unwrap();

        assert_eq!(
            machine.has(target, 4),
            ["1.0.1.0/24", "1.0.2.0/23", "8.8.8.8"],
            "{target}"
        );
        assert_eq!(
            machine.has(target, 6),
            ["2001:db8:77::/48", "fd00::/8"],
            "{target}"
        );
        assert!(
            said.contains("5 networks, 3 lines are no networks, nor are 1 more"),
            "{said}"
        );

        machine.list("one", "9.9.0.0/16\n1.0.2.0/24\n3.0.0.0/8\n");
        machine.fill(target, &["one"]).unwrap();
        assert_eq!(
            machine.has(target, 4),
            ["1.0.2.0/24", "3.0.0.0/8", "9.9.0.0/16"]
        );
        assert!(machine.has(target, 6).is_empty());
    }
}

#[test]
fn a_list_that_lost_half_is_refused_and_the_last_good_one_stays() {
    for (tools, target) in everywhere() {
        let machine = Machine::new(tools);
        machine.list("list", "1.0.0.0/24\n2.0.0.0/24\n3.0.0.0/24\n4.0.0.0/24\n");
        machine.fill(target, &["list"]).unwrap();
        let all = machine.has(target, 4);

        for bad in ["<html>sorry</html>\n", "", "1.0.0.0/24\n9.0.0.0/24\n"] {
            machine.list("list", bad);
            let said = machine.fill(target, &["list"]).unwrap_err();
            assert!(
                said.contains("the last good list is loaded, 4 networks"),
                "{said}"
            );
            assert_eq!(machine.has(target, 4), all);
        }
        let said = machine.fill(target, &["list", "nowhere"]).unwrap_err();
        assert!(said.contains("nowhere cannot be had"), "{said}");

        machine.list("list", "1.0.0.0/24\n9.0.0.0/24\n7.0.0.0/24\n");
        machine.fill(target, &["list"]).unwrap();
        assert_eq!(
            machine.has(target, 4),
            ["1.0.0.0/24", "7.0.0.0/24", "9.0.0.0/24"]
        );
    }
}

#[test]
fn a_first_list_without_a_network_makes_nothing() {
    for (tools, target) in everywhere() {
        let machine = Machine::new(tools);
        machine.list("list", "<html>sorry</html>\n");

        let said = machine.fill(target, &["list"]).unwrap_err();

        assert!(said.contains("there is no network in"), "{said}");
        assert_eq!(
            machine.netns.run("nft list ruleset") + &machine.netns.run("ipset list"),
            ""
        );
    }
}

#[test]
fn a_url_that_is_gone_after_a_boot_is_the_last_good_list() {
    for tools in TOOLS {
        let machine = Machine::new(tools);
        let (listener, url) = machine.website();
        let site = thread::spawn(move || serve(&listener, "1.0.0.0/24\n2001:db8::/32\n"));

        machine.fill(NFT, &[&url]).unwrap();
        site.join().unwrap();
        machine.netns.run("nft flush ruleset");
        let said = machine.fill(NFT, &[&url]).unwrap_err();

        assert!(
            said.contains(&format!("{url} cannot be had: the last good")),
            "{said}"
        );
        assert_eq!(machine.has(NFT, 4), ["1.0.0.0/24"]);
        assert_eq!(machine.has(NFT, 6), ["2001:db8::/32"]);
    }
}

#[test]
fn rules_that_use_the_set_obey_each_new_list() {
    for tools in TOOLS {
        for target in [NFT, IPSET] {
            let machine = Machine::new(tools);
            for host in ["10.9.0.1", "10.9.1.1"] {
                machine.netns.ip(&format!("addr add {host} dev lo"));
            }
            machine.list("list", "10.9.0.0/24\n");
            machine.fill(target, &["list"]).unwrap();
            if target == NFT {
                machine
                    .netns
                    .run("nft add chain inet t out { type filter hook output priority 0 ; }");
                machine
                    .netns
                    .run("nft add rule inet t out ip daddr @bypass4 drop");
            } else {
                machine
                    .netns
                    .run("iptables -A OUTPUT -m set --match-set bypass4 dst -j DROP");
            }
            assert!(!machine.reaches("10.9.0.1") && machine.reaches("10.9.1.1"));

            machine.list("list", "10.9.1.0/24\n");
            machine.fill(target, &["list"]).unwrap();

            assert!(machine.reaches("10.9.0.1") && !machine.reaches("10.9.1.1"));
        }
    }
}

#[test]
fn nobody_finds_a_set_half_full() {
    for (target, question) in [
        (NFT, "nft get element inet t bypass4 { 203.0.113.7 }"),
        (IPSET, "ipset test bypass4 203.0.113.7"),
    ] {
        let machine = Machine::new(Tools::Debian);
        // The last one to be loaded is in all lists.
        for first in [100, 101] {
            let net = |at| format!("{first}.{}.{}.0/24\n", at / 256, at % 256);
            let list: String = (0..5_000).map(net).collect();
            machine.list(&first.to_string(), &(list + "203.0.113.0/24\n"));
        }
        machine.fill(target, &["100"]).unwrap();
        let done = AtomicBool::new(false);

        let (filled, answers) = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut answers = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    answers.push(machine.netns.try_run(question));
                }
                answers
            });
            let filled = ["101", "100", "101"].map(|list| machine.fill(target, &[list]));
            done.store(true, Ordering::Relaxed);
            (filled, watcher.join().unwrap())
        });

        assert!(filled.iter().all(Result::is_ok), "{filled:?}");
        assert!(answers.len() > 10 && answers.iter().all(Result::is_ok));
        assert!(machine.has(target, 4)[0].starts_with("101."));
    }
}

#[test]
fn a_file_is_the_list_itself() {
    for tools in TOOLS {
        let machine = Machine::new(tools);
        machine.list("list", "1.0.2.0/23\n1.0.3.0/24\nfd00::/8\n");
        let out = machine.scratch.path("out:1");
        fs::write(&out, "1.0.0.0/24\n").unwrap();
        fs::set_permissions(&out, Permissions::from_mode(0o604)).unwrap();

        machine.fill(&format!("file:{out}"), &["list"]).unwrap();

        assert_eq!(
            machine.scratch.read("out:1"),
            "1.0.2.0/23\nfd00:0:0:0:0:0:0:0/8\n"
        );
        let mode = fs::metadata(&out).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o604);
    }
}

#[test]
fn a_tidied_list_has_the_outermost_networks_of_any_list() {
    for tools in TOOLS {
        let machine = Machine::new(tools);
        let networks: BTreeSet<_> = Random(7).networks(1_500).collect();
        let text: String = networks
            .iter()
            .map(|network| format!("{network}\n"))
            .collect();
        machine.list("list", &text);
        let out = machine.scratch.path("out");

        machine.fill(&format!("file:{out}"), &["list"]).unwrap();

        let tidy: BTreeSet<IpNet> = machine
            .scratch
            .read("out")
            .lines()
            .map(|line| line.parse().unwrap())
            .collect();
        let all: BTreeSet<_> = networks.iter().map(IpNet::trunc).collect();
        let inside = |net: &IpNet| all.iter().any(|other| other != net && other.contains(net));
        let outermost = all.iter().copied().filter(|net| !inside(net)).collect();
        assert_eq!(tidy, outermost);
    }
}

#[test]
fn firewalld_is_told_what_changed_and_keeps_it() {
    for tools in TOOLS {
        let machine = Machine::new(tools);
        machine.firewalld();
        let target = "firewalld:bypass";
        machine.list("list", "1.0.0.0/24\n2.0.0.0/24\n3.0.0.0/24\nfd00::/8\n");

        machine.fill(target, &["list"]).unwrap();
        machine.list("list", "1.0.0.0/24\n2.0.0.0/16\n3.0.0.0/24\nfd00::/8\n");
        machine.fill(target, &["list"]).unwrap();

        for kept in ["permanent", "runtime"] {
            let four = machine.scratch.read(&format!("firewalld/{kept}/bypass4"));
            assert_eq!(four, "1.0.0.0/24\n3.0.0.0/24\n2.0.0.0/16\n", "{kept}");
            let six = machine.scratch.read(&format!("firewalld/{kept}/bypass6"));
            assert_eq!(six, "fd00:0:0:0:0:0:0:0/8\n", "{kept}");
        }
        let calls = machine.scratch.read("firewalld/calls");
        assert_eq!(calls.matches("--reload").count(), 1, "{calls}");
        assert_eq!(calls.matches("--new-ipset=bypass6").count(), 1, "{calls}");
        assert!(calls.contains("--type=hash:net --option=family=inet6 --option=maxelem="));
    }
}

#[test]
fn a_hundred_thousand_networks_fit() {
    let machine = Machine::new(Tools::Debian);
    let networks: Vec<_> = (0..100_000)
        .map(|at| {
            format!(
                "{}.{}.{}.0/24\n",
                100 + at / 65_536,
                at / 256 % 256,
                at % 256
            )
        })
        .collect();
    machine.list("list", &networks.concat());

    for target in [NFT, IPSET] {
        let start = Instant::now();
        machine.fill(target, &["list"]).unwrap();
        println!("{target}: {:?}", start.elapsed());

        assert_eq!(machine.has(target, 4).len(), 100_000);
    }
}

struct Machine {
    tools: Tools,
    netns: Netns,
    scratch: Scratch,
}

impl Machine {
    fn new(tools: Tools) -> Self {
        let scratch = Scratch::new();
        tools.lay_out(&scratch);

        Self {
            tools,
            netns: Netns::new("machine"),
            scratch,
        }
    }

    fn list(&self, name: &str, text: &str) {
        fs::write(self.scratch.path(name), text).unwrap();
    }

    /// Runs the script on lists of these names, or URLs.
    fn fill(&self, target: &str, sources: &[&str]) -> Result<String, String> {
        let sources = sources.iter().map(|source| match source.contains("://") {
            true => (*source).to_owned(),
            false => self.scratch.path(source),
        });
        let output = self
            .netns
            .command("env")
            .arg("-i")
            .arg(format!("PATH={}", self.tools.path(&self.scratch)))
            .arg(format!("STATE_DIRECTORY={}", self.scratch.path("state")))
            .args(self.tools.script("bypass-set.sh"))
            .arg(target)
            .args(sources)
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();

        if output.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    }

    /// What the set for a version of IP has, in order.
    fn has(&self, target: &str, version: u8) -> Vec<String> {
        let text = if target == NFT {
            self.netns
                .run(&format!("nft list set inet t bypass{version}"))
        } else {
            self.netns.run(&format!("ipset save bypass{version}"))
        };
        let networks = match text.split_once("elements = {") {
            Some((_, elements)) => elements.replace(['}', ','], " "),
            None => text
                .lines()
                .filter_map(|line| line.split(' ').nth(2))
                .collect::<Vec<_>>()
                .join(" "),
        };
        let mut networks: Vec<_> = networks
            .split_whitespace()
            .filter(|word| {
                word.starts_with(|first: char| first.is_ascii_hexdigit())
                    && word.contains(['.', ':'])
            })
            .filter(|word| !word.starts_with("hash:"))
            .map(str::to_owned)
            .collect();
        networks.sort();

        networks
    }

    fn reaches(&self, host: &str) -> bool {
        self.netns
            .try_run(&format!("ping -n -c 1 -W 1 {host}"))
            .is_ok()
    }

    fn website(&self) -> (TcpListener, String) {
        let listener = self
            .netns
            .enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let url = format!("http://{}/list.txt", listener.local_addr().unwrap());

        (listener, url)
    }

    /// Puts a stand-in for firewalld's program in its place. firewalld needs a
    /// bus, and to own the machine.
    fn firewalld(&self) {
        let folder = self.scratch.path("firewalld");
        fs::create_dir_all(format!("{folder}/permanent")).unwrap();
        fs::create_dir_all(format!("{folder}/runtime")).unwrap();
        fs::create_dir_all(self.scratch.path("bin")).unwrap();
        self.scratch.script(
            "bin/firewall-cmd",
            &format!(
                "PATH=/usr/bin:/bin; cd {folder}; echo \"$*\" >>calls; kept=runtime\n\
                 for word; do value=${{word#*=}}; case $word in\n\
                 --permanent) kept=permanent ;;\n\
                 --ipset=*) set=$value ;;\n\
                 --new-ipset=*) : >permanent/$value ;;\n\
                 --get-ipsets) ls $kept | tr '\\n' ' ' ;;\n\
                 --get-entries) cat $kept/$set ;;\n\
                 --add-entries-from-file=*) cat $value >>$kept/$set ;;\n\
                 --remove-entries-from-file=*) grep -vxFf $value $kept/$set >left; mv left $kept/$set ;;\n\
                 --reload) cp permanent/* runtime ;;\n\
                 esac; done"
            ),
        );
    }
}

/// Answers one request for a page.
fn serve(listener: &TcpListener, page: &str) {
    let (mut browser, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        browser.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let length = page.len();
    write!(
        browser,
        "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{page}"
    )
    .unwrap();
}

/// Numbers from a seed (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Networks that lie close enough to be in each other, of every length.
    fn networks(mut self, count: usize) -> impl Iterator<Item = IpNet> {
        (0..count).map(move |_| {
            let (spread, length) = (self.next(), self.next());
            if spread % 2 == 0 {
                let address = Ipv4Addr::from_bits(0x0a00_0000 | (spread >> 40) as u32);
                IpNet::new(address.into(), 12 + (length % 21) as u8).unwrap()
            } else {
                let low = (u128::from(spread) << 61) | u128::from(self.next());
                let address = Ipv6Addr::from_bits((0x2001_0db8 << 96) | (low % (1 << 76)));
                IpNet::new(address.into(), 53 + (length % 76) as u8).unwrap()
            }
        })
    }
}

fn everywhere() -> impl Iterator<Item = (Tools, &'static str)> {
    TOOLS
        .into_iter()
        .flat_map(|tools| [NFT, IPSET].map(|target| (tools, target)))
}

const NFT: &str = "nft:t:bypass";

const IPSET: &str = "ipset:bypass";
