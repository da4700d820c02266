//! The node's side: starts the process, waits for it, and ends it when its time is over.

use std::{
    io::{self, Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::Instant;
use tracing::debug;

use super::{Finding, LINE_BYTES_MAX, Order, TrialConfig, words};

/// What the process finds in its environment.
///
/// mimalloc, which Lineside's program uses, is to take memory as it is needed: by itself it maps a gibibyte at its start, all
/// of it to be written to, and the limit on memory would count that and not what is used. ONNX Runtime is to make no
/// identity for a telemetry that nobody wants. Its last words are to be the reason, not where in the program it was.
const ENVIRONMENT: [(&str, &str); 3] =
    [("MIMALLOC_ARENA_EAGER_COMMIT", "0"), ("ORT_DISABLE_TELEMETRY", "1"), ("RUST_BACKTRACE", "0")];

/// How often the process is looked after. The loader's thread has nothing else to do, and a small model is tried in
/// some tens of milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long its last words may take after its end: they lie in a pipe, but somebody else may hold its other end.
const WORDS_WITHIN: Duration = Duration::from_secs(2);

/// What is kept of its words: their end, where the reason is.
const WORDS_BYTES_MAX: usize = 4 << 10;

/// Longest last words in a reason, in characters.
const LAST_CHARS_MAX: usize = 300;

/// Lines of them.
const LAST_LINES_MAX: usize = 3;

/// Carries an order out.
///
/// # Errors
/// There is no finding, in words for the person who put the model there.
pub(super) fn run(config: &TrialConfig, order: &Order) -> Result<Finding, String> {
    let mut line = serde_json::to_vec(order).map_err(|error| words::not_run(&error.to_string()))?;
    line.push(b'\n');
    if LINE_BYTES_MAX < line.len() {
        return Err(words::not_run("its paths are too long"));
    }
    let mut process = Process::start(config).map_err(|error| {
        words::not_run(&format!("the program {} cannot be started: {error}", config.program.display()))
    })?;
    let spoken = process.tell(&line).map_err(|error| words::not_run(&error.to_string()))?;
    let ended = process.end_within(config.time_max).map_err(|error| words::not_run(&error.to_string()))?;
    let (found, said) = spoken.hear();
    if !said.is_empty() {
        debug!(said, "a trial");
    }
    let Some(status) = ended else { return Err(words::too_long(config.time_max)) };
    // Libraries may write there too, before and after it.
    let finding = found.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    match finding {
        Some(finding) if status.success() => Ok(finding),
        _ => Err(words::ended(status, &last_words(&said), config.memory_max, config.time_max)),
    }
}

/// The trial's process. Ends with this value, and whatever it started with it.
struct Process(Child);

impl Process {
    fn start(config: &TrialConfig) -> io::Result<Self> {
        let mut command = Command::new(&config.program);
        command.args(&config.arguments).envs(ENVIRONMENT);
        // What it might say there would be taken for the member's own words.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that all of it can be ended, and a key pressed at the node's terminal is the node's.
        command.process_group(0);
        command.spawn().map(Self)
    }

    /// Gives it its order, and begins to listen.
    fn tell(&mut self, line: &[u8]) -> io::Result<Spoken> {
        let found = self.0.stdout.take().map(|output| listen(output, Keep::First(LINE_BYTES_MAX)));
        let said = self.0.stderr.take().map(|output| listen(output, Keep::Last(WORDS_BYTES_MAX)));
        if let Some(mut input) = self.0.stdin.take() {
            // The order fits the pipe, so this waits for nobody. One that is gone has its reason on the other pipe.
            let _ = input.write_all(line);
        }
        Ok(Spoken { found: found.transpose()?, said: said.transpose()? })
    }

    /// Waits for its end; `None` when its time was over first.
    fn end_within(&mut self, time_max: Duration) -> io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if time_max <= begun.elapsed() {
                self.kill();
                return Ok(None);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn kill(&mut self) {
        // Before it is waited for, so that its number is nobody else's.
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.kill();
        }
    }
}

/// What is kept of an output without an end.
#[derive(Clone, Copy)]
enum Keep {
    First(usize),
    Last(usize),
}

/// Reads an output to its end on a thread of its own, so that the process never waits for a reader.
fn listen(mut output: impl Read + Send + 'static, keep: Keep) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (to, from) = mpsc::sync_channel(1);
    let read = move || {
        let (mut kept, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = output.read(&mut chunk) {
            kept.extend_from_slice(&chunk[..read]);
            match keep {
                Keep::First(max) => kept.truncate(max),
                Keep::Last(max) => drop(kept.drain(..kept.len().saturating_sub(max))),
            }
        }
        let _ = to.send(kept);
    };
    thread::Builder::new().name("lineside-trial".to_owned()).spawn(read)?;
    Ok(from)
}

/// What the process says, as it comes.
struct Spoken {
    found: Option<mpsc::Receiver<Vec<u8>>>,
    said: Option<mpsc::Receiver<Vec<u8>>>,
}

impl Spoken {
    /// Its finding and its other words, once it has ended.
    fn hear(self) -> (String, String) {
        let hear = |from: Option<mpsc::Receiver<Vec<u8>>>| {
            let bytes = from.and_then(|from| from.recv_timeout(WORDS_WITHIN).ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (hear(self.found), hear(self.said))
    }
}

/// The last lines that say something, as one.
fn last_words(said: &str) -> String {
    let is_plain = |c: char| if c.is_control() { ' ' } else { c };
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES_MAX)..];
    let text: String = last.join(" / ").chars().map(is_plain).collect();
    crate::engine::clipped(&text, LAST_CHARS_MAX)
}
