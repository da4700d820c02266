//! What a node does when its repository changes, and with models that are loaded when somebody asks for them.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lineside_wire::{Executed, FaultCode, ModelInfo, ModelParams, ModelState, ModelVersion, NodeId, method};
use tokio::{join, task::JoinSet};

use super::{
    floor::{Floor, Request, config, eventually},
    workshop::Workshop,
};
use crate::{ModelControl, Node, NodeConfig};

fn watch() -> ModelControl {
    ModelControl::Watch { settle: Duration::from_millis(20) }
}

async fn floor_with(workshop: &Workshop, change: impl FnOnce(&mut NodeConfig)) -> Floor {
    let mut config = config(&workshop.models(), 2, 64);
    config.control = watch();
    change(&mut config);
    let floor = Floor::with_engine(config, workshop.engine());
    floor.ready().await;
    floor
}

fn x(model: &str) -> Request {
    Request::of(model).floats("x", &[2], &[1.0, 2.0])
}

fn on_demand(config: &mut NodeConfig) {
    config.on_demand = true;
}

/// The versions of a model that are listed, and how they are.
fn listed(floor: &Floor, model: &str) -> Vec<(u64, ModelState)> {
    let of = |info: &ModelInfo| info.name.as_str() == model;
    floor.node.models().iter().filter(|info| of(info)).map(|info| (info.version.0, info.state)).collect()
}

async fn until_listed(floor: &Floor, model: &str, versions: &[(u64, ModelState)]) {
    eventually(&format!("{model} as {versions:?}"), || listed(floor, model) == versions).await;
}

const READY: ModelState = ModelState::Ready;
const UNAVAILABLE: ModelState = ModelState::Unavailable;

#[tokio::test]
async fn a_new_version_takes_over_under_load_without_an_error() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "echo")]);
    let floor = Arc::new(floor_with(&workshop, |_| ()).await);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (floor, stop, answered) = (Arc::clone(&floor), Arc::clone(&stop), Arc::clone(&answered));
        callers.spawn(async move {
            let mut versions = Vec::new();
            while !stop.load(Ordering::Acquire) {
                let answer = floor.send(x("press")).await.expect("every call is answered");
                versions.push(answer.version.0);
                answered.fetch_add(1, Ordering::AcqRel);
            }
            versions
        });
    }
    for version in 2..5 {
        let before = answered.load(Ordering::Acquire);
        eventually("some answers", || before + 20 < answered.load(Ordering::Acquire)).await;
        workshop.put(&format!("press/{version}/model.onnx"), "echo");
        until_listed(&floor, "press", &[(version, READY)]).await;
    }
    let before = answered.load(Ordering::Acquire);
    eventually("answers of the last", || before + 20 < answered.load(Ordering::Acquire)).await;
    stop.store(true, Ordering::Release);
    for versions in callers.join_all().await {
        assert!(versions.is_sorted(), "no caller is sent back to an older version: {versions:?}");
        assert_eq!(versions.last(), Some(&4));
    }
    let old = floor.send(x("press").version(1)).await.unwrap_err();
    assert_eq!(old.code, FaultCode::ModelNotFound);
    assert!(old.message.contains("serve the latest version") && old.message.contains("which is 4"), "{old}");
    assert!(floor.node.finished(Duration::from_secs(20)).await);
}

#[tokio::test]
async fn a_version_that_does_not_load_leaves_the_old_one_and_says_why() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "echo")]);
    let floor = floor_with(&workshop, |_| ()).await;
    workshop.put("press/2/model.onnx", "scrap");
    until_listed(&floor, "press", &[(1, READY), (2, UNAVAILABLE)]).await;
    assert!(floor.state("press", 2).reason.unwrap().contains("not an ONNX model"));
    assert_eq!(floor.send(x("press")).await.unwrap().version, ModelVersion(1));

    workshop.put("press/1/model.onnx", "scrap, too");
    let note = || floor.state("press", 1).reason.unwrap_or_default();
    eventually("the note", || note().contains("what was loaded before serves on")).await;
    assert_eq!(floor.send(x("press")).await.unwrap().version, ModelVersion(1));

    workshop.put("press/2/model.onnx", "echo");
    until_listed(&floor, "press", &[(2, READY)]).await;
    assert_eq!(floor.send(x("press")).await.unwrap().version, ModelVersion(2));
}

#[tokio::test]
async fn a_start_with_a_broken_newest_version_serves_the_one_before() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "echo"), ("press/2/model.onnx", "scrap")]);
    let floor = floor_with(&workshop, |_| ()).await;
    assert_eq!(listed(&floor, "press"), [(1, READY), (2, UNAVAILABLE)]);
    assert_eq!(floor.send(x("press")).await.unwrap().version, ModelVersion(1));
}

#[tokio::test]
async fn what_is_removed_serves_no_longer_and_what_comes_serves() {
    let workshop = Workshop::with(&[("press.onnx", "echo")]);
    let floor = floor_with(&workshop, |_| ()).await;
    workshop.put("weld/1/model.onnx", "echo");
    until_listed(&floor, "weld", &[(1, READY)]).await;
    fs::remove_file(workshop.models().join("press.onnx")).unwrap();
    until_listed(&floor, "press", &[]).await;
    assert_eq!(floor.send(x("press")).await.unwrap_err().code, FaultCode::ModelNotFound);
    assert!(floor.send(x("weld")).await.is_ok());
}

#[tokio::test]
async fn a_repository_that_goes_leaves_what_is_loaded_and_is_followed_when_it_is_back() {
    let poll = ModelControl::Poll { every: Duration::from_millis(20) };
    for control in [watch(), poll] {
        let workshop = Workshop::with(&[("press/1/model.onnx", "echo")]);
        let floor = floor_with(&workshop, |config| config.control = control).await;
        let (models, away) = (workshop.models(), workshop.models().with_extension("away"));
        fs::rename(&models, &away).unwrap();
        assert!(floor.send(x("press")).await.is_ok());
        fs::create_dir(&models).unwrap();
        workshop.put("weld/1/model.onnx", "echo");
        until_listed(&floor, "weld", &[(1, READY)]).await;
        until_listed(&floor, "press", &[]).await;
        workshop.put("weld/2/model.onnx", "echo");
        until_listed(&floor, "weld", &[(2, READY)]).await;
    }
}

#[tokio::test]
async fn a_change_of_the_settings_loads_anew_and_chooses_anew() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "echo"), ("press/2/model.onnx", "echo")]);
    let floor = floor_with(&workshop, |_| ()).await;
    assert_eq!(listed(&floor, "press"), [(2, READY)]);
    workshop.put("press/model.toml", "versions = \"all\"\n");
    until_listed(&floor, "press", &[(1, READY), (2, READY)]).await;
    workshop.put("press/model.toml", "versions = [1]\n[instances]\ncount = 3\n");
    until_listed(&floor, "press", &[(1, READY)]).await;
    eventually("its instances", || floor.state("press", 1).slots == 3).await;
    workshop.put("press/model.toml", "verions = [2]\n");
    let note = || floor.state("press", 1).reason.unwrap_or_default();
    eventually("the mistake", || note().contains("did you mean \"versions\"")).await;
    assert_eq!(floor.send(x("press")).await.unwrap().version, ModelVersion(1));
}

#[tokio::test]
async fn a_repository_can_be_looked_at_again_and_again() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "echo")]);
    let poll = ModelControl::Poll { every: Duration::from_millis(20) };
    let floor = floor_with(&workshop, |config| config.control = poll).await;
    workshop.put("press/2/model.onnx", "echo");
    until_listed(&floor, "press", &[(2, READY)]).await;
    let opened = workshop.opened();
    fs::remove_dir_all(workshop.models().join("press/2")).unwrap();
    until_listed(&floor, "press", &[(1, READY)]).await;
    assert_eq!(workshop.opened(), opened + 2, "what did not change is not loaded again");
}

#[tokio::test]
async fn with_explicit_control_only_what_is_asked_for_is_loaded() {
    let models = [
        ("press.onnx", "echo"),
        ("weld/1/model.onnx", "echo"),
        ("weld/2/model.onnx", "echo"),
        ("weld/3/model.onnx", "scrap"),
    ];
    let workshop = Workshop::with(&models);
    let load = Some(vec!["press".parse().unwrap(), "lathe".parse().unwrap()]);
    let floor = floor_with(&workshop, |config| config.control = ModelControl::Explicit { load }).await;
    assert_eq!(listed(&floor, "press"), [(1, READY)]);
    assert_eq!(listed(&floor, "weld"), [(3, UNAVAILABLE)]);
    assert!(floor.state("weld", 3).reason.unwrap().contains("on request only"));

    let rejected = floor.load("weld").await.unwrap_err();
    assert_eq!(rejected.code, FaultCode::ModelRejected);
    assert!(rejected.message.contains("version 3: ") && rejected.message.contains("version 2 serves"));
    assert_eq!(listed(&floor, "weld"), [(2, READY), (3, UNAVAILABLE)]);
    let params = ModelParams { model: "weld".parse().unwrap(), version: Some(ModelVersion(1)) };
    floor.call(lineside_mesh::Outbound::new(method::MODELS_LOAD, params)).await.unwrap();
    assert_eq!(floor.send(x("weld").version(1)).await.unwrap().version, ModelVersion(1));

    workshop.put("press.onnx", "scrap");
    assert!(floor.send(x("press")).await.is_ok());
    floor.unload("press").await.unwrap();
    assert_eq!(floor.load("press").await.unwrap_err().code, FaultCode::ModelRejected);
}

#[tokio::test]
async fn what_was_unloaded_on_request_stays_out_until_its_files_change() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "echo"), ("press/2/model.onnx", "echo")]);
    let floor = floor_with(&workshop, |_| ()).await;
    floor.unload("press").await.unwrap();
    workshop.put("weld.onnx", "echo");
    until_listed(&floor, "weld", &[(1, READY)]).await;
    assert_eq!(listed(&floor, "press"), [(2, UNAVAILABLE)]);
    workshop.put("press/model.toml", "# changed\n");
    until_listed(&floor, "press", &[(2, READY)]).await;
}

#[tokio::test]
async fn the_first_request_loads_its_model_and_waits_for_it() {
    let workshop = Workshop::with(&[("press.onnx", "hold to open"), ("weld.onnx", "scrap")]);
    let floor = floor_with(&workshop, |config| {
        on_demand(config);
        config.sessions = std::num::NonZeroUsize::MIN;
    })
    .await;
    let press = floor.state("press", 1);
    assert!(press.state == UNAVAILABLE && press.engine.is_some_and(|engine| engine.on_demand));
    assert_eq!(press.reason.as_deref(), Some("loads at the first request"));
    assert_eq!(workshop.opening(), 0);

    let meanwhile = async {
        eventually("the loading", || workshop.opening() == 1).await;
        let late = floor.send(x("press").within(Duration::from_millis(50))).await.unwrap_err();
        assert_eq!((late.code, late.executed), (FaultCode::DeadlineExceeded, Executed::No));
        assert_eq!(listed(&floor, "press"), [(1, ModelState::Loading)]);
        workshop.release(1);
    };
    let (first, second, ()) = join!(floor.send(x("press")), floor.send(x("press")), meanwhile);
    assert_eq!((first.unwrap().floats("y"), second.unwrap().floats("y")), (vec![1.0, 2.0], vec![1.0, 2.0]));
    assert_eq!((listed(&floor, "press"), workshop.opened()), (vec![(1, READY)], 1));

    let broken = floor.send(x("weld")).await.unwrap_err();
    assert_eq!((broken.code, broken.executed), (FaultCode::ModelUnavailable, Executed::No));
    assert!(broken.message.contains("not an ONNX model"), "{broken}");
    let again = floor.send(x("weld")).await.unwrap_err();
    assert!(again.message.contains("UNAVAILABLE") && again.message.contains("not an ONNX model"), "{again}");
    assert_eq!(floor.send(x("lathe")).await.unwrap_err().code, FaultCode::ModelNotFound);
}

#[tokio::test]
async fn calls_of_a_version_that_cannot_be_loaded_go_on_to_the_one_that_serves() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "echo"), ("press/2/model.onnx", "scrap")]);
    let floor = floor_with(&workshop, on_demand).await;
    let named = floor.send(x("press").version(2));
    let (named, first, second) = join!(named, floor.send(x("press")), floor.send(x("press")));
    let named = named.unwrap_err();
    assert_eq!((named.code, named.executed), (FaultCode::ModelUnavailable, Executed::No));
    assert_eq!([first, second].map(|answer| answer.unwrap().version), [ModelVersion(1); 2]);
    assert_eq!(workshop.opened(), floor.state("press", 1).slots as usize);
}

#[tokio::test]
async fn a_call_whose_caller_went_away_waits_for_no_model() {
    let workshop =
        Workshop::with(&[("press.onnx", "hold to open"), ("weld.onnx", "echo"), ("saw.onnx", "echo")]);
    let floor = floor_with(&workshop, |config| {
        on_demand(config);
        config.sessions = std::num::NonZeroUsize::MIN;
    })
    .await;
    let service = floor.node.service();
    let waiting = || service.desk.lobby.as_ref().unwrap().waiting();
    let mut press = Box::pin(floor.send(x("press")));
    tokio::select! {
        answer = &mut press => panic!("{answer:?}"),
        () = eventually("the loading", || workshop.opening() == 1) => {}
    }
    let mut weld = Box::pin(floor.send(x("weld").within(Duration::from_secs(3600))));
    tokio::select! {
        answer = &mut weld => panic!("{answer:?}"),
        () = eventually("both in the lobby", || waiting() == 2) => {}
    }
    drop(weld);
    eventually("one in the lobby", || waiting() == 1).await;
    workshop.release(1);
    press.await.unwrap();
    // After the order for weld: nobody waited for that any more.
    floor.send(x("saw")).await.unwrap();
    assert_eq!((listed(&floor, "weld"), workshop.opened()), (vec![(1, UNAVAILABLE)], 2));
    floor.send(x("weld")).await.unwrap();
}

#[tokio::test]
async fn a_node_that_leaves_keeps_no_call_waiting_for_a_model() {
    let workshop = Workshop::with(&[("press.onnx", "hold to open")]);
    let floor = floor_with(&workshop, on_demand).await;
    let leaving = async {
        eventually("the loading", || workshop.opening() == 1).await;
        floor.node.drain();
    };
    let (told, ()) = join!(floor.send(x("press")), leaving);
    let told = told.unwrap_err();
    assert_eq!((told.code, told.executed), (FaultCode::Draining, Executed::No));
    workshop.release(2);
}

#[tokio::test]
async fn a_node_ends_when_who_hands_calls_on_has_let_go_of_it() {
    let workshop = Workshop::with(&[("press.onnx", "echo")]);
    let id = NodeId::from_bytes([1; 16]);
    let node = Node::with_engine(config(&workshop.models(), 1, 9), id, workshop.engine()).unwrap();
    // As the loader does, with calls that waited for a model.
    let desk = Arc::clone(&node.service().desk);
    let ending = std::thread::spawn(move || drop(node));
    eventually("the last handle's end", || Arc::strong_count(&desk) == 1).await;
    // Waits for nobody: the loader would wait for itself.
    drop(desk);
    ending.join().unwrap();
    assert!(workshop.is_left());
}

#[tokio::test]
async fn models_that_nobody_asks_for_make_room() {
    let text = "echo";
    let workshop = Workshop::with(&[("press.onnx", text), ("weld.onnx", text), ("saw.onnx", "hold")]);
    // Each takes twice its file: two of them fit, but not three.
    let floor = floor_with(&workshop, |config| {
        on_demand(config);
        config.memory_max = Some(4 * text.len() as u64);
    })
    .await;
    floor.send(x("press")).await.unwrap();
    floor.send(x("weld")).await.unwrap();
    // Uses are told apart by milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    floor.send(x("press")).await.unwrap();
    let running = async {
        eventually("the run", || listed(&floor, "saw") == [(1, READY)]).await;
        assert_eq!(listed(&floor, "weld"), [(1, UNAVAILABLE)], "the least recently used");
        assert_eq!(listed(&floor, "press"), [(1, READY)]);
        eventually("its run", || 4 <= workshop.begun()).await;
        assert!(floor.send(x("weld")).await.is_ok(), "in the place of press, for saw is at work");
        assert_eq!(listed(&floor, "press"), [(1, UNAVAILABLE)]);
        workshop.release(1);
    };
    let (saw, ()) = join!(floor.send(x("saw")), running);
    saw.unwrap();
    let inputs = floor.state("press", 1).inputs;
    assert_eq!(inputs.len(), 1, "what was known of it is still told");
    floor.send(x("press")).await.unwrap();
}

#[tokio::test]
async fn a_model_that_cannot_fit_is_refused_and_asked_for_again() {
    let workshop = Workshop::with(&[("press.onnx", "echo")]);
    let floor = floor_with(&workshop, |config| {
        on_demand(config);
        config.memory_max = Some(3);
    })
    .await;
    for _ in 0..2 {
        let refused = floor.send(x("press")).await.unwrap_err();
        assert_eq!(refused.code, FaultCode::ModelUnavailable);
        assert!(refused.message.contains("node.memory_max"), "{refused}");
    }
    assert_eq!(workshop.opened(), 0);
    assert!(floor.state("press", 1).engine.unwrap().on_demand);
}

#[tokio::test]
async fn the_end_of_a_node_waits_for_who_looks_after_its_repository() {
    let workshop = Workshop::with(&[("press.onnx", "echo")]);
    let mut config = config(&workshop.models(), 1, 9);
    (config.control, config.on_demand) = (watch(), true);
    let id = lineside_wire::NodeId::from_bytes([1; 16]);
    let node = crate::Node::with_engine(config, id, workshop.engine()).unwrap();
    eventually("the scan", || node.ready()).await;
    drop(node);
    assert!(workshop.is_left());
}
