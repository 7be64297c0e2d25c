//! Lines for the shell that go with a device, as wg-quick(8) has them: those of
//! `-post-up` when the tunnel is up, those of `-post-down` to undo them.
//!
//! What stands is noted in a [`Claim`], with the lines that undo it: after a kill
//! it is undone by the next start or by `dtun clean`, and a start that finds its
//! own lines on the same device takes them over, so that no rule stands twice.

use serde::{Deserialize, Serialize};

use super::{HookError, run_line};
use crate::claim::{Claim, claims};

/// What the user wants, in order; `%i` stands for the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    pub up: Vec<String>,
    pub down: Vec<String>,
}

/// What stands for one device. Dropped, it is left to the next start.
#[derive(Debug)]
pub struct Posted {
    /// None where the sign could not be made.
    claim: Option<Claim>,
    record: Record,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    up: Vec<String>,
    down: Vec<String>,
    env: Vec<(String, String)>,
    /// Every line of `up` has been run.
    done: bool,
}

impl Lines {
    pub fn is_empty(&self) -> bool {
        self.up.is_empty() && self.down.is_empty()
    }

    /// Runs the lines of `-post-up`, or takes over what stands; `name` is the
    /// device's owner and the device, `env` what a hook would get. None where
    /// there is nothing to run.
    pub async fn up(&self, name: &str, env: &[(&str, String)]) -> Option<Posted> {
        if let Some(posted) = self.adopt(name, env).await {
            return Some(posted);
        }
        if self.is_empty() {
            return None;
        }
        let claim = Claim::try_take(&sign(name)).unwrap_or_else(|error| {
            tracing::warn!("after a kill nothing will undo -post-up: {error}");
            None
        });
        let record = self.record(env);
        let mut posted = Posted { claim, record };
        posted.note();
        posted.run("up").await;
        posted.record.done = true;
        posted.note();

        Some(posted)
    }

    /// Takes over what an earlier run has left for the device, where it is what
    /// these lines would make; else undoes it.
    pub async fn adopt(&self, name: &str, env: &[(&str, String)]) -> Option<Posted> {
        let posted = Posted::left(&sign(name))?;
        let wanted = self.record(env);
        if posted.record.done && posted.record.is_like(&wanted) {
            return Some(posted);
        }
        posted.undo().await;

        None
    }

    fn record(&self, env: &[(&str, String)]) -> Record {
        let device = value(env, "TUN").map_or("", String::as_str);
        let put_in = |lines: &[String]| -> Vec<_> {
            let lines = lines.iter();
            lines.map(|line| line.replace("%i", device)).collect()
        };

        Record {
            up: put_in(&self.up),
            down: put_in(&self.down),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            done: false,
        }
    }
}

impl Posted {
    /// Runs the lines of `-post-down`.
    pub async fn undo(self) {
        self.run("down").await;
        if let Some(Err(error)) = self.claim.map(Claim::remove) {
            tracing::debug!(%error, "the sign of -post-up stays");
        }
    }

    /// What another run has left, if it has.
    fn left(sign: &str) -> Option<Self> {
        if !claims(sign).iter().any(|name| name == sign) {
            return None;
        }
        let claim = Claim::try_take(sign).ok().flatten()?;
        match serde_json::from_str(&claim.noted()) {
            Ok(record) => Some(Self {
                claim: Some(claim),
                record,
            }),
            Err(_) => {
                // Killed before it began.
                claim.remove().unwrap_or_default();
                None
            }
        }
    }

    fn note(&self) {
        let Some(claim) = &self.claim else {
            return;
        };
        let written = serde_json::to_string(&self.record)
            .map_err(Into::into)
            .and_then(|text| claim.note(&text));
        if let Err(error) = written {
            tracing::warn!("after a kill nothing will undo -post-up: {error}");
        }
    }

    /// One after the other; one that fails is said, and the rest is run.
    async fn run(&self, event: &str) {
        let lines = match event {
            "up" => &self.record.up,
            _ => &self.record.down,
        };
        let env: Vec<_> = self
            .record
            .env
            .iter()
            .map(|(name, value)| match name.as_str() {
                "EVENT" => ("EVENT", event.to_owned()),
                name => (name, value.clone()),
            })
            .collect();
        for line in lines {
            let result: Result<(), HookError> = run_line(line, &env).await;
            if let Err(error) = result {
                tracing::error!(event, "failed to run a line: {error}");
            }
        }
    }
}

impl Record {
    /// Whether the same rules come out of it: by which of the hub's addresses a
    /// session came does not matter to them, nor does the MTU.
    fn is_like(&self, other: &Self) -> bool {
        let of = |record: &Self| -> Vec<_> {
            let named = |(name, _): &&(String, String)| TELLING.contains(&name.as_str());
            record.env.iter().filter(named).cloned().collect()
        };

        self.up == other.up && self.down == other.down && of(self) == of(other)
    }
}

/// Undoes what runs have left that were killed, of owners whose names begin like
/// this; that of one which still runs stays, and what `keep` says.
pub async fn undo_left(prefix: &str, keep: impl Fn(&str) -> bool) {
    let begin = sign(prefix);
    for name in claims(&begin) {
        if keep(&name[begin.len()..]) {
            continue;
        }
        if let Some(posted) = Posted::left(&name) {
            tracing::info!(name = &name[SIGN.len()..], "-post-down after a kill");
            posted.undo().await;
        }
    }
}

fn value<'a>(env: &'a [(&str, String)], name: &str) -> Option<&'a String> {
    let found = env.iter().find(|(other, _)| *other == name);

    found.map(|(_, value)| value)
}

fn sign(name: &str) -> String {
    format!("{SIGN}{name}")
}

const SIGN: &str = "post-";

/// What of the environment a line may have put into a rule.
const TELLING: [&str; 6] = [
    "TUN",
    "HINT",
    "LOCAL_IP4",
    "PEER_IP4",
    "LOCAL_IP6",
    "PEER_IP6",
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::netns::isolated;

    /// A file that lines write to, gone at the end.
    struct Notes(PathBuf);

    impl Notes {
        fn new(name: &str) -> Self {
            let file = format!("lines-{name}-{}", std::process::id());

            Self(std::env::temp_dir().join(file))
        }

        /// Lines that say what they are run for.
        fn lines(&self, word: &str) -> Lines {
            let line =
                |what: &str| format!("echo {what} %i $EVENT $LOCAL_IP4 >> {}", self.0.display());
            let up = vec![line(word), "exit 3".to_owned(), line("last")];

            Lines {
                up,
                down: vec![line("undo")],
            }
        }

        fn read(&self) -> Vec<String> {
            let text = fs::read_to_string(&self.0).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }
    }

    impl Drop for Notes {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap_or_default();
        }
    }

    fn env(ip: &str) -> Vec<(&'static str, String)> {
        vec![
            ("EVENT", "up".to_owned()),
            ("TUN", "dtun7".to_owned()),
            ("LOCAL_IP4", ip.to_owned()),
        ]
    }

    const UP: [&str; 2] = ["first dtun7 up 10.0.0.1", "last dtun7 up 10.0.0.1"];
    const UNDO: &str = "undo dtun7 down 10.0.0.1";

    #[test]
    fn lines_run_in_order_past_one_that_fails_and_are_undone() {
        isolated(|_| async {
            let notes = Notes::new("order");
            let posted = notes
                .lines("first")
                .up("hub-1-dtun7", &env("10.0.0.1"))
                .await;
            assert_eq!(notes.read(), UP);

            posted.unwrap().undo().await;

            assert_eq!(notes.read(), [&UP[..], &[UNDO]].concat());
            assert_eq!(claims(SIGN), [""; 0]);
        });
    }

    #[test]
    fn what_stands_is_taken_over_and_what_would_be_other_is_undone_first() {
        isolated(|_| async {
            let notes = Notes::new("adopt");
            let lines = notes.lines("first");
            drop(lines.up("hub-1-dtun7", &env("10.0.0.1")).await);
            drop(lines.up("hub-1-dtun7", &env("10.0.0.1")).await);
            assert_eq!(notes.read(), UP);

            let other = lines.up("hub-1-dtun7", &env("10.0.0.9")).await;

            let ups = ["first dtun7 up 10.0.0.9", "last dtun7 up 10.0.0.9"];
            assert_eq!(notes.read(), [&UP[..], &[UNDO], &ups].concat());
            drop(other);
            assert!(Lines::default().up("hub-1-dtun7", &[]).await.is_none());
            assert_eq!(notes.read().last().unwrap(), "undo dtun7 down 10.0.0.9");
        });
    }

    #[test]
    fn what_a_killed_run_has_left_is_undone_and_what_still_runs_stays() {
        isolated(|_| async {
            let notes = Notes::new("left");
            let lines = notes.lines("first");
            let running = lines.up("hub-1-dtun7", &env("10.0.0.1")).await;
            undo_left("hub-1-", |_| false).await;
            assert_eq!(notes.read(), UP);
            drop(running);

            undo_left("hub-2-", |_| false).await;
            undo_left("hub-1-", |device| device == "dtun7").await;
            assert_eq!(notes.read(), UP);
            undo_left("hub-1-", |_| false).await;

            assert_eq!(notes.read(), [&UP[..], &[UNDO]].concat());
        });
    }
}
