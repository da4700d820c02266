//! Second tries beside the first: a peer that stalls, one that is slow, a model that fails on one node.

use futures_util::future::join_all;
use proptest::prelude::*;

use super::*;
use crate::Why;

const STALL_AFTER: Duration = Duration::from_millis(250);

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Floor {
    fn tries(&mut self) -> &mut Tries {
        &mut Arc::get_mut(&mut self.pool).unwrap().tries
    }

    fn counted(&self, why: Why) -> u64 {
        self.pool.counts().of(why)
    }

    fn failures(&self, name: &str) -> u64 {
        self.pool.balancer().statistics(Instant::now().into_std())[&id(name)].failures
    }

    fn is_barred(&self, name: &str) -> bool {
        self.pool.balancer().statistics(Instant::now().into_std())[&id(name)].barred_for.is_some()
    }

    /// Spends all repeats.
    fn empty_the_budget(&self) {
        while self.pool.budget.repeat(Instant::now().into_std()) {}
    }

    fn cancelled_all(&self) -> bool {
        self.network.open.load(Relaxed) == 0 && self.in_flight() == 0
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_nodes_calls_are_answered_elsewhere_when_it_is_time_and_no_later() {
    let floor = Floor::with([("press", STALLED), ("weld", QUICK), ("saw", QUICK)]);
    let start = Instant::now();
    let calls = join_all((0..6).map(|_| floor.send())).await;
    assert!(calls.iter().all(Result::is_ok));
    // Two of them went to the press. The timer counts in whole milliseconds.
    let took = start.elapsed();
    assert!((STALL_AFTER + millis(5)..=STALL_AFTER + millis(9)).contains(&took), "{took:?}");
    let attempts: Vec<_> = calls.iter().map(|reply| reply.as_ref().unwrap().report.attempts).collect();
    assert_eq!(attempts.iter().filter(|attempts| **attempts == 2).count(), 2, "{attempts:?}");
    assert_eq!((floor.pool.counts().stalls, floor.counted(Why::Stall)), (2, 2));
    assert!(floor.cancelled_all());
    // No other call goes there for a while.
    for _ in 0..20 {
        assert_ne!(floor.send().await.unwrap().report.node, id("press"));
    }
    assert_eq!(floor.counted(Why::Stall), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_sends_and_hears_nothing_stalls() {
    let floor = Floor::with([("press", Manner::Deaf), ("weld", QUICK)]);
    let start = Instant::now();
    assert_eq!(floor.send().await.unwrap().report.node, id("weld"));
    assert!(start.elapsed() <= STALL_AFTER + millis(9), "{:?}", start.elapsed());
    assert_eq!((floor.counted(Why::Stall), floor.pool.counts().stalls), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_model_on_a_live_node_is_left_to_its_work() {
    let floor = Floor::with([("press", Manner::Works(Duration::from_secs(7))), ("weld", QUICK)]);
    let reply = floor.send().await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("press"), 1));
    assert_eq!(floor.pool.counts().stalls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_in_the_middle_of_a_call_is_noticed_after_its_time_to_be_quiet() {
    let stops = Manner::Stops(Duration::from_secs(9), Duration::from_secs(3));
    let floor = Floor::with([("press", stops), ("weld", QUICK)]);
    let start = Instant::now();
    assert_eq!(floor.send().await.unwrap().report.node, id("weld"));
    let noticed = start.elapsed() - Duration::from_secs(3);
    assert!((millis(600)..=millis(1_000)).contains(&noticed), "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_node_that_answers_after_all_may_win() {
    // Its answer comes before that of the second try.
    let late = Manner::Stops(millis(300), millis(300));
    let floor = Floor::with([("press", late), ("weld", Manner::Works(millis(500)))]);
    *floor.network.started.lock().unwrap() = Some(Instant::now());
    let floor_ref = &floor;
    let reply = floor_ref.send().await.unwrap();
    assert_eq!(reply.report.node, id("press"));
    assert!(floor.cancelled_all());
}

#[tokio::test(start_paused = true)]
async fn when_both_nodes_stall_and_break_the_call_is_lost_once() {
    let breaks = Manner::Breaks(millis(900));
    let floor = Floor::with([("press", STALLED), ("weld", breaks), ("saw", QUICK)]);
    let press = floor.pool.infer(call(Duration::from_secs(2))).await;
    let error = press.unwrap_err();
    // The press never says anything, so the deadline ends it; both may have run, so no third was asked.
    assert!(matches!(error, CallError::Late { attempts: 2, executed: Executed::Maybe }), "{error:?}");
    assert_eq!(floor.asked(), [id("press"), id("weld")]);
    assert!(floor.cancelled_all());
}

#[tokio::test(start_paused = true)]
async fn a_second_try_that_was_not_run_is_made_up_for_by_a_third() {
    let floor =
        Floor::with([("press", STALLED), ("weld", Manner::Fails(FaultCode::Draining)), ("saw", QUICK)]);
    let reply = floor.send().await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("saw"), 3));
}

#[tokio::test(start_paused = true)]
async fn a_first_that_fails_leaves_the_call_to_the_second_that_runs() {
    let floor = Floor::with([("press", STALLED), ("weld", Manner::Works(millis(700)))]);
    let pool = Arc::clone(&floor.pool);
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn(async move { pool.infer(call(Duration::from_secs(10))).await });
    sleep(millis(400)).await;
    assert_eq!(floor.network.open.load(Relaxed), 2);
    let reply = calls.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("weld"), 2));
    assert!(floor.cancelled_all());
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_session_waits_for_its_stalled_node() {
    let floor = Floor::with([("press", STALLED), ("weld", QUICK)]);
    let error = floor.pool.infer(of_session(&["press", "weld"])).await.unwrap_err();
    assert!(matches!(error, CallError::Late { attempts: 1, .. }), "{error:?}");
    assert_eq!(floor.asked(), [id("press")]);
    assert_eq!(floor.pool.counts().stalls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_connection_moves_on_and_costs_no_repeat() {
    let connects = Manner::Connects(Duration::from_secs(1), Duration::ZERO);
    let floor = Floor::with([("press", connects), ("weld", QUICK)]);
    floor.empty_the_budget();
    let start = Instant::now();
    let reply = floor.send().await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("weld"), 2));
    assert!(start.elapsed() <= STALL_AFTER + millis(9), "{:?}", start.elapsed());
    assert_eq!((floor.counted(Why::Moved), floor.counted(Why::Stall)), (1, 0));
    // Nobody else is there: to wait is better than to fail. A session waits for the node that has its state.
    let floor = Floor::with([("press", connects)]);
    assert_eq!(floor.send().await.unwrap().report.attempts, 1);
    let floor = Floor::with([("press", connects), ("weld", QUICK)]);
    let reply = floor.pool.infer(of_session(&["press", "weld"])).await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("press"), 1));
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_a_call_waits_for_the_node_it_has() {
    let floor = Floor::with([("press", STALLED), ("weld", QUICK)]);
    floor.empty_the_budget();
    let error = floor.pool.infer(call(Duration::from_secs(1))).await.unwrap_err();
    assert!(matches!(error, CallError::Late { attempts: 1, .. }), "{error:?}");
    assert_eq!(floor.pool.counts().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_want_it_waits_for_quic() {
    let mut floor = Floor::with([("press", STALLED), ("weld", QUICK)]);
    floor.tries().stall_after = None;
    assert!(floor.pool.infer(call(Duration::from_secs(1))).await.is_err());
    assert_eq!(floor.asked(), [id("press")]);
}

#[tokio::test(start_paused = true)]
async fn in_a_cluster_without_room_nothing_that_may_have_run_is_repeated() {
    let busy = Manner::Fails(FaultCode::Busy);
    let mut floor = Floor::with([("a", busy), ("b", busy), ("c", Manner::Breaks(millis(1)))]);
    floor.set_attempts_max(5);
    // Two of three say so; then the third breaks, with all of the budget there.
    let mut broke = 0;
    for _ in 0..6 {
        broke += usize::from(matches!(floor.send().await, Err(CallError::Lost { .. })));
    }
    assert!(1 <= broke);
    assert_eq!(floor.counted(Why::Repeat), 0);
    assert!(1 <= floor.pool.counts().refused);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fails_on_one_node_alone_is_that_nodes_fault() {
    let floor = Floor::with([("press", Manner::ModelFails(millis(2))), ("weld", QUICK)]);
    let reply = floor.send().await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("weld"), 2));
    assert_eq!((floor.failures("press"), floor.failures("weld")), (1, 0));
    assert_eq!((floor.counted(Why::Opinion), floor.pool.counts().overruled), (1, 1));
    assert!(floor.cancelled_all());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fails_on_two_nodes_is_the_inputs_fault() {
    let fails = Manner::ModelFails(millis(2));
    let floor = Floor::with([("press", fails), ("weld", fails), ("saw", QUICK)]);
    let error = floor.send().await.unwrap_err();
    let CallError::Refused { node, fault, attempts: 2 } = error else { panic!("{error:?}") };
    assert_eq!((node, fault.code), (id("press"), FaultCode::InferenceFailed));
    assert_eq!((floor.failures("press"), floor.failures("weld")), (0, 0));
    assert_eq!(floor.pool.counts().overruled, 0);
    // One node alone cannot be compared with anybody, and a session is not run twice.
    let floor = Floor::with([("press", fails)]);
    assert_eq!(floor.send().await.unwrap_err().attempts(), 1);
    let floor = Floor::with([("press", fails), ("weld", QUICK)]);
    assert_eq!(floor.pool.infer(of_session(&["press", "weld"])).await.unwrap_err().attempts(), 1);
    assert_eq!(floor.failures("press"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_opinion_that_never_comes_leaves_the_first() {
    let floor = Floor::with([("press", Manner::ModelFails(millis(2))), ("weld", Manner::Silent)]);
    let error = floor.pool.infer(call(Duration::from_secs(1))).await.unwrap_err();
    assert_eq!(error.fault().code, FaultCode::InferenceFailed, "{error:?}");
    assert_eq!(floor.failures("press"), 0);
}

/// A floor whose model has answered so often that its usual time is known.
async fn hedged(usual: Duration) -> Floor {
    let mut floor = Floor::with([("press", Manner::Works(usual)), ("weld", Manner::Works(usual))]);
    floor.tries().hedge = vec![add()];
    for _ in 0..400 {
        floor.send().await.unwrap();
    }
    assert_eq!(floor.counted(Why::Hedge), 0);
    floor
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_overtaken_by_its_hedge_is_cancelled() {
    let floor = hedged(millis(10)).await;
    // One of the two is slow for once.
    floor.network.set("press", Manner::Works(Duration::from_secs(2)));
    let start = Instant::now();
    let both = join_all([floor.send(), floor.send()]).await;
    assert!(both.iter().all(|reply| reply.as_ref().unwrap().report.node == id("weld")));
    assert!(start.elapsed() < millis(60), "{:?}", start.elapsed());
    assert_eq!((floor.counted(Why::Hedge), floor.pool.counts().hedges_won), (1, 1));
    assert!(floor.cancelled_all() && !floor.is_barred("press"));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_loses_is_cancelled() {
    let floor = hedged(millis(10)).await;
    floor.network.set("press", Manner::Works(millis(30)));
    floor.network.set("weld", Manner::Works(millis(30)));
    let reply = floor.send().await.unwrap();
    // Both tries count: the answer took two.
    assert_eq!(reply.report.attempts, 2);
    assert_eq!((floor.counted(Why::Hedge), floor.pool.counts().hedges_won), (1, 0));
    assert!(floor.cancelled_all());
}

#[tokio::test(start_paused = true)]
async fn hedges_are_at_most_one_call_in_twenty_and_none_of_a_session() {
    let floor = hedged(millis(10)).await;
    floor.network.set("press", Manner::Works(millis(40)));
    floor.network.set("weld", Manner::Works(millis(40)));
    let session = of_session(&["press", "weld"]);
    floor.pool.infer(session).await.unwrap();
    assert_eq!(floor.counted(Why::Hedge), 0);
    for _ in 0..200 {
        floor.send().await.unwrap();
    }
    let (hedges, calls) = (floor.counted(Why::Hedge), floor.pool.counts().calls);
    assert!(1 <= hedges && hedges * 20 <= calls, "{hedges} hedges of {calls} calls");
    // Another model is not hedged.
    let mut floor = hedged(millis(10)).await;
    floor.tries().hedge = vec!["subtract".parse().unwrap()];
    floor.network.set("press", Manner::Works(millis(40)));
    floor.send().await.unwrap();
    assert_eq!(floor.counted(Why::Hedge), 0);
}

impl Floor {
    /// Has the nodes answer so many calls, each within this time.
    async fn work(&self, calls: usize) {
        for _ in 0..calls {
            self.send().await.unwrap();
        }
    }

    /// A call that goes to the press first.
    async fn send_to_press(&self) -> (Result<InferReply, CallError>, Duration) {
        loop {
            let before = self.asked().len();
            let begun = Instant::now();
            let reply = self.send().await;
            if self.asked()[before] == id("press") {
                return (reply, begun.elapsed());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lives_and_hangs_has_its_calls_answered_elsewhere_after_a_second() {
    let floor = Floor::with([("press", QUICK), ("weld", QUICK)]);
    floor.work(10).await;
    floor.network.set("press", Manner::Silent);
    let (reply, took) = floor.send_to_press().await;
    assert_eq!(reply.unwrap().report.node, id("weld"));
    assert!((millis(1_000)..=millis(1_010)).contains(&took), "{took:?}");
    assert_eq!((floor.counted(Why::Slow), floor.counted(Why::Stall)), (1, 0));
    // Three of them, and nobody waits for it any more.
    floor.send_to_press().await.0.unwrap();
    floor.send_to_press().await.0.unwrap();
    assert!(floor.is_barred("press") && floor.cancelled_all());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_takes_long_everywhere_hangs_only_after_three_times_as_long_as_is_usual() {
    let usual = millis(1_500);
    let floor = Floor::with([("press", Manner::Works(usual)), ("weld", Manner::Works(usual))]);
    // Also the first calls, when nobody knows how long is usual.
    floor.work(20).await;
    assert_eq!((floor.counted(Why::Slow), floor.asked().len()), (0, 20));
    floor.network.set("press", Manner::Silent);
    let (reply, took) = floor.send_to_press().await;
    assert_eq!(reply.unwrap().report.node, id("weld"));
    // A percentile is at most a quarter too large.
    let found = took.checked_sub(usual).unwrap();
    assert!((3 * usual..=3 * usual + 3 * usual / 4 + millis(10)).contains(&found), "{found:?}");
    assert_eq!(floor.counted(Why::Slow), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_tried_elsewhere_within_the_budget_and_never_one_of_a_session() {
    let floor = Floor::with([("press", QUICK), ("weld", QUICK)]);
    floor.work(10).await;
    floor.network.set("press", Manner::Silent);
    floor.empty_the_budget();
    let (reply, _) = floor.send_to_press().await;
    assert!(matches!(reply, Err(CallError::Late { attempts: 1, .. })), "{reply:?}");
    assert_eq!((floor.counted(Why::Slow), floor.pool.counts().refused), (0, 1));
    // The budget is whole again.
    sleep(Duration::from_secs(20)).await;
    let error = floor.pool.infer(of_session(&["press", "weld"])).await.unwrap_err();
    assert!(matches!(error, CallError::Late { attempts: 1, .. }), "{error:?}");
    assert_eq!(floor.counted(Why::Slow), 0);
}

#[tokio::test(start_paused = true)]
async fn a_door_has_the_time_to_try_elsewhere_itself() {
    let floor = Floor::with([("press", QUICK), ("weld", QUICK)]);
    let door = |name| Candidate { serves: crate::Serves::Anything, ..candidate(name) };
    floor.pool.balancer().update(["press", "weld"].map(door).to_vec(), Instant::now().into_std());
    floor.work(10).await;
    floor.network.set("press", Manner::Silent);
    let (reply, took) = floor.send_to_press().await;
    assert_eq!(reply.unwrap().report.node, id("weld"));
    assert!((millis(2_000)..=millis(2_010)).contains(&took), "{took:?}");
    sleep(Duration::from_secs(3)).await;
    floor.network.set("press", Manner::Works(millis(1_900)));
    assert_eq!(floor.send_to_press().await.0.unwrap().report.node, id("press"));
    assert_eq!(floor.counted(Why::Slow), 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_try_of_a_hanging_call_that_ran_nothing_is_made_up_for_by_a_third() {
    let floor = Floor::with([("press", QUICK), ("weld", QUICK), ("saw", QUICK)]);
    floor.work(10).await;
    floor.network.set("press", Manner::Silent);
    let now = Instant::now().into_std();
    // Nobody knows yet that the weld is leaving.
    floor.network.set("weld", Manner::Fails(FaultCode::Draining));
    floor.pool.balancer().update(vec![candidate("press"), candidate("weld")], now);
    let call = floor.send_to_press();
    let saw_comes = async {
        sleep(millis(900)).await;
        let all = ["press", "weld", "saw"].map(candidate).to_vec();
        floor.pool.balancer().update(all, Instant::now().into_std());
    };
    let ((reply, took), ()) = tokio::join!(call, saw_comes);
    let reply = reply.unwrap();
    assert!(reply.report.node == id("saw") && took < millis(1_100), "{took:?}, {reply:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_try_goes_to_a_node_that_was_heard_meanwhile_and_to_another_where_none_was() {
    let floor = Floor::with([("press", QUICK), ("glue", QUICK), ("weld", QUICK)]);
    floor.work(9).await;
    // What silences the press silences the glue, whose turn would be next.
    floor.network.set("press", STALLED);
    floor.network.set("glue", STALLED);
    sleep(millis(100)).await;
    let weld_answers = async {
        sleep(millis(100)).await;
        let others = [id("press"), id("glue")];
        let now = || Instant::now().into_std();
        let lease = floor.pool.balancer().lease(Wanted::Model(&add(), None), &others, now()).unwrap();
        floor.pool.report(lease, Outcome::Heard);
    };
    let (reply, ()) = tokio::join!(floor.send(), weld_answers);
    let asked = floor.asked()[9..].to_vec();
    assert_eq!((asked, reply.unwrap().report.node), (vec![id("press"), id("weld")], id("weld")));

    // Nobody was heard: any other is better than none.
    let floor = Floor::with([("press", STALLED), ("weld", QUICK)]);
    assert_eq!(floor.send().await.unwrap().report.node, id("weld"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_left_a_node_before_it_was_connected_is_not_sent_there_any_more() {
    let connects = Manner::Connects(millis(400), millis(1));
    let floor = Floor::with([("press", connects), ("weld", Manner::Works(millis(900)))]);
    let call = floor.send();
    let looks = async {
        sleep(millis(300)).await;
        floor.network.open.load(Relaxed)
    };
    let (reply, open) = tokio::join!(call, looks);
    assert_eq!((open, reply.unwrap().report.node), (1, id("weld")));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_sent_since_the_last_look_may_have_run() {
    // Connected after the last look before the deadline, and it hangs.
    let connects = Manner::Connects(millis(380), Duration::from_secs(60));
    let floor = Floor::with([("press", connects)]);
    let error = floor.pool.infer(call(millis(400))).await.unwrap_err();
    assert!(matches!(error, CallError::Late { executed: Executed::Maybe, .. }), "{error:?}");
    let floor = Floor::with([("press", Manner::Connects(Duration::from_secs(1), Duration::ZERO))]);
    let error = floor.pool.infer(call(millis(400))).await.unwrap_err();
    assert!(matches!(error, CallError::Late { executed: Executed::No, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_is_found_also_where_callers_go_away_before_their_deadline() {
    let floor = Floor::with([("press", QUICK), ("weld", QUICK)]);
    floor.work(10).await;
    floor.network.set("press", Manner::Silent);
    let mut gone = 0;
    for _ in 0..200 {
        gone += u32::from(tokio::time::timeout(millis(700), floor.send()).await.is_err());
        sleep(millis(100)).await;
    }
    // Three, and one after each bar.
    assert!((3..=6).contains(&gone) && floor.cancelled_all(), "{gone}");
    let statistics = floor.pool.balancer().statistics(Instant::now().into_std());
    assert!(0 < statistics[&id("press")].ejections[crate::Rest::Errors as usize]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_takes_every_try_and_every_place_back() {
    let gives_up_after = [0, 1, 100, 260, 900, 1_010];
    for after in gives_up_after {
        // Stalled: two tries run. Accused: one has failed, and the second opinion runs.
        for press in [STALLED, Manner::ModelFails(millis(2)), Manner::Breaks(millis(1))] {
            let floor = Floor::with([("press", press), ("weld", Manner::Silent)]);
            let waits = tokio::time::timeout(millis(after), floor.send());
            assert!(waits.await.is_err(), "{after} {press:?}");
            assert!(floor.cancelled_all(), "{after} {press:?}");
            assert!(floor.failures("press") <= 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_opinion_that_nobody_can_give_costs_no_repeat() {
    let floor = Floor::with([("press", Manner::ModelFails(millis(2)))]);
    for _ in 0..30 {
        assert_eq!(floor.send().await.unwrap_err().attempts(), 1);
    }
    assert_eq!(floor.pool.counts().refused, 0);
    assert!(floor.pool.budget.repeat(Instant::now().into_std()));
}

fn manner() -> impl Strategy<Value = Manner> {
    let time = || (0_u64..1_500).prop_map(millis);
    prop_oneof![
        3 => time().prop_map(Manner::Works),
        1 => Just(Manner::Fails(FaultCode::Busy)),
        1 => Just(Manner::Fails(FaultCode::Draining)),
        1 => Just(Manner::Fails(FaultCode::Internal)),
        2 => time().prop_map(Manner::Breaks),
        1 => Just(Manner::Away),
        1 => Just(Manner::HasNoState),
        1 => Just(Manner::Silent),
        1 => Just(Manner::Deaf),
        1 => time().prop_map(Manner::ModelFails),
        2 => (time(), time()).prop_map(|(time, lives)| Manner::Stops(time, lives)),
        1 => (time(), time()).prop_map(|(connect, time)| Manner::Connects(connect, time)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_nodes_do_a_call_ends_once_in_time_and_runs_twice_at_most(
        manners in prop::array::uniform4(manner()),
        of_a_session: bool,
        hedge: bool,
        hasty: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let names = ["press", "weld", "saw", "drill"];
            let nodes: [_; 4] = std::array::from_fn(|i| (names[i], manners[i]));
            let mut floor = if hedge { hedged(millis(10)).await } else { Floor::with(nodes) };
            if hedge {
                let now = Instant::now().into_std();
                floor.pool.balancer().update(names.iter().map(|name| candidate(name)).collect(), now);
                nodes.iter().for_each(|(name, manner)| floor.network.set(name, *manner));
                floor.network.seen.lock().unwrap().clear();
                *floor.network.started.lock().unwrap() = None;
            }
            if hasty {
                floor.tries().stall_after = Some(millis(60));
            }
            let within = Duration::from_secs(3);
            let wanted = match of_a_session {
                true => InferCall { deadline: Instant::now() + within, ..of_session(&["press"]) },
                false => call(within),
            };
            let start = Instant::now();
            let result = floor.pool.infer(wanted).await;
            assert!(start.elapsed() <= within + millis(25), "{:?}", start.elapsed());
            // Nothing goes on behind the caller's back.
            assert!(floor.cancelled_all());
            let asked = floor.asked();
            sleep(Duration::from_secs(10)).await;
            assert_eq!(floor.asked(), asked);
            assert!(asked.len() <= 3, "{asked:?}");
            let attempts = result.as_ref().map_or_else(CallError::attempts, |reply| reply.report.attempts);
            assert!(usize::from(attempts) <= asked.len(), "{attempts} of {asked:?}");
            if result.is_ok() {
                assert_eq!(usize::from(attempts), asked.len());
            }
            let may_run = |node: &&NodeId| !matches!(
                floor.network.manner(**node),
                Manner::Fails(FaultCode::Busy | FaultCode::Draining) | Manner::Away | Manner::HasNoState
                    // Left before it was connected.
                    | Manner::Connects(..)
            );
            let runs = asked.iter().filter(may_run).count();
            assert!(runs <= if of_a_session { 1 } else { 2 }, "{runs} of {asked:?}");
        });
    }
}
