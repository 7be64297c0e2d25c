//! The foreign clients: each says a text over DTLS and waits for its echo.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use dtun_shared::dtls::CipherSuite;
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::Config;
use webrtc_dtls::conn::DTLSConn;
use webrtc_util::conn::Conn;

use crate::echo::ECHO;

pub(crate) const HINT: &str = "laptop";

pub(crate) trait Client: Sync {
    fn name(&self) -> &'static str;

    /// Says `text` and waits for its echo.
    fn talk(
        &self,
        port: u16,
        key: &str,
        suite: CipherSuite,
        text: &str,
        patience: Duration,
    ) -> Result<(), Failure>;
}

/// Why there was no echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The client gave up.
    Ended,
    /// It was still trying when the patience ran out.
    Silent,
}

pub(crate) struct OpenSsl;

impl Client for OpenSsl {
    fn name(&self) -> &'static str {
        "openssl"
    }

    fn talk(
        &self,
        port: u16,
        key: &str,
        suite: CipherSuite,
        text: &str,
        patience: Duration,
    ) -> Result<(), Failure> {
        let cipher = match suite {
            CipherSuite::Gcm => "PSK-AES128-GCM-SHA256",
            CipherSuite::Ccm => "PSK-AES128-CCM",
            CipherSuite::Ccm8 => "PSK-AES128-CCM8",
        };
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-dtls1_2", "-quiet", "-connect"])
            .arg(format!("127.0.0.1:{port}"))
            .args(["-psk", &hex(key), "-psk_identity", HINT])
            .args(["-cipher", &format!("{cipher}:@SECLEVEL=0")]);

        say(command, "openssl", text, patience)
    }
}

pub(crate) struct GnuTls;

impl Client for GnuTls {
    fn name(&self) -> &'static str {
        "gnutls"
    }

    fn talk(
        &self,
        port: u16,
        key: &str,
        suite: CipherSuite,
        text: &str,
        patience: Duration,
    ) -> Result<(), Failure> {
        let cipher = match suite {
            CipherSuite::Gcm => "AES-128-GCM",
            CipherSuite::Ccm => "AES-128-CCM",
            CipherSuite::Ccm8 => "AES-128-CCM-8",
        };
        let mut command = Command::new("gnutls-cli");
        command
            .args(["--udp", "--mtu=1200", "--port", &port.to_string()])
            .args(["--pskusername", HINT, "--pskkey", &hex(key), "--priority"])
            .arg(format!(
                "NONE:+VERS-DTLS1.2:+PSK:+{cipher}:+AEAD:+SIGN-ALL:+COMP-NULL:+GROUP-ALL"
            ))
            .arg("127.0.0.1");

        say(command, "gnutls-bin", text, patience)
    }
}

pub(crate) struct Library;

impl Client for Library {
    fn name(&self) -> &'static str {
        "webrtc-dtls"
    }

    fn talk(
        &self,
        port: u16,
        key: &str,
        suite: CipherSuite,
        text: &str,
        patience: Duration,
    ) -> Result<(), Failure> {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            tokio::time::timeout(patience, library_talk(port, key, suite, text))
                .await
                .unwrap_or(Err(Failure::Silent))
        })
    }
}

async fn library_talk(port: u16, key: &str, suite: CipherSuite, text: &str) -> Result<(), Failure> {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", port)).await.unwrap();
    let key = key.as_bytes().to_vec();
    let config = Config {
        cipher_suites: vec![match suite {
            CipherSuite::Gcm => CipherSuiteId::Tls_Psk_With_Aes_128_Gcm_Sha256,
            CipherSuite::Ccm => CipherSuiteId::Tls_Psk_With_Aes_128_Ccm,
            CipherSuite::Ccm8 => CipherSuiteId::Tls_Psk_With_Aes_128_Ccm_8,
        }],
        psk: Some(Arc::new(move |_| {
            let key = key.clone();
            Box::pin(async move { Ok(key) })
        })),
        psk_identity_hint: Some(HINT.into()),
        ..Config::default()
    };

    let conn = DTLSConn::new(Arc::new(socket), config, true, None)
        .await
        .map_err(|_| Failure::Ended)?;
    conn.send(text.as_bytes()).await.unwrap();
    let mut answer = [0; 2048];
    let len = conn.recv(&mut answer).await.unwrap();
    assert_eq!(&answer[..len], format!("{ECHO}{text}").as_bytes());
    conn.close().await.unwrap();

    Ok(())
}

/// Runs a client that copies standard input to its session and the session to
/// standard output.
pub(crate) fn say(
    mut command: Command,
    package: &str,
    text: &str,
    patience: Duration,
) -> Result<(), Failure> {
    let program = command.get_program().to_owned();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program:?}: {error}: is the package {package} installed?")
        });
    let mut child = Running(child);
    let output = child.output();

    let deadline = now() + patience;
    let mut stdin = child.0.stdin.take().unwrap();
    // A client that has ended already says so by its output's end.
    let _ended = writeln!(stdin, "{text}");
    let expected = format!("{ECHO}{text}");
    let mut heard = String::new();
    loop {
        match output.recv_timeout(deadline.saturating_duration_since(now())) {
            Ok(bytes) => heard.push_str(&String::from_utf8_lossy(&bytes)),
            Err(RecvTimeoutError::Disconnected) => {
                eprintln!("{program:?} ended with {:?}: {heard}", child.wait());
                return Err(Failure::Ended);
            }
            Err(RecvTimeoutError::Timeout) => return Err(Failure::Silent),
        }
        if heard.contains(&expected) {
            return Ok(());
        }
    }
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    /// Both outputs, until the child closes them.
    fn output(&mut self) -> Receiver<Vec<u8>> {
        let (sender, receiver) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(self.0.stdout.take().unwrap()),
            Box::new(self.0.stderr.take().unwrap()),
        ];
        for mut stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut buf = [0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut buf) {
                    if sender.send(buf[..len].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }

        receiver
    }

    fn wait(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.0.kill().unwrap();
            self.wait();
        }
    }
}

pub(crate) fn now() -> Instant {
    Instant::now()
}

fn hex(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}
