//! Models with a state, and answers that are given again, on the real ONNX Runtime.

use std::{fs, path::Path, sync::Arc, time::Duration};

use lineside_wire::{Datatype, Executed, Fault, FaultCode, ModelStatistics, Parameter, TensorSpec};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    floor::{Answer, Floor, PATIENCE, Request, config},
    graph::{FLOAT, Network, Type},
    onnx::{library, models},
};
use crate::{
    Node, NodeConfig,
    sequence::{END, START, STATE},
};

/// Copies a model, with these settings in the place of its own.
fn copy(from: &Path, to: &Path, settings: &str) {
    fs::create_dir_all(to.join("1")).unwrap();
    fs::copy(from.join("1/model.onnx"), to.join("1/model.onnx")).unwrap();
    fs::write(to.join("model.toml"), settings).unwrap();
}

/// A node with the model `accumulate` under these settings, and its repository.
async fn accumulates(settings: &str) -> (Floor, TempDir) {
    let home = tempfile::tempdir().unwrap();
    copy(&models().join("test/accumulate"), &home.path().join("accumulate"), settings);
    (serves(home.path()).await, home)
}

async fn serves(repository: &Path) -> Floor {
    let config = NodeConfig { library: library(), ..config(repository, 2, 64) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;
    floor
}

const STATES: &str = "[sequence]\nstates = [{ input = \"sum\", output = \"sum_next\" }]\n";

fn x(values: &[f32]) -> Request {
    Request::of("accumulate").floats("x", &[values.len() as u64], values)
}

fn with(request: Request, flag: &str) -> Request {
    request.parameter(flag, Parameter::Bool(true))
}

async fn total(floor: &Floor, request: Request) -> f32 {
    let answer = floor.send(request).await.unwrap();
    assert_eq!(answer.outputs.len(), 1, "{:?}", answer.outputs);
    answer.floats("total")[0]
}

async fn fault(floor: &Floor, request: Request) -> Fault {
    floor.send(request).await.unwrap_err()
}

#[tokio::test]
async fn sequences_add_up_each_for_itself() {
    let (floor, _home) = accumulates(STATES).await;
    let one = |values: &[f32]| x(values).session("one");
    let other = |values: &[f32]| x(values).session("other");
    assert_eq!(total(&floor, with(one(&[1.0, 2.0]), START)).await, 3.0);
    assert_eq!(total(&floor, with(other(&[10.0]), START)).await, 10.0);
    assert_eq!(total(&floor, one(&[4.0])).await, 7.0);
    assert_eq!(total(&floor, other(&[20.0])).await, 30.0);
    assert_eq!(total(&floor, with(one(&[8.0]), END)).await, 15.0);
    let fault = fault(&floor, one(&[1.0])).await;
    assert_eq!((fault.code, fault.executed), (FaultCode::SequenceLost, Executed::No));
    assert_eq!(total(&floor, with(other(&[1.0]), START)).await, 1.0, "it begins anew");
    assert_eq!(total(&floor, with(other(&[1.0]), START).output("total")).await, 1.0);

    let info = floor.state("accumulate", 1);
    let spec = |name: &str, shape: &[i64]| TensorSpec {
        name: name.to_owned(),
        datatype: Datatype::Fp32,
        shape: shape.to_vec(),
    };
    assert_eq!((info.inputs, info.outputs), (vec![spec("x", &[-1])], vec![spec("total", &[1])]));
    assert!(info.engine.unwrap().stateful);
}

#[tokio::test]
async fn requests_of_one_sequence_that_come_at_once_lose_nothing() {
    let (floor, _home) = accumulates(STATES).await;
    total(&floor, with(x(&[0.0]).session("one"), START)).await;
    let (floor, mut calls) = (Arc::new(floor), JoinSet::new());
    for _ in 0..32 {
        let floor = Arc::clone(&floor);
        calls.spawn(async move { total(&floor, x(&[1.0]).session("one")).await });
    }
    let mut totals = calls.join_all().await;
    totals.sort_by(f32::total_cmp);
    assert_eq!(totals, (1..=32).map(|total| total as f32).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_does_not_run_leaves_its_sequence_as_it_was() {
    let (floor, _home) = accumulates(STATES).await;
    let one = |values: &[f32]| x(values).session("one");
    assert_eq!(total(&floor, with(one(&[1.0]), START)).await, 1.0);
    let wrong = Request::of("accumulate").session("one").input("x", Datatype::Int64, &[1], vec![0; 8]);
    assert_eq!(fault(&floor, wrong).await.code, FaultCode::InvalidParams);
    let state = Request::of("accumulate").session("one").floats("sum", &[1], &[9.0]);
    assert!(fault(&floor, state).await.message.contains("no input \"sum\""), "it is the node's");
    let no_time = floor.send(one(&[1.0]).within(Duration::ZERO)).await;
    assert_eq!(no_time.unwrap_err().executed, Executed::No);
    assert_eq!(total(&floor, one(&[1.0])).await, 2.0);
}

#[tokio::test]
async fn a_sequence_that_is_idle_for_too_long_makes_room() {
    let (floor, _home) = accumulates(&format!("{STATES}idle_timeout = \"1s\"\nmax = 1\n")).await;
    let start = |id: &str| with(x(&[1.0]).session(id), START);
    total(&floor, start("one")).await;
    let refused = fault(&floor, start("other")).await;
    assert_eq!((refused.code, refused.executed), (FaultCode::Busy, Executed::No));
    assert!(refused.retry_after_ms.is_some_and(|wait| wait <= 1_000), "{refused:?}");
    let until = Instant::now() + PATIENCE;
    while let Err(refused) = floor.send(start("other")).await {
        assert_eq!(refused.code, FaultCode::Busy);
        assert!(Instant::now() < until, "no place came");
        sleep(Duration::from_millis(20)).await;
    }
    let lost = fault(&floor, x(&[1.0]).session("one")).await;
    assert_eq!(lost.code, FaultCode::SequenceLost);
    assert!(lost.message.contains("idle for more than 1s"), "{lost}");
}

fn state(answer: &Answer) -> lineside_wire::Tensor {
    answer.outputs[STATE].clone()
}

#[tokio::test]
async fn a_caller_takes_its_state_to_another_node() {
    let ((press, home), (weld, _other)) = (accumulates(STATES).await, accumulates(STATES).await);
    let answer = press.send(with(with(x(&[1.0]), START), STATE)).await.unwrap();
    assert_eq!(answer.floats("total"), [1.0]);
    let answer = weld.send(x(&[2.0]).tensor(state(&answer))).await.unwrap();
    assert_eq!(answer.floats("total"), [3.0]);
    // Both may go on from here: nothing is kept anywhere.
    assert_eq!(weld.send(x(&[4.0]).tensor(state(&answer))).await.unwrap().floats("total"), [7.0]);
    assert_eq!(press.send(x(&[8.0]).tensor(state(&answer))).await.unwrap().floats("total"), [11.0]);
    assert_eq!(total(&press, with(x(&[16.0]).tensor(state(&answer)), END)).await, 19.0);

    // Loaded anew it is the same model still; what the node itself kept is gone, and said to be.
    total(&press, with(x(&[1.0]).session("one"), START)).await;
    press.load("accumulate").await.unwrap();
    assert_eq!(press.send(x(&[8.0]).tensor(state(&answer))).await.unwrap().floats("total"), [11.0]);
    let lost = fault(&press, x(&[1.0]).session("one")).await;
    assert_eq!(lost.code, FaultCode::SequenceLost);
    assert!(lost.message.contains("loaded anew"), "{lost}");
    drop(home);
}

#[tokio::test]
async fn a_model_whose_state_does_not_fit_says_so_and_does_not_serve() {
    let wrong = "[sequence]\nstates = [{ input = \"sum\", output = \"total_next\" }]\n";
    let (floor, _home) = accumulates(wrong).await;
    let reason = floor.state("accumulate", 1).reason.unwrap();
    assert!(reason.contains("accumulate/model.toml line 2, sequence.states"), "{reason}");
    assert!(reason.contains("no output \"total_next\": it has total, sum_next"), "{reason}");
}

/// Runs, cache hits and misses.
fn counts(statistics: &ModelStatistics) -> (u64, u64, u64) {
    (statistics.execution_count, statistics.cache_hit.count, statistics.cache_miss.count)
}

#[tokio::test]
async fn what_was_asked_before_is_answered_without_a_run() {
    let home = tempfile::tempdir().unwrap();
    copy(&models().join("repository/add"), &home.path().join("add"), "[cache]\nbytes_max = 1000000\n");
    let floor = serves(home.path()).await;
    let add = |a: f32| Request::of("add").floats("a", &[1], &[a]).floats("b", &[1], &[1.0]);
    let counted = async || counts(&floor.statistics(Some("add")).await.unwrap()[0]);
    let before = counted().await.0;
    assert_eq!(floor.send(add(2.0)).await.unwrap().floats("sum"), [3.0]);
    // An answer is kept before it is sent.
    for _ in 0..3 {
        let again = floor.send(add(2.0)).await.unwrap();
        assert_eq!((again.floats("sum"), again.report.load.slots), (vec![3.0], 2));
    }
    assert_eq!(counted().await, (before + 1, 3, 1));
    assert_eq!(floor.send(add(3.0)).await.unwrap().floats("sum"), [4.0]);
    assert_eq!(counted().await, (before + 2, 3, 2));
    // A version that takes its place begins without answers.
    floor.load("add").await.unwrap();
    assert_eq!(floor.send(add(2.0)).await.unwrap().floats("sum"), [3.0]);
    assert_eq!(counted().await.0, before + 3);
    // What is wrong is no answer to be kept.
    let wrong =
        || Request::of("add").floats("a", &[1], &[1.0]).floats("b", &[2], &[1.0, 2.0]).output("product");
    for _ in 0..2 {
        assert_eq!(fault(&floor, wrong()).await.code, FaultCode::InvalidParams);
    }
}

#[tokio::test]
async fn the_largest_shape_is_that_of_the_named_input_whatever_comes_before_it() {
    let home = tempfile::tempdir().unwrap();
    // The model takes its state first, and callers do not see it.
    let network = Network {
        nodes: &[("Identity", "", &["x"], &["y"]), ("Identity", "", &["s"], &["s_next"])],
        inputs: &[("s", Type::Row(FLOAT)), ("x", Type::Row(FLOAT))],
        outputs: &[("y", Type::Row(FLOAT)), ("s_next", Type::Row(FLOAT))],
        ..Network::default()
    };
    fs::write(home.path().join("copy.onnx"), network.to_bytes()).unwrap();
    let settings =
        "[sequence]\nstates = [{ input = \"s\", output = \"s_next\" }]\n[limits.max_shape]\nx = [2]\n";
    fs::write(home.path().join("copy.toml"), settings).unwrap();
    let floor = serves(home.path()).await;
    let of = |values: &[f32]| {
        let request = Request::of("copy").floats("x", &[values.len() as u64], values);
        with(request.session("one"), START)
    };
    assert_eq!(floor.send(of(&[1.0, 2.0])).await.unwrap().floats("y"), [1.0, 2.0]);
    assert_eq!(fault(&floor, of(&[1.0, 2.0, 3.0])).await.code, FaultCode::LimitExceeded);
}
