//! The one table of methods: the same names, params and results over HTTP and over QUIC.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lineside_client::InferCall;
use lineside_wire::{
    CallContext, ClusterStatus, Fault, FaultCode, Health, MembersResult, ModelInfo, ModelParams,
    ModelsResult, NodeId, method,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    Cluster,
    body::Reserved,
    jsonrpc::{Call, Outcome},
    oip,
    shared::{Shared, has_run},
};

/// What the door can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Runs a model; everything below only reads.
    Infer,
    Query(Query),
}

/// The methods that are answered at once, from what the door already knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    ModelsList,
    ModelsGet,
    ClusterMembers,
    ClusterStatus,
    Health,
}

impl Method {
    /// # Errors
    /// There is no such method here.
    pub(crate) fn named(name: &str) -> Result<Self, Fault> {
        Ok(match name {
            method::INFER => Self::Infer,
            method::MODELS_LIST => Self::Query(Query::ModelsList),
            method::MODELS_GET => Self::Query(Query::ModelsGet),
            method::CLUSTER_MEMBERS => Self::Query(Query::ClusterMembers),
            method::CLUSTER_STATUS => Self::Query(Query::ClusterStatus),
            method::HEALTH => Self::Query(Query::Health),
            _ => {
                let text = "there is no such method here: use infer, models.list, models.get, cluster.members, \
                            cluster.status or health";
                return Err(Fault::new(FaultCode::MethodNotFound, text));
            }
        })
    }
}

/// The result of a query, in the form that each has on every wire.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    Models(ModelsResult),
    Model(Box<ModelInfo>),
    Members(MembersResult),
    Status(ClusterStatus),
    Health(Health),
}

/// Answers a query. `params` reads the params, where the method has some.
///
/// # Errors
/// The params are wrong, or name a model that there is not.
pub(crate) fn answer<C: Cluster>(
    cluster: &C,
    shared: &Shared,
    query: Query,
    params: impl FnOnce() -> Result<ModelParams, Fault>,
) -> Result<Answer, Fault> {
    Ok(match query {
        Query::ModelsList => Answer::Models(ModelsResult { models: cluster.models() }),
        Query::ModelsGet => {
            let ModelParams { model, version } = params()?;
            let version = version.map(|version| version.to_string());
            let models = cluster.models();
            Answer::Model(Box::new(oip::find(&models, model.as_str(), version.as_deref())?.clone()))
        }
        Query::ClusterMembers => Answer::Members(cluster.members()),
        Query::ClusterStatus => Answer::Status(cluster.status()),
        Query::Health => Answer::Health(health(shared.ready(cluster))),
    })
}

pub(crate) fn health(ready: Result<(), String>) -> Health {
    Health { live: true, ready: ready.is_ok(), reason: ready.err() }
}

/// What the calls of one HTTP request have together.
pub(crate) struct Asker {
    pub(crate) arrived: Instant,
    /// The time that the request's head names.
    pub(crate) timeout: Option<Duration>,
    pub(crate) traceparent: Option<String>,
    /// Who worked, after how many tries: one entry per inference.
    work: Mutex<Vec<(Option<NodeId>, u8)>>,
    /// The room of all answers.
    room: Mutex<Option<Reserved>>,
}

impl Asker {
    pub(crate) fn new(arrived: Instant, timeout: Option<Duration>, traceparent: Option<String>) -> Self {
        Self { arrived, timeout, traceparent, work: Mutex::default(), room: Mutex::default() }
    }

    fn worked(&self, node: Option<NodeId>, attempts: u8) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).push((node, attempts));
    }

    fn keep(&self, more: Reserved) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *room {
            Some(room) => room.join(more),
            none => *none = Some(more),
        }
    }

    /// The room of the answers so far, if they hold any.
    pub(crate) fn room(&self) -> Option<Reserved> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Who worked for this request, when it was one inference: an answer's head can name only one.
    pub(crate) fn work(self) -> Option<(Option<NodeId>, u8)> {
        match self.work.into_inner().unwrap_or_else(PoisonError::into_inner)[..] {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// Runs one call of JSON-RPC over HTTP.
pub(crate) async fn json_call<C: Cluster>(
    cluster: &C,
    shared: &Shared,
    asker: &Asker,
    call: Call<'_>,
) -> Outcome {
    let query = match Method::named(&call.method)? {
        Method::Query(query) => query,
        Method::Infer => {
            let request = oip::parse_named(by_name(call.params)?)?;
            let made = shared.bodies.reserve(request.made)?;
            if request.wants.binary || request.wants.by_name.iter().any(|(_, binary)| *binary) {
                let text = "JSON-RPC carries no binary tensor data: use POST /v2/models/{model}/infer for it";
                return Err(Fault::new(FaultCode::InvalidParams, text));
            }
            let deadline = shared.deadline(asker.arrived, shorter(asker.timeout, request.timeout));
            let context = CallContext {
                traceparent: asker.traceparent.clone(),
                priority: request.priority,
                session: request.session,
                ..CallContext::default()
            };
            let call = InferCall { params: request.params, payload: request.payload, deadline, context };
            let (reply, mut room) = shared.infer(cluster, call).await.map_err(|(error, fault)| {
                asker.worked(error.node(), error.attempts());
                fault
            })?;
            asker.worked(Some(reply.report.node), reply.report.attempts);
            drop(made);
            let answer = oip::write(reply, request.id.as_deref(), &request.wants)?;
            room.grow(answer.json.len()).map_err(has_run)?;
            asker.keep(room);
            return as_raw(String::from_utf8(answer.json).map_err(|error| broken(&error))?);
        }
    };
    let answer = answer(cluster, shared, query, || json_params(call.params))?;
    as_raw(serde_json::to_string(&answer).map_err(|error| broken(&error))?)
}

/// The shorter of two limits that a client may have named.
pub(crate) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The text of the params, which are given by name.
fn by_name(params: Option<&RawValue>) -> Result<&str, Fault> {
    let params = params.map_or("{}", RawValue::get);
    match params.starts_with('{') {
        true => Ok(params),
        false => {
            let text = "params: give them by name, as an object";
            Err(Fault::new(FaultCode::InvalidParams, text))
        }
    }
}

fn json_params<T: DeserializeOwned>(params: Option<&RawValue>) -> Result<T, Fault> {
    let invalid = |error| Fault::new(FaultCode::InvalidParams, format!("params: {error}"));
    serde_json::from_str(by_name(params)?).map_err(invalid)
}

fn as_raw(json: String) -> Outcome {
    RawValue::from_string(json).map_err(|error| broken(&error))
}

fn broken(error: &dyn std::error::Error) -> Fault {
    Fault::new(FaultCode::Internal, format!("the answer does not fit JSON: {error}"))
}
