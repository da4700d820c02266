//! The commands of the binary against a cluster that runs.

use lineside_tests::{Ended, Floor, Plan};
use lineside_wire::Role;
use serde_json::Value;

const OK: i32 = 0;
const DEGRADED: i32 = 3;
const UNREACHABLE: i32 = 4;

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[tokio::test]
async fn members_lists_everybody_the_dead_too() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    floor.member_mut("weld").kill();
    floor.sees("door", "weld", "is down", |row| row.state == "down").await;

    let list = floor.lineside("door", &["members"]).await;
    assert_eq!(list.code, Some(OK), "{list:?}");
    let mut lines = list.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = "NODE ADDR STATE ROLE MODELS INFLIGHT P95 ERR% CERT TRUST CLOCK SEEN VERSION";
    assert_eq!(lines.next().unwrap().join(" "), head);
    let rows: Vec<_> = lines.collect();
    let state = |name| rows.iter().find(|row| row[0] == name).map(|row| (row[2], row[3]));
    assert_eq!(state("press"), Some(("alive", "node")));
    assert_eq!(state("weld"), Some(("down", "node")));
    assert_eq!(state("door"), Some(("alive", "gateway")));
    assert!(!list.stdout.contains('\u{1b}'), "no colours where nobody looks: {}", list.stdout);

    let list = floor.lineside("press", &["members", "-o", "json"]).await;
    let members = json(&list)["members"].as_array().map(Vec::len);
    assert_eq!((list.code, members), (Some(OK), Some(3)));
}

#[tokio::test]
async fn status_says_by_its_exit_code_how_the_cluster_is() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let well = floor.lineside("door", &["status"]).await;
    assert_eq!(well.code, Some(OK), "{well:?}");

    floor.member_mut("weld").kill();
    floor.sees("door", "weld", "is down", |row| row.state == "down").await;
    let degraded = floor.lineside("door", &["status", "-o", "json"]).await;
    assert_eq!(degraded.code, Some(DEGRADED), "{degraded:?}");
    assert_eq!(json(&degraded)["degraded"], true);
    assert!(json(&degraded)["problems"][0].as_str().is_some_and(|problem| problem.contains("weld")));

    let gone = floor.lineside("weld", &["status"]).await;
    gone.assert_failed(UNREACHABLE, &["cannot be reached"]);
}

#[tokio::test]
async fn a_command_where_no_member_runs_says_what_to_do() {
    let mut floor = Floor::with_nodes(["press"]).await;
    floor.member("press").terminate();
    floor.member_mut("press").ended(lineside_tests::PATIENCE).await;
    let nobody = floor.lineside("press", &["members"]).await;
    nobody.assert_failed(UNREACHABLE, &["no member runs with this data directory", "--connect"]);
}

#[tokio::test]
async fn models_are_listed_unloaded_and_loaded_by_those_who_may() {
    let mut floor = Floor::empty(&["add", "broken"]).await;
    floor.start_all([Plan::gateway("door"), Plan::node("press")]).await;
    let list = floor.lineside("door", &["models", "-o", "json"]).await;
    let models = json(&list);
    let state = |models: &Value, name: &str| {
        models
            .as_array()
            .unwrap()
            .iter()
            .find(|model| model["name"] == name)
            .map(|model| model["state"].clone())
    };
    assert_eq!(state(&models, "add"), Some("READY".into()), "{models}");
    assert_eq!(state(&models, "broken"), Some("UNAVAILABLE".into()), "{models}");

    floor.identity(Role::Client);
    let program = floor.path("client-1-identity");
    let unload = ["models", "unload", "add", "--identity", program.to_str().unwrap()];
    let refused = floor.lineside("press", &unload).await;
    refused.assert_failed(1, &["the role client may not call models.unload", "lineside certs admin"]);
    floor.identity(Role::Admin);
    let admin = floor.path("admin-2-identity");
    for (verb, wanted) in [("unload", "UNAVAILABLE"), ("load", "READY")] {
        let change = ["models", verb, "add", "--identity", admin.to_str().unwrap()];
        let changed = floor.lineside("door", &change).await;
        assert_eq!(changed.code, Some(OK), "{changed:?}");
        lineside_tests::eventually(wanted, lineside_tests::PATIENCE, async || {
            let list = floor.lineside("door", &["models", "-o", "json"]).await;
            let state = state(&json(&list), "add");
            if state == Some(wanted.into()) { Ok(()) } else { Err(list.stdout) }
        })
        .await;
    }
}

#[tokio::test]
async fn ping_measures_the_way_to_every_member() {
    let mut floor = Floor::with_nodes(["press", "weld"]).await;
    let pinged = floor.lineside("door", &["ping", "-o", "json", "--count", "3"]).await;
    assert_eq!(pinged.code, Some(OK), "{pinged:?}");
    let members = json(&pinged);
    assert_eq!(members.as_array().map(Vec::len), Some(3), "{members}");
    assert!(members.as_array().unwrap().iter().all(|member| member["answered"] == 3), "{members}");

    floor.member_mut("weld").kill();
    let pinged = floor.lineside("door", &["ping"]).await;
    assert_eq!(pinged.code, Some(DEGRADED), "{pinged:?}");
}

#[tokio::test]
async fn infer_calls_a_model_from_the_command_line() {
    let floor = Floor::with_nodes(["press"]).await;
    let add = ["infer", "add", "--input", "a=[1,2]", "--input", "b=[3,4.5]", "-o", "json"];
    for machine in ["door", "press"] {
        let sum = floor.lineside(machine, &add).await;
        assert_eq!(sum.code, Some(OK), "on {machine}: {sum:?}");
        assert!(json(&sum).to_string().contains("[4.0,6.5]"), "on {machine}: {sum:?}");
    }

    let unknown = floor.lineside("door", &["infer", "subtract", "--input", "a=[1]"]).await;
    unknown.assert_failed(1, &["no model subtract", "add 1"]);
}

/// What ONNX Runtime leaves behind where its telemetry is on: an identity in the directory for temporary files.
#[test]
fn a_library_that_would_report_to_its_maker_leaves_no_trace() {
    let home = tempfile::tempdir().unwrap();
    let (models, temporary) = (home.path().join("models"), home.path().join("temporary"));
    std::fs::create_dir_all(&models).unwrap();
    std::fs::create_dir_all(&temporary).unwrap();
    let add = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/repository/add/1/model.onnx");
    std::fs::copy(add, models.join("add.onnx")).unwrap();
    let done = std::process::Command::new(lineside_tests::lineside())
        .args(["models", "check", "--run", "--onnxruntime"])
        .arg(lineside_tests::library())
        .arg(&models)
        .env_remove("ORT_DISABLE_TELEMETRY")
        .env("TMPDIR", &temporary)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("READY"),
        "{said} {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let left: Vec<_> =
        std::fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
