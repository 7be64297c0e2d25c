//! A resolver that knows one name: that of whoever asks.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::namespace::Netns;

/// Gives every name the one IPv4 address, and remembers who asked.
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    answer: Mutex<[u8; 4]>,
    askers: Mutex<Vec<IpAddr>>,
    over: AtomicBool,
}

impl Resolver {
    pub(crate) fn start(netns: &Netns, at: impl Into<IpAddr>, answer: [u8; 4]) -> Self {
        let at = SocketAddr::new(at.into(), 53);
        let socket = netns.enter(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(TURN)).unwrap();
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            askers: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let thread = {
            let shared = Arc::clone(&shared);
            netns.spawn(move || shared.serve(&socket))
        };

        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// The address that it gives from now on.
    pub(crate) fn set(&self, answer: [u8; 4]) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    /// Who asked, once for each question that has come so far.
    pub(crate) fn askers(&self) -> Vec<IpAddr> {
        self.shared.askers.lock().unwrap().clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the resolver panicked");
        }
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket) {
        let mut question = [0; 512];
        while !self.over.load(Ordering::SeqCst) {
            match socket.recv_from(&mut question) {
                Ok((len, from)) => {
                    self.askers.lock().unwrap().push(from.ip());
                    // An asker that is gone by now gets no answer.
                    drop(socket.send_to(&self.answer_to(&question[..len]), from));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// RFC 1035, section 4: the header of a recursive answer without an error,
    /// the question as it came, and one A record where one was asked for.
    fn answer_to(&self, question: &[u8]) -> Vec<u8> {
        let name = question[12..].iter().position(|byte| *byte == 0).unwrap();
        let end = 12 + name + 1 + 4;
        let is_a = question[end - 4..end] == [0, 1, 0, 1];

        let mut answer = [
            &question[..2],
            &[0x81, 0x80, 0, 1, 0, is_a.into(), 0, 0, 0, 0],
        ]
        .concat();
        answer.extend(&question[12..end]);
        if is_a {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend(*self.answer.lock().unwrap());
        }

        answer
    }
}

/// How long it does not look whether it is to end.
const TURN: Duration = Duration::from_millis(50);
