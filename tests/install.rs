//! `scripts/install.sh` below a root of the test's own, and what it installs for
//! OpenWrt, run by busybox.

#![allow(
    clippy::unwrap_used,
    reason = "in a fixture, too, a failed assumption is a failed test"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn twice_is_once_and_undone_leaves_what_was_there() {
    let root = Root::new("systemd");
    root.write("usr/local/bin/dtun", "of an earlier version");
    root.write("etc/dtun/hub.conf", "pool4 10.1.0.0/24\n");
    let before = root.picture();

    let said = root.install(&["-key"]);
    assert!(said.contains("made /etc/dtun/key"), "{said}");
    let once = root.picture();
    assert_eq!(once["usr/local/bin/dtun"], "755 a program\n");
    assert_eq!(once["etc/dtun"], "700");
    assert!(
        once["etc/dtun/key"].starts_with("600 "),
        "{}",
        once["etc/dtun/key"]
    );
    assert_eq!(once["etc/dtun/key"].len(), "600 ".len() + 43);
    assert_eq!(once["etc/dtun/hub.conf"], before["etc/dtun/hub.conf"]);
    for unit in ["dtun-hub", "dtun@", "dtun-lock@", "dtun-bypass"] {
        assert!(once.contains_key(&format!("usr/local/lib/systemd/system/{unit}.service")));
    }
    assert!(once.contains_key("usr/local/share/man/man8/dtun.8"));

    assert_eq!(root.install(&["-key"]), "");
    assert_eq!(root.picture(), once);

    // By the copy that it has installed, when the sources are gone.
    let copy = root.path("usr/local/lib/dtun/install.sh");
    root.run("sh", &[copy.to_str().unwrap(), "-uninstall"]);
    let mut after = root.picture();
    // The owner's folder stays, closed to others as it was made.
    assert_eq!(after.remove("etc/dtun"), Some("700".to_owned()));
    let mut expected = before;
    expected.remove("etc/dtun");
    assert_eq!(after, expected);
}

#[test]
fn a_key_that_is_there_stays_and_so_does_one_that_somebody_changed() {
    let root = Root::new("key");
    root.write("etc/dtun/key", "theirs");

    assert_eq!(root.install(&["-key"]), "");
    root.run("scripts/install.sh", &["-uninstall"]);
    assert!(root.picture()["etc/dtun/key"].ends_with(" theirs"));

    fs::remove_file(root.path("etc/dtun/key")).unwrap();
    root.install(&["-key"]);
    root.write("etc/dtun/key", "another");
    root.run("scripts/install.sh", &["-uninstall"]);
    assert!(root.picture()["etc/dtun/key"].ends_with(" another"));
}

#[test]
fn another_prefix_is_in_the_units_too() {
    let root = Root::new("prefix");
    let mut command = root.command("scripts/install.sh");
    command
        .env("PREFIX", "/opt/dtun")
        .arg("-binary")
        .arg(root.path("program"));

    said(command.output().unwrap());

    let unit = &root.picture()["etc/systemd/system/dtun@.service"];
    assert!(
        unit.contains("ExecStart=/opt/dtun/bin/dtun -config"),
        "{unit}"
    );
    assert!(!unit.contains("/usr/local"), "{unit}");
}

#[test]
fn a_prefix_that_units_cannot_take_is_refused_before_anything_is_written() {
    let root = Root::new("refused");
    let before = root.picture();

    for prefix in [
        "opt/dtun",
        ".",
        "/opt/my dir",
        "/opt/a|b",
        "/opt/%n",
        "/opt\nb",
    ] {
        for task in [&["-binary", "program"][..], &["-uninstall"]] {
            let mut command = root.command("scripts/install.sh");
            let output = command.env("PREFIX", prefix).args(task).output().unwrap();

            assert_eq!(output.status.code(), Some(2), "{prefix}");
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(told.starts_with("install: PREFIX is to be"), "{told}");
        }
    }
    assert_eq!(root.picture(), before);
}

#[test]
fn a_root_with_blanks_in_its_name_is_left_as_it_was() {
    let root = Root::new("with two blanks");
    root.write("usr/local/lib/dtun/mine", "theirs");
    let before = root.picture();

    root.install(&[]);
    let said = root.run("scripts/install.sh", &["-uninstall"]);

    let mut after = root.picture();
    assert_eq!(said, "");
    assert_eq!(after.remove("etc/dtun"), None);
    assert_eq!(after, before);
}

#[test]
fn on_openwrt_procd_keeps_a_process_for_each_file() {
    let root = Root::openwrt("start");
    root.write("etc/dtun/hub.conf", "nat\n");
    root.write("etc/dtun/home.conf", "connect h:1\n");

    let conf = root.path("etc/dtun").display().to_string();
    let instance = |name: &str| {
        format!(
            "procd_open_instance {name}\n\
             procd_set_param command /usr/bin/dtun -config {conf}/{name}.conf\n\
             procd_set_param env STATE_DIRECTORY={conf}/state/{name}\n\
             procd_set_param respawn 60 1 0\n\
             procd_set_param term_timeout 330\n\
             procd_set_param limits core=0 0\n\
             procd_set_param stdout 1\n\
             procd_set_param stderr 1\n\
             procd_close_instance\n"
        )
    };
    let both = instance("home") + &instance("hub");

    assert_eq!(root.init("start", &[]), both);
    assert_eq!(root.init("start", &["hub"]), instance("hub"));
    assert_eq!(root.init("start", &["none"]), "");
    assert_eq!(
        root.init("reload", &[]),
        format!("procd_send_signal dtun  HUP\n{both}")
    );
    assert_eq!(
        root.init("restart", &[]),
        format!("procd_send_signal dtun  USR1\n{both}")
    );
    assert_eq!(
        root.init("restart", &["hub"]),
        format!("procd_send_signal dtun hub USR1\n{}", instance("hub"))
    );
    assert_eq!(
        root.init("stop", &["hub"]),
        format!(
            "dtun clean -config {conf}/hub.conf -state {conf}/state/hub\nprocd_kill dtun hub\n"
        )
    );
    assert_eq!(root.picture()["etc/dtun/state/hub"], "700");
}

#[test]
fn on_openwrt_an_install_is_undone_too() {
    let root = Root::openwrt("undone");
    root.run("busybox", &["ash", "scripts/install.sh", "-uninstall"]);
    let after = root.picture();

    let expected = ["etc", "etc/rc.common", "program"];
    assert_eq!(after.keys().collect::<Vec<_>>(), expected);
}

/// A folder that stands for `/`, with a program to be installed beside it.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("install-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let root = Self(path);
        root.write("program", "a program\n");

        root
    }

    /// With what OpenWrt has, as far as our script uses it, installed by its shell.
    fn openwrt(name: &str) -> Self {
        let root = Self::new(name);
        root.write("etc/rc.common", RC_COMMON);
        let program = root.path("program");
        root.run(
            "busybox",
            &[
                "ash",
                "scripts/install.sh",
                "-binary",
                program.to_str().unwrap(),
            ],
        );

        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("DESTDIR", &self.0)
            .env_remove("PREFIX");

        command
    }

    /// Runs a program that must succeed; returns what it printed.
    #[track_caller]
    fn run(&self, program: &str, args: &[&str]) -> String {
        said(self.command(program).args(args).output().unwrap())
    }

    #[track_caller]
    fn install(&self, args: &[&str]) -> String {
        let program = self.path("program");
        let mut command = self.command("scripts/install.sh");

        said(
            command
                .arg("-binary")
                .arg(program)
                .args(args)
                .output()
                .unwrap(),
        )
    }

    /// The calls that an action of the init script ends in.
    #[track_caller]
    fn init(&self, action: &str, args: &[&str]) -> String {
        let mut command = self.command("busybox");
        command
            .args(["ash", "-eu"])
            .args([self.path("etc/rc.common"), self.path("etc/init.d/dtun")])
            .arg(action)
            .args(args);

        said(command.output().unwrap())
    }

    /// Every file with its mode and text, every folder, by their paths.
    fn picture(&self) -> BTreeMap<String, String> {
        let mut picture = BTreeMap::new();
        self.add(&self.0, &mut picture);

        picture
    }

    fn add(&self, folder: &Path, picture: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.metadata().unwrap();
            let mode = format!("{:o}", metadata.permissions().mode() & 0o7777);
            let name = path
                .strip_prefix(&self.0)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if metadata.is_dir() {
                picture.insert(name, mode);
                self.add(&path, picture);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                picture.insert(name, format!("{mode} {text}"));
            }
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

#[track_caller]
fn said(output: Output) -> String {
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}: {stdout}{stderr}",
        output.status
    );
    assert_eq!(stderr, "");

    stdout
}

/// Runs an init script as OpenWrt's own does, and tells what would go to procd.
const RC_COMMON: &str = r#"
script=$1 action=$2
shift 2
procd_open_instance() { echo procd_open_instance "$@"; }
procd_set_param() { echo procd_set_param "$@"; }
procd_close_instance() { echo procd_close_instance; }
procd_send_signal() { echo procd_send_signal "$@"; }
procd_kill() { echo procd_kill "$@"; }
dtun() { echo dtun "$@"; }
restart() { stop "$@"; start "$@"; }

. "$script"
[ "$USE_PROCD" = 1 ] && [ -n "$START$STOP" ]
[ "$PROG" = /usr/bin/dtun ]
CONF=$DESTDIR/etc/dtun STATE=$DESTDIR/etc/dtun/state

start() { start_service "$@"; }
stop() {
    PROG=dtun
    stop_service "$@"
    procd_kill dtun "$@"
}
reload() { reload_service "$@"; }
"$action" "$@"
"#;
