//! Models that would take their node with them: they take a process of their own.

use std::{fs, path::Path};

use lineside_tests::{Addends, Floor, Plan, add_by_http};
use serde_json::{Value, json};

const SUM: Addends = Addends::new(2.0, 3.0);

/// Puts a model of the scanner's seeds, which takes them, into the floor's repository.
fn put(floor: &Floor, name: &str) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/model");
    let file = format!("{name}.onnx");
    fs::copy(seeds.join(&file), floor.models().join(&file)).unwrap();
}

#[tokio::test]
async fn a_model_that_takes_all_memory_and_one_that_never_ends_leave_the_node_serving() {
    let mut floor = Floor::empty(&["add"]).await;
    // 32 GiB come out of a multiplication in the one; the other counts to the largest number there is.
    put(&floor, "hungry");
    put(&floor, "endless");
    let press = Plan::node("press").set("node.trial_memory_max", "4GiB").set("node.trial_time_max", "4s");
    floor.start_all([Plan::gateway("door"), press]).await;

    let mut http = floor.http("door");
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "models.list"}).to_string();
    let list = http.post("/rpc", &[], call.as_bytes()).await.unwrap().json();
    let models = list["result"]["models"].as_array().unwrap_or_else(|| panic!("{list}")).clone();
    let model = |name: &str| -> &Value { models.iter().find(|model| model["name"] == name).unwrap() };
    for (name, words) in [("hungry", "node.trial_memory_max"), ("endless", "did not end within 4s")] {
        assert_eq!(model(name)["state"], "UNAVAILABLE", "{list}");
        assert!(model(name)["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{list}");
    }
    assert_eq!(model("add")["state"], "READY", "{list}");
    assert!(add_by_http(&mut http, SUM, &[]).await.unwrap().added(SUM).unwrap().right);
}
