//! A node behind a real mesh, and who calls it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use lineside_certs::{Authority, Identity, PeerIdentity, Subject};
use lineside_mesh::{CallFailure, Destination, Mesh, MeshConfig, Outbound, Presence, Reply};
use lineside_wire::{
    CallContext, Datatype, Empty, Fault, Greeting, InferParams, InferResult, LoadReport, MemberState,
    ModelInfo, ModelParams, ModelState, ModelStatistics, ModelVersion, ModelsResult, NodeId,
    PROTOCOL_VERSION, Parameter, Parameters, Role, RunReport, StatisticsParams, StatisticsResult, Task,
    Tensor, bytes_elements, bytes_tensor, decode_part, join_tensors, method, split_tensors,
};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{ModelControl, Node, NodeConfig, engine::Engine};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a state that nobody announces.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} never came"));
}

/// How many sessions and how long a queue.
pub(super) fn config(models: &Path, sessions: usize, queue_max: usize) -> NodeConfig {
    NodeConfig {
        models: models.to_owned(),
        sessions: NonZeroUsize::new(sessions).unwrap(),
        queue_max: NonZeroUsize::new(queue_max).unwrap(),
        adaptive: true,
        library: PathBuf::new(),
        control: ModelControl::Explicit { load: None },
        on_demand: false,
        memory_max: None,
        trial: None,
        cache: None,
    }
}

/// A node that listens, and an admin who calls it.
pub(super) struct Floor {
    pub(super) node: Node,
    /// Holds the certificates.
    _home: TempDir,
    _press: Mesh,
    door: Mesh,
    to: Destination,
}

impl Floor {
    pub(super) fn with_engine(config: NodeConfig, engine: Arc<dyn Engine>) -> Self {
        Self::around(|id| Node::with_engine(config, id, engine).unwrap())
    }

    pub(super) fn around(start: impl FnOnce(NodeId) -> Node) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        let identity = |role, name: &str| {
            let directory = home.path().join(name);
            let issued = authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
            Identity::store(&directory, &issued).unwrap();
            Arc::new(Identity::load(&directory).unwrap())
        };
        let (press, door) = (identity(Role::Node, "press"), identity(Role::Admin, "door"));
        let node = start(press.node());
        let listening = MeshConfig::listening(([127, 0, 0, 1], 0).into());
        let presence = |identity: &Arc<Identity>| Arc::new(Greets(Arc::clone(identity)));
        let served =
            Mesh::bind(listening, Arc::clone(&press), presence(&press), node.service() as _).unwrap();
        let door =
            Mesh::bind(MeshConfig::dialling(), Arc::clone(&door), presence(&door), node.service() as _)
                .unwrap();
        let to = Destination { node: press.node(), address: served.local_addr() };
        Self { node, _home: home, _press: served, door, to }
    }

    /// Waits until the first scan is done.
    pub(super) async fn ready(&self) {
        let mut changed = self.node.changed();
        let wait = async {
            while !self.node.ready() {
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.expect("the models are loaded");
    }

    pub(super) fn state(&self, name: &str, version: u64) -> ModelInfo {
        let is = |info: &ModelInfo| info.name.as_str() == name && info.version == ModelVersion(version);
        self.node.models().into_iter().find(is).unwrap_or_else(|| panic!("no {name} version {version}"))
    }

    pub(super) async fn until(&self, name: &str, state: ModelState) {
        eventually(state.as_str(), || self.state(name, 1).state == state).await;
    }

    pub(super) async fn call<P: serde::Serialize>(
        &self,
        call: Outbound<P>,
    ) -> Result<Reply, (Fault, Option<RunReport>)> {
        let answer = timeout(PATIENCE, self.door.call(self.to, call)).await.expect("every call ends");
        answer.map_err(|failure| match failure {
            CallFailure::Fault { fault, report, .. } => (fault, report),
            other => panic!("{other}"),
        })
    }

    pub(super) async fn ask<R: DeserializeOwned>(&self, method: &'static str) -> Result<R, Fault> {
        let reply = self.call(Outbound::new(method, Empty {})).await.map_err(|(fault, _)| fault)?;
        decode_part(&reply.result)
    }

    pub(super) async fn order(&self, method: &'static str, model: &str) -> Result<Vec<ModelInfo>, Fault> {
        let params = ModelParams { model: model.parse().unwrap(), version: None };
        let reply = self.call(Outbound::new(method, params)).await.map_err(|(fault, _)| fault)?;
        decode_part::<ModelsResult>(&reply.result).map(|result| result.models)
    }

    /// What a model has done; all of them, when none is named.
    pub(super) async fn statistics(&self, model: Option<&str>) -> Result<Vec<ModelStatistics>, Fault> {
        let params = StatisticsParams { model: model.map(|name| name.parse().unwrap()), version: None };
        let call = Outbound::new(method::MODELS_STATISTICS, params);
        let reply = self.call(call).await.map_err(|(fault, _)| fault)?;
        decode_part::<StatisticsResult>(&reply.result).map(|result| result.models)
    }

    pub(super) async fn load(&self, model: &str) -> Result<Vec<ModelInfo>, Fault> {
        self.order(method::MODELS_LOAD, model).await
    }

    pub(super) async fn unload(&self, model: &str) -> Result<Vec<ModelInfo>, Fault> {
        self.order(method::MODELS_UNLOAD, model).await
    }

    pub(super) async fn send(&self, request: Request) -> Result<Answer, Fault> {
        self.send_for_report(request).await.map_err(|(fault, _)| fault)
    }

    pub(super) async fn send_for_report(
        &self,
        request: Request,
    ) -> Result<Answer, (Fault, Option<RunReport>)> {
        let reply = self.call(request.outbound()).await?;
        let InferResult { version, outputs, .. } = decode_part(&reply.result).unwrap();
        let outputs = split_tensors(outputs, &reply.payload).unwrap();
        let outputs = outputs.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Ok(Answer { version, outputs, report: reply.report.expect("an answer says who ran it") })
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) version: ModelVersion,
    pub(super) outputs: HashMap<String, Tensor>,
    pub(super) report: RunReport,
}

impl Answer {
    pub(super) fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.outputs[name].bytes.as_chunks::<4>().0;
        bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    /// The elements of an output of BYTES.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let output = &self.outputs[name];
        let elements = bytes_elements(&output.bytes, output.shape.elements()).unwrap();
        elements.into_iter().map(|element| String::from_utf8(element.to_vec()).unwrap()).collect()
    }
}

/// A call of `infer` in the making.
#[derive(Clone)]
pub(super) struct Request {
    params: InferParams,
    tensors: Vec<Tensor>,
    context: CallContext,
}

impl Request {
    pub(super) fn of(model: &str) -> Self {
        let params = InferParams {
            model: model.parse().unwrap(),
            version: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            parameters: Parameters::new(),
            task: None,
            classification: Default::default(),
        };
        Self { params, tensors: Vec::new(), context: CallContext::default() }
    }

    pub(super) fn version(mut self, version: u64) -> Self {
        self.params.version = Some(ModelVersion(version));
        self
    }

    pub(super) fn input(
        mut self,
        name: &str,
        datatype: Datatype,
        dims: &[u64],
        bytes: impl Into<Bytes>,
    ) -> Self {
        self.tensors.push(Tensor::new(name, datatype, dims.to_vec(), bytes.into()).unwrap());
        self
    }

    pub(super) fn floats(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.input(name, Datatype::Fp32, dims, bytes)
    }

    pub(super) fn output(mut self, name: &str) -> Self {
        self.params.outputs.push(name.to_owned());
        self
    }

    pub(super) fn task(mut self, task: Task) -> Self {
        self.params.task = Some(task);
        self
    }

    /// An image for [`Task::Predict`].
    pub(super) fn image(self, file: &[u8]) -> Self {
        let bytes = bytes_tensor([file]).unwrap();
        self.task(Task::Predict).input(Task::IMAGE, Datatype::Bytes, &[1], bytes)
    }

    /// Texts for [`Task::Embed`].
    pub(super) fn texts(self, texts: &[&str]) -> Self {
        let bytes = bytes_tensor(texts.iter().map(|text| text.as_bytes())).unwrap();
        self.task(Task::Embed).input(Task::TEXT, Datatype::Bytes, &[texts.len() as u64], bytes)
    }

    pub(super) fn parameter(mut self, name: &str, value: Parameter) -> Self {
        self.params.parameters.insert(name.to_owned(), value);
        self
    }

    /// Wants so many classes of an output.
    pub(super) fn classes(mut self, output: &str, count: u32) -> Self {
        self.params.classification.insert(output.to_owned(), count);
        self
    }

    pub(super) fn priority(mut self, priority: u8) -> Self {
        self.context.priority = priority;
        self
    }

    /// Belongs to this sequence.
    pub(super) fn session(mut self, session: &str) -> Self {
        self.context.session = Some(session.to_owned());
        self
    }

    /// Brings a tensor as it came.
    pub(super) fn tensor(mut self, tensor: Tensor) -> Self {
        self.tensors.push(tensor);
        self
    }

    pub(super) fn within(mut self, time: Duration) -> Self {
        self.context.timeout_us = Some(u64::try_from(time.as_micros()).unwrap());
        self
    }

    pub(super) fn outbound(self) -> Outbound<InferParams> {
        let (inputs, payload) = join_tensors(&self.tensors);
        let params = InferParams { inputs, ..self.params };
        Outbound { context: self.context, payload, ..Outbound::new(method::INFER, params) }
    }
}

struct Greets(Arc<Identity>);

impl Presence for Greets {
    fn greeting(&self) -> Greeting {
        let Self(identity) = self;
        let member = identity.role().is_member().then(|| MemberState {
            node: identity.node(),
            name: identity.name().to_owned(),
            role: identity.role(),
            software: "test".to_owned(),
            address: ([127, 0, 0, 1], 1).into(),
            http: None,
            door: false,
            epoch: 1,
            revision: 1,
            draining: false,
            cordoned: false,
            weight: 100,
            load: LoadReport::default(),
            models: Vec::new(),
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        });
        Greeting { protocol: PROTOCOL_VERSION, cluster: identity.cluster(), member, clock_ms: 0 }
    }

    fn met(&self, _peer: &PeerIdentity, _greeting: &Greeting, _remote: SocketAddr) {}

    fn lost(&self, _node: NodeId) {}

    fn gossip(&self, _from: NodeId, _packet: Bytes) {}
}
