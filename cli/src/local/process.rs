//! One member as a process: started, waited for, killed, told to end.
//!
//! Each child reads its stdin, a pipe whose other end only this process holds: however that one ends, by SIGKILL too,
//! the pipe closes and the child ends by itself.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    config::ADDRESS_FILE,
    exit::{Exit, Failure},
    member::AddressFile,
};

/// How often a starting process is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a member may take until it listens. A tenth of a second is usual; a first start on a loaded machine
/// reads the binary and the runtime library from disk.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// How much of a log is shown when its member failed.
const TAIL_LINES: usize = 8;
/// How much of it is read for that.
const TAIL_BYTES: u64 = 8 << 10;

/// What the variables that change settings begin with, and the one that names a file of them.
const VARIABLES: [&str; 2] = ["LINESIDE__", "LINESIDE_CONFIG"];

/// How a member is started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its name.
    pub(crate) name: &'static str,
    /// The binary.
    pub(crate) program: PathBuf,
    /// Its command line.
    pub(crate) arguments: Vec<OsString>,
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// Where its log goes, behind what is there.
    pub(crate) log: PathBuf,
}

/// A member that was started.
pub(crate) struct Process {
    plan: Plan,
    child: Child,
    // Dropped to tell the child to end.
    stdin: Option<ChildStdin>,
    addresses: Option<AddressFile>,
}

impl Process {
    /// Starts a member and does not wait for it.
    pub(crate) fn start(plan: Plan) -> Result<Self, Failure> {
        Self::spawn(plan).map_err(|error| {
            let remedy = "see that this binary may be run, and that there is room in the temporary directory";
            Failure::new(Exit::Failure, "a member cannot be started", format!("{error:#}"), remedy)
        })
    }

    fn spawn(plan: Plan) -> anyhow::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&plan.log);
        let log = log.with_context(|| plan.log.display().to_string())?;
        let mut command = Command::new(&plan.program);
        command.args(&plan.arguments).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // A ctrl-C on the terminal is this program's; it ends its children in order.
        command.process_group(0).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            if VARIABLES.iter().any(|variable| name.to_string_lossy().starts_with(variable)) {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().with_context(|| plan.program.display().to_string())?;
        let stdin = child.stdin.take();
        Ok(Self { plan, child, stdin, addresses: None })
    }

    /// Where it will be reached, when that is known before: it was there once, and is told to listen there again.
    pub(crate) fn will_be_at(&mut self, addresses: Option<AddressFile>) {
        self.addresses = addresses;
    }

    /// Waits until it is up.
    ///
    /// # Errors
    /// It ended, or time ran out: with the last lines of its log.
    pub(crate) async fn up(&mut self) -> Result<AddressFile, Failure> {
        let until = Instant::now() + UP_WITHIN;
        loop {
            if let Some(addresses) = self.read_addresses() {
                self.addresses = Some(addresses.clone());
                return Ok(addresses);
            }
            self.check()?;
            if until <= Instant::now() {
                return Err(self.failure(format!("{} is not up after {UP_WITHIN:?}", self.plan.name)));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn read_addresses(&self) -> Option<AddressFile> {
        let text = fs::read(self.plan.data.join(ADDRESS_FILE)).ok()?;
        addresses(&text, self.pid()?)
    }

    /// That it runs.
    ///
    /// # Errors
    /// It ended: with the last lines of its log.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.ended() {
            Some(status) => Err(self.failure(format!("{} ended by itself ({status})", self.plan.name))),
            None => Ok(()),
        }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        // An error means that it cannot be waited for any more: it is no child of ours now.
        self.child.try_wait().unwrap_or_default()
    }

    fn failure(&self, what: String) -> Failure {
        let tail = tail(&self.plan.log);
        let why =
            if tail.is_empty() { "it wrote nothing".to_owned() } else { format!("its log ends\n{tail}") };
        Failure::new(Exit::Failure, what, why, "")
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.plan.name
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where it is reached, once it was up.
    pub(crate) fn addresses(&self) -> Option<AddressFile> {
        self.addresses.clone()
    }

    /// Kills it, as a power cut would.
    pub(crate) async fn kill(&mut self) {
        // The only error is that it is gone already.
        drop(self.child.kill().await);
        self.stdin = None;
    }

    /// Tells it to end in order.
    pub(crate) fn tell_to_end(&mut self) {
        self.stdin = None;
    }

    /// Sends it a signal; one that is gone is not told.
    ///
    /// A stopped child does not outlive this program: the end of the parent leaves its process group without one, and
    /// the kernel lets stopped ones of such a group go on.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        // The only error is that it is gone already.
        let _gone = pid.map(|pid| kill_process(pid, signal));
    }

    /// Waits for its end; `false` when it still runs then.
    pub(crate) async fn gone(&mut self, until: Instant) -> bool {
        timeout_at(until, self.child.wait()).await.is_ok()
    }
}

/// The addresses that a running process wrote; those of one before it do not count.
fn addresses(text: &[u8], pid: u32) -> Option<AddressFile> {
    serde_json::from_slice(text).ok().filter(|addresses: &AddressFile| addresses.pid == pid)
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(directory: &Path, script: &str) -> Plan {
        Plan {
            name: "press",
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            data: directory.to_owned(),
            log: directory.join("press.log"),
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn an_address_of_a_killed_predecessor_does_not_count() {
        let text = br#"{"pid":7,"node":"00000000000000000000000000000007","members":"127.0.0.1:7443","http":"127.0.0.1:8080"}"#;
        let said = addresses(text, 7).expect("its own");
        assert_eq!((said.members.port(), said.http.map(|http| http.port())), (7443, Some(8080)));
        assert_eq!(addresses(text, 8), None);
        assert_eq!(addresses(&text[..20], 7), None);
        assert!(
            addresses(
                br#"{"pid":7,"node":"00000000000000000000000000000007","members":"127.0.0.1:7443"}"#,
                7
            )
            .expect("a node")
            .http
            .is_none()
        );
    }

    #[test]
    fn a_member_that_does_not_come_up_shows_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let plan = shell(directory.path(), "seq 1 50; echo the port is taken >&2; exit 3");
            let failure = Process::start(plan).unwrap().up().await.unwrap_err();
            let text = failure.text();
            assert!(text.contains("press ended by itself") && text.contains("the port is taken"), "{text}");
            assert!(text.contains("    50\n") && !text.contains("    10\n"), "{text}");
        });
    }

    #[test]
    fn a_member_is_up_when_it_says_so_and_ends_when_its_stdin_does() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"mkdir -p run; printf '{"pid":%s,"node":"00000000000000000000000000000007","members":"127.0.0.1:1"}' $$ > run/address; read end"#;
        let script = format!("cd {}; {script}", directory.path().display());
        runtime().block_on(async {
            let mut process = Process::start(shell(directory.path(), &script)).unwrap();
            let addresses = process.up().await.unwrap();
            assert_eq!((Some(addresses.pid), process.addresses()), (process.pid(), Some(addresses)));
            process.check().unwrap();
            process.tell_to_end();
            assert!(process.gone(Instant::now() + UP_WITHIN).await);
            assert!(process.ended().is_some() && process.check().is_err());
        });
    }

    #[test]
    fn a_member_that_does_not_listen_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let mut process = Process::start(shell(directory.path(), "exec sleep 600")).unwrap();
            process.tell_to_end();
            assert!(!process.gone(Instant::now()).await);
            process.kill().await;
            assert!(process.ended().is_some_and(|status| !status.success()));
        });
    }
}
