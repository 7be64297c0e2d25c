//! The peer on pion/dtls, `tests/peers/go`: built at first use.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use crate::daemon::Daemon;
use crate::namespace::Netns;

/// Starts the peer, which takes the flags of the Go program.
pub(crate) fn start(netns: &Netns, args: &[&str]) -> Daemon {
    Daemon::start(netns, &program(), args)
}

/// The path of the built peer.
fn program() -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-peer");
    fs::create_dir_all(&folder).unwrap();
    // Tests are processes of their own that want it at the same time; go itself
    // knows when there is nothing to build.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let program = folder.join("dtun-go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg("main.go")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/go"))
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", folder.join("cache"))
        .output()
        .expect("this test needs Go: apt-get install golang-go golang-github-pion-dtls.v2-dev");
    assert!(
        built.status.success(),
        "this test needs pion/dtls (apt-get install golang-github-pion-dtls.v2-dev): {}",
        String::from_utf8_lossy(&built.stderr)
    );

    program.to_str().unwrap().to_owned()
}
