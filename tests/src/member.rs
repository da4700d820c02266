//! One member as a process: started, waited for, killed, paused, told to end.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use lineside_wire::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::{Plan, eventually, library, lineside, wait::PATIENCE};

/// Where a running member says how it is reached, below its data directory.
const ADDRESS_FILE: &str = "run/address";

/// What every variable that changes a member's settings begins with.
const VARIABLES: [&str; 2] = ["LINESIDE_", "ORT_DYLIB_PATH"];

/// Where a member is reached, as it says itself.
#[derive(Clone, Debug, Deserialize)]
struct Addresses {
    pid: u32,
    node: NodeId,
    members: SocketAddr,
    #[serde(default)]
    http: Option<SocketAddr>,
    #[serde(default)]
    reachable: Vec<SocketAddr>,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ended {
    /// Checks that it failed with this code and one error, in words that hold all of `texts`, and without a panic.
    ///
    /// # Panics
    /// It is not so.
    pub fn assert_failed(&self, code: i32, texts: &[&str]) {
        let Self { stderr, .. } = self;
        assert_eq!(self.code, Some(code), "{stderr}");
        assert_eq!(stderr.matches("error:").count(), 1, "not one error: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        for text in texts {
            assert!(stderr.contains(text), "{text:?} is not in: {stderr}");
        }
    }
}

/// A process of the `lineside` binary. Killed when dropped.
#[derive(Debug)]
pub struct Member {
    plan: Plan,
    data: PathBuf,
    log: PathBuf,
    // With it, the child's stdin: a pipe that closes when this process ends, however it ends, and the child with it.
    child: Child,
    addresses: Option<Addresses>,
    paused: bool,
}

/// What a member needs of its surroundings.
pub(crate) struct Surroundings<'a> {
    pub(crate) data: &'a Path,
    pub(crate) models: &'a Path,
    pub(crate) seeds: &'a [SocketAddr],
}

/// The command that starts a member as planned.
pub(crate) fn command(plan: &Plan, around: &Surroundings<'_>) -> Command {
    let mut command = Command::new(lineside());
    without_settings(&mut command);
    let seeds = around.seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let defaults = [
        ("member.name", plan.name.clone()),
        ("member.listen", "127.0.0.1:0".to_owned()),
        ("member.preset", "fast".to_owned()),
        ("member.mdns", plan.mdns.to_string()),
        ("member.seeds", if plan.mdns { String::new() } else { seeds }),
        ("node.models", around.models.display().to_string()),
        ("node.sessions", "1".to_owned()),
        ("node.onnxruntime", library().display().to_string()),
        ("gateway.http", "127.0.0.1:0".to_owned()),
        ("gateway.shards", "1".to_owned()),
        ("log.format", "human".to_owned()),
    ];
    let mut settings: BTreeMap<_, _> = defaults.into_iter().collect();
    settings.extend(plan.settings.iter().map(|(key, value)| (key.as_str(), value.clone())));
    for (key, value) in settings.into_iter().filter(|(_, value)| !value.is_empty()) {
        command.env(format!("LINESIDE__{}", key.to_uppercase().replace('.', "__")), value);
    }
    command.envs(plan.environment.iter().map(|(name, value)| (name, value)));
    command.arg(plan.command).arg("--data-dir").arg(around.data).args(&plan.flags);
    command
}

/// Takes out what this machine or its user may have set.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
}

fn is_ours(name: &OsStr) -> bool {
    VARIABLES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))
}

impl Member {
    /// Starts it and does not wait.
    pub(crate) fn start(plan: Plan, log: &Path, around: &Surroundings<'_>) -> Self {
        let write = File::options().create(true).append(true).open(log).expect("the log can be written");
        let child = command(&plan, around)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(write.try_clone().expect("a file can be shared"))
            .stderr(write)
            .spawn()
            .expect("the binary can be run");
        let (data, log) = (around.data.to_owned(), log.to_owned());
        Self { plan, data, log, child, addresses: None, paused: false }
    }

    /// Waits until it says where it is.
    pub(crate) async fn up(&mut self) {
        let within = PATIENCE;
        let what = format!("{} is up", self.plan.name);
        let addresses = eventually(&what, within, async || {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("{} ended by itself ({status}): {}", self.plan.name, self.log());
            }
            let text = fs::read(self.data.join(ADDRESS_FILE)).map_err(|error| error.to_string())?;
            let addresses: Addresses = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            match addresses.pid == self.child.id() {
                true => Ok(addresses),
                false => Err("the address of the process before".to_owned()),
            }
        });
        self.addresses = Some(addresses.await);
    }

    fn addresses(&self) -> &Addresses {
        self.addresses.as_ref().expect("it is up before a story sees it")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// How it was started.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The id in its certificate.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.addresses().node
    }

    /// Where members and clients reach it (UDP).
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses().members
    }

    /// Where it says that others reach it: a relay's address, where there is one before it.
    #[must_use]
    pub fn announced(&self) -> SocketAddr {
        let addresses = self.addresses();
        addresses.reachable.first().copied().unwrap_or(addresses.members)
    }

    /// Where others find it, once it is up.
    pub(crate) fn seed(&self) -> Option<SocketAddr> {
        self.addresses.as_ref().map(|_| self.announced())
    }

    /// Where it serves HTTP.
    ///
    /// # Panics
    /// It does not.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.addresses().http.expect("a door")
    }

    /// Whether it takes part: it runs and is not paused.
    pub(crate) fn takes_part(&mut self) -> bool {
        !self.paused && matches!(self.child.try_wait(), Ok(None))
    }

    /// Its memory that is in use now, as the system counts it.
    ///
    /// # Panics
    /// It does not run, or the system does not tell.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kibibytes * 1024
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until its log holds all of `texts` in one line, and gives the line.
    pub async fn logs(&self, within: Duration, texts: &[&str]) -> String {
        let what = format!("{} logs {texts:?}", self.plan.name);
        eventually(&what, within, async || {
            let log = self.log();
            let line = log.lines().find(|line| texts.iter().all(|text| line.contains(text)));
            line.map(str::to_owned).ok_or_else(|| "no such line".to_owned())
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are positive");
        let id = Pid::from_raw(id).expect("process ids are not zero");
        kill_process(id, signal).expect("it is our child and not waited for");
    }

    /// Kills it, as a power cut would, and waits for its end.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        self.child.wait().expect("it is our child");
    }

    /// Tells it to end in order (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Tells it to read its settings again (SIGHUP).
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// Stops it in the middle of whatever it does (SIGSTOP).
    pub fn pause(&mut self) {
        self.paused = true;
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    /// Closes its stdin, as the end of this process would.
    pub fn abandon(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.plan.name);
        eventually(&what, within, async || {
            self.child.try_wait().expect("it is our child").ok_or_else(|| "it runs".to_owned())
        })
        .await
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
