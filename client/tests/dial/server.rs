//! Servers made by others, each in a process of its own and echoing.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use dtun_shared::dtls::CipherSuite;

use crate::session::{HINT, KEY};

/// A server on a port of its own, ended on drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Server {
    fn spawn(command: &mut Command, package: &str, addr: SocketAddr) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                let program = command.get_program().display();
                panic!("{program}: {error}; install the package {package}")
            });

        Self { child, addr }
    }

    /// Echoes by what it prints being what it is told to say.
    pub(crate) fn openssl(suite: CipherSuite) -> Self {
        let name = match suite {
            CipherSuite::Gcm => "PSK-AES128-GCM-SHA256",
            CipherSuite::Ccm => "PSK-AES128-CCM",
            CipherSuite::Ccm8 => "PSK-AES128-CCM8",
        };
        let addr = free_address();

        let mut server = Self::spawn(
            Command::new("openssl")
                .args(["s_server", "-dtls1_2", "-nocert", "-quiet"])
                .args(["-accept", &addr.to_string(), "-cipher", name])
                .args(["-psk_identity", HINT, "-psk", &hex(KEY.as_bytes())]),
            "openssl",
            addr,
        );
        let mut said = server.child.stdout.take().expect("stdout is piped");
        let mut to_say = server.child.stdin.take().expect("stdin is piped");
        // Ends with the server, whichever pipe that closes first.
        std::thread::spawn(move || std::io::copy(&mut said, &mut to_say).ok());

        server
    }

    pub(crate) fn gnutls(suite: CipherSuite) -> Self {
        static PASSWORDS: OnceLock<PathBuf> = OnceLock::new();
        let name = match suite {
            CipherSuite::Gcm => "AES-128-GCM",
            CipherSuite::Ccm => "AES-128-CCM",
            CipherSuite::Ccm8 => "AES-128-CCM-8",
        };
        let addr = free_address();
        let passwords = PASSWORDS.get_or_init(|| {
            let path = scratch("passwords");
            std::fs::write(&path, format!("{HINT}:{}\n", hex(KEY.as_bytes()))).unwrap();
            path
        });

        Self::spawn(
            Command::new("gnutls-serv")
                .args(["--udp", "--echo", "--quiet", "--disable-client-cert"])
                .args(["--port", &addr.port().to_string()])
                .arg("--pskpasswd")
                .arg(passwords)
                .arg("--priority")
                .arg(format!(
                    "NONE:+VERS-DTLS1.2:+PSK:+{name}:+AEAD:+COMP-NULL:+SIGN-ALL:+GROUP-ALL"
                )),
            "gnutls-bin",
            addr,
        )
    }

    pub(crate) fn mbedtls(suite: CipherSuite) -> Self {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| {
            let program = scratch("mbedtls_server");
            build(
                Command::new("cc")
                    .args(["-O1", "-o"])
                    .arg(&program)
                    .arg(peer_source("mbedtls_server.c"))
                    .args(["-lmbedtls", "-lmbedx509", "-lmbedcrypto"]),
                "gcc and libmbedtls-dev",
            );
            program
        });
        let name = match suite {
            CipherSuite::Gcm => "TLS-PSK-WITH-AES-128-GCM-SHA256",
            CipherSuite::Ccm => "TLS-PSK-WITH-AES-128-CCM",
            CipherSuite::Ccm8 => "TLS-PSK-WITH-AES-128-CCM-8",
        };
        let addr = free_address();

        Self::spawn(
            Command::new(program).args([&addr.port().to_string(), KEY, name]),
            "libmbedtls-dev",
            addr,
        )
    }

    pub(crate) fn pion(suite: CipherSuite) -> Self {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| {
            let program = scratch("pion_server");
            build(
                Command::new("go")
                    .env("GOPATH", "/usr/share/gocode")
                    .env("GO111MODULE", "off")
                    .args(["build", "-o"])
                    .arg(&program)
                    .arg(peer_source("pion_server.go")),
                "golang-go and golang-github-pion-dtls.v2-dev",
            );
            program
        });
        let addr = free_address();

        Self::spawn(
            Command::new(program).args([
                &addr.port().to_string(),
                KEY,
                &format!("{:04x}", suite.code()),
            ]),
            "golang-github-pion-dtls.v2-dev",
            addr,
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("the server can be ended");
        self.child.wait().expect("the server has ended");
    }
}

/// An address that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

fn build(command: &mut Command, packages: &str) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("compiler: {error}; install the packages {packages}"));
    assert!(
        output.status.success(),
        "install the packages {packages}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn peer_source(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "peers", name]
        .iter()
        .collect()
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
