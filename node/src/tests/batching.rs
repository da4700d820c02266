//! What a node does with calls that can run together.

use std::{
    fs,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use lineside_wire::{Datatype, Executed, FaultCode, ModelState, Tensor, TensorSpec};
use tempfile::TempDir;
use tokio::{join, task::JoinSet};

use super::{
    floor::{Answer, Floor, Request, config, eventually},
    onnx::{library, models, samples},
    workshop::NoBrake,
};
use crate::{
    Node, NodeConfig,
    engine::{Engine, OpenError, Opened, Options, RunError, Session, Signature, Stopper},
    scan::{Rejected, Scanned},
    settings::ModelLimits,
};

/// A value that no row may have: the run fails.
const CRACKED: f32 = -1.0;
/// The engine panics.
const JAMMED: f32 = -2.0;
/// Of several rows with one like this, one row comes out.
const MELTED: f32 = -3.0;
/// More than two rows with one like this are too much for an answer.
const BULKY: f32 = -4.0;

/// An engine whose model takes rows `x` and gives them back as `y`, and the sum of each as `sum`.
struct Press {
    home: TempDir,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    held: bool,
    opened: usize,
    /// The runs so far: the first value of each row.
    runs: Vec<Vec<f32>>,
}

impl Press {
    /// One with a model `press` of these settings.
    fn with(settings: &str) -> Arc<Self> {
        let press = Self { home: tempfile::tempdir().unwrap(), state: Arc::default() };
        let version = press.home.path().join("press/1");
        fs::create_dir_all(&version).unwrap();
        fs::write(version.join("model.onnx"), "press").unwrap();
        fs::write(press.home.path().join("press/model.toml"), settings).unwrap();
        Arc::new(press)
    }

    /// A node of one session with this engine. What was run at load is forgotten.
    async fn floor(self: &Arc<Self>) -> Arc<Floor> {
        self.floor_of(1, 64).await
    }

    async fn floor_of(self: &Arc<Self>, sessions: usize, queue_max: usize) -> Arc<Floor> {
        let floor = Floor::with_engine(config(self.home.path(), sessions, queue_max), Arc::clone(self) as _);
        floor.ready().await;
        assert_eq!(floor.state("press", 1).state, ModelState::Ready, "{:?}", floor.state("press", 1));
        self.state.0.lock().unwrap().runs.clear();
        Arc::new(floor)
    }

    fn hold(&self, held: bool) {
        self.state.0.lock().unwrap().held = held;
        self.state.1.notify_all();
    }

    fn runs(&self) -> Vec<Vec<f32>> {
        self.state.0.lock().unwrap().runs.clone()
    }

    fn opened(&self) -> usize {
        self.state.0.lock().unwrap().opened
    }
}

impl Engine for Press {
    fn scan(&self, model: &Path, _limits: &ModelLimits) -> Result<Scanned, Rejected> {
        Ok(Scanned { sha256: model.display().to_string(), ..Scanned::default() })
    }

    fn library(&self) -> String {
        "press 1".to_owned()
    }

    fn open(&self, _model: &Path, options: &Options) -> Result<Opened, OpenError> {
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
        };
        let signature = Signature {
            inputs: vec![spec("x", &[-1, -1])],
            outputs: vec![spec("y", &[-1, -1]), spec("sum", &[-1])],
        };
        self.state.0.lock().unwrap().opened += options.sessions;
        let one = |_| Box::new(Tool { signature: signature.clone(), state: Arc::clone(&self.state) }) as _;
        Ok(Opened {
            sessions: (0..options.sessions).map(one).collect(),
            provider: "cpu".to_owned(),
            warnings: Vec::new(),
        })
    }
}

struct Tool {
    signature: Signature,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Session for Tool {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn stopper(&self) -> Arc<dyn Stopper> {
        Arc::new(NoBrake)
    }

    fn run(&mut self, inputs: &[Tensor], wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        let x = &inputs[0];
        let (rows, width) = (x.shape.dims()[0], x.shape.dims()[1]);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&x.bytes);
        let table: Vec<&[f32]> = values.chunks(usize::try_from(width).unwrap().max(1)).collect();
        let mut state = self.state.0.lock().unwrap();
        state.runs.push(table.iter().map(|row| row[0]).collect());
        drop(self.state.1.wait_while(state, |state| state.held).unwrap());
        let has = |what: f32| values.contains(&what);
        assert!(!has(JAMMED), "the press jams");
        if has(CRACKED) {
            return Err(RunError::Failed("a part is cracked".to_owned()));
        }
        if has(BULKY) && 2 < rows {
            return Err(RunError::TooLarge { bytes: 1 << 30, max: 1 << 26 });
        }
        let given = if has(MELTED) && 1 < rows { 1 } else { table.len() };
        let floats = |name: &str, dims: Vec<u64>, values: Vec<f32>| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Tensor::new(name, Datatype::Fp32, dims, bytes.into()).unwrap()
        };
        let output = |index: &usize| match index {
            0 => floats("y", vec![given as u64, width], table[..given].concat()),
            _ => {
                floats("sum", vec![given as u64], table[..given].iter().map(|row| row.iter().sum()).collect())
            }
        };
        Ok(wanted.iter().map(output).collect())
    }
}

/// A request of rows of two, each of this value and of one.
fn parts(values: &[f32]) -> Request {
    let rows: Vec<f32> = values.iter().flat_map(|value| [*value, 1.0]).collect();
    Request::of("press").floats("x", &[values.len() as u64, 2], &rows)
}

fn is_of(answer: &Answer, values: &[f32]) -> bool {
    let rows: Vec<f32> = values.iter().flat_map(|value| [*value, 1.0]).collect();
    let sums: Vec<f32> = values.iter().map(|value| value + 1.0).collect();
    answer.floats("y") == rows && answer.floats("sum") == sums
}

/// Sends these one after the other while the only session is busy; lets it go on when all wait, and gives the answers.
async fn crowd(
    press: &Arc<Press>,
    floor: &Arc<Floor>,
    requests: Vec<Request>,
) -> Vec<Result<Answer, lineside_wire::Fault>> {
    press.hold(true);
    let (before, count) = (press.runs().len(), u32::try_from(requests.len()).unwrap());
    let sending = async {
        eventually("the run", || press.runs().len() == before + 1).await;
        let mut calls = JoinSet::new();
        for (at, request) in requests.into_iter().enumerate() {
            let own = Arc::clone(floor);
            calls.spawn(async move { (at, own.send(request).await) });
            let waiting = u32::try_from(at).unwrap() + 1;
            eventually("its place", || floor.node.load().queued == waiting).await;
        }
        assert_eq!(floor.node.load().queued, count);
        press.hold(false);
        let mut answers = calls.join_all().await;
        answers.sort_by_key(|(at, _)| *at);
        answers.into_iter().map(|(_, answer)| answer).collect()
    };
    let (first, answers) = join!(floor.send(parts(&[0.0])), sending);
    assert!(is_of(&first.unwrap(), &[0.0]));
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    answers
}

const ON: &str = "[batching]\nmode = \"on\"\nmax_size = 8\n";

#[tokio::test]
async fn calls_that_wait_while_the_session_is_busy_run_together() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    let before = floor.statistics(Some("press")).await.unwrap().remove(0);
    assert_eq!((before.execution_count, before.batches.len()), (0, 0), "the measurement is no call's");
    let answers = crowd(&press, &floor, vec![parts(&[1.0]), parts(&[2.0, 3.0]), parts(&[4.0])]).await;
    assert_eq!(press.runs(), [vec![0.0], vec![1.0, 2.0, 3.0, 4.0]]);
    for (answer, values) in answers.into_iter().zip([&[1.0][..], &[2.0, 3.0], &[4.0]]) {
        let answer = answer.unwrap();
        assert!(is_of(&answer, values), "{answer:?}");
        assert_eq!(answer.report.batch, 4);
    }
    let after = floor.statistics(Some("press")).await.unwrap().remove(0);
    assert_eq!((after.execution_count, after.inference_count, after.success.count), (2, 5, 4));
    assert_eq!((after.queue.count, after.compute_infer.count), (4, 4));
    let sizes: Vec<_> =
        after.batches.iter().map(|batch| (batch.batch_size, batch.compute_infer.count)).collect();
    assert_eq!(sizes, [(1, 1), (4, 1)]);
}

#[tokio::test]
async fn a_lone_call_of_an_idle_model_does_not_wait_for_others() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    for value in [1.0, 2.0] {
        let answer = floor.send(parts(&[value])).await.unwrap();
        assert!(is_of(&answer, &[value]));
        assert_eq!(answer.report.batch, 1);
    }
    assert_eq!(press.runs(), [[1.0], [2.0]]);
}

#[tokio::test]
async fn with_a_delay_an_idle_session_waits_until_the_run_is_full() {
    let press = Press::with("[batching]\nmode = \"on\"\nmax_size = 2\nmax_delay = \"10s\"\n");
    let floor = press.floor().await;
    let second = async {
        eventually("the first", || floor.node.load().running == 1).await;
        floor.send(parts(&[2.0])).await
    };
    let (first, second) = join!(floor.send(parts(&[1.0])), second);
    assert!(is_of(&first.unwrap(), &[1.0]) && is_of(&second.unwrap(), &[2.0]));
    assert_eq!(press.runs(), [[1.0, 2.0]]);
}

#[tokio::test]
async fn other_shapes_never_run_together_and_large_requests_run_alone() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    let wide = |value: f32| Request::of("press").floats("x", &[1, 3], &[value, 0.0, 0.0]);
    let nine: Vec<f32> = (10_u8..19).map(f32::from).collect();
    let requests = vec![parts(&[1.0]), wide(2.0), parts(&nine), parts(&[3.0]), wide(4.0)];
    let answers = crowd(&press, &floor, requests).await;
    assert_eq!(press.runs(), [vec![0.0], vec![1.0, 3.0], vec![2.0, 4.0], nine]);
    let sums: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().floats("sum")[0]).collect();
    assert_eq!(sums, [2.0, 2.0, 11.0, 4.0, 4.0]);
}

#[tokio::test]
async fn each_gets_the_outputs_that_it_asked_for() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    let requests = vec![
        parts(&[1.0]).output("sum"),
        parts(&[2.0]).output("y"),
        parts(&[3.0]),
        parts(&[4.0]).output("sum").output("y").classes("y", 1),
    ];
    let answers = crowd(&press, &floor, requests).await;
    let answers: Vec<Answer> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(press.runs().len(), 2);
    let counts: Vec<_> = answers.iter().map(|answer| answer.outputs.len()).collect();
    assert_eq!(counts, [1, 1, 2, 2]);
    assert_eq!((answers[0].floats("sum"), answers[1].floats("y")), (vec![2.0], vec![2.0, 1.0]));
    assert!(is_of(&answers[2], &[3.0]));
    assert_eq!((answers[3].floats("sum"), answers[3].texts("y")), (vec![5.0], vec!["4.000000:0".to_owned()]));
}

#[tokio::test]
async fn an_error_meets_only_its_cause() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    let answers = crowd(&press, &floor, vec![parts(&[1.0]), parts(&[CRACKED]), parts(&[2.0])]).await;
    assert_eq!(press.runs()[1..], [vec![1.0, CRACKED, 2.0], vec![1.0], vec![CRACKED], vec![2.0]]);
    assert!(is_of(answers[0].as_ref().unwrap(), &[1.0]) && is_of(answers[2].as_ref().unwrap(), &[2.0]));
    let fault = answers[1].as_ref().unwrap_err();
    assert_eq!((fault.code, fault.executed), (FaultCode::InferenceFailed, Executed::Yes));
    assert!(fault.message.contains("a part is cracked"), "{fault}");
    let count = floor.statistics(Some("press")).await.unwrap().remove(0);
    assert_eq!((count.success.count, count.fail.count, count.inference_count), (3, 1, 3));
}

#[tokio::test]
async fn a_panic_ends_the_run_of_all_and_the_session_is_replaced() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    let opened = press.opened();
    let answers = crowd(&press, &floor, vec![parts(&[1.0]), parts(&[JAMMED])]).await;
    for answer in answers {
        let fault = answer.unwrap_err();
        assert_eq!((fault.code, fault.retryable), (FaultCode::Internal, true));
    }
    eventually("the replacement", || press.opened() == opened + 1).await;
    assert!(is_of(&floor.send(parts(&[3.0])).await.unwrap(), &[3.0]));
}

#[tokio::test]
async fn who_gave_up_while_waiting_takes_no_row() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    press.hold(true);
    let waiting = async {
        eventually("the run", || press.runs().len() == 1).await;
        let mut gone = Box::pin(floor.send(parts(&[1.0])));
        tokio::select! {
            answer = &mut gone => panic!("{answer:?}"),
            () = eventually("its place", || floor.node.load().queued == 1) => drop(gone),
        }
        let (stayed, ()) = join!(floor.send(parts(&[3.0])), async {
            let late = floor.send(parts(&[2.0]).within(Duration::from_millis(50))).await;
            assert_eq!(late.unwrap_err().code, FaultCode::DeadlineExceeded);
            eventually("a place", || floor.node.load().queued == 1).await;
            press.hold(false);
        });
        assert!(is_of(&stayed.unwrap(), &[3.0]));
    };
    let (first, ()) = join!(floor.send(parts(&[0.0])), waiting);
    assert!(is_of(&first.unwrap(), &[0.0]));
    assert_eq!(press.runs(), [[0.0], [3.0]]);
}

#[tokio::test]
async fn a_model_that_turns_out_to_mix_rows_gives_no_wrong_answer_and_is_joined_no_more() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    let requests = || vec![parts(&[1.0]), parts(&[MELTED]), parts(&[2.0])];
    for answers in [crowd(&press, &floor, requests()).await, crowd(&press, &floor, requests()).await] {
        for (answer, value) in answers.iter().zip([1.0, MELTED, 2.0]) {
            assert!(is_of(answer.as_ref().unwrap(), &[value]), "{answer:?}");
        }
    }
    let rows: Vec<_> = press.runs().iter().map(Vec::len).collect();
    assert_eq!(rows, [1, 3, 1, 1, 1, 1, 1, 1, 1]);
}

#[tokio::test]
async fn rows_that_are_too_much_for_one_answer_run_in_smaller_company() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    let requests = || (0..4).map(|_| parts(&[BULKY])).collect();
    for answers in [crowd(&press, &floor, requests()).await, crowd(&press, &floor, requests()).await] {
        assert!(answers.iter().all(|answer| is_of(answer.as_ref().unwrap(), &[BULKY])));
    }
    let rows: Vec<_> = press.runs().iter().map(Vec::len).collect();
    assert_eq!(rows, [1, 4, 1, 1, 1, 1, 1, 2, 2]);
}

#[tokio::test]
async fn the_urgent_run_first_and_within_a_priority_who_must_be_done_first() {
    let press =
        Press::with("[batching]\nmode = \"off\"\n[queue]\npriority_levels = 3\ndefault_priority = 2\n");
    let floor = press.floor().await;
    let requests = vec![
        parts(&[1.0]).priority(3),
        parts(&[2.0]),
        parts(&[3.0]).within(Duration::from_secs(25)),
        parts(&[4.0]).priority(1),
        parts(&[5.0]).priority(1).within(Duration::from_secs(20)),
    ];
    let answers = crowd(&press, &floor, requests).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(press.runs(), [[0.0], [5.0], [4.0], [3.0], [2.0], [1.0]]);
}

#[tokio::test]
async fn a_preferred_size_is_made_where_there_is_a_choice() {
    let press = Press::with("[batching]\nmode = \"on\"\nmax_size = 8\npreferred_sizes = [4]\n");
    let floor = press.floor().await;
    let answers = crowd(&press, &floor, (1_u8..7).map(|value| parts(&[f32::from(value)])).collect()).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(press.runs()[1..], [vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 6.0]]);
}

#[tokio::test]
async fn an_unloaded_model_runs_what_waits_together() {
    let press = Press::with(ON);
    let floor = press.floor().await;
    press.hold(true);
    let rest = async {
        eventually("the run", || press.runs().len() == 1).await;
        let unloading = async {
            eventually("both", || floor.node.load().queued == 2).await;
            let (unloaded, ()) = join!(floor.unload("press"), async {
                floor.until("press", ModelState::Unloading).await;
                press.hold(false);
            });
            unloaded.unwrap()
        };
        join!(floor.send(parts(&[1.0])), floor.send(parts(&[2.0])), unloading)
    };
    let (first, (second, third, _)) = join!(floor.send(parts(&[0.0])), rest);
    assert!(
        is_of(&first.unwrap(), &[0.0]) && is_of(&second.unwrap(), &[1.0]) && is_of(&third.unwrap(), &[2.0])
    );
    assert_eq!(press.runs().len(), 2);
}

#[tokio::test]
async fn in_a_crowd_of_all_kinds_everybody_gets_his_own() {
    let press = Press::with(
        "[batching]\nmode = \"on\"\nmax_size = 8\nmax_delay = \"1ms\"\n[queue]\npriority_levels = 2\n",
    );
    let floor = press.floor_of(3, 1_000).await;
    let mut calls = JoinSet::new();
    for number in 0_u16..600 {
        let value = if number % 50 == 49 { CRACKED } else { f32::from(number) };
        let values = vec![value; usize::from(number % 3) + 1];
        let request = parts(&values).priority(u8::try_from(number % 3).unwrap());
        let floor = Arc::clone(&floor);
        calls.spawn(async move { (values, floor.send(request).await) });
    }
    for (values, answer) in calls.join_all().await {
        match answer {
            Ok(answer) => assert!(is_of(&answer, &values), "{values:?}: {answer:?}"),
            Err(fault) => assert!(values.contains(&CRACKED), "{values:?}: {fault}"),
        }
    }
    assert!(floor.node.finished(Duration::from_secs(20)).await);
    let count = floor.statistics(Some("press")).await.unwrap().remove(0);
    assert_eq!((count.success.count, count.fail.count), (588, 12));
    assert!(press.runs().iter().all(|run| run.len() <= 8));
}

/// The sample of bearings on the real library, with rows in one call, alone, and joined.
#[tokio::test]
async fn joined_answers_of_a_real_model_are_those_of_single_calls() {
    let home = tempfile::tempdir().unwrap();
    let put = |name: &str, settings: &str| {
        let version = home.path().join(name).join("1");
        fs::create_dir_all(&version).unwrap();
        fs::copy(models().join("repository/vibration-anomaly/1/model.onnx"), version.join("model.onnx"))
            .unwrap();
        fs::write(home.path().join(name).join("model.toml"), settings).unwrap();
    };
    put("alone", "[batching]\nmode = \"off\"\n");
    // Full before any delay is over, so that all of them run together whatever the machine does.
    put("joined", "[batching]\nmode = \"on\"\nmax_size = 8\nmax_delay = \"10s\"\n");
    let config = NodeConfig { library: library(), ..config(home.path(), 2, 64) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;
    assert_eq!(floor.state("joined", 1).state, ModelState::Ready, "{:?}", floor.state("joined", 1).reason);
    let rows = samples("vibration-anomaly/rows.json");
    let rows: Vec<Vec<f32>> = rows["rows"]
        .as_array()
        .unwrap()
        .iter()
        .take(8)
        .map(|row| serde_json::from_value(row["features"].clone()).unwrap())
        .collect();
    let request = |model: &str, row: &[f32]| Request::of(model).floats("features", &[1, 16], row);
    let floor = Arc::new(floor);
    let mut joined = JoinSet::new();
    for (at, row) in rows.iter().enumerate() {
        let (floor, request) = (Arc::clone(&floor), request("joined", row));
        joined.spawn(async move { (at, floor.send(request).await.unwrap()) });
    }
    for (at, joined) in joined.join_all().await {
        let alone = floor.send(request("alone", &rows[at])).await.unwrap();
        assert_eq!((alone.report.batch, joined.report.batch), (1, 8));
        assert_eq!(alone.outputs.len(), joined.outputs.len());
        for (name, alone) in &alone.outputs {
            let joined = &joined.outputs[name];
            assert_eq!((alone.datatype, &alone.shape), (joined.datatype, &joined.shape), "{name}");
            if alone.datatype != Datatype::Fp32 {
                assert_eq!(alone.bytes, joined.bytes, "{name}");
                continue;
            }
            let [alone, joined] =
                [alone, joined].map(|tensor| bytemuck::pod_collect_to_vec::<u8, f32>(&tensor.bytes));
            let near = alone.iter().zip(&joined).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs().max(1.0));
            assert!(near, "{name}: {alone:?} alone, {joined:?} joined");
        }
    }
}
