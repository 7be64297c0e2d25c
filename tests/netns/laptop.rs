//! A machine for the scripts: two uplinks and a device for the tunnel, nothing
//! behind any of them; with dash and iproute2, and with busybox alone.

use std::fs;
use std::os::unix::fs::symlink;

use crate::namespace::Netns;
use crate::network::connect;
use crate::scratch::Scratch;

/// A laptop with two links, a device for the tunnel, and a script to run.
pub(crate) struct Laptop {
    /// `up-NAME.sh` and `down-NAME.sh` are run.
    script: &'static str,
    tools: Tools,
    pub(crate) netns: Netns,
    _router: Netns,
    pub(crate) scratch: Scratch,
    pub(crate) server: &'static str,
    pub(crate) out6: &'static str,
    pub(crate) fwmark: &'static str,
    /// Whether there is one; `iptables` there is always.
    pub(crate) nft: bool,
    tun: &'static str,
}

/// What the scripts find on a machine, besides their own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tools {
    /// dash and iproute2.
    Debian,
    /// Its shell, its `ip`, and nothing of anybody else but the firewall's.
    Busybox,
}

impl Tools {
    /// A hook that runs the script by that name with these tools.
    pub(crate) fn hook(self, scratch: &Scratch, script: &str) -> String {
        self.lay_out(scratch);
        let (path, words) = (self.path(scratch), self.script(script));

        scratch.script(
            &format!("{script}.hook"),
            &format!("PATH={path} exec {}", words.join(" ")),
        )
    }

    /// Gives the tools a folder of their own.
    pub(crate) fn lay_out(self, scratch: &Scratch) {
        let bin = scratch.path("bin");
        if self == Self::Debian || fs::exists(&bin).unwrap() {
            return;
        }
        fs::create_dir(&bin).unwrap();
        for applet in APPLETS {
            symlink(BUSYBOX, format!("{bin}/{applet}")).unwrap();
        }
    }

    pub(crate) fn path(self, scratch: &Scratch) -> String {
        let bin = scratch.path("bin");
        match self {
            Self::Debian => format!("{bin}:/usr/bin:/bin"),
            Self::Busybox => bin,
        }
    }

    /// The command that runs a script of ours.
    pub(crate) fn script(self, name: &str) -> Vec<String> {
        let script = format!("{SCRIPTS}/{name}");
        match self {
            Self::Debian => vec!["dash".to_owned(), script],
            Self::Busybox => vec![BUSYBOX.to_owned(), "ash".to_owned(), script],
        }
    }
}

impl Laptop {
    pub(crate) fn new(script: &'static str, tools: Tools) -> Self {
        let scratch = Scratch::new();
        tools.lay_out(&scratch);
        let (netns, router) = (Netns::new("laptop"), Netns::new("router"));
        connect(&netns, "uplink", &router, "left");
        connect(&netns, "other", &router, "right");
        netns.ip("addr add 192.168.5.2/24 dev uplink");
        netns.ip("addr add 2001:db8:5::2/64 dev uplink nodad");
        netns.ip("route add default via 192.168.5.1");
        netns.ip("-6 route add default via fe80::1 dev uplink");

        let mut laptop = Self {
            script,
            tools,
            netns,
            _router: router,
            scratch,
            server: "198.51.100.7",
            out6: "1",
            fwmark: "0x640000/0xff0000",
            nft: true,
            tun: "dtun0",
        };
        laptop.device("dtun0");

        laptop
    }

    /// Makes the device of the tunnel, as a spoke does.
    pub(crate) fn device(&mut self, name: &'static str) {
        self.netns.ip(&format!("tuntap add {name} mode tun"));
        self.netns
            .sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1");
        self.netns
            .ip(&format!("addr add 10.0.0.2 peer 10.0.0.1 dev {name}"));
        self.netns.ip(&format!("link set {name} up"));
        self.tun = name;
    }

    /// Writes the bypass list.
    pub(crate) fn list(&self, text: &str) {
        fs::write(self.scratch.path("list"), text).unwrap();
    }

    /// Runs the script; what it said, or what it said when it failed.
    pub(crate) fn up(&self) -> Result<String, String> {
        self.run("up")
    }

    pub(crate) fn down(&self) -> Result<String, String> {
        self.run("down")
    }

    fn run(&self, which: &str) -> Result<String, String> {
        let hidden = if self.nft { "" } else { "/usr/sbin/nft" };
        let output = self
            .netns
            .command("sh")
            .args(["-c", HIDE, hidden])
            .args(["env", "-i"])
            .arg(format!("PATH={}", self.tools.path(&self.scratch)))
            .arg(format!("TUN={}", self.tun))
            .arg(format!("SERVER_IP={}", self.server))
            .arg("SERVER_PORT=443")
            .arg(format!("FWMARK={}", self.fwmark))
            .arg(format!("OUT6={}", self.out6))
            .arg("LOCAL_IP4=10.0.0.2/24")
            .arg("LOCAL_IP6=fc00::2/120")
            .arg(format!("DTUN={}", env!("CARGO_BIN_EXE_dtun")))
            .arg(format!("DTUN_RUN={}", self.scratch.path("run")))
            .arg(format!("DTUN_BYPASS={}", self.scratch.path("list")))
            .args(self.tools.script(&format!("{which}-{}.sh", self.script)))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();

        if output.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    }

    /// What the script has put there, one `NET [via GATEWAY] dev DEVICE` a line.
    pub(crate) fn ours(&self, family: &str) -> String {
        let routes = self.netns.ip(&format!("{family} route show proto 117"));
        let mut routes: Vec<_> = routes
            .lines()
            .map(|route| {
                let words: Vec<_> = route.split_whitespace().collect();
                let device = words.iter().position(|word| *word == "dev").unwrap() + 1;
                words[..=device].join(" ") + "\n"
            })
            .collect();
        routes.sort();

        routes.concat()
    }

    /// Everything of the network that a script may set.
    pub(crate) fn everything(&self) -> String {
        let rules = ["-4", "-6"].map(|family| self.netns.ip(&format!("{family} rule")));
        let firewall = self.netns.run("nft -s list ruleset");

        [self.tables(), rules.concat(), firewall].concat()
    }

    /// Every route there is.
    pub(crate) fn tables(&self) -> String {
        ["-4", "-6"]
            .map(|family| self.netns.ip(&format!("{family} route show table all")))
            .concat()
    }

    pub(crate) fn without_ours(&self) -> String {
        self.tables()
            .lines()
            .filter(|route| !route.contains("proto 117"))
            .map(|route| format!("{route}\n"))
            .collect()
    }

    /// How many files the script has left behind.
    pub(crate) fn records(&self) -> usize {
        fs::read_dir(self.scratch.path("run")).unwrap().count()
    }

    /// Notes every call of `ip` from now on in the file `calls`.
    pub(crate) fn count_ip(&self) {
        let ip = self.scratch.path("bin/ip");
        let real = match self.tools {
            Tools::Debian => "/usr/sbin/ip".to_owned(),
            Tools::Busybox => {
                fs::remove_file(&ip).unwrap();
                format!("{BUSYBOX} ip")
            }
        };
        fs::create_dir_all(self.scratch.path("bin")).unwrap();
        let calls = self.scratch.path("calls");
        self.scratch.script(
            "bin/ip",
            &format!("echo \"$*\" >>{calls}\nexec {real} \"$@\""),
        );
    }
}

pub(crate) const TOOLS: [Tools; 2] = [Tools::Debian, Tools::Busybox];

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

const BUSYBOX: &str = "/bin/busybox";

const APPLETS: [&str; 20] = [
    "ash",
    "awk",
    "cat",
    "dirname",
    "grep",
    "id",
    "ip",
    "ln",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sed",
    "sleep",
    "sort",
    "start-stop-daemon",
    "su",
    "tr",
    "wc",
    "wget",
];

/// Hides a file from a command, in the mount namespace that `ip netns exec` makes.
pub(crate) const HIDE: &str = "[ -z \"$0\" ] || mount --bind /dev/null \"$0\"; exec \"$@\"";
