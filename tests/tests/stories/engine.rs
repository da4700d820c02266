//! How a node serves its models: new versions while it runs, work that nobody waits for, memory that comes back.

use std::{fs, time::Duration};

use lineside_client::Client;
use lineside_tests::{Addends, Floor, Http, PATIENCE, PATIENTLY, Plan, add_by_http, eventually};
use lineside_wire::{MemberRow, ModelState};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

const SUM: Addends = Addends::new(2.0, 3.0);

/// Longer than any story waits.
const AN_AGE: Duration = Duration::from_secs(20);

/// A node that looks after its models folder, and takes what has not changed for a moment.
fn watching(name: &str) -> Plan {
    Plan::node(name).set("node.control", "watch").set("node.settle", "200ms")
}

/// Puts a file into the models folder as a person does: a new directory, then the file.
fn put(floor: &Floor, version: u64, bytes: &[u8]) {
    let directory = floor.models().join("add").join(version.to_string());
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("model.onnx"), bytes).unwrap();
}

fn the_model(floor: &Floor) -> Vec<u8> {
    fs::read(floor.models().join("add/1/model.onnx")).unwrap()
}

/// The version that answers whoever names none.
async fn answering(http: &mut Http) -> Result<String, String> {
    let answer = add_by_http(http, SUM, &[]).await.map_err(|error| error.to_string())?;
    assert!(answer.added(SUM)?.right);
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let json: Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    Ok(json["model_version"].as_str().unwrap().to_owned())
}

async fn until_answered_by(http: &mut Http, version: &str) {
    eventually(&format!("version {version} answers"), PATIENCE, async || {
        let by = answering(http).await?;
        if by == version { Ok(()) } else { Err(format!("version {by} answers")) }
    })
    .await;
}

/// What every node of the floor says of a version of `add`; nothing, where it does not list it.
async fn said_of(floor: &Floor, version: u64) -> Result<Vec<Option<(ModelState, String)>>, String> {
    let rows = floor.seen_by("door").await?.members;
    let said = |row: &MemberRow| {
        let models = &row.member.as_ref()?.models;
        let model = models.iter().find(|model| model.version.0 == version)?;
        Some((model.state, model.reason.clone().unwrap_or_default()))
    };
    let is_node = |row: &&MemberRow| row.role == Some(lineside_wire::Role::Node);
    Ok(rows.iter().filter(is_node).map(said).collect())
}

#[tokio::test]
async fn a_new_version_takes_over_under_load_and_hands_back_when_it_is_removed() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::gateway("door"), watching("press"), watching("weld")]).await;
    let load = floor.load(4, 4).await;
    load.answers(50).await;
    let mut http = floor.http("door");
    assert_eq!(answering(&mut http).await.unwrap(), "1");

    put(&floor, 2, &the_model(&floor));
    until_answered_by(&mut http, "2").await;
    load.answers(50).await;

    fs::remove_dir_all(floor.models().join("add/2")).unwrap();
    until_answered_by(&mut http, "1").await;
    load.answers(50).await;
    load.end().await.assert_nothing_lost();
}

#[tokio::test]
async fn a_broken_version_does_not_take_over_and_says_why() {
    let mut floor = Floor::empty(&["add"]).await;
    floor.start_all([Plan::gateway("door"), watching("press"), watching("weld")]).await;
    let load = floor.load(4, 4).await;
    let half = the_model(&floor);
    put(&floor, 2, &half[..half.len() / 2]);
    eventually("every node says what is wrong with version 2", PATIENCE, async || {
        let said = said_of(&floor, 2).await?;
        let is_refused = |said: &Option<(ModelState, String)>| {
            said.as_ref().is_some_and(|(state, why)| *state == ModelState::Unavailable && !why.is_empty())
        };
        if said.len() == 2 && said.iter().all(is_refused) { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
    let mut http = floor.http("door");
    let index = http.post("/v2/repository/index", &[], b"").await.unwrap().json();
    let rows: Vec<_> = index.as_array().unwrap().iter().map(|row| (&row["version"], &row["state"])).collect();
    assert_eq!(rows, [(&json!("1"), &json!("READY")), (&json!("2"), &json!("UNAVAILABLE"))]);
    assert!(index[1]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{index}");
    assert_eq!(answering(&mut http).await.unwrap(), "1");
    load.answers(50).await;
    load.end().await.assert_nothing_lost();
}

/// Asks for a slow sum over QUIC and waits for it.
async fn add_slowly(client: Client, about: Duration) {
    let rounds = i64::try_from(about.as_millis() * 25).unwrap();
    let request = client.infer("slow-add").input("a", &[1], &[2_f32]).input("b", &[1], &[3_f32]);
    // The story takes them back. Those that the node refuses would make the queue short.
    let answer = request.input("rounds", &[1], &[rounds]).deadline(Duration::from_secs(60)).send().await;
    panic!("nobody was to be answered: {answer:?}");
}

/// Waits until a node has so many calls that run and wait.
async fn until_it_holds(floor: &Floor, name: &str, running: u32, queued: u32) {
    let what = format!("has {running} that run and {queued} that wait");
    let holds = |row: &MemberRow| {
        row.member.as_ref().is_some_and(|state| (state.load.running, state.load.queued) == (running, queued))
    };
    floor.sees(name, name, &what, holds).await;
}

/// What `slow-add` has done.
async fn statistics(http: &mut Http) -> Value {
    let call =
        json!({"jsonrpc": "2.0", "id": 1, "method": "models.statistics", "params": {"model": "slow-add"}});
    let answer = http.post("/rpc", &[], call.to_string().as_bytes()).await.unwrap().json();
    answer["result"]["models"][0].clone()
}

#[tokio::test]
async fn a_thousand_cancelled_calls_leave_an_empty_queue() {
    const CALLS: u32 = 1_000;
    let mut floor = Floor::empty(&["slow-add"]).await;
    let press = Plan::node("press").set("node.queue_max", 2 * CALLS);
    floor.start_all([Plan::gateway("door"), press]).await;
    let client = floor.client(&["door"]).await;
    let (mut runs, mut waits) = (JoinSet::new(), JoinSet::new());
    runs.spawn(add_slowly(client.clone(), AN_AGE));
    until_it_holds(&floor, "press", 1, 0).await;
    for _ in 0..CALLS {
        waits.spawn(add_slowly(client.clone(), Duration::from_millis(1)));
    }
    until_it_holds(&floor, "press", 1, CALLS).await;

    let begun = Instant::now();
    waits.shutdown().await;
    until_it_holds(&floor, "press", 1, 0).await;
    runs.shutdown().await;
    until_it_holds(&floor, "press", 0, 0).await;
    assert!(begun.elapsed() < AN_AGE / 2, "{:?}", begun.elapsed());
    let mut http = floor.http("door");
    eventually("each call is counted as cancelled", PATIENCE, async || {
        let done = statistics(&mut http).await;
        let counts = [&done["success"]["count"], &done["cancel"]["count"], &done["stopped"]];
        if counts == [&json!(0), &json!(CALLS + 1), &json!(1)] { Ok(()) } else { Err(done.to_string()) }
    })
    .await;
    let quickly = SUM.slowly(Duration::from_millis(1));
    let answer = add_by_http(&mut http, quickly, &[]).await.unwrap();
    assert!(answer.added(quickly).unwrap().right);
}

#[tokio::test]
async fn what_cannot_be_done_in_time_is_not_begun() {
    /// The limit of a call, and how long after its arrival the answer may come at the latest.
    const WITHIN: (&str, Duration) = ("50", Duration::from_millis(100));
    let mut floor = Floor::empty(&["slow-add"]).await;
    floor.start_all([Plan::gateway("door"), Plan::node("press")]).await;
    let client = floor.client(&["door"]).await;
    let mut blocker = JoinSet::new();
    blocker.spawn(add_slowly(client, AN_AGE));
    until_it_holds(&floor, "press", 1, 0).await;

    let mut http = floor.http("door");
    let before = statistics(&mut http).await;
    let half_a_second = SUM.slowly(Duration::from_millis(500));
    // On a machine that does much else the node's word may come too late, and the door cannot tell then.
    eventually("an answer in time that tells that nothing was run", PATIENCE, async || {
        let begun = Instant::now();
        let limit = [("x-request-timeout-ms", WITHIN.0)];
        let answer =
            add_by_http(&mut http, half_a_second, &limit).await.map_err(|error| error.to_string())?;
        let (took, error) = (begun.elapsed(), answer.json());
        assert_eq!(answer.status, 504, "{error}");
        let is_told = error["code"] == "DEADLINE_EXCEEDED" && error["executed"] == "no";
        if is_told && took <= WITHIN.1 { Ok(()) } else { Err(format!("after {took:?}: {error}")) }
    })
    .await;
    let after = statistics(&mut http).await;
    for untouched in ["execution_count", "inference_count", "compute_infer", "success"] {
        assert_eq!(before[untouched], after[untouched], "{untouched}: {after}");
    }
    assert!(after["expired"].as_u64().is_some_and(|count| 0 < count), "{after}");
    blocker.shutdown().await;
}

#[tokio::test]
async fn memory_comes_back_when_models_go() {
    /// Cycles after which the memory is taken for the first and for the second time.
    const CYCLES: [usize; 2] = [20, 180];
    let mut floor = Floor::empty(&["slow-add"]).await;
    floor.start(Plan::up("press").set("gateway.model_control", "open")).await;
    floor.formed().await;
    let mut http = floor.http("press");
    let mut change = async |verb: &str| {
        let answer = http.post(&format!("/v2/repository/models/slow-add/{verb}"), &[], b"").await.unwrap();
        assert_eq!(answer.status, 200, "{verb}: {}", answer.text());
    };
    let mut taken = Vec::new();
    for cycles in CYCLES {
        for _ in 0..cycles {
            change("unload").await;
            change("load").await;
        }
        taken.push(floor.member("press").resident_bytes());
    }
    let [first, second] = taken[..] else { unreachable!() };
    assert!(second < first + first / 10, "{first} bytes after 20 cycles, {second} after 200");
    let quickly = SUM.slowly(Duration::from_millis(1));
    let answer = add_by_http(&mut floor.http("press"), quickly, &[PATIENTLY]).await.unwrap();
    assert!(answer.added(quickly).unwrap().right);
}

#[tokio::test]
async fn a_model_that_never_ends_takes_no_more_than_its_trial() {
    /// Minutes of work for a trial that may take seconds.
    const ENDLESS: &str = "[warmup]\nruns = 1000\nshape = { x = [20000, 784] }\n";
    let mut floor = Floor::empty(&["add", "mlp"]).await;
    fs::write(floor.models().join("mlp/model.toml"), ENDLESS).unwrap();
    let press = Plan::node("press").set("node.trial_time_max", "3s");
    floor.start_all([Plan::gateway("door"), press]).await;
    let mut http = floor.http("door");
    let index = http.post("/v2/repository/index", &[], b"").await.unwrap().json();
    let row = |name: &str| index.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    assert_eq!((&row("add")["state"], &row("mlp")["state"]), (&json!("READY"), &json!("UNAVAILABLE")));
    let why = row("mlp")["reason"].as_str().unwrap();
    assert!(why.contains("3s") && why.contains("node.trial_time_max"), "{why}");
    assert_eq!(answering(&mut http).await.unwrap(), "1");
}

#[tokio::test]
async fn a_model_that_nobody_asked_for_is_loaded_by_its_first_call() {
    let mut floor = Floor::empty(&["add"]).await;
    let lazy = |name| Plan::node(name).set("node.on_demand", true);
    floor.start_all([Plan::gateway("door"), lazy("press"), lazy("weld")]).await;
    let said = said_of(&floor, 1).await.unwrap();
    let waits = |said: &Option<(ModelState, String)>| {
        said.as_ref().is_some_and(|(state, _)| *state != ModelState::Ready)
    };
    assert!(said.len() == 2 && said.iter().all(waits), "{said:?}");
    let mut http = floor.http("door");
    assert_eq!(answering(&mut http).await.unwrap(), "1");
    // One is enough: the other keeps its memory until there is need of it.
    eventually("one node has loaded it", PATIENCE, async || {
        let said = said_of(&floor, 1).await?;
        let loaded = said.iter().filter(|said| !waits(said)).count();
        if loaded == 1 { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_cores_all_compute_answers_a_ping() {
    let mut floor = Floor::alone(&["slow-add"]).await;
    floor.start_all([Plan::gateway("door"), Plan::node("press").set("node.sessions", "auto")]).await;
    let cores = std::thread::available_parallelism().unwrap().get();
    let client = floor.client(&["door"]).await;
    let mut calls = JoinSet::new();
    for _ in 0..2 * cores {
        calls.spawn(add_slowly(client.clone(), AN_AGE));
    }
    let cores = u32::try_from(cores).unwrap();
    until_it_holds(&floor, "press", cores, cores).await;
    let pinged = floor.lineside("door", &["ping", "-o", "json", "--count", "20"]).await;
    assert_eq!(pinged.code, Some(0), "{pinged:?}");
    let members: Value = serde_json::from_str(&pinged.stdout).unwrap();
    assert!(members.as_array().unwrap().iter().all(|member| member["answered"] == 20), "{members}");
    until_it_holds(&floor, "press", cores, cores).await;
    calls.shutdown().await;
}
