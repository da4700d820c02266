//! What a node does with its calls, whatever the engine.

use std::{sync::Arc, time::Duration};

use lineside_mesh::Outbound;
use lineside_wire::{
    Empty, Executed, FaultCode, Health, ModelInfo, ModelParams, ModelState, ModelVersion, ModelsResult,
    decode_part, method,
};
use tokio::{join, time::sleep};

use super::{
    floor::{Answer, Floor, Request, config, eventually},
    workshop::Workshop,
};
use crate::{Node, NodeError};

async fn floor(workshop: &Workshop, sessions: usize, queue_max: usize) -> Floor {
    let floor = Floor::with_engine(config(&workshop.models(), sessions, queue_max), workshop.engine());
    floor.ready().await;
    floor
}

fn x(model: &str) -> Request {
    Request::of(model).floats("x", &[2], &[1.0, 2.0])
}

fn is_echo(answer: &Answer) -> bool {
    answer.floats("y") == [1.0, 2.0]
}

#[tokio::test]
async fn a_full_node_says_busy_at_once_and_serves_on() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 1).await;
    let refused = async {
        eventually("the first run", || workshop.begun() == 1 && floor.node.load().queued == 1).await;
        let (fault, report) = floor.send_for_report(x("press")).await.unwrap_err();
        workshop.release(2);
        (fault, report.expect("a refusal carries the load"))
    };
    let (first, second, (fault, report)) = join!(floor.send(x("press")), floor.send(x("press")), refused);
    assert_eq!((fault.code, fault.executed), (FaultCode::Busy, Executed::No));
    assert!(fault.retry_after_ms.is_some());
    assert_eq!((report.load.running, report.load.queued, report.load.slots), (1, 1, 1));
    assert!(is_echo(&first.unwrap()) && is_echo(&second.unwrap()));
    assert_eq!(workshop.begun(), 2);
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    assert_eq!((floor.node.load().running, floor.node.load().queued), (0, 0));
}

#[tokio::test]
async fn a_call_that_would_wait_too_long_is_told_how_long() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let (slow, ()) = join!(floor.send(x("press")), async {
        eventually("the run", || workshop.begun() == 1).await;
        sleep(Duration::from_millis(300)).await;
        workshop.release(1);
    });
    assert!(300_000 <= slow.unwrap().report.run_us);

    let refused = async {
        eventually("the second run", || workshop.begun() == 2).await;
        let fault = floor.send(x("press").within(Duration::from_millis(200))).await.unwrap_err();
        workshop.release(1);
        fault
    };
    let (_second, fault) = join!(floor.send(x("press")), refused);
    assert_eq!(fault.code, FaultCode::Busy);
    assert!(300 <= fault.retry_after_ms.unwrap(), "{fault}");
}

#[tokio::test]
async fn a_call_whose_time_ran_out_in_the_queue_is_not_run() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let short = Duration::from_millis(200);
    let patient = async {
        eventually("both calls", || workshop.begun() == 1 && floor.node.load().queued == 1).await;
        sleep(short + Duration::from_millis(1)).await;
        workshop.release(1);
    };
    let late = async {
        eventually("the first run", || workshop.begun() == 1).await;
        floor.send_for_report(x("press").within(short)).await.unwrap_err()
    };
    let (first, (fault, report), ()) = join!(floor.send(x("press")), late, patient);
    assert!(is_echo(&first.unwrap()));
    assert_eq!((fault.code, fault.executed), (FaultCode::DeadlineExceeded, Executed::No));
    assert!(200_000 <= report.unwrap().queue_us);
    assert_eq!(workshop.begun(), 1);
    let none = floor.send(x("press").within(Duration::ZERO)).await.unwrap_err();
    assert_eq!(none.code, FaultCode::DeadlineExceeded);
}

#[tokio::test]
async fn a_cancelled_call_is_not_run() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let cancelling = async {
        eventually("the first run", || workshop.begun() == 1).await;
        let mut second = Box::pin(floor.send(x("press")));
        tokio::select! {
            answer = &mut second => panic!("{answer:?}"),
            () = eventually("its place", || floor.node.load().queued == 1) => {}
        }
        drop(second);
        // On the same stream, so behind the cancellation.
        floor.ask::<ModelsResult>(method::MODELS_LIST).await.unwrap();
        workshop.release(9);
    };
    let (first, ()) = join!(floor.send(x("press")), cancelling);
    assert!(is_echo(&first.unwrap()));
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    assert_eq!(workshop.begun(), 1);
}

#[tokio::test]
async fn callers_that_went_away_keep_nobody_out_of_a_full_queue() {
    let workshop = Workshop::with(&[("press.onnx", "hold"), ("weld.onnx", "hold")]);
    let floor = floor(&workshop, 1, 3).await;
    let second = async {
        eventually("the first runs", || workshop.begun() == 2).await;
        let mut gone = [Box::pin(floor.send(x("press"))), Box::pin(floor.send(x("weld")))];
        let (kept, crowded) = (floor.send(x("press")), async {
            let [press, weld] = &mut gone;
            tokio::select! {
                answer = press => panic!("{answer:?}"),
                answer = weld => panic!("{answer:?}"),
                () = eventually("a full queue", || floor.node.load().queued == 3) => {}
            }
            drop(gone);
            // On the same stream, so behind the cancellations.
            floor.ask::<ModelsResult>(method::MODELS_LIST).await.unwrap();
            let (late, later, ()) = join!(floor.send(x("weld")), floor.send(x("press")), async {
                eventually("their places", || floor.node.load().queued == 3).await;
                assert_eq!(floor.send(x("weld")).await.unwrap_err().code, FaultCode::Busy);
                workshop.release(9);
            });
            assert!(is_echo(&late.unwrap()) && is_echo(&later.unwrap()));
        });
        let (kept, ()) = join!(kept, crowded);
        assert!(is_echo(&kept.unwrap()));
    };
    let (press, weld, ()) = join!(floor.send(x("press")), floor.send(x("weld")), second);
    assert!(is_echo(&press.unwrap()) && is_echo(&weld.unwrap()));
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    assert_eq!((workshop.begun(), floor.node.load().queued), (5, 0));
}

#[tokio::test]
async fn a_panic_costs_one_call_and_the_session_is_replaced() {
    let workshop = Workshop::with(&[("press.onnx", "panic"), ("weld.onnx", "echo")]);
    let floor = floor(&workshop, 1, 9).await;
    for _ in 0..3 {
        let fault = floor.send(x("press")).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Internal);
        assert!(fault.message.contains("the engine panicked while press ran"), "{fault}");
    }
    eventually("the last replacement", || workshop.opened() == 2 + 3).await;
    workshop.put("press.onnx", "scrap");
    assert_eq!(floor.send(x("press")).await.unwrap_err().code, FaultCode::Internal);
    floor.until("press", ModelState::Unavailable).await;
    let fault = floor.send(x("press")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::ModelUnavailable);
    assert!(fault.message.contains("could not be opened again"), "{fault}");

    workshop.put("press.onnx", "echo");
    assert_eq!(floor.load("press").await.unwrap()[0].state, ModelState::Ready);
    assert!(is_echo(&floor.send(x("press")).await.unwrap()));
    assert!(is_echo(&floor.send(x("weld")).await.unwrap()));
}

#[tokio::test]
async fn a_draining_node_finishes_what_it_has_and_takes_no_more() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let draining = async {
        eventually("both calls", || workshop.begun() == 1 && floor.node.load().queued == 1).await;
        floor.node.drain();
        let refused = floor.send(x("press")).await.unwrap_err();
        assert_eq!((refused.code, refused.retryable), (FaultCode::Draining, true));
        assert_eq!(floor.load("press").await.unwrap_err().code, FaultCode::Draining);
        let health: Health = floor.ask(method::HEALTH).await.unwrap();
        assert!(health.live && !health.ready);
        assert!(!floor.node.finished(Duration::from_millis(20)).await);
        workshop.release(2);
        assert!(floor.node.finished(Duration::from_secs(20)).await);
    };
    let (first, second, ()) = join!(floor.send(x("press")), floor.send(x("press")), draining);
    assert!(is_echo(&first.unwrap()) && is_echo(&second.unwrap()));
}

#[tokio::test]
async fn an_unloaded_model_finishes_its_calls_and_comes_back_by_a_load() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let meanwhile = async {
        floor.until("press", ModelState::Unloading).await;
        let refused = floor.send(x("press")).await.unwrap_err();
        assert_eq!(refused.code, FaultCode::ModelUnavailable);
        workshop.release(2);
    };
    let unloading = async {
        eventually("both calls", || workshop.begun() == 1 && floor.node.load().queued == 1).await;
        floor.unload("press").await.unwrap()
    };
    let (first, second, unloaded, ()) =
        join!(floor.send(x("press")), floor.send(x("press")), unloading, meanwhile);
    assert!(is_echo(&first.unwrap()) && is_echo(&second.unwrap()));
    assert_eq!(unloaded[0].state, ModelState::Unavailable);
    assert!(unloaded[0].reason.as_ref().unwrap().contains("on request"));

    assert_eq!(floor.load("press").await.unwrap()[0].state, ModelState::Ready);
    workshop.release(1);
    assert!(is_echo(&floor.send(x("press")).await.unwrap()));
    assert_eq!(floor.load("lathe").await.unwrap_err().code, FaultCode::ModelNotFound);
    assert_eq!(floor.unload("lathe").await.unwrap_err().code, FaultCode::ModelNotFound);
}

#[tokio::test]
async fn the_start_does_not_wait_for_the_models() {
    let workshop = Workshop::with(&[("press.onnx", "hold to open"), ("weld.onnx", "hold to open")]);
    let floor = Floor::with_engine(config(&workshop.models(), 1, 9), workshop.engine());
    let changed = floor.node.changed();
    eventually("the loading", || workshop.opening() == 1).await;
    assert!(!floor.node.ready());
    assert_eq!(floor.state("weld", 1).state, ModelState::Loading);
    let fault = floor.send(x("press")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::ModelUnavailable);
    assert!(fault.retry_after_ms.is_some());
    let health: Health = floor.ask(method::HEALTH).await.unwrap();
    assert_eq!(health.reason.as_deref(), Some("the models are being loaded"));

    workshop.release(2);
    floor.ready().await;
    assert!(changed.has_changed().unwrap());
    assert!(is_echo(&floor.send(x("press")).await.unwrap()));
    assert!(floor.ask::<Health>(method::HEALTH).await.unwrap().ready);
}

#[tokio::test]
async fn the_highest_version_that_is_ready_serves() {
    let workshop = Workshop::with(&[
        ("press/model.toml", "versions = \"all\"\n"),
        ("press/1/model.onnx", "echo"),
        ("press/2/model.onnx", "echo"),
        ("press/10/model.onnx", "scrap"),
        ("press/new/model.onnx", "echo"),
        ("crash.onnx", "panic to open"),
    ]);
    let floor = floor(&workshop, 2, 9).await;
    assert_eq!(floor.send(x("press")).await.unwrap().version, ModelVersion(2));
    assert_eq!(floor.send(x("press").version(1)).await.unwrap().version, ModelVersion(1));
    let broken = floor.send(x("press").version(10)).await.unwrap_err();
    assert_eq!(broken.code, FaultCode::ModelUnavailable);
    assert!(broken.message.contains("not an ONNX model"), "{broken}");
    let absent = floor.send(x("press").version(3)).await.unwrap_err();
    assert_eq!((absent.code, absent.executed), (FaultCode::ModelNotFound, Executed::No));
    assert!(absent.message.contains("it has 10, 2, 1"), "{absent}");
    assert_eq!(floor.send(x("lathe")).await.unwrap_err().code, FaultCode::ModelNotFound);
    let crashed = floor.state("crash", 1);
    assert!(crashed.reason.unwrap().contains("a defect in the engine"));
    assert!(floor.node.refused()[0].reason.contains("not a model version"));

    let params = ModelParams { model: "press".parse().unwrap(), version: None };
    let reply = floor.call(Outbound::new(method::MODELS_GET, params)).await.unwrap();
    let info: ModelInfo = decode_part(&reply.result).unwrap();
    assert_eq!((info.version, info.slots), (ModelVersion(2), 2));
    assert_eq!(floor.ask::<ModelsResult>(method::MODELS_LIST).await.unwrap().models, floor.node.models());
}

#[tokio::test]
async fn a_bad_new_file_does_not_take_the_old_model_down() {
    let workshop = Workshop::with(&[("press.onnx", "echo")]);
    let floor = floor(&workshop, 1, 9).await;
    workshop.put("press.onnx", "scrap");
    let fault = floor.load("press").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::ModelRejected);
    assert!(fault.message.contains("serves on"), "{fault}");
    assert!(is_echo(&floor.send(x("press")).await.unwrap()));
    workshop.put("weld.onnx", "scrap");
    assert_eq!(floor.load("weld").await.unwrap_err().code, FaultCode::ModelRejected);
    assert_eq!(floor.state("weld", 1).state, ModelState::Unavailable);
    workshop.put("lathe/v2/model.onnx", "echo");
    let fault = floor.load("lathe").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::ModelNotFound);
    assert!(fault.message.contains("but lathe/v2: \"v2\" is not a model version"), "{fault}");
}

#[tokio::test]
async fn what_a_node_does_not_do_it_says() {
    let workshop = Workshop::with(&[("press.onnx", "echo")]);
    let floor = floor(&workshop, 1, 9).await;
    let unknown = floor.ask::<Empty>(method::CLUSTER_MEMBERS).await.unwrap_err();
    assert_eq!(unknown.code, FaultCode::MethodNotFound);
    let garbled = floor.call(Outbound::new(method::INFER, "not params")).await.unwrap_err().0;
    assert_eq!(garbled.code, FaultCode::InvalidParams);
    let garbled = floor.call(Outbound::new(method::MODELS_LOAD, 7)).await.unwrap_err().0;
    assert_eq!(garbled.code, FaultCode::InvalidParams);
    assert!(is_echo(&floor.send(x("press")).await.unwrap()));

    let elsewhere = config(&workshop.models().join("nowhere"), 1, 9);
    let refused = Node::with_engine(elsewhere, lineside_wire::NodeId::from_bytes([1; 16]), workshop.engine());
    assert!(matches!(refused.err(), Some(NodeError::Repository { .. })));
}

#[tokio::test]
async fn the_end_of_a_node_waits_for_its_threads() {
    let workshop = Workshop::with(&[("press.onnx", "echo"), ("weld.onnx", "hold to open")]);
    let id = lineside_wire::NodeId::from_bytes([1; 16]);
    let node = Node::with_engine(config(&workshop.models(), 3, 9), id, workshop.engine()).unwrap();
    eventually("the loading", || workshop.opening() == 1).await;
    workshop.release(3);
    drop(node);
    assert!(workshop.is_left());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_session_runs_on_its_own_thread_and_yields_to_the_network() {
    let workshop = Workshop::with(&[("saw.onnx", "echo")]);
    let _floor = floor(&workshop, 1, 9).await;
    let is_nice = |task: std::path::PathBuf| {
        let stat = std::fs::read_to_string(task.join("stat")).unwrap_or_default();
        let Some((head, fields)) = stat.rsplit_once(") ") else { return false };
        head.ends_with("(lineside-saw-0") && fields.split(' ').nth(16) == Some("5")
    };
    let any = || std::fs::read_dir("/proc/self/task").unwrap().any(|task| is_nice(task.unwrap().path()));
    eventually("a thread of lower priority", any).await;
}

#[tokio::test]
async fn many_calls_at_once_are_all_answered_and_leave_nothing_behind() {
    let workshop = Workshop::with(&[("press.onnx", "echo"), ("weld.onnx", "panic")]);
    let floor = Arc::new(floor(&workshop, 2, 64).await);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200 {
        let floor = Arc::clone(&floor);
        let model = if number % 10 == 0 { "weld" } else { "press" };
        calls.spawn(async move { (model, floor.send(x(model)).await) });
    }
    for (model, answer) in calls.join_all().await {
        match answer {
            Ok(answer) => assert!(model == "press" && is_echo(&answer)),
            Err(fault) => assert!(
                fault.code == FaultCode::Busy || (model == "weld" && fault.code == FaultCode::Internal),
                "{model}: {fault}"
            ),
        }
    }
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    assert_eq!((floor.node.load().running, floor.node.load().queued), (0, 0));
}
