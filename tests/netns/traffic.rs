//! Traffic whose every byte is checked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::namespace::Netns;
use crate::wait::{until, until_true};

/// What `ping` counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pinged {
    pub(crate) sent: u32,
    pub(crate) received: u32,
}

/// Sends `count` echoes, five a second.
#[track_caller]
pub(crate) fn ping(from: &Netns, to: impl Into<IpAddr>, count: u32) -> Pinged {
    let to = to.into();
    let said = match from.try_run(&format!("ping -n -q -i 0.2 -W 2 -c {count} {to}")) {
        Ok(said) | Err(said) => said,
    };
    // "3 packets transmitted, 2 received, …"
    let number = |word: &str| {
        let (before, _) = said.split_once(word)?;
        before
            .split([' ', '\n', ','])
            .rfind(|it| !it.is_empty())?
            .parse()
            .ok()
    };

    Pinged {
        sent: number(" packets transmitted").unwrap_or_else(|| panic!("ping {to}: {said}")),
        received: number(" received").unwrap(),
    }
}

/// Three echoes, all answered.
#[track_caller]
pub(crate) fn reaches(from: &Netns, to: impl Into<IpAddr>) {
    let to = to.into();
    let pinged = ping(from, to, 3);
    assert_eq!(pinged.received, 3, "{} to {to}", from.name());
}

/// Not a single echo is answered.
#[track_caller]
pub(crate) fn reaches_not(from: &Netns, to: impl Into<IpAddr>) {
    let to = to.into();
    let pinged = ping(from, to, 2);
    assert_eq!(pinged.received, 0, "{} to {to}", from.name());
}

/// One echo is answered in the end.
#[track_caller]
pub(crate) fn reaches_within(from: &Netns, to: impl Into<IpAddr>, deadline: Duration) {
    let to = to.into();
    until_true(&format!("{} reaches {to}", from.name()), deadline, || {
        from.try_run(&format!("ping -n -q -W 1 -c 1 {to}")).is_ok()
    });
}

/// Sends `bytes` over TCP to an address of `to`, as fast as they go.
#[track_caller]
pub(crate) fn transfer(from: &Netns, to: &Netns, at: impl Into<IpAddr>, bytes: u64) {
    let flow = Flow::start(from, to, at);
    until_true("the transfer", Duration::from_secs(60), || {
        flow.received() >= bytes
    });
    flow.finish();
}

/// A TCP connection that carries a known stream of bytes until told to finish.
pub(crate) struct Flow {
    received: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    sender: JoinHandle<Sum>,
    receiver: JoinHandle<Sum>,
}

impl Flow {
    pub(crate) fn start(from: &Netns, to: &Netns, at: impl Into<IpAddr>) -> Self {
        let listener = to
            .enter({
                let at = SocketAddr::new(at.into(), 0);
                move || TcpListener::bind(at)
            })
            .unwrap();
        let address = listener.local_addr().unwrap();
        let stream = from.enter(|| {
            until("a connection inside", Duration::from_secs(10), || {
                TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()
            })
        });
        let received = Arc::new(AtomicUsize::new(0));
        let enough = Arc::new(AtomicBool::new(false));

        Self {
            sender: thread::spawn({
                let enough = Arc::clone(&enough);
                move || send(stream, &enough)
            }),
            receiver: thread::spawn({
                let received = Arc::clone(&received);
                move || receive(&listener, &received)
            }),
            received,
            enough,
        }
    }

    /// Bytes that arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed) as u64
    }

    /// Waits until some more bytes have come through.
    #[track_caller]
    pub(crate) fn moves_within(&self, deadline: Duration) {
        let before = self.received();
        until_true("bytes on an old connection", deadline, || {
            self.received() > before + 100_000
        });
    }

    /// Ends the stream, and compares what was sent with what arrived.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.enough.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        let received = self.receiver.join().unwrap();

        assert!(sent.bytes > 0);
        assert_eq!(sent, received);
    }
}

/// How many bytes, and Fletcher's checksum of them, which knows their order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    first: u64,
    second: u64,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for &byte in bytes {
            self.first = (self.first + u64::from(byte)) % 65_521;
            self.second = (self.second + self.first) % 65_521;
        }
    }
}

fn send(mut stream: TcpStream, enough: &AtomicBool) -> Sum {
    stream.set_write_timeout(Some(STUCK)).unwrap();
    let mut sum = Sum::default();
    let mut random = Random(1);
    let mut block = [0; 16_384];
    while !enough.load(Ordering::Relaxed) {
        block.fill_with(|| random.next().to_le_bytes()[0]);
        stream.write_all(&block).unwrap();
        sum.add(&block);
    }

    sum
}

fn receive(listener: &TcpListener, received: &AtomicUsize) -> Sum {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(STUCK)).unwrap();
    let mut sum = Sum::default();
    let mut block = [0; 16_384];
    loop {
        let length = stream.read(&mut block).unwrap();
        if length == 0 {
            return sum;
        }
        sum.add(&block[..length]);
        received.store(sum.bytes as usize, Ordering::Relaxed);
    }
}

/// xorshift64: the same numbers for the same seed, which must not be 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;

        self.0
    }

    /// True `percent` times of a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// A connection that stands still for so long is not coming back.
const STUCK: Duration = Duration::from_secs(60);
