//! A UDP relay on the way to a hub that does to datagrams what a network does.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::namespace::Netns;
use crate::network::Host;
use crate::traffic::Random;

/// What happens to the datagrams on their way; by default nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) seed: u64,
    /// Percent of the datagrams, each way.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Percent that stays behind for [`LATE`], and so is overtaken.
    pub(crate) late: u64,
    pub(crate) delay: Duration,
    /// The one datagram that is lost, by its place among those of its direction.
    pub(crate) drop: Option<(Direction, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToHub,
    ToSpoke,
}

/// Listens at an address and carries datagrams to a hub and back.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Starts in a namespace; each client has a socket of its own towards `hub`.
    pub(crate) fn start(
        netns: &Netns,
        address: SocketAddr,
        hub: SocketAddr,
        weather: Weather,
    ) -> Self {
        let front = netns.enter(|| open(address));
        let shared = Arc::new(Shared {
            front: Arc::new(front),
            hub,
            state: Mutex::new(State {
                random: Random(weather.seed.wrapping_mul(2) + 1),
                weather,
                clients: HashMap::new(),
                from: unspecified(hub),
                forgotten: Vec::new(),
                seen: [0; 2],
                queue: BinaryHeap::new(),
                number: 0,
            }),
            due: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let (receiver, sender) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            netns.spawn(move || receiver.receive()),
            netns.spawn(move || sender.send()),
        ];

        Self { shared, threads }
    }

    /// Starts at a spoke's gateway; also the address that the spoke is to dial.
    pub(crate) fn at_gateway(
        router: &Netns,
        spoke: &Host,
        hub: SocketAddr,
        weather: Weather,
    ) -> (Self, String) {
        let address = SocketAddr::new(spoke.gateway4().into(), 4443);

        (
            Self::start(router, address, hub, weather),
            address.to_string(),
        )
    }

    /// Gives every client another source port, and another address if one is
    /// given, as a NAT does that forgot them; what comes for the old ones is lost
    /// in silence.
    pub(crate) fn rebind(&self, from: Option<IpAddr>) {
        let mut state = self.shared.state.lock().unwrap();
        state.from = from.unwrap_or(state.from);
        let clients = std::mem::take(&mut state.clients);
        state.forgotten.extend(clients.into_values());
    }

    /// Sends a datagram of the test's own as if the other end had.
    pub(crate) fn forge(&self, way: Direction, datagram: &[u8]) {
        let state = self.shared.state.lock().unwrap();
        for (client, back) in &state.clients {
            match way {
                Direction::ToHub => back.send_to(datagram, self.shared.hub),
                Direction::ToSpoke => self.shared.front.send_to(datagram, client),
            }
            .unwrap();
        }
    }

    /// Datagrams that came so far, lost ones too.
    pub(crate) fn seen(&self, direction: Direction) -> usize {
        self.shared.state.lock().unwrap().seen[direction as usize]
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.due.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("the relay fell over");
            }
        }
    }
}

struct Shared {
    front: Arc<UdpSocket>,
    hub: SocketAddr,
    state: Mutex<State>,
    due: Condvar,
    over: AtomicBool,
}

struct State {
    weather: Weather,
    random: Random,
    clients: HashMap<SocketAddr, Arc<UdpSocket>>,
    /// Where the clients' sockets are bound.
    from: IpAddr,
    forgotten: Vec<Arc<UdpSocket>>,
    seen: [usize; 2],
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
}

impl Shared {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Reads what the clients send.
    fn receive(self: Arc<Self>) {
        let mut backs = Vec::new();
        let mut buffer = [0; 65_536];
        while !self.over() {
            let Some((length, client)) = receive(&self.front, &mut buffer) else {
                continue;
            };
            let known = self.state.lock().unwrap().clients.get(&client).cloned();
            let back = known.unwrap_or_else(|| {
                let mut state = self.state.lock().unwrap();
                let back = Arc::new(open(SocketAddr::new(state.from, 0)));
                state.clients.insert(client, Arc::clone(&back));
                let (shared, socket) = (Arc::clone(&self), Arc::clone(&back));
                backs.push(thread::spawn(move || shared.receive_back(client, &socket)));
                back
            });
            self.push(Direction::ToHub, &buffer[..length], back, self.hub);
        }
        for back in backs {
            back.join().unwrap();
        }
    }

    /// Reads what the hub sends to one client, for as long as that has this socket.
    fn receive_back(&self, client: SocketAddr, back: &Arc<UdpSocket>) {
        let mut buffer = [0; 65_536];
        while !self.over() {
            let Some((length, _)) = receive(back, &mut buffer) else {
                continue;
            };
            let current = self.state.lock().unwrap().clients.get(&client).cloned();
            if !current.is_some_and(|it| Arc::ptr_eq(&it, back)) {
                return;
            }
            let front = Arc::clone(&self.front);
            self.push(Direction::ToSpoke, &buffer[..length], front, client);
        }
    }

    fn push(&self, way: Direction, datagram: &[u8], by: Arc<UdpSocket>, to: SocketAddr) {
        let mut state = self.state.lock().unwrap();
        let place = state.seen[way as usize];
        state.seen[way as usize] += 1;
        let weather = state.weather.clone();
        if weather.drop == Some((way, place)) || state.random.chance(weather.lost) {
            return;
        }
        let copies = 1 + u64::from(state.random.chance(weather.doubled));
        for _ in 0..copies {
            let late = state.random.chance(weather.late);
            let wait = weather.delay + if late { LATE } else { Duration::ZERO };
            state.number += 1;
            let queued = Queued {
                due: Instant::now() + wait,
                number: state.number,
                datagram: datagram.to_vec(),
                by: Arc::clone(&by),
                to,
            };
            state.queue.push(Reverse(queued));
        }
        self.due.notify_all();
    }

    /// Sends what is due.
    fn send(&self) {
        let mut state = self.state.lock().unwrap();
        while !self.over() {
            let now = Instant::now();
            let due = state.queue.peek().map_or(TICK, |Reverse(next)| {
                next.due.saturating_duration_since(now)
            });
            if due > Duration::ZERO {
                state = self.due.wait_timeout(state, due.min(TICK)).unwrap().0;
                continue;
            }
            let Some(Reverse(next)) = state.queue.pop() else {
                continue;
            };
            drop(state);
            if let Err(error) = next.by.send_to(&next.datagram, next.to) {
                eprintln!("relay to {}: {error}", next.to);
            }
            state = self.state.lock().unwrap();
        }
    }
}

struct Queued {
    due: Instant,
    /// Keeps the order of those that are due at one time.
    number: u64,
    datagram: Vec<u8>,
    by: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

fn open(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(TICK)).unwrap();

    socket
}

/// The next datagram, or nothing for a while.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("relay: {error}"),
    }
}

fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// How often a thread looks whether the test is over.
const TICK: Duration = Duration::from_millis(100);

/// Longer than the time between the datagrams of a flight.
const LATE: Duration = Duration::from_millis(15);
