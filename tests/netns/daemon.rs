//! A program that runs in a namespace while the test watches its log.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::namespace::Netns;
use crate::wait::until;

pub(crate) struct Daemon {
    command: Command,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    /// Lines up to here were already asked for.
    seen: usize,
}

impl Daemon {
    /// Starts our own program with these arguments.
    pub(crate) fn dtun(netns: &Netns, args: &[&str]) -> Self {
        Self::start(netns, env!("CARGO_BIN_EXE_dtun"), args)
    }

    pub(crate) fn start(netns: &Netns, program: &str, args: &[&str]) -> Self {
        let mut command = netns.command(program);
        command.args(args);

        Self::spawn(command)
    }

    /// Starts a command; what it prints on either stream is its log.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let log = Arc::new(Log::default());
        let (child, readers) = launch(&mut command, &log);

        Self {
            command,
            child,
            log,
            readers,
            seen: 0,
        }
    }

    /// Starts the same command again once the last run ended; the log goes on.
    pub(crate) fn restart(&mut self) {
        self.wait();
        (self.child, self.readers) = launch(&mut self.command, &self.log);
    }

    /// Waits for the next line with `text` in it.
    #[track_caller]
    pub(crate) fn line(&mut self, text: &str) -> String {
        self.line_within(text, PATIENCE)
    }

    #[track_caller]
    pub(crate) fn line_within(&mut self, text: &str, deadline: Duration) -> String {
        let Some((index, line)) = self
            .log
            .find(|line| line.contains(text), self.seen, deadline)
        else {
            panic!("no line with {text:?} within {deadline:?}");
        };
        self.seen = index + 1;

        line
    }

    /// Waits for a line with all these texts in it, wherever it stands.
    #[track_caller]
    pub(crate) fn line_anywhere(&self, texts: &[&str]) -> String {
        let has_all = |line: &str| texts.iter().all(|text| line.contains(text));
        let Some((_, line)) = self.log.find(has_all, 0, PATIENCE) else {
            panic!("no line with {texts:?} within {PATIENCE:?}");
        };

        line
    }

    /// How many lines so far have `text` in them.
    pub(crate) fn count(&self, text: &str) -> usize {
        let lines = self.log.lines.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Everything it said.
    pub(crate) fn text(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    /// The program's process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // `ip netns exec` becomes the program, so the child's id is the program's.
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// How often any of its threads has been put on a processor.
    pub(crate) fn switches(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let status = threads.map(|thread| {
            let path = thread.unwrap().path().join("status");
            std::fs::read_to_string(path).unwrap_or_default()
        });

        status.map(|text| switches_in(&text)).sum()
    }

    /// Kills it as nothing can catch, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for its end and its last words.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = until("the program's end", PATIENCE, || {
            self.child.try_wait().unwrap()
        });
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }

        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("{error}");
        }
        if thread::panicking() {
            eprintln!("---- {:?}\n{}", self.command, self.text());
        }
    }
}

fn switches_in(status: &str) -> u64 {
    status
        .lines()
        .filter_map(|line| line.split_once("ctxt_switches:"))
        .map(|(_, count)| count.trim().parse::<u64>().unwrap())
        .sum()
}

/// The value of `name=` in a log line, without quotes.
pub(crate) fn field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    let value = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split_whitespace().next(),
    };

    value.map(str::to_owned)
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grew: Condvar,
}

impl Log {
    fn find(
        &self,
        wanted: impl Fn(&str) -> bool,
        from: usize,
        deadline: Duration,
    ) -> Option<(usize, String)> {
        let start = Instant::now();
        let mut lines = self.lines.lock().unwrap();
        loop {
            let found = lines[from..].iter().position(|line| wanted(line));
            if let Some(index) = found {
                return Some((from + index, lines[from + index].clone()));
            }
            let left = deadline.checked_sub(start.elapsed())?;
            lines = self.grew.wait_timeout(lines, left).unwrap().0;
        }
    }
}

fn launch(command: &mut Command, log: &Arc<Log>) -> (Child, Vec<JoinHandle<()>>) {
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let readers = vec![
        read(child.stdout.take().unwrap(), Arc::clone(log)),
        read(child.stderr.take().unwrap(), Arc::clone(log)),
    ];

    (child, readers)
}

fn read(stream: impl Read + Send + 'static, log: Arc<Log>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            log.lines.lock().unwrap().push(line);
            log.grew.notify_all();
        }
    })
}

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(30);
