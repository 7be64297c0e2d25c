//! The foreign clients that are compiled from `tests/peers`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dtun_shared::dtls::CipherSuite;

use crate::clients::{Client, Failure, HINT, say};

/// A client that takes `PORT KEY IDENTITY SUITE TEXT`; its file goes with it.
pub(crate) struct Built {
    name: &'static str,
    /// Its library, as Debian calls it.
    package: &'static str,
    program: PathBuf,
}

impl Built {
    pub(crate) fn mbedtls() -> Self {
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Werror", "-o"]);
        let libraries = ["-lmbedtls", "-lmbedx509", "-lmbedcrypto"];

        Self::build("mbedtls", "libmbedtls-dev", compiler, ".c", &libraries)
    }

    pub(crate) fn pion() -> Self {
        let mut compiler = Command::new("go");
        compiler
            .env("GO111MODULE", "off")
            .env("GOPATH", "/usr/share/gocode")
            .env("GOFLAGS", "")
            .args(["build", "-o"]);

        Self::build(
            "pion",
            "golang-github-pion-dtls.v2-dev",
            compiler,
            ".go",
            &[],
        )
    }

    fn build(
        name: &'static str,
        package: &'static str,
        mut compiler: Command,
        suffix: &str,
        libraries: &[&str],
    ) -> Self {
        let program = place(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/peers")
            .join(format!("{name}_client{suffix}"));
        let output = compiler
            .arg(&program)
            .arg(source)
            .args(libraries)
            .output()
            .unwrap_or_else(|error| panic!("{compiler:?}: {error}: is the compiler installed?"));
        assert!(
            output.status.success(),
            "is the package {package} installed? {}",
            String::from_utf8_lossy(&output.stderr)
        );

        Self {
            name,
            package,
            program,
        }
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        std::fs::remove_file(&self.program).unwrap();
    }
}

impl Client for Built {
    fn name(&self) -> &'static str {
        self.name
    }

    fn talk(
        &self,
        port: u16,
        key: &str,
        suite: CipherSuite,
        text: &str,
        patience: Duration,
    ) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command
            .args([&port.to_string(), key, HINT])
            .args([&format!("{:04x}", suite.code()), text]);

        say(command, self.package, text, patience)
    }
}

/// A place of its own to build a client in: tests run beside each other.
fn place(name: &str) -> PathBuf {
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    let nth = BUILT.fetch_add(1, Ordering::Relaxed);

    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{name}_client-{}-{nth}", std::process::id()))
}
