//! The tunnel's device as others leave it: what they take away comes back.

use std::time::{Duration, Instant};

use dtun_shared::link::Change;
use dtun_shared::repairs::Repairs;

use super::Spoke;

/// When to look at the device, and how closely.
#[derive(Debug)]
pub(super) struct Mending {
    due: Option<Instant>,
    /// It may have lost its routes.
    thorough: bool,
    repairs: Repairs,
    told: bool,
}

impl Default for Mending {
    fn default() -> Self {
        Self {
            due: None,
            thorough: false,
            repairs: Repairs::of("device"),
            told: false,
        }
    }
}

impl Mending {
    /// Notes what may have been a change to the device of that index.
    pub(super) fn note(&mut self, change: Change, device: u32) {
        let is_down = match change {
            Change::Lost => true,
            Change::Link { index, up, .. } if index == device => !up,
            Change::Address {
                index,
                added: false,
                ..
            } if index == device => false,
            Change::Link { .. }
            | Change::Address { .. }
            | Change::Route
            | Change::Rule
            | Change::Gone { .. } => return,
        };
        self.thorough |= is_down;
        self.call(Instant::now() + REST);
    }

    /// When to [`Spoke::mend_device`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it may be done now, though bursts of changes are better waited for.
    fn is_free(&self, now: Instant) -> bool {
        self.due.is_some() && self.repairs.not_before().is_none_or(|at| at <= now)
    }

    fn call(&mut self, at: Instant) {
        let at = self.due.map_or(at, |due| due.min(at));
        self.due = Some(self.repairs.not_before().map_or(at, |not| not.max(at)));
    }
}

impl Spoke {
    /// Puts back what others have taken from the device, if that is due; before
    /// the routes, which need it.
    pub(super) async fn mend_device(&mut self, now: Instant) {
        if !self.mending.is_free(now) {
            return;
        }
        self.mending.due = None;
        let thorough = std::mem::take(&mut self.mending.thorough);
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        match tunnel.mend(thorough).await {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                tracing::info!(
                    device = tunnel.name(),
                    missing = missing.join(","),
                    "somebody changed the tunnel's device: it is as it was again"
                );
                self.mending.told = false;
                let wait = self.mending.repairs.made(now);
                if !wait.is_zero() {
                    self.mending.thorough = true;
                    self.mending.call(now + wait);
                }
                // A script's routes went with the addresses. It may be the one
                // that took them: it is not run for ever.
                if missing != ["name"]
                    && self.hooks.is_idle()
                    && wait.is_zero()
                    && let Some(hooked) = &mut self.hooked
                {
                    hooked.forget();
                    self.look = Some(now);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.mending.told, true) {
                    tracing::warn!(%error, "somebody changed the tunnel's device");
                }
                self.mending.thorough = true;
                self.mending.call(now + AGAIN);
            }
        }
    }
}

/// A burst of changes is looked at once.
const REST: Duration = Duration::from_millis(100);

/// After something did not work.
const AGAIN: Duration = Duration::from_secs(10);
