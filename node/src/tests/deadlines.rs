//! What a node does with work that nobody waits for any more, and with work that it cannot do in time.

use std::{future::Future, sync::Arc, time::Duration};

use lineside_wire::{
    Datatype, Executed, Fault, FaultCode, ModelStatistics, ModelsResult, NodeId, RunReport, Spent, method,
};
use tokio::{
    join,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    floor::{Answer, Floor, PATIENCE, Request, config, eventually},
    onnx::{library, models},
    workshop::Workshop,
};
use crate::{Node, NodeConfig};

/// Much longer than a test takes.
const HOURS: Duration = Duration::from_secs(7200);

/// Of a model whose requests are joined.
const JOINS: &str = "[batching]\nmode = \"on\"\nmax_size = 8\n";

/// As often as a thing is tried that a busy machine may spoil.
const TRIES_MAX: usize = 20;

async fn floor(workshop: &Workshop, sessions: usize, queue_max: usize) -> Arc<Floor> {
    let floor = Floor::with_engine(config(&workshop.models(), sessions, queue_max), workshop.engine());
    floor.ready().await;
    Arc::new(floor)
}

fn x(model: &str) -> Request {
    Request::of(model).floats("x", &[2], &[1.0, 2.0])
}

fn is_echo(answer: &Answer) -> bool {
    answer.floats("y") == [1.0, 2.0]
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn count_of(floor: &Floor, model: &str) -> ModelStatistics {
    floor.statistics(Some(model)).await.unwrap().remove(0)
}

/// Waits until a model's counters are as they should be.
async fn until_counted(floor: &Floor, model: &str, what: &str, holds: impl Fn(&ModelStatistics) -> bool) {
    let wait = async {
        while !holds(&count_of(floor, model).await) {
            sleep(ms(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} was never counted"));
}

/// Does this while the only session of `press` is held, and lets it go on afterwards.
async fn while_press_runs<T>(workshop: &Workshop, floor: &Floor, then: impl Future<Output = T>) -> T {
    let meanwhile = async {
        let begun = workshop.begun();
        eventually("the run", || begun < workshop.begun()).await;
        let done = then.await;
        workshop.release(1);
        done
    };
    let (held, done) = join!(floor.send(x("press").within(HOURS)), meanwhile);
    assert!(is_echo(&held.unwrap()));
    done
}

/// The fault of a call, and its report.
async fn fault_of(floor: &Floor, request: Request) -> (Fault, RunReport) {
    let (fault, report) = floor.send_for_report(request).await.unwrap_err();
    (fault, report.expect("also a refusal carries the load"))
}

fn nothing_was_computed(count: &ModelStatistics) -> bool {
    (count.execution_count, count.inference_count, count.compute_infer, count.batches.len())
        == (0, 0, Spent::default(), 0)
}

#[tokio::test]
async fn a_thousand_cancelled_calls_leave_an_empty_queue() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 1000).await;
    let cancelling = async {
        let mut gone = JoinSet::new();
        for _ in 0..1000 {
            let floor = Arc::clone(&floor);
            gone.spawn(async move { floor.send(x("press").within(HOURS)).await });
        }
        eventually("a thousand waiting calls", || floor.node.load().queued == 1000).await;
        gone.shutdown().await;
        eventually("an empty queue", || floor.node.load().queued == 0).await;
        // While the only session is held: nobody but the watch can have done it.
        assert_eq!((workshop.begun(), floor.node.load().running), (1, 1));
        until_counted(&floor, "press", "a thousand cancelled calls", |count| count.cancel.count == 1000)
            .await;
        let count = count_of(&floor, "press").await;
        assert!(nothing_was_computed(&count) && (count.fail.count, count.stopped) == (0, 0));
    };
    while_press_runs(&workshop, &floor, cancelling).await;
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    assert_eq!(workshop.begun(), 1);
}

#[tokio::test]
async fn a_call_whose_time_runs_out_in_the_queue_is_told_at_once() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let expiring = async {
        let (mut fastest, mut tries) = (HOURS, 0);
        // A busy machine may be late once, and is not always.
        while ms(100) < fastest && tries < TRIES_MAX {
            tries += 1;
            let sent = Instant::now();
            let (fault, report) = fault_of(&floor, x("press").within(ms(50))).await;
            fastest = fastest.min(sent.elapsed());
            assert_eq!((fault.code, fault.executed), (FaultCode::DeadlineExceeded, Executed::No), "{fault}");
            assert!(fault.message.contains("in the queue; nothing was run"), "{fault}");
            assert_eq!((report.load.running, report.load.queued, report.run_us), (1, 0, 0));
            assert!(50_000 <= report.queue_us, "{report:?}");
        }
        assert!(fastest <= ms(100), "{fastest:?}");
        let count = count_of(&floor, "press").await;
        assert!(nothing_was_computed(&count), "{count:?}");
        assert_eq!((count.expired, count.fail.count), (tries as u64, tries as u64));
        assert_eq!((count.cancel.count, count.success.count), (0, 0));
        assert_eq!(workshop.begun(), 1, "the session is held all the time");
    };
    while_press_runs(&workshop, &floor, expiring).await;
}

#[tokio::test]
async fn who_has_less_time_is_told_first_though_it_came_last() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let expiring = async {
        let mut calls = JoinSet::new();
        for (number, time) in [HOURS, ms(1500), ms(60)].into_iter().enumerate() {
            let floor_of_call = Arc::clone(&floor);
            calls.spawn(async move { (number, floor_of_call.send(x("press").within(time)).await) });
            eventually("its place", || floor.node.load().queued == 1 + number as u32).await;
        }
        for expected in [2, 1] {
            let (number, answer) = calls.join_next().await.unwrap().unwrap();
            assert_eq!((number, answer.unwrap_err().code), (expected, FaultCode::DeadlineExceeded));
        }
        assert_eq!(floor.node.load().queued, 1);
        workshop.release(1);
        calls
    };
    let mut calls = while_press_runs(&workshop, &floor, expiring).await;
    assert!(is_echo(&calls.join_next().await.unwrap().unwrap().1.unwrap()));
}

#[tokio::test]
async fn a_run_is_stopped_when_its_time_is_up_and_the_next_one_is_not() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    for round in 1..=5 {
        let (fault, report) = fault_of(&floor, x("press").within(ms(200))).await;
        assert_eq!(fault.code, FaultCode::DeadlineExceededRunning, "{fault}");
        assert_eq!((report.load.running, report.load.queued), (0, 0));
        assert_eq!(count_of(&floor, "press").await.stopped, round);
        while_press_runs(&workshop, &floor, async {}).await;
    }
    let count = count_of(&floor, "press").await;
    assert_eq!((count.execution_count, count.success.count, count.fail.count), (5, 5, 5));
    assert_eq!((count.expired, count.cancel.count), (0, 0), "none expired in the queue");
    assert_eq!(workshop.begun(), 10);
}

#[tokio::test]
async fn a_run_is_stopped_when_its_caller_goes_away() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    let mut call = Box::pin(floor.send(x("press").within(HOURS)));
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        () = eventually("the run", || workshop.begun() == 1) => {}
    }
    drop(call);
    until_counted(&floor, "press", "the stopped run", |count| count.stopped == 1).await;
    eventually("an idle node", || floor.node.load().running == 0).await;
    let count = count_of(&floor, "press").await;
    assert!(nothing_was_computed(&count), "{count:?}");
    assert_eq!((count.cancel.count, count.fail.count), (1, 0), "no failure of the model");
    while_press_runs(&workshop, &floor, async {}).await;
}

#[tokio::test]
async fn a_joined_run_is_stopped_when_all_of_its_callers_are_gone() {
    let workshop = Workshop::with(&[("press/1/model.onnx", "hold"), ("press/model.toml", JOINS)]);
    let floor = floor(&workshop, 1, 9).await;
    let (mut calls, mut late) = (JoinSet::new(), JoinSet::new());
    let gathering = async {
        for time in [HOURS, HOURS, PATIENCE] {
            let floor = Arc::clone(&floor);
            let call = async move { floor.send(x("press").within(time)).await };
            _ = if time == HOURS { calls.spawn(call) } else { late.spawn(call) };
        }
        eventually("three that wait", || floor.node.load().queued == 3).await;
    };
    while_press_runs(&workshop, &floor, gathering).await;
    eventually("their run", || floor.node.load().running == 3).await;
    calls.abort_all();
    while calls.join_next().await.is_some() {}
    assert_eq!((workshop.begun(), count_of(&floor, "press").await.stopped), (2, 0), "one still waits");
    late.shutdown().await;
    until_counted(&floor, "press", "the stopped run", |count| count.stopped == 1).await;
    eventually("an idle node", || floor.node.load().running == 0).await;
    let count = count_of(&floor, "press").await;
    assert_eq!((count.cancel.count, count.fail.count, count.execution_count), (3, 0, 1));
    while_press_runs(&workshop, &floor, async {}).await;
}

#[tokio::test]
async fn a_joined_run_that_is_too_late_for_all_is_stopped_and_says_that_it_may_have_run() {
    for _ in 0..TRIES_MAX {
        let workshop = Workshop::with(&[("press/1/model.onnx", "hold"), ("press/model.toml", JOINS)]);
        let floor = floor(&workshop, 1, 9).await;
        let mut calls = JoinSet::new();
        let gathering = async {
            for _ in 0..2 {
                let floor = Arc::clone(&floor);
                calls.spawn(async move { fault_of(&floor, x("press").within(ms(500))).await.0 });
            }
            let mut looks = 0..200;
            eventually("two that wait", || floor.node.load().queued == 2 || looks.next().is_none()).await;
        };
        while_press_runs(&workshop, &floor, gathering).await;
        let faults = calls.join_all().await;
        if faults.iter().any(|fault| fault.code != FaultCode::DeadlineExceededRunning) {
            // They did not come to run on a busy machine.
            continue;
        }
        assert!(faults.iter().all(|fault| fault.executed != Executed::No), "{faults:?}");
        until_counted(&floor, "press", "both", |count| count.fail.count == 2).await;
        let count = count_of(&floor, "press").await;
        assert_eq!((count.stopped, count.execution_count), (1, 1));
        return;
    }
    panic!("no run was too late for all in {TRIES_MAX} tries");
}

#[tokio::test]
async fn a_real_run_is_stopped_in_the_middle_and_its_session_serves_on() {
    let config = NodeConfig { library: library(), ..config(&models().join("test"), 1, 9) };
    let floor = Arc::new(Floor::around(|id: NodeId| Node::start(config, id).unwrap()));
    floor.ready().await;
    let slow = |rounds: i64| {
        let request = Request::of("slow-add").floats("a", &[1], &[2.0]).floats("b", &[1], &[3.0]);
        request.input("rounds", Datatype::Int64, &[1], rounds.to_le_bytes().to_vec())
    };
    let (fault, _) = fault_of(&floor, slow(i64::MAX).within(ms(200))).await;
    assert_eq!((fault.code, fault.executed), (FaultCode::DeadlineExceededRunning, Executed::Maybe));
    assert_eq!(floor.send(slow(1)).await.unwrap().floats("sum"), [5.0]);

    // Until one is cancelled while it runs, and not before.
    let begun = count_of(&floor, "slow-add").await.stopped;
    for _ in 0..TRIES_MAX {
        let mut call = Box::pin(floor.send(slow(i64::MAX).within(HOURS)));
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            () = sleep(ms(30)) => {}
        }
        drop(call);
        eventually("an idle node", || floor.node.load().running == 0).await;
        assert_eq!(floor.send(slow(1)).await.unwrap().floats("sum"), [5.0]);
        if begun < count_of(&floor, "slow-add").await.stopped {
            return;
        }
    }
    panic!("no run was stopped");
}

#[tokio::test]
async fn calls_that_end_as_their_callers_go_away_never_stop_the_next() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    for round in 0..100 {
        let mut call = Box::pin(floor.send(x("press").within(HOURS)));
        let begun = workshop.begun();
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            () = eventually("the run", || begun < workshop.begun()) => {}
        }
        // The run may end by itself or by the stop, whichever comes first.
        if round % 2 == 0 {
            workshop.release(1);
        }
        drop(call);
        floor.ask::<ModelsResult>(method::MODELS_LIST).await.unwrap();
        eventually("an idle node", || floor.node.load().running == 0).await;
        workshop.take_back();
        while_press_runs(&workshop, &floor, async {}).await;
    }
    let count = count_of(&floor, "press").await;
    assert_eq!((count.fail.count, workshop.begun()), (0, 200));
    assert!((50..=100).contains(&count.stopped), "{}", count.stopped);
}

#[tokio::test]
async fn a_model_has_its_own_bound_for_those_that_wait() {
    let workshop = Workshop::with(&[
        ("press.onnx", "hold"),
        ("press.toml", "[queue]\nmax = 1\n"),
        ("weld.onnx", "echo"),
    ]);
    let floor = floor(&workshop, 1, 9).await;
    let refused = async {
        eventually("both calls", || workshop.begun() == 1 && floor.node.load().queued == 1).await;
        let (fault, report) = fault_of(&floor, x("press")).await;
        assert_eq!((fault.code, fault.executed, fault.retryable), (FaultCode::Busy, Executed::No, true));
        assert!(fault.message.contains("the queue of press on this node is full"), "{fault}");
        assert_eq!((report.load.running, report.load.queued), (1, 1));
        assert_eq!(count_of(&floor, "press").await.rejected, 1);
        assert!(is_echo(&floor.send(x("weld")).await.unwrap()), "another model has room");
        workshop.release(2);
    };
    let (first, second, ()) = join!(floor.send(x("press")), floor.send(x("press")), refused);
    assert!(is_echo(&first.unwrap()) && is_echo(&second.unwrap()));
    let count = count_of(&floor, "press").await;
    assert_eq!((count.success.count, count.rejected, count.fail.count), (2, 1, 0));
}

#[tokio::test]
async fn a_queue_that_lets_nobody_wait_long_sends_calls_elsewhere() {
    let workshop =
        Workshop::with(&[("press.onnx", "hold"), ("press.toml", "[queue]\ntimeout = \"150ms\"\n")]);
    let floor = floor(&workshop, 1, 9).await;
    let waiting = async {
        let (fault, report) = fault_of(&floor, x("press").within(HOURS)).await;
        assert_eq!((fault.code, fault.executed, fault.retryable), (FaultCode::Busy, Executed::No, true));
        assert!(fault.message.contains("as long as the queue of press lets one wait"), "{fault}");
        assert!(150_000 <= report.queue_us);
        // A caller with less time than that keeps its own.
        let (fault, _) = fault_of(&floor, x("press").within(ms(75))).await;
        assert_eq!(fault.code, FaultCode::DeadlineExceeded);
        assert_eq!(count_of(&floor, "press").await.expired, 2);
    };
    // The run itself may take longer: the bound is for waiting.
    while_press_runs(&workshop, &floor, waiting).await;

    // Now the node knows how long a run takes, and does not let one begin to wait in vain.
    let refused = async {
        let (fault, _) = fault_of(&floor, x("press").within(HOURS)).await;
        assert_eq!(fault.code, FaultCode::Busy);
        assert!(fault.message.contains("longer than the queue of press lets a request wait"), "{fault}");
        assert_eq!(count_of(&floor, "press").await.rejected, 1);
    };
    while_press_runs(&workshop, &floor, refused).await;
}

#[tokio::test]
async fn a_call_that_comes_too_late_is_counted_as_refused() {
    let workshop = Workshop::with(&[("press.onnx", "hold")]);
    let floor = floor(&workshop, 1, 9).await;
    // Begun when the run is: a clock that is set here may be over before.
    while_press_runs(&workshop, &floor, async {
        sleep(ms(100)).await;
    })
    .await;
    let refused = async {
        let (fault, report) = fault_of(&floor, x("press").within(ms(90))).await;
        assert_eq!((fault.code, fault.executed), (FaultCode::Busy, Executed::No), "{fault}");
        assert_eq!((report.load.running, report.load.queued), (1, 0));
        let count = count_of(&floor, "press").await;
        assert_eq!((count.rejected, count.fail.count, count.expired), (1, 0, 0));
    };
    while_press_runs(&workshop, &floor, refused).await;
    let (fault, _) = fault_of(&floor, x("press").within(Duration::ZERO)).await;
    assert_eq!((fault.code, fault.executed), (FaultCode::DeadlineExceeded, Executed::No));
    assert_eq!(count_of(&floor, "press").await.rejected, 2);
}

#[tokio::test]
async fn an_answer_out_of_the_cache_needs_no_place() {
    let settings = "[cache]\nbytes_max = 1000000\n";
    let workshop = Workshop::with(&[("press.onnx", "hold"), ("press.toml", settings)]);
    let floor = floor(&workshop, 1, 1).await;
    while_press_runs(&workshop, &floor, async {}).await;
    let other = Request::of("press").floats("x", &[2], &[3.0, 4.0]);
    let begun = workshop.begun();
    let again = async {
        eventually("the other run", || begun < workshop.begun()).await;
        let answer = floor.send(x("press")).await.unwrap();
        workshop.release(1);
        answer
    };
    let (other, again) = join!(floor.send(other), again);
    assert_eq!(other.unwrap().floats("y"), [3.0, 4.0]);
    assert!(is_echo(&again));
    assert_eq!((again.report.run_us, again.report.queue_us, again.report.batch), (0, 0, 1));
    let count = count_of(&floor, "press").await;
    assert_eq!((count.cache_hit.count, count.cache_miss.count), (1, 2));
    assert_eq!((count.success.count, count.queue.count), (3, 3));
    assert_eq!((count.execution_count, count.inference_count), (2, 4), "two rows each, and a hit is no run");
}
