//! Our program as a user without any rights runs it.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::namespace::Netns;

/// The id of nobody, as a word for command lines.
pub(crate) const ID: &str = "65534";

/// A copy where everyone may run it: the build's own folder can be root's.
pub(crate) struct Nobody {
    copy: PathBuf,
}

impl Nobody {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let copy = env::temp_dir().join(format!("dtun-test-{}-{number}", std::process::id()));
        fs::copy(env!("CARGO_BIN_EXE_dtun"), &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();

        Self { copy }
    }

    /// A command that will run inside, as nobody.
    pub(crate) fn command(&self, netns: &Netns, args: &[&str]) -> Command {
        // Elsewhere than in some containers everyone may open this node.
        let node = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200";
        let mut command = netns.command("unshare");
        command.args(["-m", "sh", "-c", &format!("{node} && exec \"$@\""), "sh"]);
        command.args(["setpriv", "--reuid", ID, "--regid", ID, "--clear-groups"]);
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        command.arg(&self.copy).args(args);

        command
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.copy) {
            eprintln!("{}: {error}", self.copy.display());
        }
    }
}
