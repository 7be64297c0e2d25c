//! The end: goodbye to the spokes, and what stays on the machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::port::Port;
use super::{BLACKHOLE, Hub, Stop, now};
use crate::left;
use crate::session::Ended;

impl Hub {
    /// Goodbye to all, and the machine as it was before or as the next start
    /// wants it.
    pub(super) async fn stop(&mut self, stop: Stop) {
        self.say_goodbye().await;
        for kept in self.kept.values() {
            tracing::info!(hint = %kept.session.hint, peer = %kept.session.peer, reason = %Ended::Stopped, "session down");
            self.leases.release(&kept.session.hint, now());
        }
        self.events.close();
        self.kept.clear();

        match stop {
            Stop::ForGood | Stop::Hangup => {
                self.leave_nothing().await;
                self.presence.end();
            }
            Stop::Restart => {
                let devices: Vec<_> = self.ports.values().map(|port| port.tun.name()).collect();
                left::announce(&left::name(self.hooks.listen), &devices);
            }
        }
        if let Some(nat) = self.nat.take() {
            nat.end(stop).await;
        }
        self.memory.finish(&self.leases).await;
        tracing::info!(dropped = %self.shared.counters, "stopped");
    }

    /// To each spoke, and at a full socket until it has gone.
    async fn say_goodbye(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        let sessions = self.kept.values().map(|kept| &kept.session);
        // Nothing but the meta goes to a spoke that has not answered it.
        let sessions: Vec<_> = sessions.filter(|it| it.is_confirmed()).collect();
        for some in sessions.chunks(AT_ONCE) {
            for session in some {
                self.shared.send_goodbye(session);
            }
            let datapath = Arc::clone(&self.datapath);
            let patience = deadline.saturating_duration_since(Instant::now());
            let flushed = tokio::task::spawn_blocking(move || datapath.flush(patience));
            if !flushed.await.unwrap_or(false) {
                tracing::debug!("not every goodbye has gone");
            }
        }
    }

    async fn leave_nothing(&mut self) {
        self.hooks.run_all_down(&self.leases, &mut self.ports).await;
        for (_, leaving) in self.leaving.drain() {
            // A panic in it has been reported by the runtime.
            drop(leaving.deletion.await);
        }
        let ports = self.ports.drain().map(|(_, port)| port).collect();
        if let Err(error) = Port::delete_all(ports, &self.netlink, &self.datapath).await {
            tracing::warn!(%error, "devices not deleted");
        }
        for pool in self.leases.pools().networks() {
            if let Err(error) = self.netlink.delete_route(pool, BLACKHOLE).await {
                tracing::warn!(%pool, %error, "blackhole route not removed");
            }
        }
    }
}

/// How long goodbyes may wait for room in a full socket, in all.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Fewer than a socket's queue of control messages takes.
const AT_ONCE: usize = 512;
