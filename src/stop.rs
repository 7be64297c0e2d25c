//! The requests of signals: to stop, or to read the configuration again.

use std::time::{Duration, Instant};

use dtun_shared::status::ignores_hangup;
use dtun_shared::stop::Stop;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::cli::Order;
use crate::reload::Reload;

/// What signals ask a tunnel for.
pub(crate) struct Requests<S, C> {
    /// Resolves at the first request to stop.
    pub(crate) stop: S,
    /// Configurations to take over; none where nothing is to be, which the service
    /// manager is to hear all the same.
    pub(crate) reloads: mpsc::UnboundedReceiver<Option<C>>,
}

/// Listens to SIGINT, SIGTERM, SIGHUP and SIGUSR1, the last of which announces
/// another start (`RestartKillSignal=` of a systemd unit); the second request to
/// stop ends the process at once, but for one that comes on the heels of the
/// first: a terminal, sudo and timeout may each pass the same one on. A SIGHUP has a file of flags read again where
/// there is one; else it is a request to stop. One that the parent had ignored,
/// as nohup does, stays ignored.
pub(crate) fn requests<C: Send + 'static>(
    mut reload: Option<Reload>,
    of: fn(Order) -> Option<C>,
) -> anyhow::Result<Requests<impl Future<Output = Stop>, C>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    let mut hangup = match ignores_hangup() {
        Some(true) => None,
        Some(false) | None => Some(signal(SignalKind::hangup())?),
    };
    let (sender, stopped) = oneshot::channel();
    let (configs, reloads) = mpsc::unbounded_channel();

    tokio::spawn(async move {
        let mut next = async || loop {
            let stop = tokio::select! {
                _ = interrupt.recv() => Stop::ForGood,
                _ = terminate.recv() => Stop::ForGood,
                _ = restart.recv() => Stop::Restart,
                () = received(&mut hangup) => match &mut reload {
                    None => Stop::Hangup,
                    Some(reload) => {
                        configs.send(reload.read().and_then(of)).unwrap_or_default();
                        continue;
                    }
                },
            };
            return stop;
        };
        // Nobody listens when the program is ending by itself.
        sender.send(next().await).unwrap_or_default();
        let first = Instant::now();
        loop {
            next().await;
            if first.elapsed() > SAME {
                tracing::error!("ended at once: what was not taken down yet stays");
                std::process::exit(1);
            }
        }
    });

    Ok(Requests {
        stop: async move { stopped.await.unwrap_or_default() },
        reloads,
    })
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
