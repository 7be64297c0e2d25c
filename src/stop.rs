//! The request to stop: a signal.

use dtun_server::Stop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Resolves at the first SIGINT, SIGTERM or SIGUSR1, the last of which
/// announces another start (`RestartKillSignal=` of a systemd unit); the second
/// signal ends the process at once.
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = Stop>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    let (sender, stopped) = oneshot::channel();

    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => Stop::ForGood,
                _ = terminate.recv() => Stop::ForGood,
                _ = restart.recv() => Stop::Restart,
            }
        };
        // Nobody listens when the program is ending by itself.
        sender.send(next().await).unwrap_or_default();
        next().await;
        std::process::exit(1);
    });

    Ok(async move { stopped.await.unwrap_or_default() })
}
