//! Asks the machine's name servers past the tunnel: what all programs use may
//! ask through it, and it may be dead.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dtun_shared::leaving::Leaving;
use dtun_shared::udp::is_hearsay;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::message::{Kind, Question};
use crate::hint::random;

/// The addresses of a host; the first server that knows any is believed. Waits
/// for ever where none does.
pub(super) async fn ask(
    host: &str,
    servers: Vec<SocketAddr>,
    leaving: &Leaving,
) -> BTreeSet<IpAddr> {
    let mut asked = JoinSet::new();
    for server in servers.into_iter().take(MOST) {
        if !leaving.reaches(server.ip()) {
            continue;
        }
        let (host, leaving) = (host.to_owned(), leaving.clone());
        asked.spawn(async move { ask_one(&host, server, &leaving).await });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(found)) if !found.is_empty() => return found,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a name server was not asked"),
            Err(error) => tracing::debug!(%error, "a name server was not asked"),
        }
    }

    std::future::pending().await
}

/// Whether a server says anything at all.
pub(crate) async fn answers(server: SocketAddr, leaving: &Leaving) -> bool {
    let question = Question::new(random() as u16, "localhost", Kind::A);
    let (Some(question), Ok(socket)) = (question, connect(server, leaving)) else {
        return false;
    };
    let mut buf = [0; DATAGRAM];
    for _ in 0..TRIES {
        if socket.send(&question.emit()).await.is_ok()
            && let Ok(Ok(_)) = timeout(AGAIN, socket.recv(&mut buf)).await
        {
            return true;
        }
    }

    false
}

/// Asks again and again; an empty answer says that there is no such host.
async fn ask_one(
    host: &str,
    server: SocketAddr,
    leaving: &Leaving,
) -> io::Result<BTreeSet<IpAddr>> {
    let question = |kind| Question::new(random() as u16, host, kind);
    let (Some(four), Some(six)) = (question(Kind::A), question(Kind::Aaaa)) else {
        return Ok(BTreeSet::new());
    };
    let socket = connect(server, leaving)?;
    let mut waiting = vec![four, six];
    let mut found = BTreeSet::new();
    let mut buf = [0; DATAGRAM];

    loop {
        for question in &waiting {
            match socket.send(&question.emit()).await {
                Err(error) if !is_hearsay(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        let receive = async {
            while !waiting.is_empty() {
                let len = socket.recv(&mut buf).await?;
                waiting.retain(|question| match question.answer(&buf[..len]) {
                    Some(addresses) => {
                        found.extend(addresses);
                        false
                    }
                    None => true,
                });
            }
            io::Result::Ok(())
        };
        match timeout(AGAIN, receive).await {
            Ok(Ok(())) => return Ok(found),
            // The server may be there in a moment.
            Ok(Err(error)) if is_hearsay(&error) => {
                sleep(AGAIN).await;
            }
            Ok(Err(error)) => return Err(error),
            // One family is enough to dial with.
            Err(_) if !found.is_empty() => return Ok(found),
            Err(_) => {}
        }
    }
}

fn connect(server: SocketAddr, leaving: &Leaving) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(server);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    leaving.apply(&socket)?;
    socket.connect(&SockAddr::from(server))?;

    UdpSocket::from_std(socket.into())
}

/// Servers that are asked at once.
const MOST: usize = 4;

/// Longer answers are cut by the server (RFC 1035, section 4.2.1); some do not.
const DATAGRAM: usize = 1500;

const AGAIN: Duration = Duration::from_secs(1);

/// A question may be lost on its way.
const TRIES: usize = 3;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};
    use tokio::runtime::Builder;

    use super::*;

    /// A server that knows one address, and whoever asks it.
    async fn answered(kind: u16, value: &[u8]) -> BTreeSet<IpAddr> {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        let value = value.to_vec();
        let task = tokio::spawn(async move {
            let mut buf = [0; 512];
            // The first question of each kind is lost.
            let mut lost = 0;
            loop {
                let (len, peer) = server.recv_from(&mut buf).await.unwrap();
                lost += 1;
                if lost <= 2 {
                    continue;
                }
                let mut answer = buf[..len].to_vec();
                answer[2..4].copy_from_slice(&[0x81, 0x80]);
                if answer[len - 3] == kind as u8 {
                    answer[7] = 1;
                    answer.extend(b"\xc0\x0c\0");
                    answer.push(kind as u8);
                    answer.extend(b"\0\x01\0\0\0\x3c\0");
                    answer.push(value.len() as u8);
                    answer.extend(&value);
                }
                server.send_to(&answer, peer).await.unwrap();
            }
        });
        let found = timeout(
            Duration::from_secs(10),
            ask("vpn.example", vec![addr], &Leaving::default()),
        )
        .await
        .unwrap();
        task.abort();

        found
    }

    #[test]
    fn a_server_that_a_router_forbids_to_ask_is_asked_again() {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("the tests run as root");
            let rule =
                "meta l4proto udp numgen inc mod 1000 < 2 reject with icmpx admin-prohibited";
            let script = format!(
                "ip link set lo up
                nft 'table inet t {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}'"
            );
            let status = Command::new("sh").args(["-c", &script]).status();
            assert!(status.unwrap().success());

            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            assert_eq!(
                runtime.block_on(answered(1, &[192, 0, 2, 7])),
                BTreeSet::from(["192.0.2.7".parse().unwrap()])
            );
        };

        std::thread::spawn(inside).join().unwrap();
    }

    #[tokio::test]
    async fn a_host_is_found_though_datagrams_are_lost() {
        assert_eq!(
            answered(1, &[192, 0, 2, 7]).await,
            BTreeSet::from(["192.0.2.7".parse().unwrap()])
        );
        let six: IpAddr = "2001:db8::7".parse().unwrap();
        let IpAddr::V6(ip) = six else { unreachable!() };
        assert_eq!(answered(28, &ip.octets()).await, BTreeSet::from([six]));
    }
}
