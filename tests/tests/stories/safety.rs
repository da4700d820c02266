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

/// A decision tree of so many levels, which ONNX Runtime walks by recursion.
fn tree(levels: u64) -> Vec<u8> {
    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while 0x80 <= value {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
        bytes
    }
    let number = |field: u64, value: u64| [varint(field << 3), varint(value)].concat();
    let message = |field: u64, bytes: &[u8]| {
        [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    };
    let text = |field: u64, text: &str| message(field, text.as_bytes());
    let attribute = |name: &str, kind: u64, value: Vec<u8>| {
        message(5, &[text(1, name), number(20, kind), value].concat())
    };
    let ints = |name: &str, values: &mut dyn Iterator<Item = u64>| {
        attribute(name, 7, message(8, &values.flat_map(varint).collect::<Vec<_>>()))
    };
    let floats = |name: &str, count: u64| {
        attribute(name, 6, message(7, &vec![0; 4 * usize::try_from(count).unwrap()]))
    };
    // The nodes that ask, one below the other, and then the leaves beside and below them.
    let (leaves, nodes) = (levels..2 * levels + 1, 2 * levels + 1);
    let below = |at: u64| if at + 1 < levels { at + 1 } else { 2 * levels };
    let modes = (0..nodes).flat_map(|at| text(9, if at < levels { "BRANCH_LEQ" } else { "LEAF" })).collect();
    let attributes = [
        attribute("n_targets", 2, number(3, 1)),
        ints("nodes_nodeids", &mut (0..nodes)),
        ints("nodes_treeids", &mut (0..nodes).map(|_| 0)),
        ints("nodes_featureids", &mut (0..nodes).map(|_| 0)),
        ints("nodes_falsenodeids", &mut (0..nodes).map(|at| if at < levels { below(at) } else { 0 })),
        ints("nodes_truenodeids", &mut (0..nodes).map(|at| if at < levels { levels + at } else { 0 })),
        attribute("nodes_modes", 8, modes),
        floats("nodes_values", nodes),
        ints("target_ids", &mut leaves.clone().map(|_| 0)),
        ints("target_nodeids", &mut leaves.clone()),
        ints("target_treeids", &mut leaves.clone().map(|_| 0)),
        floats("target_weights", leaves.end - leaves.start),
    ];
    let node = [text(1, "x"), text(2, "y"), text(4, "TreeEnsembleRegressor"), text(7, "ai.onnx.ml")];
    let matrix = [message(1, &text(2, "n")), message(1, &number(1, 1))].concat();
    let floats = message(1, &[number(1, 1), message(2, &matrix)].concat());
    let value = |field: u64, name: &str| message(field, &[text(1, name), message(2, &floats)].concat());
    let node = message(1, &[node.concat(), attributes.concat()].concat());
    let graph = [text(2, "g"), node, value(11, "x"), value(12, "y")].concat();
    let opset = |domain: &str, version: u64| message(8, &[text(1, domain), number(2, version)].concat());
    [number(1, 8), message(7, &graph), opset("", 17), opset("ai.onnx.ml", 1)].concat()
}

/// What the door lists, by name.
async fn listed(floor: &Floor) -> impl Fn(&str) -> Value + use<> {
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "models.list"}).to_string();
    let list = floor.http("door").post("/rpc", &[], call.as_bytes()).await.unwrap().json();
    let models = list["result"]["models"].as_array().unwrap_or_else(|| panic!("{list}")).clone();
    move |name| models.iter().find(|model| model["name"] == name).unwrap_or_else(|| panic!("{list}")).clone()
}

#[tokio::test]
async fn a_model_that_aborts_at_load_leaves_the_node_serving() {
    let mut floor = Floor::empty(&["add"]).await;
    // A GatherND whose batch_dims is negative: ONNX Runtime 1.32 calls abort.
    put(&floor, "aborts");
    // A program's first thread could walk it, and no other thread of a node.
    fs::write(floor.models().join("deep.onnx"), tree(7_000)).unwrap();
    fs::write(floor.models().join("shallow.onnx"), tree(700)).unwrap();
    // The least memory that may be set is enough for a small model.
    let press = Plan::node("press").set("node.trial_memory_max", "256MiB");
    floor.start_all([Plan::gateway("door"), press]).await;

    let model = listed(&floor).await;
    for (name, last) in [("aborts", "terminate called"), ("deep", "stack")] {
        let model = model(name);
        assert_eq!(model["state"], "UNAVAILABLE", "{model}");
        let reason = model["reason"].as_str().unwrap();
        let words = "the model killed its trial (signal 6, SIGABRT)";
        assert!(reason.contains(words) && reason.contains(last), "{model}");
    }
    for name in ["add", "shallow"] {
        assert_eq!(model(name)["state"], "READY", "{}", model(name));
    }
    let mut http = floor.http("door");
    assert!(add_by_http(&mut http, SUM, &[]).await.unwrap().added(SUM).unwrap().right);
}

#[tokio::test]
async fn a_model_that_takes_all_memory_and_one_that_never_ends_leave_the_node_serving() {
    let mut floor = Floor::empty(&["add"]).await;
    // 32 GiB come out of a multiplication in the one; the other counts to the largest number there is.
    put(&floor, "hungry");
    put(&floor, "endless");
    let press = Plan::node("press").set("node.trial_memory_max", "4GiB").set("node.trial_time_max", "4s");
    floor.start_all([Plan::gateway("door"), press]).await;

    let model = listed(&floor).await;
    for (name, words) in [("hungry", "node.trial_memory_max"), ("endless", "did not end within 4s")] {
        let model = model(name);
        assert_eq!(model["state"], "UNAVAILABLE", "{model}");
        assert!(model["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{model}");
    }
    assert_eq!(model("add")["state"], "READY", "{}", model("add"));
    let mut http = floor.http("door");
    assert!(add_by_http(&mut http, SUM, &[]).await.unwrap().added(SUM).unwrap().right);
}
