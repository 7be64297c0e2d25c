//! The request to stop: a signal.

use dtun_server::Stop;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Resolves at the first SIGINT, SIGTERM, SIGHUP or SIGUSR1, the last of which
/// announces another start (`RestartKillSignal=` of a systemd unit); the second
/// signal ends the process at once. A SIGHUP that the parent had ignored, as
/// nohup does, stays ignored.
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = Stop>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    let mut hangup = match hangup_is_ignored() {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
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
        next().await;
        std::process::exit(1);
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

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & HANGUP != 0)
}

/// SIGHUP, number 1, in the kernel's mask of signals.
const HANGUP: u64 = 1;
