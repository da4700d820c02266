//! The methods of the door: the same names, params and results over HTTP, WebSocket and QUIC.
//!
//! [`table`] says which there are. Here is what they do, whatever their wire; [`json`] reads and writes them as JSON-RPC.

pub(crate) mod json;
pub(crate) mod table;

use std::time::Duration;

use lineside_wire::{
    ChangeParams, ChangeResult, ClusterStatus, Fault, Health, MembersResult, ModelInfo, ModelName,
    ModelParams, ModelsResult, StatisticsParams, StatisticsResult,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::{
    Change, Cluster,
    gate::{Caller, Permission},
    oip,
    shared::{Shared, in_time},
};
use table::{Method, Row};

pub(crate) use json::answer;

/// The params of a call, in whatever form its wire has.
pub(crate) trait Params {
    /// # Errors
    /// They are not those of the method; the text says what is wrong.
    fn read<T: DeserializeOwned>(&self) -> Result<T, Fault>;
}

/// A call that is understood, and that its caller may make.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Answered at once, from what the door already knows.
    Query(Query),
    /// Asks the nodes.
    Work(Work),
    /// Takes more than params: each wire has its own form of it, and asks whether its caller may.
    Infer,
    /// Goes on for as long as its wire stands.
    Watch,
    /// What the methods are, for wires that speak JSON.
    Discover,
}

#[derive(Debug)]
pub(crate) enum Query {
    ModelsList,
    ModelsGet(ModelParams),
    ClusterMembers,
    ClusterStatus,
    Health,
}

#[derive(Debug)]
pub(crate) enum Work {
    Change(Change, ChangeParams),
    Statistics(StatisticsParams),
}

/// A result, in the form that it has on every wire.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Given {
    Models(ModelsResult),
    Model(Box<ModelInfo>),
    Members(MembersResult),
    Status(ClusterStatus),
    Health(Health),
    Change(ChangeResult),
    Statistics(StatisticsResult),
}

impl Given {
    /// What of it a caller may see: a key that is for some models alone is told of no others.
    pub(crate) fn seen_by(mut self, shared: &Shared, caller: &Caller) -> Self {
        let sees =
            |permission, model: &ModelName| shared.may(caller, permission, Some(model.as_str())).is_ok();
        match &mut self {
            Self::Models(list) => list.models.retain(|model| sees(Permission::Models, &model.name)),
            Self::Statistics(list) => list.models.retain(|model| sees(Permission::Statistics, &model.name)),
            // Of one model, which was asked for by its name, or of the cluster.
            Self::Model(_) | Self::Members(_) | Self::Status(_) | Self::Health(_) | Self::Change(_) => {}
        }
        self
    }
}

/// Reads the params of a call, and makes sure that its caller may make it.
///
/// # Errors
/// The params are wrong, or the caller may not.
pub(crate) fn read(
    shared: &Shared,
    caller: &Caller,
    row: &Row,
    params: &impl Params,
) -> Result<Asked, Fault> {
    let (asked, model) = match row.method {
        Method::ModelsList => (Asked::Query(Query::ModelsList), None),
        Method::ClusterMembers => (Asked::Query(Query::ClusterMembers), None),
        Method::ClusterStatus => (Asked::Query(Query::ClusterStatus), None),
        Method::Health => (Asked::Query(Query::Health), None),
        Method::ModelsGet => {
            let params: ModelParams = params.read()?;
            let model = params.model.clone();
            (Asked::Query(Query::ModelsGet(params)), Some(model))
        }
        Method::ModelsLoad | Method::ModelsUnload => {
            let change = if row.method == Method::ModelsLoad { Change::Load } else { Change::Unload };
            let params: ChangeParams = params.read()?;
            let model = params.model.clone();
            (Asked::Work(Work::Change(change, params)), Some(model))
        }
        Method::ModelsStatistics => {
            let params: StatisticsParams = params.read()?;
            let model = params.model.clone();
            (Asked::Work(Work::Statistics(params)), model)
        }
        // Of an inference only its own reader knows the model, and asks for itself.
        Method::Infer => return Ok(Asked::Infer),
        Method::ClusterWatch => (Asked::Watch, None),
        Method::Discover => (Asked::Discover, None),
    };
    may(shared, caller, row, model.as_ref().map(|model| model.as_str()))?;
    Ok(asked)
}

/// Whether a caller may call this method, with this model.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub(crate) fn may(shared: &Shared, caller: &Caller, row: &Row, model: Option<&str>) -> Result<(), Fault> {
    row.permission.map_or(Ok(()), |permission| shared.may(caller, permission, model))
}

/// Answers a query.
///
/// # Errors
/// It names a model that there is not.
pub(crate) fn answer_query<C: Cluster>(cluster: &C, shared: &Shared, query: Query) -> Result<Given, Fault> {
    Ok(match query {
        Query::ModelsList => Given::Models(ModelsResult { models: cluster.models() }),
        Query::ModelsGet(ModelParams { model, version }) => {
            let version = version.map(|version| version.to_string());
            let models = cluster.models();
            Given::Model(Box::new(oip::find(&models, model.as_str(), version.as_deref())?.clone()))
        }
        Query::ClusterMembers => Given::Members(cluster.members()),
        Query::ClusterStatus => Given::Status(cluster.status()),
        Query::Health => Given::Health(health(shared.ready(cluster))),
    })
}

/// Asks the nodes.
///
/// # Errors
/// The cluster refuses it, cannot, or does not in time.
pub(crate) async fn work<C: Cluster>(cluster: &C, work: Work, deadline: Instant) -> Result<Given, Fault> {
    match work {
        Work::Change(change, params) => {
            in_time(deadline, cluster.change(change, params, deadline)).await.map(Given::Change)
        }
        Work::Statistics(params) => {
            in_time(deadline, cluster.statistics(params, deadline)).await.map(Given::Statistics)
        }
    }
}

impl Work {
    /// When it must be answered.
    pub(crate) fn deadline(&self, shared: &Shared, arrived: Instant, timeout: Option<Duration>) -> Instant {
        match self {
            Self::Change(..) => shared.change_deadline(arrived, timeout),
            Self::Statistics(_) => shared.deadline(arrived, timeout),
        }
    }
}

pub(crate) fn health(ready: Result<(), String>) -> Health {
    Health { live: true, ready: ready.is_ok(), reason: ready.err() }
}
