//! One group's programs, from the shell, the desktop's menu and sudo.

use std::fs;

use super::{CONNECT, Machine, recipe};
use crate::picture::Picture;
use crate::policy::everything;

#[test]
fn alices_programs_are_in_the_tunnel_when_she_says_so() {
    let [install, dtun, entry, browser, sudo, undo] = recipe("One program through the tunnel");
    let picture = Picture::new();
    let laptop = picture.network.host(2);
    let other = picture.network.host(4);
    let (own, hub) = (laptop.ip4(), picture.hub.host.ip4());
    let machine = Machine::new(&laptop);
    machine.run("useradd -m alice");
    let before = everything(&laptop);

    machine.run(&install);
    let mut spoke = machine.spoke(&dtun);
    machine.run(&install);

    let by_t = format!("t {CONNECT}");
    assert_eq!(machine.seen_by("alice", &by_t, &other, other.ip4()), hub);
    assert_eq!(machine.seen_by("alice", CONNECT, &other, other.ip4()), own);

    for (app, block) in [("transmission-gtk", &entry), ("firefox-esr", &browser)] {
        has_app(&machine, app);
        machine.run_as("alice", block);
        let exec = exec_of(&machine, app);
        assert_eq!(machine.seen_by("alice", &exec, &other, other.ip4()), hub);
    }
    let called = machine.scratch.read("home/alice/called");
    assert_eq!(
        called,
        "transmission-gtk --first\n\
         firefox-esr --no-remote --profile /home/alice/.tunnel-profile --first\n"
    );

    machine.run("echo 'alice ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/alice");
    machine.run("rm -rf /etc/apt/sources.list.d/*");
    let source = "echo \"deb [trusted=yes] http://$AT:$PORT/ ./\" >/tmp/sources.list";
    let apt = format!("{source}; {sudo}").replace("/tmp/sources.list", "/home/alice/list");
    machine.run("ln -sf /home/alice/list /etc/apt/sources.list");
    assert_eq!(machine.seen_by("alice", &apt, &other, other.ip4()), hub);
    let outside = apt.replace("sudo t", "sudo");
    assert_eq!(machine.seen_by("alice", &outside, &other, other.ip4()), own);

    assert!(spoke.terminate().success());
    machine.run(&undo);
    assert_eq!(everything(&laptop), before);
    assert!(!machine.scratch.read("etc/group").contains("dtun-via"));
    fs::symlink_metadata(machine.scratch.path("usr/local/bin/t")).unwrap_err();
}

/// A program that writes down how it was called, and connects.
fn has_app(machine: &Machine, app: &str) {
    machine.run(&format!(
        "cat >/usr/local/bin/{app} <<'END'\n\
         #!/bin/bash\n\
         echo \"{app} $*\" >>/home/alice/called\n\
         exec 3<>/dev/tcp/$AT/$PORT\n\
         END\n\
         chmod +x /usr/local/bin/{app}\n\
         cat >/usr/share/applications/{app}.desktop <<'END'\n\
         [Desktop Entry]\n\
         Name=App\n\
         Name[de]=Programm\n\
         Exec={app} --first %U\n\
         DBusActivatable=true\n\
         END"
    ));
}

/// The command of the menu's entry, as the desktop would run it.
fn exec_of(machine: &Machine, app: &str) -> String {
    let path = format!("home/alice/.local/share/applications/{app}-tunnel.desktop");
    let entry = machine.scratch.read(&path);
    assert!(
        entry.contains("\nName=App (tunnel)\nName[de]=Programm (tunnel)\n"),
        "{entry}"
    );
    assert!(!entry.contains("DBusActivatable"), "{entry}");
    let exec = entry.lines().find_map(|line| line.strip_prefix("Exec="));

    exec.unwrap().replace("%U", "")
}
