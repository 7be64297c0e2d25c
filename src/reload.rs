//! SIGHUP: the file of flags is read again.
//!
//! What can be taken over without a break is; of the rest one line says that it
//! needs a restart. A mistake in the file changes nothing.

use crate::cli::{self, Invocation, Order, Settings};
use crate::log::Level;

/// What runs, for a comparison.
pub(crate) struct Reload {
    running: Settings,
    level: Level,
}

impl Reload {
    pub(crate) fn new(running: Settings, level: Level) -> Self {
        Self { running, level }
    }

    /// Reads all anew; the command line still beats the file. None where there
    /// is nothing to take over.
    pub(crate) fn read(&mut self) -> Option<Order> {
        let args = std::env::args_os().skip(1);
        let asked = match cli::parse(args, |name| std::env::var_os(name)) {
            Ok(asked) => asked,
            Err(usage) => {
                tracing::error!("the configuration stays as it is: {usage}");
                return None;
            }
        };

        self.compare(asked)
    }

    fn compare(&mut self, asked: Invocation) -> Option<Order> {
        for warning in &asked.warnings {
            tracing::warn!("{warning}");
        }
        let new = asked.settings?;
        let changes = self.running.changes(&new);
        if !changes.restart.is_empty() {
            let flags = listed(&changes.restart);
            tracing::warn!("{flags}: changed, and only a restart takes that over");
        }
        if changes.taken.is_empty() {
            tracing::info!("configuration read again: nothing to take over");
            return None;
        }

        tracing::info!("configuration taken over: {}", listed(&changes.taken));
        self.running.take_over(&new, &changes);
        self.level.set(&asked.log);
        Some(asked.order)
    }
}

fn listed(names: &[String]) -> String {
    let flags: Vec<_> = names.iter().map(|name| format!("-{name}")).collect();

    flags.join(", ")
}
