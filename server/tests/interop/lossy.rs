//! Foreign clients, with timers of their own, through loss.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dtun_shared::dtls::CipherSuite;

use crate::built::Built;
use crate::clients::{Client, GnuTls, OpenSsl, now};
use crate::echo::{EchoHub, KEY};
use crate::relay::Relay;

#[test]
fn at_5_percent_loss_50_of_50_get_through() {
    let took = dial_through_loss(5, 50);

    assert_eq!(within(&took, ONE_DIAL), 50, "{took:?}");
}

#[test]
fn at_20_percent_loss_90_of_100_get_through_and_the_rest_by_redialling() {
    let took = dial_through_loss(20, 100);

    assert!(within(&took, ONE_DIAL) >= 90, "{took:?}");
    assert_eq!(within(&took, WITH_REDIALS), 100, "{took:?}");
}

/// How long each of so many clients took, redials included.
fn dial_through_loss(percent: u8, dials: usize) -> Vec<Duration> {
    let hub = EchoHub::start();
    let (mbedtls, pion) = (Built::mbedtls(), Built::pion());
    let clients: [&dyn Client; 4] = [&OpenSsl, &GnuTls, &mbedtls, &pion];
    let next = AtomicUsize::new(0);
    let took = Mutex::new(Vec::new());

    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= dials {
                        return;
                    }
                    let time = dial(&hub, clients[nth % 4], percent, nth);
                    took.lock().unwrap().push(time);
                }
            });
        }
    });

    let mut took = took.into_inner().unwrap();
    took.sort();
    took
}

/// Dials until the echo is there or the redials took too long.
fn dial(hub: &EchoHub, client: &dyn Client, percent: u8, nth: usize) -> Duration {
    let suite = CipherSuite::ALL[nth / 4 % 3];
    let text = format!("dial {nth} of {}", client.name());
    let start = now();
    for attempt in 0.. {
        let relay = Relay::start(hub.port(), percent, (1000 * attempt + nth) as u64);
        let talked = client.talk(relay.port(), KEY, suite, &text, ONE_DIAL);
        if talked.is_ok() || now() - start > WITH_REDIALS {
            break;
        }
    }

    now() - start
}

fn within(took: &[Duration], limit: Duration) -> usize {
    took.iter().filter(|took| **took <= limit).count()
}

const ONE_DIAL: Duration = Duration::from_secs(25);
const WITH_REDIALS: Duration = Duration::from_secs(120);

/// They mostly wait for their timers.
const AT_ONCE: usize = 20;
