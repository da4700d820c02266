//! What a node does when there is more to do than it can: who has to go, and what it is told.

use std::{sync::Arc, time::Duration};

use lineside_wire::{Executed, FaultCode};
use tokio::task::JoinSet;

use super::{
    floor::{Floor, Request, config, eventually},
    workshop::Workshop,
};

const LEVELS: &str = "[queue]\npriority_levels = 3\n";

async fn floor(workshop: &Workshop, queue_max: usize) -> Arc<Floor> {
    let floor = Floor::with_engine(config(&workshop.models(), 1, queue_max), workshop.engine());
    floor.ready().await;
    Arc::new(floor)
}

fn x(model: &str, priority: u8) -> Request {
    Request::of(model).floats("x", &[2], &[1.0, 2.0]).priority(priority)
}

#[tokio::test]
async fn a_full_node_sends_the_newest_of_the_lowest_priority_away_for_a_higher_one() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "hold"), ("press/model.toml", LEVELS)]);
    let floor = floor(&workshop, 3).await;
    let mut calls = JoinSet::new();
    let mut send = |name: &'static str, priority| {
        let floor = Arc::clone(&floor);
        calls.spawn(async move { (name, floor.send_for_report(x("press", priority)).await) });
    };
    send("runs", 3);
    eventually("the run", || workshop.begun() == 1).await;
    for (count, (name, priority)) in [("old", 3), ("new", 3), ("middle", 2)].into_iter().enumerate() {
        send(name, priority);
        eventually("its place", || floor.node.load().queued as usize == count + 1).await;
    }
    let (low, _) = floor.send_for_report(x("press", 3)).await.unwrap_err();
    assert_eq!((low.code, low.retry_after_ms.is_some()), (FaultCode::Busy, true));

    send("urgent", 1);
    let (name, shed) = calls.join_next().await.unwrap().unwrap();
    let (fault, report) = shed.unwrap_err();
    assert_eq!((name, fault.code, fault.executed), ("new", FaultCode::Busy, Executed::No));
    assert!(fault.retryable && fault.retry_after_ms.is_some(), "{fault}");
    assert_eq!((report.unwrap().run_us, floor.node.load().queued), (0, 3));
    assert_eq!(floor.statistics(Some("press")).await.unwrap()[0].shed, [0, 0, 1]);

    workshop.release(9);
    let mut answered: Vec<_> =
        calls.join_all().await.into_iter().map(|(name, answer)| (name, answer.is_ok())).collect();
    answered.sort_unstable();
    assert_eq!(answered, [("middle", true), ("old", true), ("runs", true), ("urgent", true)]);
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    assert_eq!(workshop.begun(), 4);
}

#[tokio::test]
async fn a_model_whose_own_queue_is_full_sends_away_its_own_and_nobody_elses() {
    let own = format!("{LEVELS}max = 1\n");
    let workshop = Workshop::with(&[
        ("press/1/model.onnx", "hold"),
        ("press/model.toml", &own),
        ("weld/1/model.onnx", "hold"),
        ("weld/model.toml", LEVELS),
    ]);
    let floor = floor(&workshop, 9).await;
    let mut calls = JoinSet::new();
    let mut send = |name: &'static str, model: &'static str, priority| {
        let floor = Arc::clone(&floor);
        calls.spawn(async move { (name, floor.send(x(model, priority)).await) });
    };
    send("press runs", "press", 1);
    send("weld runs", "weld", 1);
    eventually("the runs", || workshop.begun() == 2).await;
    send("weld waits", "weld", 3);
    send("press waits", "press", 2);
    eventually("their places", || floor.node.load().queued == 2).await;

    send("urgent", "press", 1);
    let (name, shed) = calls.join_next().await.unwrap().unwrap();
    assert_eq!((name, shed.unwrap_err().code), ("press waits", FaultCode::Busy));
    workshop.release(9);
    assert!(calls.join_all().await.into_iter().all(|(_, answer)| answer.is_ok()));
    assert_eq!(workshop.begun(), 4);
}
