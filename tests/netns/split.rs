//! The up-script by itself: which routes it sets, and that it takes away these
//! and no other; with dash and iproute2, and with busybox alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use crate::namespace::Netns;
use crate::network::connect;
use crate::scratch::Scratch;

#[test]
fn all_but_the_hub_and_the_list_goes_into_the_tunnel() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);
        laptop.list(
            "# chnroutes\r\n\r\n1.0.1.0/24\r\n 1.0.2.0/23 # two\n2001:db8:77::/48\n8.8.8.8\n",
        );

        let said = laptop.up();

        assert_eq!(
            laptop.ours("-4"),
            "0.0.0.0/1 dev dtun0\n\
             1.0.1.0/24 via 192.168.5.1 dev uplink\n\
             1.0.2.0/23 via 192.168.5.1 dev uplink\n\
             128.0.0.0/1 dev dtun0\n\
             198.51.100.7 via 192.168.5.1 dev uplink\n\
             8.8.8.8 via 192.168.5.1 dev uplink\n"
        );
        assert_eq!(
            laptop.ours("-6"),
            "2001:db8:77::/48 via fe80::1 dev uplink\n\
             8000::/1 dev dtun0\n\
             ::/1 dev dtun0\n"
        );
        assert!(
            said.contains("4 networks via 192.168.5.1 dev uplink: 0 lines are no networks"),
            "{said}"
        );
    }
}

#[test]
fn down_leaves_the_routes_as_they_were() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");
        let before = laptop.tables();

        laptop.up();
        assert_ne!(laptop.tables(), before);
        laptop.down();

        assert_eq!(laptop.tables(), before);
        assert_eq!(laptop.records(), 0);
    }
}

#[test]
fn a_second_run_changes_nothing_and_complains_of_nothing() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);
        laptop.list("1.0.1.0/24\n1.0.2.0/24\n");
        let before = laptop.tables();
        laptop.up();
        let once = laptop.tables();

        let said = laptop.up();

        assert_eq!(laptop.tables(), once);
        assert!(said.contains("2 already routed, 0 refused"), "{said}");
        laptop.down();
        assert_eq!(laptop.tables(), before);
    }
}

#[test]
fn a_line_that_is_no_network_is_counted_and_stops_nothing() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);
        laptop.list(
            "1.0.1.0/24\n300.0.0.0/8\n1.0.0/24\n1.0.0.0/33\nhello\n1.0.3.0/24 via 1.2.3.4\n0.0.0.0/0\n\
             ; ip link del uplink\n$(reboot)\n::/0\n2001:db8::/129\n1.0.4.9/24",
        );

        let said = laptop.up();

        assert!(
            said.contains("2 networks via 192.168.5.1 dev uplink: 10 lines are no networks"),
            "{said}"
        );
        let routes = laptop.ours("-4");
        assert!(
            routes.contains("1.0.1.0/24 via") && routes.contains("1.0.4.0/24 via"),
            "{routes}"
        );
    }
}

#[test]
fn what_hung_on_the_old_gateway_moves_to_the_new_one() {
    for tools in TOOLS {
        let mut laptop = Laptop::new(tools);
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");
        laptop.up();

        laptop.netns.ip("addr add 192.168.6.2/24 dev other");
        laptop.netns.ip("route replace default via 192.168.6.1");
        laptop
            .netns
            .ip("-6 route replace default via fe80::2 dev other");
        let before = laptop.without_ours();
        laptop.server = "198.51.100.8";
        laptop.up();

        assert_eq!(
            laptop.ours("-4"),
            "0.0.0.0/1 dev dtun0\n\
             1.0.1.0/24 via 192.168.6.1 dev other\n\
             128.0.0.0/1 dev dtun0\n\
             198.51.100.8 via 192.168.6.1 dev other\n"
        );
        assert!(
            laptop
                .ours("-6")
                .contains("2001:db8:77::/48 via fe80::2 dev other")
        );
        laptop.down();
        assert_eq!(laptop.tables(), before);
    }
}

#[test]
fn a_link_without_a_gateway_and_a_hub_next_door_need_none() {
    for tools in TOOLS {
        let mut laptop = Laptop::new(tools);
        laptop.list("1.0.1.0/24\n");

        laptop.server = "192.168.5.9";
        laptop.up();
        assert!(laptop.ours("-4").contains("192.168.5.9 dev uplink\n"));

        laptop.netns.ip("route replace default dev other");
        laptop.server = "198.51.100.7";
        laptop.up();
        let routes = laptop.ours("-4");
        assert!(routes.contains("198.51.100.7 dev other\n"), "{routes}");
        assert!(routes.contains("1.0.1.0/24 dev other\n"), "{routes}");
    }
}

#[test]
fn the_user_s_own_routes_are_neither_changed_nor_taken_away() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);
        laptop.netns.ip("route add 1.0.1.0/24 via 192.168.5.77");
        laptop.netns.ip("route add 198.51.100.7 via 192.168.5.78");
        laptop
            .netns
            .ip("-6 route add 2001:db8:77::/48 via fe80::77 dev uplink");
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n1.0.2.0/24\n");
        let before = laptop.tables();

        let said = laptop.up();

        assert!(said.contains("2 already routed, 0 refused"), "{said}");
        laptop.down();
        assert_eq!(laptop.tables(), before);
    }
}

#[test]
fn after_a_kill_the_next_up_and_down_clean_up_even_under_another_name() {
    for tools in TOOLS {
        let mut laptop = Laptop::new(tools);
        laptop.netns.ip("link del dtun0");
        let before = laptop.tables();
        for next in ["dtun0", "dtun1"] {
            laptop.device("dtun0");
            laptop.list("1.0.1.0/24\n");
            laptop.up();
            laptop.netns.ip("link del dtun0");

            laptop.device(next);
            laptop.list("1.0.2.0/24\n");
            laptop.up();
            assert!(!laptop.ours("-4").contains("1.0.1.0/24"));
            laptop.down();
            laptop.netns.ip(&format!("link del {next}"));

            assert_eq!(laptop.tables(), before);
            assert_eq!(laptop.records(), 0);
        }
    }
}

#[test]
fn a_tunnel_without_ipv6_to_the_outside_leaves_ipv6_alone() {
    for tools in TOOLS {
        let mut laptop = Laptop::new(tools);
        laptop.out6 = "";
        laptop.list("1.0.1.0/24\n2001:db8:77::/48\n");

        laptop.up();

        assert_eq!(laptop.ours("-6"), "");
    }
}

#[test]
fn a_hub_with_an_ipv6_address_keeps_its_gateway() {
    for tools in TOOLS {
        let mut laptop = Laptop::new(tools);
        laptop.server = "2001:db8:9::7";
        laptop.list("");

        laptop.up();

        let routes = laptop.ours("-6");
        assert!(
            routes.contains("2001:db8:9::7 via fe80::1 dev uplink\n"),
            "{routes}"
        );
    }
}

#[test]
fn a_list_that_cannot_be_read_is_said_and_the_rest_is_done() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);

        let said = laptop.run("up").unwrap_err();

        assert!(said.contains("cannot read the bypass list"), "{said}");
        assert!(laptop.ours("-4").contains("128.0.0.0/1 dev dtun0"));
    }
}

#[test]
fn no_gateway_but_the_tunnel_is_said() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);
        laptop.netns.ip("route del default");
        laptop.netns.ip("route add default dev dtun0");

        let said = laptop.run("up").unwrap_err();

        assert!(
            said.contains("no gateway to 198.51.100.7 but the tunnel itself"),
            "{said}"
        );
    }
}

#[test]
fn ten_thousand_networks_are_one_bulk_load() {
    for tools in TOOLS {
        let laptop = Laptop::new(tools);
        let networks: Vec<_> = (0..10_000)
            .map(|at| format!("100.{}.{}.0/24\n", at / 256, at % 256))
            .collect();
        laptop.list(&networks.concat());
        let before = laptop.tables();
        laptop.count_ip();

        let start = Instant::now();
        laptop.up();
        println!("{tools:?}: 10,000 networks in {:?}", start.elapsed());

        assert_eq!(laptop.ours("-4").lines().count(), 10_003);
        let calls = laptop.scratch.read("calls").lines().count();
        assert!(calls < 40, "{calls} calls of ip");
        laptop.down();
        assert_eq!(laptop.tables(), before);
    }
}

/// A laptop with two links, a device for the tunnel, and a script to run.
struct Laptop {
    tools: Tools,
    netns: Netns,
    _router: Netns,
    scratch: Scratch,
    server: &'static str,
    out6: &'static str,
    tun: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tools {
    /// dash and iproute2.
    Debian,
    /// Its shell, its `ip`, and nothing of anybody else.
    Busybox,
}

impl Laptop {
    fn new(tools: Tools) -> Self {
        let scratch = Scratch::new();
        if tools == Tools::Busybox {
            fs::create_dir(scratch.path("bin")).unwrap();
            for applet in APPLETS {
                symlink(BUSYBOX, scratch.path(&format!("bin/{applet}"))).unwrap();
            }
        }
        let (netns, router) = (Netns::new("laptop"), Netns::new("router"));
        connect(&netns, "uplink", &router, "left");
        connect(&netns, "other", &router, "right");
        netns.ip("addr add 192.168.5.2/24 dev uplink");
        netns.ip("addr add 2001:db8:5::2/64 dev uplink nodad");
        netns.ip("route add default via 192.168.5.1");
        netns.ip("-6 route add default via fe80::1 dev uplink");

        let mut laptop = Self {
            tools,
            netns,
            _router: router,
            scratch,
            server: "198.51.100.7",
            out6: "1",
            tun: "dtun0",
        };
        laptop.device("dtun0");

        laptop
    }

    /// Makes the device of the tunnel, as a spoke does.
    fn device(&mut self, name: &'static str) {
        self.netns.ip(&format!("tuntap add {name} mode tun"));
        self.netns
            .sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1");
        self.netns
            .ip(&format!("addr add 10.0.0.2 peer 10.0.0.1 dev {name}"));
        self.netns.ip(&format!("link set {name} up"));
        self.tun = name;
    }

    /// Writes the bypass list.
    fn list(&self, text: &str) {
        fs::write(self.scratch.path("list"), text).unwrap();
    }

    fn up(&self) -> String {
        self.run("up").unwrap()
    }

    fn down(&self) {
        self.run("down").unwrap();
    }

    fn run(&self, which: &str) -> Result<String, String> {
        let bin = self.scratch.path("bin");
        let (shell, path) = match self.tools {
            Tools::Debian => ("dash".to_owned(), format!("{bin}:/usr/bin:/bin")),
            Tools::Busybox => (format!("{bin}/ash"), bin),
        };
        let output = self
            .netns
            .command("env")
            .arg("-i")
            .arg(format!("PATH={path}"))
            .arg(format!("TUN={}", self.tun))
            .arg(format!("SERVER_IP={}", self.server))
            .arg(format!("OUT6={}", self.out6))
            .arg("LOCAL_IP6=fc00::2/120")
            .arg(format!("DTUN={}", env!("CARGO_BIN_EXE_dtun")))
            .arg(format!("DTUN_RUN={}", self.scratch.path("run")))
            .arg(format!("DTUN_BYPASS={}", self.scratch.path("list")))
            .args([&shell, &format!("{SCRIPTS}/{which}-split.sh")])
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
    fn ours(&self, family: &str) -> String {
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

    /// Every route there is.
    fn tables(&self) -> String {
        ["-4", "-6"]
            .map(|family| self.netns.ip(&format!("{family} route show table all")))
            .concat()
    }

    fn without_ours(&self) -> String {
        self.tables()
            .lines()
            .filter(|route| !route.contains("proto 117"))
            .map(|route| format!("{route}\n"))
            .collect()
    }

    /// How many files the script has left behind.
    fn records(&self) -> usize {
        fs::read_dir(self.scratch.path("run")).unwrap().count()
    }

    /// Notes every call of `ip` from now on in the file `calls`.
    fn count_ip(&self) {
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

const TOOLS: [Tools; 2] = [Tools::Debian, Tools::Busybox];

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");

const BUSYBOX: &str = "/bin/busybox";

const APPLETS: [&str; 11] = [
    "ash", "awk", "grep", "ip", "mkdir", "mv", "readlink", "rm", "sed", "tr", "wc",
];
