//! What is said at the end: for people, and as one JSON object. Pure.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use lineside_client::Roster;
use lineside_wire::{MembersResult, ModelState};
use serde::Serialize;

use super::{
    floor::Discovery,
    tally::{Door, Tally, Way},
};
use crate::output::{Table, percent, time_us};

/// Everything that is known at the end.
pub(super) struct Report {
    /// What became of the requests.
    pub(super) tally: Tally,
    /// The members as the gateway sees them.
    pub(super) members: MembersResult,
    /// The nodes.
    pub(super) nodes: Vec<Node>,
    /// How the members found each other.
    pub(super) discovery: Discovery,
    /// The loss.
    pub(super) loss: Loss,
    /// How long there was traffic.
    pub(super) traffic: Duration,
    /// What to call.
    pub(super) places: Places,
}

/// A node as a process.
pub(super) struct Node {
    /// Its name.
    pub(super) name: &'static str,
    /// Its process.
    pub(super) pid: Option<u32>,
    /// Where it listens for members.
    pub(super) address: Option<SocketAddr>,
}

/// The node that was killed.
pub(super) struct Loss {
    /// Its name.
    pub(super) node: &'static str,
    /// How long it was not there.
    pub(super) away: Duration,
    /// From its new start to its first answer.
    pub(super) back_after: Duration,
}

/// Where things are, for the commands.
pub(super) struct Places {
    /// This binary.
    pub(super) program: PathBuf,
    /// The gateway's HTTP door.
    pub(super) http: SocketAddr,
    /// The gateway for members and clients.
    pub(super) gateway: SocketAddr,
    /// An identity for clients.
    pub(super) client: PathBuf,
    /// The members' logs.
    pub(super) logs: PathBuf,
    /// Whether all of it ends now.
    pub(super) ends: bool,
}

/// The JSON object. Its keys stay.
#[derive(Serialize)]
struct Object<'a> {
    requests: u64,
    answered: u64,
    lost: u64,
    wrong: u64,
    correct: u64,
    failovers: u64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    nodes: BTreeMap<&'a str, u64>,
    ways: BTreeMap<&'static str, WayObject>,
    models: Vec<Model>,
    discovery: Discovery,
    killed: &'a str,
    away_ms: u128,
    back_after_ms: u128,
    traffic_ms: u128,
    http: String,
    gateway: SocketAddr,
    reasons: &'a [String],
}

#[derive(Serialize)]
struct WayObject {
    requests: u64,
    answered: u64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

/// A model in the cluster.
#[derive(Serialize)]
struct Model {
    name: String,
    version: u64,
    state: ModelState,
    nodes: u64,
    answered: u64,
    as_labelled: u64,
}

impl Report {
    /// Whether every request has the right answer.
    pub(super) fn is_clean(&self) -> bool {
        self.tally.is_clean() && 0 < self.tally.answers()
    }

    /// The JSON object.
    pub(super) fn json(&self) -> serde_json::Value {
        let Tally { correct, wrong, lost, failovers, reasons, .. } = &self.tally;
        let total = self.tally.total();
        let object = Object {
            requests: total.requests,
            answered: total.answered,
            lost: *lost,
            wrong: *wrong,
            correct: *correct,
            failovers: *failovers,
            p50_ms: ms(total.percentile_us(50.0)),
            p95_ms: ms(total.percentile_us(95.0)),
            p99_ms: ms(total.percentile_us(99.0)),
            max_ms: ms(total.max_us()),
            nodes: self.shares().collect(),
            ways: self.tally.ways().map(|(door, way)| (key(door), WayObject::of(way))).collect(),
            models: self.models(),
            discovery: self.discovery,
            killed: self.loss.node,
            away_ms: self.loss.away.as_millis(),
            back_after_ms: self.loss.back_after.as_millis(),
            traffic_ms: self.traffic.as_millis(),
            http: format!("http://{}", self.places.http),
            gateway: self.places.gateway,
            reasons,
        };
        serde_json::to_value(object).expect("numbers, texts and maps of them")
    }

    /// Answers per node: all of ours, and whoever else answered.
    fn shares(&self) -> impl Iterator<Item = (&str, u64)> {
        let answers = |name: &str| self.tally.nodes.get(name).copied().unwrap_or_default();
        let ours = self.nodes.iter().map(move |node| (node.name, answers(node.name)));
        let is_other = |name: &str| self.nodes.iter().all(|node| node.name != name);
        let others = self.tally.nodes.iter().map(|(name, answers)| (name.as_str(), *answers));
        ours.chain(others.filter(move |(name, _)| is_other(name)))
    }

    fn models(&self) -> Vec<Model> {
        let roster = Roster::new(self.members.clone());
        let serves = |name: &str| {
            let rows = self.members.members.iter().filter(|row| row.state == "alive");
            let models = |row: &lineside_wire::MemberRow| {
                let models = row.member.iter().flat_map(|member| &member.models);
                models
                    .into_iter()
                    .any(|model| model.name.as_str() == name && model.state == ModelState::Ready)
            };
            rows.filter(|row| models(row)).count() as u64
        };
        let model = |model: &lineside_wire::ModelInfo| {
            let accuracy = self.tally.models.get(model.name.as_str()).copied().unwrap_or_default();
            Model {
                name: model.name.to_string(),
                version: model.version.0,
                state: model.state,
                nodes: serves(model.name.as_str()),
                answered: accuracy.answered,
                as_labelled: accuracy.as_labelled,
            }
        };
        roster.models().iter().map(model).collect()
    }

    fn model_table(&self) -> Table {
        let mut table =
            Table::new(["MODEL", "VERSION", "STATE", "NODES", "ANSWERS", "ACCURACY %"]).right([3, 4, 5]);
        for Model { name, version, state, nodes, answered, as_labelled } in self.models() {
            let accuracy = percent(as_labelled, answered);
            let state = state.as_str().to_owned();
            table.row([name, version.to_string(), state, nodes.to_string(), answered.to_string(), accuracy]);
        }
        table
    }

    fn node_table(&self) -> Table {
        let mut table = Table::new(["NODE", "ADDR", "PID", "ANSWERS", "SHARE %"]).right([2, 3, 4]);
        for (name, answers) in self.shares() {
            let node = self.nodes.iter().find(|node| node.name == name);
            let address = node.and_then(|node| node.address).map(|address| address.to_string());
            let pid = node.and_then(|node| node.pid).map(|pid| pid.to_string());
            let share = percent(answers, self.tally.answers());
            let (address, pid) = (address.unwrap_or_default(), pid.unwrap_or_default());
            table.row([name.to_owned(), address, pid, answers.to_string(), share]);
        }
        table
    }

    fn way_table(&self) -> Table {
        let head = ["BY", "REQUESTS", "ANSWERS", "LOST", "P50", "P95", "P99", "MAX"];
        let mut table = Table::new(head).right([1, 2, 3, 4, 5, 6, 7]);
        let total = self.tally.total();
        let ways = self.tally.ways().map(|(door, way)| (door.as_str(), way));
        for (name, way) in ways.chain([("both", &total)]) {
            let lost = way.requests - way.answered;
            let time = |percentile| time_us(way.percentile_us(percentile));
            table.row([
                name.to_owned(),
                way.requests.to_string(),
                way.answered.to_string(),
                lost.to_string(),
                time(50.0),
                time(95.0),
                time(99.0),
                time_us(way.max_us()),
            ]);
        }
        table
    }

    fn verdict(&self) -> String {
        let Tally { correct, wrong, lost, failovers, .. } = &self.tally;
        let (requests, answers) = (self.tally.requests(), self.tally.answers());
        let mut text = format!(
            "requests {requests}, answers {answers}, right {correct}, wrong {wrong}, lost {lost}, failovers {failovers}\n"
        );
        let Loss { node, away, back_after } = &self.loss;
        let (away, back_after) = (away.as_secs_f64(), back_after.as_secs_f64());
        let told = if self.is_clean() { "nothing was lost" } else { "THIS IS NOT AS IT SHOULD BE" };
        let _infallible = writeln!(
            text,
            "{told}: {node} was killed, was away for {away:.1} s and answered again {back_after:.1} s after its start"
        );
        for reason in &self.tally.reasons {
            let _infallible = writeln!(text, "  {reason}");
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (models, nodes, ways) = (self.model_table(), self.node_table(), self.way_table());
        write!(f, "\n{models}\n{nodes}\n{ways}\n{}\n{}", self.verdict(), self.places)
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { http, gateway, ends, .. } = self;
        let head = match ends {
            true => "All of it ends now. Without --exit it stays until ctrl-C, for commands like these:",
            false => "It stays until ctrl-C. To try:",
        };
        let (program, client) = (quoted(&self.program), quoted(&self.client));
        let access = format!("--identity {client} --connect {gateway}");
        let body = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[2],"data":[1,2]},{"name":"b","datatype":"FP32","shape":[2],"data":[3,4]}]}"#;
        writeln!(f, "{head}")?;
        writeln!(f, "  curl http://{http}/health")?;
        writeln!(f, "  curl http://{http}/v2/models/add/infer -d '{body}'")?;
        writeln!(f, "  {program} members {access}")?;
        writeln!(f, "  {program} models {access}")?;
        writeln!(f, "  tail -f {}/*.log", quoted(&self.logs))
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

impl WayObject {
    fn of(way: &Way) -> Self {
        Self {
            requests: way.requests,
            answered: way.answered,
            p50_ms: ms(way.percentile_us(50.0)),
            p95_ms: ms(way.percentile_us(95.0)),
            p99_ms: ms(way.percentile_us(99.0)),
        }
    }
}

const fn key(door: Door) -> &'static str {
    match door {
        Door::Http => "http",
        Door::Quic => "quic",
    }
}

fn ms(micros: u64) -> f64 {
    // Counters stay far below 2^53.
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::{
        super::{samples, tally::Reply},
        *,
    };
    use crate::local::tests::list;

    fn report(ends: bool) -> Report {
        let mut tally = Tally::default();
        for (index, sample) in samples::samples().iter().enumerate() {
            let door = if index % 2 == 0 { Door::Http } else { Door::Quic };
            let node = if index % 3 == 0 { "press" } else { "weld" };
            let attempts = if index == 7 { 2 } else { 1 };
            let reply = Reply { answer: sample.expected, node: node.into(), attempts };
            tally.answered(door, sample, &reply, Duration::from_millis(2));
        }
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let node = |name| Node { name, pid: Some(77), address: Some(loopback(7443)) };
        Report {
            tally,
            members: list("alive"),
            nodes: ["press", "weld", "paint"].map(node).into(),
            discovery: Discovery::Mdns,
            loss: Loss {
                node: "weld",
                away: Duration::from_secs(2),
                back_after: Duration::from_millis(2_100),
            },
            traffic: Duration::from_secs(8),
            places: Places {
                program: "/opt/line side/lineside".into(),
                http: loopback(8080),
                gateway: loopback(7444),
                client: "/tmp/demo/camera".into(),
                logs: "/tmp/demo/logs".into(),
                ends,
            },
        }
    }

    #[test]
    fn the_object_has_what_was_promised_and_counts_every_node() {
        let object = report(true).json();
        assert_eq!(
            (&object["requests"], &object["answered"], &object["correct"]),
            (&300.into(), &300.into(), &300.into())
        );
        assert_eq!(
            (&object["lost"], &object["wrong"], &object["failovers"]),
            (&0.into(), &0.into(), &1.into())
        );
        assert_eq!(object["nodes"], serde_json::json!({"press": 100, "weld": 200, "paint": 0}));
        assert!((1.9..2.1).contains(&object["p50_ms"].as_f64().unwrap()) && object["p99_ms"].is_number());
        assert_eq!((&object["discovery"], &object["killed"]), (&"mdns".into(), &"weld".into()));
        assert_eq!(object["ways"]["http"]["requests"], 150);
        let models = object["models"].as_array().unwrap();
        assert_eq!(
            (models.len(), &models[1]["name"], &models[1]["nodes"]),
            (3, &"surface-defects".into(), &3.into())
        );
        assert_eq!((&models[1]["state"], &models[1]["answered"]), (&"READY".into(), &100.into()));
    }

    #[test]
    fn the_text_shows_models_shares_ways_and_the_loss() {
        let text = report(false).to_string();
        for part in [
            "add                1        READY",
            "paint  127.0.0.1:7443   77        0      0.0",
            "weld   127.0.0.1:7443   77      200     66.7",
            "requests 300, answers 300, right 300, wrong 0, lost 0, failovers 1",
            "nothing was lost: weld was killed, was away for 2.0 s and answered again 2.1 s after its start",
            "It stays until ctrl-C.",
            "curl http://127.0.0.1:8080/v2/models/add/infer -d '{",
            "'/opt/line side/lineside' members --identity /tmp/demo/camera --connect 127.0.0.1:7444",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(report(true).to_string().contains("All of it ends now."));
    }

    #[test]
    fn a_lost_request_is_said_aloud_with_its_reason() {
        let mut report = report(true);
        assert!(report.is_clean());
        report.tally.lost(Door::Http, &samples::samples()[0], "503 Service Unavailable");
        assert!(!report.is_clean());
        let text = report.to_string();
        assert!(
            text.contains("lost 1") && text.contains("NOT AS IT SHOULD BE") && text.contains("503"),
            "{text}"
        );
        assert_eq!((&report.json()["lost"], &report.json()["requests"]), (&1.into(), &301.into()));
    }

    #[test]
    fn traffic_without_any_answer_is_no_success() {
        let report = Report { tally: Tally::default(), ..report(true) };
        assert!(!report.is_clean());
        assert_eq!(report.json()["nodes"]["press"], 0);
    }

    #[test]
    fn a_path_with_spaces_or_quotes_can_be_copied() {
        assert_eq!(quoted(Path::new("/tmp/a-b/c.d")), "/tmp/a-b/c.d");
        assert_eq!(quoted(Path::new("/tmp/it's")), r"'/tmp/it'\''s'");
    }
}
