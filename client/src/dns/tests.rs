//! The three ways on folders of the tests' own, with programs that only note
//! what they are asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::change::{Checked, Wish, check, set, undo_own};
use super::file::{Held, place};
use super::places::Places;
use super::record::{self, Record};
use super::scratch::Scratch;
use super::*;

const THEIRS: &str = "# NetworkManager\nsearch lan\nnameserver 192.0.2.53\n";

#[test]
fn what_cannot_be_put_back_is_told_to_whoever_cleans_up() {
    let machine = Machine::new();
    machine.set();
    machine.kill();
    fs::remove_file(&machine.places.resolv_conf).unwrap();
    fs::create_dir(&machine.places.resolv_conf).unwrap();

    assert!(!change::clean_up(&machine.places, &[]));
    assert_eq!(machine.records().len(), 1);

    fs::remove_dir(&machine.places.resolv_conf).unwrap();
    assert!(change::clean_up(&machine.places, &[]));
    assert!(machine.records().is_empty());
}

struct Machine {
    scratch: Scratch,
    places: Places,
    wish: Wish,
}

impl Machine {
    fn new() -> Self {
        let scratch = Scratch::new();
        for folder in ["etc", "run", "bin"] {
            fs::create_dir(scratch.path(folder)).unwrap();
        }
        let places = Places {
            resolv_conf: scratch.path("etc/resolv.conf"),
            mounted: None,
            resolved: scratch.path("run/resolved.conf"),
            nsswitch: scratch.path("etc/nsswitch.conf"),
            interface_order: scratch.path("etc/interface-order"),
            upstreams: vec![scratch.path("run/resolved.conf")],
            records: vec![scratch.path("state"), scratch.path("run")],
            programs: vec![scratch.path("bin")],
            guarded: false,
        };
        let wish = Wish {
            device: "dtun0".to_owned(),
            index: 7,
            servers: ips(&["10.0.0.1", "fc00::1"]),
        };
        let machine = Self {
            scratch,
            places,
            wish,
        };
        machine.write(THEIRS);

        machine
    }

    /// Another tunnel on the same machine.
    fn other(&self) -> Wish {
        Wish {
            device: "dtun1".to_owned(),
            index: 8,
            servers: ips(&["10.1.0.1"]),
        }
    }

    fn write(&self, text: &str) {
        Held::read(&self.places.resolv_conf)
            .unwrap()
            .with(text.into())
            .put(&self.places.resolv_conf, &self.scratch.path("etc/aside"))
            .unwrap();
    }

    fn read(&self) -> String {
        fs::read_to_string(&self.places.resolv_conf).unwrap()
    }

    fn set(&self) {
        self.set_for(&self.wish);
    }

    fn set_for(&self, wish: &Wish) {
        set(&self.places, wish, &AtomicBool::new(false)).unwrap();
    }

    fn check(&self) -> Checked {
        check(&self.places, &self.wish).unwrap()
    }

    fn undo(&self, wish: &Wish) {
        undo_own(&self.places, &wish.device).unwrap();
    }

    /// The record as it is when its process has been killed.
    fn kill(&self) {
        let path = self.places.own_record("dtun0").unwrap();
        let text = fs::read(&path).unwrap();
        let line = format!("process {} ", std::process::id());
        let text = String::from_utf8(text)
            .unwrap()
            .replace(&line, "process 0 ");
        fs::write(&path, text).unwrap();
    }

    fn records(&self) -> Vec<PathBuf> {
        record::all(&self.places.records)
    }

    fn etc(&self) -> Vec<String> {
        let names = fs::read_dir(self.scratch.path("etc")).unwrap();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// A program that notes its words and its input, and then does `more`.
    fn program(&self, name: &str, more: &str) {
        let calls = self.scratch.path("calls");
        let path = self.scratch.path("bin").join(name);
        let text = format!(
            "#!/bin/sh\necho {name} \"$@\" >>{0}\ncat >>{0}\n{more}\n",
            calls.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What programs were asked since the last time.
    fn calls(&self) -> Vec<String> {
        let path = self.scratch.path("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn before(resolvers: &mut Resolvers) -> Vec<IpAddr> {
    let servers = resolvers.before();

    servers.iter().map(SocketAddr::ip).collect()
}

fn asked(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver "))
        .collect()
}

#[test]
fn resolv_conf_is_ours_and_then_theirs_again() {
    let machine = Machine::new();
    machine.set();

    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
    assert!(machine.read().contains("\nsearch lan\n"));
    assert_eq!(machine.check(), Checked::Stands);

    machine.undo(&machine.wish);
    assert_eq!(machine.read(), THEIRS);
    assert!(machine.records().is_empty());
    assert_eq!(machine.etc(), ["resolv.conf"]);
}

#[test]
fn a_link_and_nothing_come_back_as_they_were() {
    let machine = Machine::new();
    let path = &machine.places.resolv_conf;
    fs::remove_file(path).unwrap();
    symlink("../run/theirs", path).unwrap();
    fs::write(machine.scratch.path("run/theirs"), THEIRS).unwrap();

    machine.set();
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
    let theirs = fs::read_to_string(machine.scratch.path("run/theirs")).unwrap();
    assert_eq!(theirs, THEIRS);
    machine.undo(&machine.wish);
    assert_eq!(fs::read_link(path).unwrap(), Path::new("../run/theirs"));

    fs::remove_file(path).unwrap();
    machine.set();
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
    machine.undo(&machine.wish);
    assert_eq!(machine.etc(), [""; 0]);
}

#[test]
fn what_others_write_meanwhile_is_what_comes_at_the_end() {
    let machine = Machine::new();
    machine.set();

    let newer = "nameserver 198.51.100.1\n";
    machine.write(newer);
    assert_eq!(machine.check(), Checked::Again);
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
    assert_eq!(machine.check(), Checked::Stands);
    machine.undo(&machine.wish);
    assert_eq!(machine.read(), newer);

    machine.set();
    machine.write(THEIRS); // Nobody looked any more.
    machine.undo(&machine.wish);
    assert_eq!(machine.read(), THEIRS);
    assert!(machine.records().is_empty());
}

#[test]
fn a_file_that_is_removed_or_linked_elsewhere_is_theirs_too() {
    let machine = Machine::new();
    let path = &machine.places.resolv_conf;
    machine.set();

    fs::remove_file(path).unwrap();
    assert_eq!(machine.check(), Checked::Again);
    machine.undo(&machine.wish);
    assert!(!path.exists());

    machine.set();
    fs::remove_file(path).unwrap();
    symlink("elsewhere", path).unwrap();
    assert_eq!(machine.check(), Checked::Again);
    machine.undo(&machine.wish);
    assert_eq!(fs::read_link(path).unwrap(), Path::new("elsewhere"));
}

#[test]
fn what_a_killed_process_left_is_undone_and_what_a_living_one_set_is_not() {
    let machine = Machine::new();
    machine.set();

    change::clean_up(&machine.places, &[]);
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);

    machine.kill();
    change::clean_up(&machine.places, &[]);
    assert_eq!(machine.read(), THEIRS);
    assert!(machine.records().is_empty());
}

#[test]
fn a_kill_before_the_file_was_replaced_leaves_theirs() {
    let machine = Machine::new();
    machine.set();
    let path = machine.places.own_record("dtun0").unwrap();
    let record = fs::read(&path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    machine.undo(&machine.wish);

    // With a record, with the file beside, with neither in its place.
    fs::write(&path, record).unwrap();
    let aside = machine.scratch.path(&format!("etc/.resolv.conf.{name}"));
    fs::write(&aside, "nameserver 10.0.0.1\n").unwrap();
    machine.kill();
    change::clean_up(&machine.places, &[]);

    assert_eq!(machine.read(), THEIRS);
    assert_eq!(machine.etc(), ["resolv.conf"]);
    assert!(machine.records().is_empty());
}

#[test]
fn a_record_that_is_none_is_left_alone() {
    let machine = Machine::new();
    fs::create_dir_all(&machine.places.records[0]).unwrap();
    let path = machine.places.records[0].join("dns-dtun0-1");
    fs::write(&path, "something else").unwrap();

    change::clean_up(&machine.places, &[]);

    assert!(path.exists());
    assert_eq!(machine.read(), THEIRS);
}

#[test]
fn of_two_tunnels_the_last_one_leaves_what_was_there_before_both() {
    for first_goes_first in [true, false] {
        let machine = Machine::new();
        machine.set();
        machine.set_for(&machine.other());
        assert_eq!(asked(&machine.read()), ["10.1.0.1"]);
        assert_eq!(machine.check(), Checked::Yielded);

        if first_goes_first {
            machine.undo(&machine.wish);
            assert_eq!(asked(&machine.read()), ["10.1.0.1"]);
            machine.undo(&machine.other());
        } else {
            machine.undo(&machine.other());
            assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
            machine.undo(&machine.wish);
        }

        assert_eq!(machine.read(), THEIRS);
        assert!(machine.records().is_empty());
    }
}

#[test]
fn what_was_revoked_is_not_set() {
    let machine = Machine::new();

    let set = set(&machine.places, &machine.wish, &AtomicBool::new(true));

    assert!(set.unwrap().is_none());
    assert_eq!(machine.read(), THEIRS);
    assert!(machine.records().is_empty());
}

#[test]
fn without_a_place_for_the_record_nothing_is_changed() {
    let mut machine = Machine::new();
    machine.places.records = vec!["/proc/none".into()];

    let error = set(&machine.places, &machine.wish, &AtomicBool::new(false)).unwrap_err();

    assert!(error.to_string().contains("note what was there"), "{error}");
    assert_eq!(machine.read(), THEIRS);

    machine.places.records.push(machine.scratch.path("run"));
    machine.set();
    assert_eq!(machine.records().len(), 1);
}

#[test]
fn systemd_resolved_is_asked_where_resolv_conf_asks_it() {
    let machine = Machine::new();
    machine.write("nameserver 127.0.0.53\noptions trust-ad\n");
    let before = machine.read();
    machine.program("resolvectl", "");

    machine.set();
    assert_eq!(
        machine.calls(),
        [
            "resolvectl dns dtun0 10.0.0.1 fc00::1",
            "resolvectl domain dtun0 ~.",
            "resolvectl default-route dtun0 yes",
        ]
    );
    assert_eq!(machine.read(), before);

    let listed = &machine.places.resolved;
    fs::write(
        listed,
        "nameserver 10.0.0.1\nnameserver fc00::1\nnameserver 192.0.2.1\n",
    )
    .unwrap();
    assert_eq!(machine.check(), Checked::Stands);
    fs::write(listed, "nameserver 192.0.2.1\n").unwrap();
    assert_eq!(machine.check(), Checked::Again);
    assert_eq!(machine.calls().len(), 3);

    machine.undo(&machine.wish);
    assert_eq!(machine.calls(), ["resolvectl revert dtun0"]);
    assert!(machine.records().is_empty());
}

#[test]
fn systemd_resolved_that_the_c_library_asks_beside_resolv_conf_is_set_with_it() {
    let machine = Machine::new();
    fs::write(
        &machine.places.nsswitch,
        "hosts: files resolve [!UNAVAIL=return] dns\n",
    )
    .unwrap();
    machine.program("resolvectl", "");

    machine.set();

    assert_eq!(machine.calls().len(), 3);
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
    machine.undo(&machine.wish);
    assert_eq!(machine.calls(), ["resolvectl revert dtun0"]);
    assert_eq!(machine.read(), THEIRS);
}

#[test]
fn where_systemd_resolved_does_not_answer_resolv_conf_is_replaced() {
    let machine = Machine::new();
    machine.write("nameserver 127.0.0.53\n");
    machine.program("resolvectl", "exit 1");

    machine.set();

    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
    machine.undo(&machine.wish);
    assert_eq!(asked(&machine.read()), ["127.0.0.53"]);
}

#[test]
fn resolvconf_that_writes_resolv_conf_is_handed_the_servers() {
    let machine = Machine::new();
    let conf = machine.places.resolv_conf.display().to_string();
    let theirs = machine.scratch.path("theirs");
    fs::write(&theirs, THEIRS).unwrap();
    let body = format!(
        "case $1 in -a) (echo '# Generated by resolvconf'; echo nameserver 10.0.0.1) >{conf};; \
         -d) cat {} >{conf};; esac",
        theirs.display()
    );
    machine.program("resolvconf", &body);
    fs::write(&machine.places.interface_order, "lo.*\ntun*\neth*\n").unwrap();

    machine.set();
    assert_eq!(
        machine.calls(),
        [
            "resolvconf -a tun.dtun0 -m 0 -x",
            "nameserver 10.0.0.1",
            "nameserver fc00::1"
        ]
    );
    assert_eq!(machine.check(), Checked::Stands);
    machine.write(THEIRS);
    assert_eq!(machine.check(), Checked::Again);
    machine.calls();

    machine.kill();
    change::clean_up(&machine.places, &[]);
    assert_eq!(machine.calls(), ["resolvconf -d tun.dtun0 -f"]);
    assert_eq!(machine.read(), THEIRS);
}

#[test]
fn resolvconf_that_is_not_in_charge_of_resolv_conf_is_left_out() {
    for asked_first in ["192.0.2.53", "127.0.0.1"] {
        let machine = Machine::new();
        machine.write(&format!("nameserver {asked_first}\n"));
        machine.program("resolvconf", "");

        machine.set();

        let calls = machine.calls();
        assert_eq!(calls.last().unwrap(), "resolvconf -d dtun0 -f");
        assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
        machine.undo(&machine.wish);
        assert_eq!(machine.calls(), [""; 0]);
        assert_eq!(asked(&machine.read()), [asked_first]);
    }
}

#[test]
fn resolvconf_that_is_resolvectl_by_another_name_is_none() {
    let machine = Machine::new();
    machine.program("resolvectl", "");
    symlink("resolvectl", machine.scratch.path("bin/resolvconf")).unwrap();

    machine.set();

    assert_eq!(machine.calls(), [""; 0]);
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
}

#[tokio::test]
async fn before_are_the_servers_that_are_not_ours() {
    let machine = Machine::new();
    let mut resolvers = Resolvers::at(machine.places.clone());
    assert_eq!(before(&mut resolvers), ips(&["192.0.2.53"]));

    resolvers.set("dtun0", 7, &machine.wish.servers).await;
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
    assert_eq!(before(&mut resolvers), ips(&["192.0.2.53"]));

    machine.write("nameserver 127.0.0.53\n");
    let listed = &machine.places.resolved;
    fs::write(
        listed,
        "nameserver 10.0.0.1\nnameserver fc00::1\nnameserver 192.0.2.1\n",
    )
    .unwrap();
    let set_again = async {
        while asked(&machine.read()) != ["10.0.0.1", "fc00::1"] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), set_again)
        .await
        .unwrap();
    assert_eq!(before(&mut resolvers), ips(&["192.0.2.1"]));

    resolvers.restore().await;
    assert_eq!(machine.read(), "nameserver 127.0.0.53\n");
    assert!(machine.records().is_empty());

    fs::remove_file(listed).unwrap();
    machine.write("# no network\n");
    assert_eq!(before(&mut resolvers), ips(&["192.0.2.1"]));
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_nothing() {
    let machine = Machine::new();
    let mut resolvers = Resolvers::at(machine.places.clone());
    let at_once = Duration::ZERO;

    let given_up = resolvers.set("dtun0", 7, &machine.wish.servers);
    drop(tokio::time::timeout(at_once, given_up).await);
    resolvers.restore().await;

    assert_eq!(machine.read(), THEIRS);
    assert!(machine.records().is_empty());
}

#[test]
fn a_link_to_a_mount_is_changed_where_it_leads() {
    let scratch = Scratch::new();
    let (link, mount) = (scratch.path("resolv.conf"), Path::new("/proc"));
    symlink(mount, &link).unwrap();
    assert_eq!(place(&link), mount);

    fs::remove_file(&link).unwrap();
    symlink(scratch.path(""), &link).unwrap();
    assert_eq!(place(&link), link);
}

#[test]
fn a_record_of_a_process_of_another_namespace_is_its_own_matter() {
    let machine = Machine::new();
    machine.set();
    machine.kill();
    let path = machine.places.own_record("dtun0").unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("net:[", "net:[1")).unwrap();
    assert!(Record::load(&path).unwrap().owner.is_foreign());

    change::clean_up(&machine.places, &[]);

    assert!(path.exists());
    assert_eq!(asked(&machine.read()), ["10.0.0.1", "fc00::1"]);
}
