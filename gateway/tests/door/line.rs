//! The made-up cluster: it adds, echoes, holds and fails as it is told.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lineside_client::{CallError, InferCall, InferReply};
use lineside_gateway::{Change, Cluster, LogControl};
use lineside_wire::{
    BatchStatistics, BatchingInfo, ChangeParams, ChangeResult, ClusterId, ClusterStatus, Datatype,
    EngineInfo, Executed, Fault, FaultCode, InferResult, LoadReport, MemberRow, MembersResult, ModelInfo,
    ModelState, ModelStatistics, ModelVersion, NodeChange, NodeId, Parameters, Role, RunReport, Spent,
    StatisticsParams, StatisticsResult, Tensor, TensorSpec, bytes_tensor, join_tensors, split_tensors,
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::tasks;

pub(crate) const PRESS: NodeId = NodeId::from_bytes([0xa1; 16]);
pub(crate) const WELD: NodeId = NodeId::from_bytes([0xb2; 16]);

pub(crate) struct Line {
    /// The shards that asked for a cluster.
    pub(crate) shards: Mutex<Vec<usize>>,
    /// The calls that came, with the memory of each call's chunks.
    pub(crate) calls: Mutex<Vec<(InferCall, Vec<Bytes>)>>,
    /// Calls of `slow` that wait now, and those that were dropped while they waited.
    pub(crate) waiting: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
    /// Lets calls of `slow` go on.
    pub(crate) go: Semaphore,
    pub(crate) is_ready: AtomicBool,
    /// Whether there are models that take images and texts, too.
    pub(crate) has_tasks: AtomicBool,
    /// Further models, which give back what they are given.
    pub(crate) further: Mutex<Vec<ModelInfo>>,
    /// The changes that were asked for, and until when.
    pub(crate) changes: Mutex<Vec<(Change, ChangeParams, Instant)>>,
    /// The log; without one it cannot be changed.
    pub(crate) log: Mutex<Option<Arc<Log>>>,
    /// What each member was last heard of, and the bell that rings when that changes.
    pub(crate) seen_ms_ago: AtomicU64,
    pub(crate) changed: watch::Sender<()>,
}

/// A log with a level.
#[derive(Debug)]
pub(crate) struct Log(pub(crate) Mutex<String>);

impl LogControl for Log {
    fn level(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn set_level(&self, directives: &str) -> Result<(), String> {
        if directives.contains("broken") {
            return Err("\"broken\" is no directive".to_owned());
        }
        directives.clone_into(&mut self.0.lock().unwrap());
        Ok(())
    }
}

impl Default for Line {
    fn default() -> Self {
        Self {
            shards: Mutex::default(),
            calls: Mutex::default(),
            waiting: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
            go: Semaphore::new(0),
            is_ready: AtomicBool::new(true),
            has_tasks: AtomicBool::new(false),
            further: Mutex::default(),
            changes: Mutex::default(),
            log: Mutex::default(),
            seen_ms_ago: AtomicU64::new(5),
            changed: watch::Sender::new(()),
        }
    }
}

impl Line {
    /// Members change.
    pub(crate) fn heard(&self, ms_ago: u64) {
        self.seen_ms_ago.store(ms_ago, Ordering::SeqCst);
        self.changed.send_replace(());
    }

    pub(crate) fn last_call(&self) -> (InferCall, Vec<Bytes>) {
        self.calls.lock().unwrap().last().cloned().expect("a call")
    }

    async fn hold(&self) {
        struct Waits<'a>(&'a Line, bool);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.waiting.fetch_sub(1, Ordering::SeqCst);
                if !self.1 {
                    self.0.dropped.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut waits = Waits(self, false);
        self.go.acquire().await.unwrap().forget();
        waits.1 = true;
    }
}

/// The outputs that a node would give for these inputs.
fn outputs(model: &str, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Fault> {
    let fp32 = |name: &str, shape: &[u64], values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new(name, Datatype::Fp32, shape.to_vec(), bytes.into()).unwrap()
    };
    Ok(match model {
        "add" => {
            let [a, b] = &inputs[..] else {
                return Err(Fault::new(FaultCode::InvalidParams, "add takes the inputs a and b"));
            };
            let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
            let pairs = a.bytes.chunks_exact(4).zip(b.bytes.chunks_exact(4));
            let sums: Vec<f32> = pairs.map(|(a, b)| number(a) + number(b)).collect();
            vec![fp32("sum", a.shape.dims(), &sums)]
        }
        "nan" => vec![fp32("x", &[2], &[f32::NAN, 1.0])],
        "half" => vec![Tensor::new("x", Datatype::Fp16, vec![1], Bytes::from_static(&[0, 60])).unwrap()],
        "label" => {
            let bytes = bytes_tensor([b"kratzer \"tief\"".as_slice()]).unwrap();
            vec![Tensor::new("label", Datatype::Bytes, vec![1], bytes.into()).unwrap()]
        }
        _ => inputs,
    })
}

/// How a node runs a model whose requests it joins.
fn joining() -> EngineInfo {
    EngineInfo {
        sha256: "5a".repeat(32),
        provider: "cpu".to_owned(),
        threads: 1,
        batching: Some(BatchingInfo { max_size: 16, max_delay_us: 250, preferred_sizes: vec![4, 8] }),
        finding: "model.toml says so".to_owned(),
        priority_levels: 3,
        cache_bytes_max: 1 << 20,
        ..EngineInfo::default()
    }
}

impl Cluster for Line {
    async fn infer(&self, call: InferCall) -> Result<InferReply, CallError> {
        let chunks = call.payload.clone().into_chunks();
        self.calls.lock().unwrap().push((call.clone(), chunks.clone()));
        let model = call.params.model.clone();
        let refused = |fault: Fault| CallError::Refused { node: PRESS, fault, attempts: 1 };
        match (model.as_str(), call.params.version) {
            ("slow", _) => self.hold().await,
            ("busy", _) => {
                let retry_after = Duration::from_millis(1_200);
                return Err(CallError::AllBusy { model, nodes: 2, retry_after });
            }
            ("lost", _) => {
                return Err(CallError::Lost { node: WELD, attempts: 3, reason: "reset".to_owned() });
            }
            ("late", _) => return Err(CallError::Late { attempts: 1, executed: Executed::No }),
            ("loading", _) => {
                return Err(CallError::NoNode { model, reason: "it is being loaded".to_owned() });
            }
            ("stuck", _) => std::future::pending().await,
            ("panics", _) => panic!("a defect that the test ordered"),
            _ if call.params.task.is_some() => {}
            _ if self.further.lock().unwrap().iter().any(|further| further.name == model) => {}
            ("add" | "echo" | "nan" | "half" | "label", None | Some(ModelVersion(1 | 2))) => {}
            ("add", Some(version)) => return Err(CallError::UnknownVersion { model, version }),
            _ => return Err(CallError::UnknownModel { model }),
        }
        let inputs = split_tensors(call.params.inputs.clone(), &chunks.concat().into()).map_err(refused)?;
        let outputs = match call.params.task {
            Some(task) => tasks::outputs(task, &call, &inputs),
            None => outputs(model.as_str(), inputs),
        };
        let outputs = outputs.map_err(refused)?;
        let (headers, payload) = join_tensors(&outputs);
        let latest = if call.params.task.is_some() { 1 } else { 2 };
        let version = call.params.version.unwrap_or(ModelVersion(latest));
        Ok(InferReply {
            result: InferResult { model, version, outputs: headers, parameters: Parameters::new() },
            payload: payload.into_chunks().concat().into(),
            report: RunReport {
                node: PRESS,
                load: LoadReport::default(),
                queue_us: 1,
                run_us: 2,
                attempts: 2,
                batch: 1,
            },
        })
    }

    fn models(&self) -> Vec<ModelInfo> {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: vec![-1, 2] };
        let model = |name: &str, version, state, inputs| ModelInfo {
            name: name.parse().unwrap(),
            version: ModelVersion(version),
            state,
            reason: (state != ModelState::Ready).then(|| "the file is damaged".to_owned()),
            inputs,
            outputs: vec![spec("sum")],
            slots: 1,
            tasks: Vec::new(),
            engine: None,
        };
        let echo = model("echo", 1, ModelState::Ready, vec![spec("x")]);
        let mut models = vec![
            model("add", 1, ModelState::Ready, vec![spec("a"), spec("b")]),
            model("add", 2, ModelState::Ready, vec![spec("a"), spec("b")]),
            ModelInfo { engine: Some(Box::new(joining())), ..echo },
            model("torn", 1, ModelState::Unavailable, vec![spec("x")]),
        ];
        if self.has_tasks.load(Ordering::SeqCst) {
            models.extend(tasks::models());
        }
        models.extend(self.further.lock().unwrap().iter().cloned());
        models
    }

    fn members(&self) -> MembersResult {
        let row = |node, name: &str, state: &str| MemberRow {
            node,
            name: name.to_owned(),
            address: ([127, 0, 0, 1], 7443).into(),
            state: state.to_owned(),
            role: Some(Role::Node),
            member: None,
            seen_ms_ago: self.seen_ms_ago.load(Ordering::SeqCst),
            in_flight: 3,
            p95_us: Some(900),
            calls: 40,
            failures: 2,
            rests: None,
            ejections: std::collections::BTreeMap::new(),
            clock_ahead_ms: None,
            double: None,
        };
        let members = vec![row(PRESS, "press", "alive"), row(WELD, "weld", "down")];
        MembersResult { cluster: ClusterId::from_bytes([1; 16]), answered_by: PRESS, members }
    }

    fn status(&self) -> ClusterStatus {
        ClusterStatus {
            cluster: ClusterId::from_bytes([1; 16]),
            answered_by: PRESS,
            alive: 1,
            not_alive: 1,
            models_ready: 3,
            models: 4,
            in_flight: 0,
            slots: 2,
        }
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.changed.subscribe())
    }

    async fn change(
        &self,
        change: Change,
        params: ChangeParams,
        deadline: Instant,
    ) -> Result<ChangeResult, Fault> {
        self.changes.lock().unwrap().push((change, params.clone(), deadline));
        let node = |node, name: &str, done, absent, reason: Option<&str>| NodeChange {
            node,
            name: name.to_owned(),
            done,
            absent,
            reason: reason.map(str::to_owned),
        };
        let models = self.models().into_iter().filter(|model| model.name == params.model).collect();
        let nodes = match params.model.as_str() {
            "add" | "echo" => {
                vec![node(PRESS, "press", true, false, None), node(WELD, "weld", false, true, None)]
            }
            "torn" => vec![
                node(PRESS, "press", false, false, Some("the file is damaged")),
                node(WELD, "weld", true, false, None),
            ],
            "stuck" => std::future::pending().await,
            _ => vec![node(PRESS, "press", false, true, None), node(WELD, "weld", false, true, None)],
        };
        Ok(ChangeResult { models, nodes })
    }

    async fn statistics(
        &self,
        params: StatisticsParams,
        _deadline: Instant,
    ) -> Result<StatisticsResult, Fault> {
        let spent = |count| Spent { count, ns: 1_000 * count };
        let row = |model: ModelInfo| ModelStatistics {
            name: model.name,
            version: model.version,
            last_inference_ms: 1_700_000_000_000,
            inference_count: 8,
            execution_count: 4,
            success: spent(8),
            fail: spent(1),
            queue: spent(8),
            compute_input: spent(4),
            compute_infer: spent(4),
            compute_output: spent(4),
            cache_hit: spent(0),
            cache_miss: spent(0),
            batches: vec![BatchStatistics {
                batch_size: 2,
                compute_input: spent(4),
                compute_infer: spent(4),
                compute_output: spent(4),
            }],
            cancel: spent(2),
            expired: 1,
            shed: Vec::new(),
            rejected: 3,
            stopped: 1,
            memory_bytes: 1 << 20,
        };
        let wanted = |model: &ModelInfo| {
            params.model.as_ref().is_none_or(|name| *name == model.name)
                && params.version.is_none_or(|version| version == model.version)
        };
        let models =
            self.models().into_iter().filter(|model| model.state == ModelState::Ready && wanted(model));
        Ok(StatisticsResult { models: models.map(row).collect() })
    }

    fn log(&self) -> Option<Arc<dyn LogControl>> {
        self.log.lock().unwrap().clone().map(|log| log as Arc<dyn LogControl>)
    }

    fn ready(&self) -> Result<(), String> {
        match self.is_ready.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err("no node is alive".to_owned()),
        }
    }
}
