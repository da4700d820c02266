//! Runs README as a newcomer would: every console block, in order, in one home directory.
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

const README: &str = include_str!("../../README.md");

/// A test of all tests cannot run all tests: continuous integration runs this line itself.
const RUN_ELSEWHERE: &str = "cargo test --workspace";

/// Longest wait for a command to say what it should: a member comes up and finds the others meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// What must be in the output, for the commands whose output README speaks of.
const SAYS: [(&str, &str); 11] = [
    ("cargo run --release -- demo", "lost"),
    ("lineside runtime install", "libonnxruntime"),
    ("lineside token create", "lineside up --join ls1."),
    ("lineside certs admin", "admin"),
    ("lineside members", "weld"),
    ("lineside models --data-dir", "surface-defects"),
    ("lineside status", "is well"),
    ("curl -s http://localhost:8080/v2/models/add/infer", "\"data\":[4.0,6.0]"),
    ("curl -s http://localhost:8080/rpc", "\"vibration-anomaly\""),
    ("lineside infer add", "[4.0, 6.0]"),
    ("curl -s http://localhost:8080/v2/models/vibration", "\"features\""),
];

/// The commands of every console block, in order; a line that is indented continues the one before.
fn commands() -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut in_console = false;
    for line in README.lines() {
        match line {
            "```console" => in_console = true,
            "```" => in_console = false,
            _ if !in_console => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => commands.push(command.to_owned()),
                None if line.starts_with("    ") => {
                    let command = commands.last_mut().expect("a block begins with a command");
                    command.push('\n');
                    command.push_str(line);
                }
                None => panic!("a console block holds output, which nobody compares: {line}"),
            },
        }
    }
    commands
}

/// A newcomer at the shell.
struct Newcomer {
    home: tempfile::TempDir,
    /// What README writes, and what is run for it.
    instead: Vec<(String, String)>,
    /// Members that run in the foreground of other terminals, by data directory.
    members: BTreeMap<PathBuf, Child>,
    environment: Vec<(&'static str, String)>,
}

impl Newcomer {
    fn new() -> Self {
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

    fn types(&mut self, command: &str) {
        if starts_a_member(command) {
            return self.starts(command);
        }
        let wanted =
            SAYS.iter().find(|(begins, _)| command.starts_with(begins)).map_or("", |(_, wanted)| *wanted);
        let begin = now();
        loop {
            let Output { status, stdout, stderr } = self.shell(command).output().expect("bash is there");
            let stdout = String::from_utf8_lossy(&stdout);
            if status.success() && stdout.contains(wanted) {
                return;
            }
            // A member that was just started may still load its models or look for the others.
            assert!(
                begin.elapsed() < PATIENCE,
                "$ {command}\n{stdout}{}\n({status}; {wanted:?} was expected in its output)",
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

#[test]
fn every_console_block_of_readme_does_what_it_says() {
    let commands = commands();
    assert!(10 < commands.len(), "README has console blocks");
    for (begins, _) in SAYS {
        assert!(commands.iter().any(|command| command.starts_with(begins)), "README no longer has: {begins}");
    }
    let mut newcomer = Newcomer::new();
    for command in commands.iter().filter(|command| *command != RUN_ELSEWHERE) {
        newcomer.types(command);
    }
}

/// The text of all code of the product, with strings that go over several lines joined.
fn code() -> String {
    fn read(directory: &Path, text: &mut String) {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&path).expect("source"));
            }
        }
    }
    let mut text = String::new();
    for folder in ["certs", "cli", "client", "discovery", "gateway", "mesh", "node", "wire"] {
        read(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(folder).join("src"), &mut text);
    }
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

/// The first column of the tables below `head`, up to the next chapter: what stands in it as code.
fn first_column(document: &str, head: &str) -> Vec<String> {
    let chapter = document.split("\n## ").find(|chapter| chapter.starts_with(head)).expect("the chapter");
    let cells = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells.flat_map(|cell| cell.trim_end_matches('`').split("`, `").map(str::to_owned)).collect()
}

#[test]
fn every_log_line_and_metric_that_operations_explains_is_one_of_ours() {
    let (document, code) = (include_str!("../../docs/operations.md"), code());
    let lines = first_column(document, "Logs");
    assert!(30 < lines.len(), "{lines:?}");
    for line in lines {
        assert!(code.contains(&line), "docs/operations.md explains a log line that nobody writes: {line}");
    }
    let metrics = first_column(document, "Metrics");
    assert!(15 < metrics.len(), "{metrics:?}");
    for metric in metrics.iter().filter(|metric| metric.starts_with("lineside_")) {
        let name: String = metric.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let name = name.trim_end_matches("_total").trim_end_matches("_seconds");
        let name = name.strip_prefix("lineside_").unwrap_or(name);
        assert!(code.contains(name), "docs/operations.md explains a metric that is not there: {metric}");
    }
}

#[test]
fn documents_fit_a_window_of_120_columns() {
    let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let mut files: Vec<_> = fs::read_dir(docs).expect("docs").flatten().map(|entry| entry.path()).collect();
    files.extend(["README.md", "CHANGELOG.md"].map(|name| docs.join("..").join(name)));
    // The specification has tables of fields, which are wide.
    for file in files.iter().filter(|file| !file.ends_with("PROTOCOL.md")) {
        let text = fs::read_to_string(file).expect("a document");
        for (number, line) in text.lines().enumerate() {
            let wide = line.chars().count();
            assert!(wide <= 120, "{}:{}: {wide} columns", file.display(), number + 1);
        }
    }
}

#[test]
fn the_line_that_cannot_run_here_is_run_by_continuous_integration() {
    assert!(commands().iter().any(|command| command == RUN_ELSEWHERE));
    let recipes = include_str!("../../justfile");
    assert!(recipes.lines().any(|line| line.trim() == RUN_ELSEWHERE), "`just test` runs it");
}
