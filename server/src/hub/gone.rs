//! Devices that somebody deleted while their leases go on.

use std::sync::Arc;

use crate::hub::Hub;
use crate::session::Ended;

impl Hub {
    /// Makes such devices anew. Their sessions end: a spoke that is told so
    /// dials at once, and has its routes and hooks with the next.
    pub(super) async fn handle_gone(&mut self) {
        for hint in self.shared.take_gone() {
            let Some(port) = self.ports.get(&hint) else {
                continue; // It was the hub.
            };
            let old = Arc::clone(&port.tun);
            if let Err(error) = self.open_port(&hint).await {
                tracing::warn!(hint, device = old.name(), %error, "device was deleted and not made anew");
            }
            let is_there = |port: &super::port::Port| Arc::ptr_eq(&port.tun, &old);
            if self.ports.get(&hint).is_some_and(is_there) {
                continue; // A session that came meanwhile has seen to it.
            }
            let over: Vec<_> = self
                .kept
                .values()
                .map(|kept| &kept.session)
                .filter(|session| {
                    session
                        .inner()
                        .is_some_and(|inner| Arc::ptr_eq(&inner.tun, &old))
                })
                .map(Arc::clone)
                .collect();
            for session in over {
                // Nothing but the meta goes to a spoke that has not answered it.
                if session.is_confirmed() {
                    self.shared.send_goodbye(&session);
                }
                self.end(&session, Ended::DeviceGone).await;
            }
        }
    }
}
