//! Finds the hub's addresses, at every dial.
//!
//! The system's resolver can hang for half a minute, so it runs in a thread
//! of its own that nobody waits for beyond a deadline, and that does not hold
//! up the process's end as a task of the runtime would.

mod message;
mod outside;

pub(crate) use outside::answers;

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::pin;
use std::time::Duration;

use dtun_shared::leaving::Leaving;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Whom to ask past the tunnel, and how.
#[derive(Clone, Debug)]
pub(crate) struct Outside {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) leaving: Leaving,
}

/// Resolves `host:port` to every address of the host, the system's favourite
/// first.
///
/// With `outside` the name servers are asked past the tunnel too, a moment
/// later: what stands in a file of this machine needs none of them.
pub(crate) async fn resolve(
    connect: String,
    outside: Option<Outside>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Ok(addr) = connect.parse() {
        return Ok(vec![canonical(addr)]);
    }
    let host_and_port = connect
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host.to_owned(), port.parse::<u16>().ok()?)));
    let Some((outside, (host, port))) = outside.zip(host_and_port) else {
        return resolve_by_system(connect).await;
    };

    let ask = async {
        sleep(HEAD_START).await;
        let found = outside::ask(&host, outside.servers, &outside.leaving).await;
        found
            .into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect()
    };
    let mut ask = pin!(timeout(DEADLINE, ask));
    tokio::select! {
        biased;
        by_system = resolve_by_system(connect) => match by_system {
            Ok(addrs) => Ok(addrs),
            Err(error) => ask.await.map_err(|_| error),
        },
        Ok(addrs) = &mut ask => Ok(addrs),
    }
}

async fn resolve_by_system(connect: String) -> Result<Vec<SocketAddr>, ResolveError> {
    let (answer, answered) = oneshot::channel();
    std::thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(move || {
            let found = look_up(&connect).map(Iterator::collect::<Vec<_>>);
            // The one who asked may have stopped waiting.
            drop(answer.send(found));
        })
        .map_err(ResolveError::Failed)?;

    let found = timeout(DEADLINE, answered)
        .await
        .map_err(|_| ResolveError::Silent)?
        .map_err(|_| ResolveError::Silent)?
        .map_err(ResolveError::Failed)?;
    let mut addrs: Vec<_> = Vec::new();
    for addr in found.into_iter().map(canonical) {
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        return Err(ResolveError::Nothing);
    }

    Ok(addrs)
}

fn look_up(connect: &str) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    // The system reads the interface of a link-local address, but no brackets.
    let scoped = connect
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]:"))
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));

    match scoped {
        Some(address) => address.to_socket_addrs(),
        None => connect.to_socket_addrs(),
    }
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("the resolver does not answer")]
    Silent,
    #[error("{0}")]
    Failed(io::Error),
    #[error("the name has no address")]
    Nothing,
    #[error("no address of the family of -bind")]
    OtherFamily,
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, addr.port())),
        IpAddr::V6(_) => addr,
    }
}

/// Shorter than a resolver's own patience; the last good addresses are being
/// dialled meanwhile.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long files of this machine may take.
const HEAD_START: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        for (text, addr) in [
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:192.0.2.1]:443", "192.0.2.1:443"),
        ] {
            let addrs = resolve(text.to_owned(), None).await.unwrap();
            assert_eq!(addrs, [addr.parse::<SocketAddr>().unwrap()]);
        }
    }

    #[tokio::test]
    async fn a_link_local_address_names_its_interface() {
        let addrs = resolve("[fe80::1%lo]:443".to_owned(), None).await.unwrap();

        assert_eq!(addrs, ["[fe80::1%1]:443".parse::<SocketAddr>().unwrap()]);
    }
}
