//! One event as a line for people: `time LEVEL message key=value key=value`.
//!
//! The level is left out below WARN. Values come from the network too, such as
//! a hub's error text: control characters are escaped, so that nothing can
//! forge a line or move a terminal's cursor.

use std::fmt::{self, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

pub(super) struct Line {
    pub(super) clock: Clock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Utc,
    /// Somebody else stamps the lines.
    None,
}

impl Clock {
    pub(super) fn unless(stamped: bool) -> Self {
        if stamped { Self::None } else { Self::Utc }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);

        if self.clock == Clock::Utc {
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            write!(writer, "{now} ")?;
        }
        if *event.metadata().level() <= Level::WARN {
            write!(writer, "{} ", event.metadata().level())?;
        }

        writeln!(writer, "{}{}", fields.message, fields.others)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Fields {
    fn push(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            escape(&mut self.message, value, false);
            return;
        }

        self.others.push(' ');
        self.others.push_str(field.name());
        self.others.push('=');
        if value.is_empty() || value.contains([' ', '"', '=']) {
            self.others.push('"');
            escape(&mut self.others, value, true);
            self.others.push('"');
        } else {
            escape(&mut self.others, value, false);
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // A `String` takes everything; a value whose own `Debug` fails ends where it failed.
        if write!(text, "{value:?}").is_err() {
            text.push('…');
        }
        self.push(field, &text);
    }
}

fn escape(out: &mut String, text: &str, quoted: bool) {
    for c in text.chars() {
        if is_unprintable(c) || (quoted && c == '"') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

/// Control characters, and those that make a terminal write backwards.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Registry, fmt as layer};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(clock: Clock, log: impl FnOnce()) -> String {
        let page = Page::default();
        let writer = page.clone();
        let layer = layer::layer()
            .event_format(Line { clock })
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(Registry::default().with(layer), log);

        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_is_the_message_and_its_fields() {
        let line = logged(Clock::None, || {
            tracing::info!(hint = "laptop", rtt = ?7, why = "two words", "session up");
        });

        assert_eq!(line, "session up hint=laptop rtt=7 why=\"two words\"\n");
    }

    #[test]
    fn the_level_is_named_from_warn_on() {
        let line = logged(Clock::None, || tracing::warn!("pool is full"));

        assert_eq!(line, "WARN pool is full\n");
    }

    #[test]
    fn what_comes_from_the_network_cannot_forge_a_line() {
        let line = logged(Clock::None, || {
            tracing::warn!(error = "a\nERROR key lost\u{1b}[2J\u{202e}", "the hub says");
        });

        assert_eq!(
            line,
            "WARN the hub says error=\"a\\nERROR key lost\\u{1b}[2J\\u{202e}\"\n"
        );
    }

    #[test]
    fn a_line_begins_with_the_time_unless_somebody_else_stamps_it() {
        let line = logged(Clock::Utc, || tracing::info!("listening"));

        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, "listening\n");
        humantime::parse_rfc3339(time).unwrap();
    }
}
