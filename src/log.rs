//! The log: on stderr, a terse line for people or JSON for machines.
//!
//! Only dtun's own targets are heard, whatever `RUST_LOG` says: the library
//! that handshakes for the spoke logs what it receives.

mod line;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt, reload};

use line::{Clock, Line};

/// How to log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    format: Format,
    verbose: bool,
    /// `RUST_LOG`.
    filter: Option<String>,
    /// `JOURNAL_STREAM`.
    journal: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

impl Options {
    pub(crate) fn new(
        format: Format,
        verbose: bool,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let text = |name| env(name).and_then(|value| value.into_string().ok());

        Self {
            format,
            verbose,
            filter: text("RUST_LOG").filter(|filter| !filter.is_empty()),
            journal: text("JOURNAL_STREAM"),
        }
    }

    /// Logs for the rest of the process, panics included.
    pub(crate) fn init(&self) -> Level {
        let (filter, fault) = self.filter();
        let (filter, level) = reload::Layer::new(filter);
        let own = filter_fn(|metadata| metadata.target().starts_with("dtun"));
        let filter = filter.and(own);
        let clock = Clock::unless(self.journal_stamps());

        let layer = match (self.format, clock) {
            (Format::Text, clock) => fmt::layer()
                .event_format(Line { clock })
                .log_internal_errors(false)
                .with_writer(std::io::stderr)
                .boxed(),
            (Format::Json, Clock::Utc) => json().boxed(),
            (Format::Json, Clock::None) => json().without_time().boxed(),
        };
        tracing::subscriber::set_global_default(
            Registry::default().with(layer.with_filter(filter)),
        )
        .expect("nothing else in this program sets a subscriber");

        std::panic::set_hook(Box::new(panicked));
        if let Some(fault) = fault {
            tracing::warn!(%fault, "RUST_LOG is not understood and ignored");
        }

        Level(level)
    }

    fn filter(&self) -> (EnvFilter, Option<String>) {
        let level = if self.verbose {
            LevelFilter::DEBUG
        } else {
            LevelFilter::INFO
        };
        let default = || EnvFilter::default().add_directive(level.into());

        match self.filter.as_deref().map(EnvFilter::try_new) {
            None => (default(), None),
            Some(Ok(filter)) => (filter, None),
            Some(Err(error)) => (default(), Some(error.to_string())),
        }
    }

    /// Whether stderr is the socket that systemd connected to the journal:
    /// the variable alone is inherited by programs whose stderr is a file.
    fn journal_stamps(&self) -> bool {
        self.journal.as_deref().is_some_and(|journal| {
            std::fs::metadata("/proc/self/fd/2")
                .is_ok_and(|stderr| journal == format!("{}:{}", stderr.dev(), stderr.ino()))
        })
    }
}

/// How much is logged, which may change.
#[derive(Debug)]
pub(crate) struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    pub(crate) fn set(&self, options: &Options) {
        let (filter, _) = options.filter();
        if let Err(error) = self.0.reload(filter) {
            tracing::warn!(%error, "the log stays as it is");
        }
    }
}

type Json = fmt::Layer<
    Registry,
    fmt::format::JsonFields,
    fmt::format::Format<fmt::format::Json>,
    fn() -> std::io::Stderr,
>;

fn json() -> Json {
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
}

/// One line, no backtrace. The handshake library's tasks may panic on what a
/// stranger sends; the dial that owns them ends with an error of its own.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let why = panic.payload_as_str().unwrap_or_default();
    if LIBRARIES.iter().any(|library| place.contains(library)) {
        tracing::debug!(place, why, "the handshake library gave up");
    } else {
        tracing::error!(place, why, "a task of this program failed");
    }
}

const LIBRARIES: [&str; 2] = ["/dtls-", "/webrtc-util-"];
