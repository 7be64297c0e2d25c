//! The request to stop: a signal.

use std::time::{Duration, Instant};

use dtun_shared::status::ignores_hangup;
use dtun_shared::stop::Stop;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Resolves at the first SIGINT, SIGTERM, SIGHUP or SIGUSR1, the last of which
/// announces another start (`RestartKillSignal=` of a systemd unit); the second
/// signal ends the process at once, but for one that comes on the heels of the
/// first: a terminal, sudo and timeout may each pass the same one on. A SIGHUP
/// that the parent had ignored, as nohup does, stays ignored.
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = Stop>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    let mut hangup = match ignores_hangup() {
        Some(true) => None,
        Some(false) | None => Some(signal(SignalKind::hangup())?),
    };
    let (sender, stopped) = oneshot::channel();

    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => Stop::ForGood,
                _ = terminate.recv() => Stop::ForGood,
                _ = restart.recv() => Stop::Restart,
                () = received(&mut hangup) => Stop::ForGood,
            }
        };
        // Nobody listens when the program is ending by itself.
        sender.send(next().await).unwrap_or_default();
        let first = Instant::now();
        loop {
            next().await;
            if first.elapsed() > SAME {
                std::process::exit(1);
            }
        }
    });

    Ok(async move { stopped.await.unwrap_or_default() })
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whoever is tired of waiting has waited longer.
const SAME: Duration = Duration::from_millis(500);
