//! The made-up cluster: it adds, echoes, holds and fails as it is told.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lineside_client::{CallError, InferCall, InferReply};
use lineside_gateway::Cluster;
use lineside_wire::{
    ClusterId, ClusterStatus, Datatype, Executed, Fault, FaultCode, InferResult, LoadReport, MemberRow,
    MembersResult, ModelInfo, ModelState, ModelVersion, NodeId, Parameters, Role, RunReport, Tensor,
    TensorSpec, bytes_tensor, join_tensors, split_tensors,
};
use tokio::sync::Semaphore;

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
        }
    }
}

impl Line {
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
            ("add" | "echo" | "nan" | "half" | "label", None | Some(ModelVersion(1 | 2))) => {}
            ("add", Some(version)) => return Err(CallError::UnknownVersion { model, version }),
            _ => return Err(CallError::UnknownModel { model }),
        }
        let inputs = split_tensors(call.params.inputs, &chunks.concat().into()).map_err(refused)?;
        let outputs = outputs(model.as_str(), inputs).map_err(refused)?;
        let (headers, payload) = join_tensors(&outputs);
        let version = call.params.version.unwrap_or(ModelVersion(2));
        Ok(InferReply {
            result: InferResult { model, version, outputs: headers, parameters: Parameters::new() },
            payload: payload.into_chunks().concat().into(),
            report: RunReport {
                node: PRESS,
                load: LoadReport::default(),
                queue_us: 1,
                run_us: 2,
                attempts: 2,
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
        };
        vec![
            model("add", 1, ModelState::Ready, vec![spec("a"), spec("b")]),
            model("add", 2, ModelState::Ready, vec![spec("a"), spec("b")]),
            model("echo", 1, ModelState::Ready, vec![spec("x")]),
            model("torn", 1, ModelState::Unavailable, vec![spec("x")]),
        ]
    }

    fn members(&self) -> MembersResult {
        let row = |node, name: &str, state: &str| MemberRow {
            node,
            name: name.to_owned(),
            address: ([127, 0, 0, 1], 7443).into(),
            state: state.to_owned(),
            role: Some(Role::Node),
            member: None,
            seen_ms_ago: 5,
            in_flight: 3,
            p95_us: Some(900),
            calls: 40,
            failures: 2,
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

    fn ready(&self) -> Result<(), String> {
        match self.is_ready.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err("no node is alive".to_owned()),
        }
    }
}
