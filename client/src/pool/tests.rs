//! Whole calls over a fake network, in paused time.

mod races;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use lineside_mesh::{CallFailure, DialError, Outbound, Signs};
use lineside_wire::{
    CallContext, Executed, Fault, FaultCode, InferParams, InferResult, ModelVersion, PayloadBuilder, method,
};
use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;
use tokio::time::sleep;

use super::*;
use crate::{
    Balancing, Candidate, Standing,
    testing::{add, id, node},
};

/// How a node of the fake network behaves.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Answers after this time.
    Works(Duration),
    /// Answers with this fault.
    Fails(FaultCode),
    /// The connection breaks after this time.
    Breaks(Duration),
    /// Cannot be reached.
    Away,
    /// Says that it has no state of the call's session.
    HasNoState,
    /// Its model never ends. QUIC answers.
    Silent,
    /// Its model fails on the input after this time.
    ModelFails(Duration),
    /// Works after the first time, but stops after the second: no answer, and no packet.
    Stops(Duration, Duration),
    /// What is sent to it does not arrive. What it sends does.
    Deaf,
    /// Takes the first time to connect, and then the second to answer.
    Connects(Duration, Duration),
}

/// Gives no sign of life.
const STALLED: Manner = Manner::Stops(Duration::MAX, Duration::ZERO);

/// A network of nodes that behave as they are told.
#[derive(Default)]
struct Network {
    manners: Mutex<BTreeMap<NodeId, Manner>>,
    seen: Mutex<Vec<(NodeId, CallContext)>>,
    open: AtomicU32,
    started: Mutex<Option<Instant>>,
    packets: AtomicU64,
}

impl Network {
    fn manner(&self, node: NodeId) -> Manner {
        self.manners.lock().unwrap()[&node]
    }

    fn set(&self, name: &str, manner: Manner) {
        self.manners.lock().unwrap().insert(id(name), manner);
    }

    /// Time since the first call.
    fn age(&self) -> Duration {
        self.started.lock().unwrap().get_or_insert_with(Instant::now).elapsed()
    }
}

/// Counts a call at a node until it ends or is cancelled.
struct Open<'a>(&'a AtomicU32);

impl<'a> Open<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Transport for Arc<Network> {
    async fn call<P: Serialize + Send>(
        &self,
        to: Destination,
        call: Outbound<P>,
    ) -> Result<Reply, CallFailure> {
        let _open = Open::begin(&self.open);
        let node = to.node;
        self.seen.lock().unwrap().push((node, call.context));
        match self.manner(node) {
            Manner::Works(time) => {
                sleep(time).await;
                Ok(sum(node))
            }
            Manner::Fails(code) => {
                let fault = Fault::new(code, "told so");
                Err(CallFailure::Fault { node, fault, report: None })
            }
            Manner::HasNoState => {
                let fault = Fault::new(FaultCode::SequenceLost, "not here");
                Err(CallFailure::Fault { node, fault, report: sum(node).report })
            }
            Manner::Breaks(time) => {
                sleep(time).await;
                Err(CallFailure::Lost { node, sent: true, reason: "idle".to_owned() })
            }
            Manner::Away => {
                let address = to.address;
                let error = DialError::Unreachable { address, reason: "no route".to_owned() };
                Err(CallFailure::Unreachable { node, error })
            }
            Manner::Silent | Manner::Deaf => std::future::pending().await,
            Manner::ModelFails(time) => {
                sleep(time).await;
                let fault = Fault::new(FaultCode::InferenceFailed, format!("{node} failed on this input"));
                Err(CallFailure::Fault { node, fault, report: sum(node).report })
            }
            Manner::Stops(time, lives) => {
                if time <= lives {
                    sleep(time).await;
                    return Ok(sum(node));
                }
                std::future::pending().await
            }
            Manner::Connects(connect, time) => {
                sleep(connect.saturating_sub(self.age()) + time).await;
                Ok(sum(node))
            }
        }
    }

    fn signs(&self, to: Destination) -> Option<Signs> {
        let age = self.age();
        let both = |count| Some(Signs { packets: count, acknowledged: count });
        match self.manner(to.node) {
            Manner::Stops(_, lives) => {
                let lived = age.min(lives).as_millis();
                both(u64::try_from(lived).unwrap())
            }
            Manner::Connects(connect, _) if age < connect => None,
            Manner::Away => None,
            Manner::Deaf => Some(Signs { packets: self.packets.fetch_add(1, Relaxed), acknowledged: 7 }),
            _ => both(self.packets.fetch_add(1, Relaxed)),
        }
    }

    fn quiet_max(&self) -> Duration {
        Duration::from_millis(500)
    }
}

/// `{"model": "add", "version": "1", "outputs": []}` in MessagePack.
fn sum(node: NodeId) -> Reply {
    let mut result = vec![0x83];
    for text in ["model", "add", "version", "1", "outputs"] {
        result.push(0xa0 | u8::try_from(text.len()).unwrap());
        result.extend_from_slice(text.as_bytes());
    }
    result.push(0x90);
    let load = LoadReport { running: 0, queued: 0, slots: 2, limit: 0, call_us: 0 };
    let report = RunReport { node, load, queue_us: 10, run_us: 20, attempts: 1, batch: 1 };
    Reply { result: result.into(), payload: Bytes::new(), report: Some(report) }
}

struct Floor {
    pool: Arc<Pool<Arc<Network>>>,
    network: Arc<Network>,
}

fn candidate(name: &str) -> Candidate {
    node(name, 2)
}

const QUICK: Manner = Manner::Works(Duration::from_millis(5));

impl Floor {
    /// Nodes in the order in which they are asked while they have nothing to do.
    fn with<const N: usize>(nodes: [(&str, Manner); N]) -> Self {
        let now = Instant::now().into_std();
        let balancer = Balancer::new(Balancing::default(), &mut StdRng::seed_from_u64(7), now);
        balancer.update(nodes.iter().map(|(name, _)| candidate(name)).collect(), now);
        let network = Arc::new(Network::default());
        *network.manners.lock().unwrap() = nodes.iter().map(|(name, manner)| (id(name), *manner)).collect();
        let pool = Pool::new(Arc::clone(&network), Arc::new(balancer), Arc::new(Budget::new(now)));
        Self { pool: Arc::new(pool), network }
    }

    fn set_attempts_max(&mut self, attempts_max: u8) {
        Arc::get_mut(&mut self.pool).unwrap().tries.attempts_max = NonZeroU8::new(attempts_max).unwrap();
    }

    async fn send(&self) -> Result<InferReply, CallError> {
        self.pool.infer(call(Duration::from_secs(10))).await
    }

    fn asked(&self) -> Vec<NodeId> {
        self.network.seen.lock().unwrap().iter().map(|(node, _)| *node).collect()
    }

    fn contexts(&self) -> Vec<CallContext> {
        self.network.seen.lock().unwrap().iter().map(|(_, context)| context.clone()).collect()
    }

    fn in_flight(&self) -> u32 {
        let statistics = self.pool.balancer().statistics(Instant::now().into_std());
        statistics.values().map(|peer| peer.in_flight).sum()
    }
}

fn call(within: Duration) -> InferCall {
    InferCall {
        params: InferParams {
            model: add(),
            version: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: BTreeMap::new(),
            task: None,
            classification: Default::default(),
        },
        payload: PayloadBuilder::new(),
        deadline: Instant::now() + within,
        context: CallContext::default(),
    }
}

/// A call of a session whose order of the nodes begins like this.
fn of_session(order: &[&str]) -> InferCall {
    let now = Instant::now().into_std();
    let balancer = Balancer::new(Balancing::default(), &mut StdRng::seed_from_u64(7), now);
    balancer.update(order.iter().map(|name| candidate(name)).collect(), now);
    let begins_so = |session: &String| {
        let mut tried = Vec::new();
        order.iter().all(|name| {
            let wanted = Wanted::Model(&add(), None);
            let lease = balancer.lease_of_session(session, wanted, &tried, now).unwrap();
            tried.push(lease.node());
            lease.node() == id(name)
        })
    };
    let session = (0..).map(|number| format!("belt {number}")).find(begins_so);
    InferCall { context: CallContext { session, ..CallContext::default() }, ..call(Duration::from_secs(10)) }
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_who_gave_it_and_frees_the_place() {
    let floor = Floor::with([("press", QUICK)]);
    let reply = floor.send().await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("press"), 1));
    assert_eq!(reply.result.version, ModelVersion(1));
    assert_eq!(floor.in_flight(), 0);
    let statistics = floor.pool.balancer().statistics(Instant::now().into_std());
    let press = statistics[&id("press")];
    assert_eq!((press.calls, press.failures), (1, 0));
    assert!(Duration::from_millis(5) <= press.p95.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_busy_node_passes_the_call_on_and_is_not_blamed() {
    let floor = Floor::with([("press", Manner::Fails(FaultCode::Busy)), ("weld", QUICK)]);
    let reply = floor.send().await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("weld"), 2));
    assert_eq!(floor.asked(), [id("press"), id("weld")]);
    assert_eq!(floor.contexts().iter().map(|c| c.attempt).collect::<Vec<_>>(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_call_outlives_the_node_that_held_it() {
    let floor = Floor::with([("press", Manner::Breaks(Duration::from_secs(2))), ("weld", QUICK)]);
    let reply = floor.send().await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("weld"), 2));
    assert_eq!(floor.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_cannot_be_reached_are_passed_over_as_far_as_the_setting_allows() {
    let away = Manner::Away;
    let cluster = [("a", away), ("b", away), ("c", away), ("d", away), ("weld", QUICK)];
    let floor = Floor::with(cluster);
    let error = floor.send().await.unwrap_err();
    assert!(matches!(error, CallError::NoNode { .. }), "{error:?}");
    // Three are barred now.
    assert_eq!(floor.send().await.unwrap().report.attempts, 2);
    assert_eq!(floor.send().await.unwrap().report.attempts, 1);

    let mut floor = Floor::with(cluster);
    floor.set_attempts_max(5);
    assert_eq!(floor.send().await.unwrap().report.attempts, 5);
    let mut floor = Floor::with(cluster);
    floor.set_attempts_max(1);
    assert!(floor.send().await.is_err());
    assert_eq!(floor.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_session_is_not_repeated_after_a_loss() {
    let floor = Floor::with([("press", Manner::Breaks(Duration::from_millis(1))), ("weld", QUICK)]);
    let error = floor.pool.infer(of_session(&["press", "weld"])).await.unwrap_err();
    assert!(matches!(error, CallError::Lost { attempts: 1, node, .. } if node == id("press")), "{error:?}");
    assert_eq!(floor.asked(), [id("press")]);
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_session_moves_on_when_its_node_is_away() {
    let floor = Floor::with([("press", Manner::Away), ("weld", QUICK)]);
    let reply = floor.pool.infer(of_session(&["press", "weld"])).await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("weld"), 2));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_session_does_not_leave_its_node_because_that_is_busy() {
    let floor = Floor::with([("press", Manner::Fails(FaultCode::Busy)), ("weld", QUICK)]);
    let session = of_session(&["press", "weld"]);
    for _ in 0..3 {
        let error = floor.pool.infer(session.clone()).await.unwrap_err();
        assert!(matches!(error, CallError::AllBusy { nodes: 1, .. }), "{error:?}");
    }
    assert_eq!(floor.asked(), [id("press"); 3]);
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_session_is_looked_for_where_it_may_have_begun() {
    // It began before the press came.
    let floor = Floor::with([("press", Manner::HasNoState), ("weld", QUICK)]);
    let reply = floor.pool.infer(of_session(&["press", "weld"])).await.unwrap();
    assert_eq!((reply.report.node, reply.report.attempts), (id("weld"), 2));

    let floor = Floor::with([("press", Manner::HasNoState), ("weld", Manner::HasNoState)]);
    let error = floor.pool.infer(of_session(&["press", "weld"])).await.unwrap_err();
    let CallError::Refused { fault, attempts: 2, .. } = error else { panic!("{error:?}") };
    assert_eq!(fault.code, FaultCode::SequenceLost);
    assert_eq!(floor.asked(), [id("press"), id("weld")]);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_called_lost_while_its_node_only_rests() {
    let floor = Floor::with([("press", Manner::Breaks(Duration::ZERO)), ("weld", Manner::HasNoState)]);
    let session = of_session(&["press", "weld"]);
    let error = floor.pool.infer(session.clone()).await.unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
    // The press is barred, and may still have the state: to come again is all that is left to do.
    let error = floor.pool.infer(session.clone()).await.unwrap_err();
    assert!(
        matches!(&error, CallError::NoNode { reason, .. } if reason.contains("press rests")),
        "{error:?}"
    );
    assert_eq!(error.fault().executed, Executed::No);
    // The cluster has found it to be gone.
    let now = Instant::now().into_std();
    let dead = Candidate { standing: Standing::Down, ..candidate("press") };
    floor.pool.balancer().update(vec![dead, candidate("weld")], now);
    let error = floor.pool.infer(session).await.unwrap_err();
    assert_eq!(error.fault().code, FaultCode::SequenceLost);
}

#[tokio::test(start_paused = true)]
async fn all_tries_share_one_deadline() {
    let floor =
        Floor::with([("press", Manner::Breaks(Duration::from_millis(700))), ("weld", Manner::Silent)]);
    let start = Instant::now();
    let error = floor.pool.infer(call(Duration::from_secs(1))).await.unwrap_err();
    assert!(matches!(error, CallError::Late { attempts: 2, executed: Executed::Maybe }), "{error:?}");
    // And a moment for the last node's word, whether it has begun.
    assert!((1_020..1_030).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let left: Vec<_> = floor.contexts().iter().map(|c| c.timeout_us.unwrap()).collect();
    assert_eq!(left[0], 1_000_000);
    assert!((289_000..=300_000).contains(&left[1]), "{left:?}");
    assert_eq!(floor.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_sends_nothing() {
    let floor = Floor::with([("press", QUICK)]);
    let error = floor.pool.infer(call(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(error, CallError::Late { attempts: 0, executed: Executed::No }), "{error:?}");
    assert!(floor.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_taken_back_and_frees_its_place() {
    let floor = Floor::with([("press", Manner::Silent)]);
    let pool = Arc::clone(&floor.pool);
    let mut calls = tokio::task::JoinSet::new();
    let handle = calls.spawn(async move { pool.infer(call(Duration::from_secs(60))).await.map(drop) });
    while floor.network.open.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(floor.in_flight(), 1);
    handle.abort();
    assert!(calls.join_next().await.unwrap().is_err());
    assert_eq!((floor.in_flight(), floor.network.open.load(Relaxed)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_budget_ends_the_repeats_of_a_sick_cluster() {
    let breaks = Manner::Breaks(Duration::from_millis(1));
    let floor = Floor::with([("press", breaks), ("weld", breaks)]);
    let mut tries = 0;
    for _ in 0..100 {
        tries += u32::from(floor.send().await.unwrap_err().attempts());
    }
    // The floor of 20 and a tenth of the calls: not a second try for each.
    assert!((100..=130).contains(&tries), "{tries} tries for 100 calls");
}

#[tokio::test(start_paused = true)]
async fn in_a_cluster_without_room_nearly_every_call_is_sent_once() {
    let busy = Manner::Fails(FaultCode::Busy);
    let floor = Floor::with([("a", busy), ("b", busy), ("c", busy), ("d", busy), ("e", busy)]);
    let calls = 1_000;
    for _ in 0..calls {
        let error = floor.send().await.unwrap_err();
        assert!(matches!(error, CallError::AllBusy { .. }) && 1 <= error.attempts(), "{error:?}");
        sleep(Duration::from_millis(1)).await;
    }
    let tries = floor.asked().len();
    assert!((calls..=calls * 11 / 10).contains(&tries), "{tries} tries for {calls} calls");
}

#[tokio::test(start_paused = true)]
async fn a_full_node_does_not_hide_one_that_has_room() {
    let busy = Manner::Fails(FaultCode::Busy);
    let floor = Floor::with([("a", busy), ("b", busy), ("weld", QUICK)]);
    for _ in 0..100 {
        assert_eq!(floor.send().await.unwrap().report.node, id("weld"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_returns_to_the_only_node_there_is() {
    let floor = Floor::with([("press", Manner::Breaks(Duration::from_millis(1)))]);
    let error = floor.send().await.unwrap_err();
    assert!(matches!(error, CallError::Lost { attempts: 2, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_model_no_node_and_all_busy_are_told_apart() {
    let floor = Floor::with([("press", QUICK), ("weld", QUICK)]);
    let mut unknown = call(Duration::from_secs(1));
    unknown.params.model = "subtract".parse().unwrap();
    assert!(matches!(floor.pool.infer(unknown).await, Err(CallError::UnknownModel { .. })));

    let floor = Floor::with([("press", Manner::Away), ("weld", Manner::Away)]);
    let error = floor.send().await.unwrap_err();
    assert!(matches!(&error, CallError::NoNode { reason, .. } if reason.contains("no route")), "{error:?}");

    let busy = Manner::Fails(FaultCode::Busy);
    let floor = Floor::with([("press", busy), ("weld", busy)]);
    assert!(matches!(floor.send().await, Err(CallError::AllBusy { nodes: 2, .. })));

    let now = Instant::now().into_std();
    let dead = Candidate { standing: Standing::Down, ..candidate("press") };
    floor.pool.balancer().update(vec![dead], now);
    let error = floor.send().await.unwrap_err();
    assert!(matches!(&error, CallError::NoNode { reason, .. } if reason == "press is down"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_request_is_refused_by_the_first_node() {
    let floor = Floor::with([("press", Manner::Fails(FaultCode::InvalidParams)), ("weld", QUICK)]);
    let error = floor.send().await.unwrap_err();
    assert!(matches!(error, CallError::Refused { attempts: 1, .. }), "{error:?}");
    // And no blame for it.
    assert_eq!(floor.pool.balancer().statistics(Instant::now().into_std())[&id("press")].failures, 0);
}

#[tokio::test(start_paused = true)]
async fn many_calls_at_once_are_shared_evenly() {
    let floor = Floor::with([("a", QUICK), ("b", QUICK), ("c", QUICK)]);
    let calls = (0..30).map(|_| floor.send());
    let replies = futures_util::future::join_all(calls).await;
    let mut share = BTreeMap::<NodeId, usize>::new();
    for reply in replies {
        *share.entry(reply.unwrap().report.node).or_default() += 1;
    }
    assert!(share.values().all(|count| *count == 10), "{share:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_goes_to_the_next_member_when_one_is_silent() {
    let floor = Floor::with([("press", Manner::Silent), ("weld", QUICK)]);
    let within = Duration::from_secs(5);
    let answer: Result<InferResult, _> = floor.pool.ask(method::HEALTH, &(), within).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(floor.asked(), [id("press"), id("weld")]);
    let floor = Floor::with([("press", Manner::Fails(FaultCode::PermissionDenied))]);
    let answer: Result<InferResult, _> = floor.pool.ask(method::HEALTH, &(), within).await;
    assert!(matches!(answer, Err(AskError::Refused { .. })), "{answer:?}");
}
