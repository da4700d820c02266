//! A newcomer at the shell, who types what a document says.
//!
//! Changed on the way are only the ports and addresses (free ones, loopback), so that the test disturbs nothing on this
//! machine, and `cargo run --release --`, which stands for the binary that is tested.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest wait for a command to say what it should: a member comes up and finds the others meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// A newcomer at the shell.
pub(crate) struct Newcomer {
    home: tempfile::TempDir,
    /// What README writes, and what is run for it.
    instead: Vec<(String, String)>,
    /// Members that run in the foreground of other terminals, by data directory.
    members: BTreeMap<PathBuf, Child>,
    environment: Vec<(&'static str, String)>,
}

impl Newcomer {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().expect("a home");
        let udp = || {
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
        };
        let tcp = || {
            TcpListener::bind("127.0.0.1:0")
                .and_then(|socket| socket.local_addr())
                .expect("a free port")
                .port()
        };
        let (udp_1, udp_2, http_1, http_2) = (udp(), udp(), tcp(), tcp());
        let instead = [
            ("cargo run --release -- demo", "lineside demo --exit --seconds 3".to_owned()),
            ("0.0.0.0:7444", format!("127.0.0.1:{udp_2}")),
            ("0.0.0.0:8081", format!("127.0.0.1:{http_2}")),
            ("localhost:8080", format!("127.0.0.1:{http_1}")),
        ];
        let environment = vec![
            ("LINESIDE__MEMBER__LISTEN", format!("127.0.0.1:{udp_1}")),
            ("LINESIDE__GATEWAY__HTTP", format!("127.0.0.1:{http_1}")),
        ];
        let instead = instead.map(|(written, run)| (written.to_owned(), run)).into();
        Self { home, instead, members: BTreeMap::new(), environment }
    }

    fn shell(&self, command: &str) -> Command {
        let mut command =
            self.instead.iter().fold(command.to_owned(), |text, (written, run)| text.replace(written, run));
        if starts_a_member(&command) {
            // Replaces the shell, so that whoever kills the shell kills the member.
            command = format!("exec {command} --exit-with-parent");
        }
        let binary = Path::new(env!("CARGO_BIN_EXE_lineside")).parent().expect("a directory");
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
        let cache = std::env::var("LINESIDE_CACHE")
            .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cache/lineside")))
            .unwrap_or_else(|_| "/var/cache/lineside".to_owned());
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", &command])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        shell.env("PATH", path).env("HOME", self.home.path()).env("LINESIDE_CACHE", cache);
        shell.envs(self.environment.iter().map(|(name, value)| (name, value)));
        shell
    }

    /// Types a command, again and again until `wanted` is pleased with what it says. A member that is started runs on.
    pub(crate) fn types(&mut self, command: &str, wanted: impl Fn(&str) -> Result<(), String>) {
        if starts_a_member(command) {
            return self.starts(command);
        }
        let begin = now();
        loop {
            let Output { status, stdout, stderr } = self.shell(command).output().expect("bash is there");
            let stdout = String::from_utf8_lossy(&stdout);
            let missing = match (status.success(), wanted(&stdout)) {
                (true, Ok(())) => return,
                (_, outcome) => outcome.err().unwrap_or_default(),
            };
            // A member that was just started may still load its models or look for the others.
            assert!(
                begin.elapsed() < PATIENCE,
                "$ {command}\n{stdout}{}\n({status}; {missing})",
                String::from_utf8_lossy(&stderr)
            );
            sleep(Duration::from_millis(200));
        }
    }

    fn starts(&mut self, command: &str) {
        // The last one: the one before may be that of the machine that makes the token.
        let directory =
            command.rsplit_once("--data-dir ").and_then(|(_, rest)| rest.split_whitespace().next());
        let directory =
            directory.and_then(|path| path.strip_prefix("~/")).expect("README names --data-dir ~/...");
        let data = self.home.path().join(directory);
        if let Some(running) = self.members.remove(&data) {
            end(running); // The newcomer pressed ctrl-C before starting it again.
        }
        let log = self.home.path().join("log");
        let errors = fs::File::create(&log).expect("a file");
        let child = self.shell(command).stdin(Stdio::piped()).stderr(errors).spawn().expect("bash is there");
        self.members.insert(data.clone(), child);
        let begin = now();
        while !data.join("run/address").exists() {
            let text = || fs::read_to_string(&log).unwrap_or_default();
            assert!(begin.elapsed() < PATIENCE, "$ {command}\n{}", text());
            sleep(Duration::from_millis(20));
        }
    }
}

/// `lineside up …`, written out or as the line that a token's maker prints.
fn starts_a_member(command: &str) -> bool {
    ["lineside up", "$(lineside token create"].iter().any(|begins| command.starts_with(begins))
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test without a runtime")]
    Instant::now()
}

/// Ends a member as ctrl-C does, but by the end of its stdin.
fn end(mut member: Child) {
    drop(member.stdin.take());
    let status = member.wait().expect("a child");
    assert!(status.success(), "the member ended with {status}");
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        for child in self.members.values_mut() {
            drop(child.stdin.take());
            drop(child.kill());
            drop(child.wait());
        }
    }
}
