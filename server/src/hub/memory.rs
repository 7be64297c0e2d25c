//! Keeps the state file in step with the leases, off the hub's loop.
//!
//! One write runs at a time; what changes meanwhile is in the next. A disk that
//! refuses costs one warning: the tunnel matters more than its memory.

use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use tokio::task::JoinHandle;

use crate::lease::{Leases, State, Store};

/// The state file and what is still to be written.
#[derive(Debug)]
pub(super) struct Memory {
    /// None where there is no directory to write to.
    store: Option<Arc<Store>>,
    default_pool4: Option<Ipv4Net>,
    default_pool6: Option<Ipv6Net>,
    dirty: bool,
    warned: bool,
    saving: Option<JoinHandle<std::io::Result<()>>>,
}

impl Memory {
    pub(super) fn new(
        store: Option<Store>,
        default_pool4: Option<Ipv4Net>,
        default_pool6: Option<Ipv6Net>,
    ) -> Self {
        Self {
            store: store.map(Arc::new),
            default_pool4,
            default_pool6,
            dirty: true,
            warned: false,
            saving: None,
        }
    }

    /// The leases have changed.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// Starts the next write if one is needed and none is running.
    pub(super) async fn flush(&mut self, leases: &Leases) {
        if self.saving.as_ref().is_some_and(JoinHandle::is_finished) {
            self.join().await;
        }
        if self.dirty && self.saving.is_none() {
            self.start(leases);
        }
    }

    /// Waits for the end of the write that is running, for ever if none is.
    pub(super) async fn written(&mut self) {
        if self.saving.is_none() {
            std::future::pending::<()>().await;
        }
        self.join().await;
    }

    /// Writes what is left and waits for it.
    pub(super) async fn finish(&mut self, leases: &Leases) {
        self.join().await;
        self.start(leases);
        self.join().await;
    }

    fn start(&mut self, leases: &Leases) {
        self.dirty = false;
        let Some(store) = self.store.clone() else {
            return;
        };
        let state = State::new(self.default_pool4, self.default_pool6, leases.save());
        self.saving = Some(tokio::task::spawn_blocking(move || store.save(&state)));
    }

    async fn join(&mut self) {
        let Some(saving) = &mut self.saving else {
            return;
        };
        let result = saving.await.unwrap_or_else(|panic| Err(panic.into()));
        self.saving = None;
        match result {
            Ok(()) => self.warned = false,
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!(%error, "state not written: leases will not survive a restart");
            }
            Err(error) => tracing::debug!(%error, "state not written"),
        }
    }
}
