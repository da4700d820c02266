//! The table of the module's page, row by row.

use lineside_mesh::DialError;
use lineside_wire::{Fault, FaultCode, ModelVersion, Parameters};

use super::*;

const PLENTY: Duration = Duration::from_secs(10);

fn press() -> NodeId {
    NodeId::from_bytes(*b"press           ")
}

fn weld() -> NodeId {
    NodeId::from_bytes(*b"weld            ")
}

fn wanted(version: Option<ModelVersion>) -> InferParams {
    InferParams {
        model: "add".parse().unwrap(),
        version,
        inputs: Vec::new(),
        outputs: Vec::new(),
        parameters: Parameters::new(),
        task: None,
        classification: Default::default(),
    }
}

fn fault(code: FaultCode) -> CallFailure {
    CallFailure::Fault { node: press(), fault: Fault::new(code, "told so"), report: None }
}

fn lost() -> CallFailure {
    CallFailure::Lost { node: press(), sent: true, reason: "idle".to_owned() }
}

fn pure() -> History {
    History::new(&CallContext::default(), ATTEMPTS_MAX)
}

fn of_session() -> History {
    History::new(&CallContext { session: Some("belt 4".to_owned()), ..CallContext::default() }, ATTEMPTS_MAX)
}

fn fail(history: &mut History, failure: CallFailure) -> Next {
    history.begin(node_of(&failure));
    history.failed(failure, false, PLENTY, 0.5).1
}

/// The same while another try runs.
fn fail_beside(history: &mut History, failure: CallFailure) -> Next {
    history.begin(node_of(&failure));
    history.failed(failure, true, PLENTY, 0.5).1
}

fn node_of(failure: &CallFailure) -> NodeId {
    match failure {
        CallFailure::Unreachable { node, .. }
        | CallFailure::Lost { node, .. }
        | CallFailure::Fault { node, .. }
        | CallFailure::Invalid { node, .. } => *node,
    }
}

#[test]
fn what_was_not_run_moves_to_another_node_at_once() {
    let unreachable = CallFailure::Unreachable { node: press(), error: DialError::Closed };
    let unsent = CallFailure::Lost { node: press(), sent: false, reason: "closed".to_owned() };
    let codes = [
        FaultCode::Busy,
        FaultCode::Draining,
        FaultCode::ModelNotFound,
        FaultCode::ModelUnavailable,
        FaultCode::Unreachable,
    ];
    let faults = codes.into_iter().map(fault);
    for failure in faults.chain([unreachable, unsent]) {
        for mut history in [pure(), of_session()] {
            let next = fail(&mut history, failure.clone());
            assert!(matches!(next, Next::Elsewhere), "{failure}: {next:?}");
            assert_eq!(history.tried(), [press()]);
        }
    }
}

#[test]
fn every_fault_has_its_place() {
    for code in FaultCode::ALL {
        let next = fail(&mut pure(), fault(*code));
        let wanted = match (code, code.executed(), code.retryable()) {
            // A door that lost its node has repeated the call itself; a quota is the caller's.
            (FaultCode::Lost | FaultCode::RateLimited, _, _) => "give up",
            (_, Executed::No, true) => "elsewhere",
            (_, Executed::Maybe, true) => "again",
            (_, _, false) | (_, Executed::Yes, true) => "give up",
        };
        let got = match next {
            Next::Elsewhere => "elsewhere",
            Next::Again { .. } => "again",
            Next::GiveUp(_) => "give up",
            Next::SecondOpinion | Next::Wait => "something else",
        };
        assert_eq!(got, wanted, "{code}");
    }
}

#[test]
fn a_door_that_lost_its_node_leaves_the_call_to_the_other_door_that_works_on_it() {
    let mut history = pure();
    history.begin(weld());
    assert!(matches!(fail_beside(&mut history, fault(FaultCode::Lost)), Next::Wait));
    // That one loses it, too.
    let (_, next) = history.failed(lost(), false, PLENTY, 0.5);
    assert!(matches!(next, Next::GiveUp(CallError::Lost { attempts: 2, .. })), "{next:?}");
    // What is wrong is wrong everywhere.
    let mut history = pure();
    history.begin(weld());
    assert!(matches!(fail_beside(&mut history, fault(FaultCode::InvalidParams)), Next::GiveUp(_)));
}

#[test]
fn a_lost_call_is_repeated_once_if_it_may_be() {
    let mut history = pure();
    let next = fail(&mut history, lost());
    assert!(matches!(next, Next::Again { backoff } if backoff == Duration::from_millis(5)), "{next:?}");
    let next = fail(&mut history, lost());
    assert!(matches!(next, Next::GiveUp(CallError::Lost { attempts: 2, .. })), "{next:?}");
}

#[test]
fn tries_that_ran_nothing_leave_room_for_the_one_repeat() {
    let mut history = pure();
    fail(&mut history, fault(FaultCode::Busy));
    assert!(matches!(fail(&mut history, lost()), Next::Again { .. }));
    assert!(matches!(fail(&mut history, lost()), Next::GiveUp(CallError::Lost { attempts: 3, .. })));
}

#[test]
fn the_setting_bounds_all_tries_and_two_may_have_run() {
    for (attempts_max, runs) in [(1, 1), (2, 2), (3, 2), (16, 2)] {
        let attempts_max = NonZeroU8::new(attempts_max).unwrap();
        let mut history = History::new(&CallContext::default(), attempts_max);
        let mut tries = 1;
        while let Next::Again { .. } = fail(&mut history, lost()) {
            tries += 1;
        }
        assert_eq!(tries, runs, "of {attempts_max}");
        // Nothing was run: as many as the setting says.
        let mut history = History::new(&CallContext::default(), attempts_max);
        let tries = (0..99).take_while(|_| {
            !history.is_spent() && matches!(fail(&mut history, fault(FaultCode::Busy)), Next::Elsewhere)
        });
        assert_eq!(tries.count(), usize::from(attempts_max.get()));
    }
}

#[test]
fn a_call_of_a_session_is_not_repeated_after_it_may_have_run() {
    assert!(matches!(fail(&mut of_session(), lost()), Next::GiveUp(CallError::Lost { .. })));
    let context = CallContext {
        session: Some("belt 4".to_owned()),
        idempotency_key: Some("part 17".to_owned()),
        ..CallContext::default()
    };
    // A key helps only where the node knows it again, and none does.
    let mut with_key = History::new(&context, ATTEMPTS_MAX);
    assert!(matches!(fail(&mut with_key, lost()), Next::GiveUp(CallError::Lost { .. })));
}

fn without_state(by: NodeId) -> CallFailure {
    let load = lineside_wire::LoadReport::default();
    let report = lineside_wire::RunReport { node: by, load, queue_us: 0, run_us: 0, attempts: 1, batch: 1 };
    let fault = Fault::new(FaultCode::SequenceLost, "not here");
    CallFailure::Fault { node: press(), fault, report: Some(report) }
}

#[test]
fn only_the_node_itself_sends_a_session_on_and_only_a_session_goes() {
    assert!(matches!(fail(&mut of_session(), without_state(press())), Next::Elsewhere));
    // A door has asked them all.
    let next = fail(&mut of_session(), without_state(weld()));
    assert!(matches!(next, Next::GiveUp(CallError::Refused { .. })), "{next:?}");
    let next = fail(&mut pure(), without_state(press()));
    assert!(matches!(next, Next::GiveUp(CallError::Refused { .. })), "{next:?}");
}

#[test]
fn what_may_have_the_state_counts_more_than_who_has_not() {
    let end = |failures: Vec<CallFailure>, no_lease| {
        let mut history = of_session();
        for failure in failures {
            assert!(!history.is_spent());
            fail(&mut history, failure);
        }
        history.without_peer(&wanted(None), no_lease)
    };
    let lost = || without_state(press());
    let rests = NoLease::NotServing { reason: "weld rests".to_owned() };
    let all = [
        (vec![lost()], NoLease::Exhausted, FaultCode::SequenceLost),
        (vec![lost()], rests, FaultCode::ModelUnavailable),
        (vec![lost(), fault(FaultCode::Busy)], NoLease::Exhausted, FaultCode::Busy),
        (vec![lost(), fault(FaultCode::Draining)], NoLease::Exhausted, FaultCode::ModelUnavailable),
    ];
    for (failures, no_lease, code) in all {
        let error = end(failures, no_lease);
        assert_eq!(error.fault().code, code, "{error:?}");
    }
}

#[test]
fn nothing_is_repeated_past_the_deadline() {
    let mut history = pure();
    history.begin(press());
    let (_, next) = history.failed(lost(), false, Duration::from_millis(4), 0.5);
    assert!(matches!(next, Next::GiveUp(CallError::Lost { .. })), "{next:?}");
}

#[test]
fn what_a_gateway_says_of_the_work_counts_more_than_the_table() {
    let told = |code, executed| {
        let fault = Fault { executed, ..Fault::new(code, "told so") };
        fail(&mut of_session(), CallFailure::Fault { node: press(), fault, report: None })
    };
    assert!(matches!(told(FaultCode::Internal, Executed::No), Next::Elsewhere));
    assert!(matches!(told(FaultCode::Busy, Executed::Maybe), Next::GiveUp(CallError::Refused { .. })));
    assert!(matches!(told(FaultCode::Busy, Executed::Yes), Next::GiveUp(CallError::Refused { .. })));
}

#[test]
fn a_wrong_request_is_not_carried_from_node_to_node() {
    for code in [FaultCode::InvalidParams, FaultCode::InferenceFailed, FaultCode::PermissionDenied] {
        let next = fail(&mut pure(), fault(code));
        let Next::GiveUp(CallError::Refused { fault, .. }) = next else { panic!("{next:?}") };
        assert_eq!(fault.code, code);
    }
}

#[test]
fn the_last_word_says_what_became_of_the_work() {
    let end = |failures: Vec<CallFailure>| {
        let mut history = pure();
        for failure in failures {
            fail(&mut history, failure);
        }
        history.without_peer(&wanted(None), NoLease::Exhausted)
    };
    let busy = |node, wait| CallFailure::Fault {
        node,
        fault: Fault::new(FaultCode::Busy, "full").retry_after_ms(wait),
        report: None,
    };
    let error = end(vec![busy(press(), 70), busy(weld(), 30)]);
    let soonest = Duration::from_millis(30);
    assert!(matches!(error, CallError::AllBusy { nodes: 2, retry_after, .. } if retry_after == soonest));
    assert!(matches!(end(vec![fault(FaultCode::ModelNotFound)]), CallError::UnknownModel { .. }));
    assert!(matches!(end(vec![fault(FaultCode::Draining)]), CallError::NoNode { .. }));
    // One node may have run it: whatever the others say, the caller must know.
    let error = end(vec![lost(), busy(weld(), 30)]);
    assert!(matches!(error, CallError::Lost { node, attempts: 2, .. } if node == press()), "{error:?}");
}

#[test]
fn a_version_that_nobody_has_is_named() {
    let mut history = pure();
    fail(&mut history, fault(FaultCode::ModelNotFound));
    let error = history.without_peer(&wanted(Some(ModelVersion(3))), NoLease::Exhausted);
    assert!(
        error.to_string().starts_with("no node of the cluster has version 3 of the model add"),
        "{error}"
    );
    let error = pure().without_peer(&wanted(Some(ModelVersion(3))), NoLease::UnknownVersion);
    assert!(matches!(error, CallError::UnknownVersion { .. }), "{error:?}");
    assert_eq!(error.fault().code, FaultCode::ModelNotFound);
}

#[test]
fn a_reason_names_some_nodes_and_counts_the_rest() {
    let mut history = pure();
    for _ in 0..9 {
        fail(&mut history, fault(FaultCode::ModelUnavailable));
    }
    let CallError::NoNode { reason, .. } = history.without_peer(&wanted(None), NoLease::Exhausted) else {
        panic!()
    };
    assert!(reason.ends_with("; and 6 more") && reason.matches("told so").count() == 3, "{reason}");
}

#[test]
fn late_says_whether_a_node_may_have_begun() {
    let mut history = pure();
    assert!(matches!(history.late(Executed::No), CallError::Late { executed: Executed::No, .. }));
    fail(&mut history, lost());
    assert!(matches!(history.late(Executed::No), CallError::Late { executed: Executed::Maybe, attempts: 1 }));
}

fn model_failed(at: NodeId, by: NodeId) -> CallFailure {
    let load = lineside_wire::LoadReport::default();
    let report = lineside_wire::RunReport { node: by, load, queue_us: 0, run_us: 0, attempts: 1, batch: 1 };
    let fault = Fault::new(FaultCode::InferenceFailed, format!("failed on {by}"));
    CallFailure::Fault { node: at, fault, report: Some(report) }
}

#[test]
fn a_model_that_fails_is_asked_about_once_on_another_node() {
    let mut history = pure();
    history.begin(press());
    let (outcome, next) = history.failed(model_failed(press(), press()), false, PLENTY, 0.5);
    assert!(matches!((outcome, next), (Outcome::Erred, Next::SecondOpinion)));
    // It fails there, too: it is the input.
    let next = fail(&mut history, model_failed(weld(), weld()));
    let Next::GiveUp(CallError::Refused { node, attempts: 2, .. }) = next else { panic!("{next:?}") };
    assert_eq!(node, press());
    // A door has asked already; a session is not run twice; what has run twice is enough.
    let next = fail(&mut pure(), model_failed(press(), weld()));
    assert!(matches!(next, Next::GiveUp(CallError::Refused { .. })), "{next:?}");
    let next = fail(&mut of_session(), model_failed(press(), press()));
    assert!(matches!(next, Next::GiveUp(CallError::Refused { .. })), "{next:?}");
    let mut history = pure();
    fail(&mut history, lost());
    let next = fail(&mut history, model_failed(weld(), weld()));
    assert!(matches!(next, Next::GiveUp(CallError::Refused { .. })), "{next:?}");
}

#[test]
fn whatever_comes_of_a_second_opinion_the_caller_hears_of_the_model() {
    let asked = || {
        let mut history = pure();
        assert!(matches!(fail(&mut history, model_failed(press(), press())), Next::SecondOpinion));
        history
    };
    let told = |error: CallError| {
        assert_eq!(error.fault().code, FaultCode::InferenceFailed, "{error:?}");
        assert_eq!(error.fault().executed, Executed::Yes);
    };
    told(asked().without_peer(&wanted(None), NoLease::Exhausted));
    told(asked().give_up(&wanted(None)));
    told(asked().late(Executed::Maybe));
    for failure in [lost(), fault(FaultCode::InvalidParams), fault(FaultCode::DeadlineExceeded)] {
        let mut history = asked();
        let Next::GiveUp(error) = fail(&mut history, failure) else { panic!() };
        told(error);
    }
    let mut history = asked();
    assert!(matches!(fail(&mut history, fault(FaultCode::Busy)), Next::Elsewhere));
    told(history.without_peer(&wanted(None), NoLease::Exhausted));
}

#[test]
fn a_failure_beside_a_try_that_runs_changes_nothing_yet() {
    for failure in [lost(), model_failed(press(), press()), fault(FaultCode::DeadlineExceededRunning)] {
        let mut history = pure();
        history.begin(weld());
        assert!(matches!(fail_beside(&mut history, failure), Next::Wait));
        // The other one ends, too: both may have run.
        let (_, next) = history.failed(
            CallFailure::Lost { node: weld(), sent: true, reason: "idle".to_owned() },
            false,
            PLENTY,
            0.5,
        );
        assert!(matches!(next, Next::GiveUp(_)), "{next:?}");
    }
    // What every node would say is said at once.
    let mut history = pure();
    history.begin(weld());
    let next = fail_beside(&mut history, fault(FaultCode::InvalidParams));
    assert!(matches!(next, Next::GiveUp(CallError::Refused { .. })), "{next:?}");
}

#[test]
fn two_tries_that_may_run_are_the_most_also_side_by_side() {
    let mut history = pure();
    history.begin(press());
    assert!(history.may_double());
    // One ran before and was lost: the repeat that runs now is the second.
    fail(&mut history, lost());
    history.begin(weld());
    assert!(!history.may_double());
    // What a busy node sent away did not run.
    let mut history = pure();
    fail(&mut history, fault(FaultCode::Busy));
    history.begin(weld());
    assert!(history.may_double());
    let mut session = of_session();
    session.begin(press());
    assert!(!session.may_double() && !session.may_move());
}
