//! `/v2/repository`: which models there are, and loading and unloading them on every node that has them.

use http::StatusCode;
use lineside_wire::{
    ChangeParams, ChangeResult, Executed, Fault, ModelInfo, ModelName, ModelState, ModelVersion, NodeChange,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    Change, Cluster,
    answer::Answer,
    ask::Ask,
    bounded::{Named, Object},
    errors::{Refusal, unknown_model},
    gate::Permission,
    oip,
    shared::in_time,
};

/// Most parameters of a load: more than have a meaning.
const PARAMETERS_MAX: usize = 16;

/// One row of the index.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct IndexRow<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: ModelVersion,
    pub(crate) state: &'static str,
    pub(crate) reason: &'a str,
}

/// The versions of all models, over all nodes; with `ready` only those that serve.
pub(crate) fn index(models: &[ModelInfo], ready: bool) -> impl Iterator<Item = IndexRow<'_>> {
    models.iter().filter(move |model| !ready || model.state == ModelState::Ready).map(|model| IndexRow {
        name: model.name.as_str(),
        version: model.version,
        state: model.state.as_str(),
        reason: model.reason.as_deref().unwrap_or_default(),
    })
}

#[derive(Default, serde::Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: Option<bool>,
}

/// `POST /v2/repository/index`.
pub(crate) async fn repository_index<C: Cluster>(ask: &mut Ask<'_, '_, C>) -> Result<Answer, Refusal> {
    let (body, _room) = ask.body().await?;
    let request: IndexRequest = read(&body)?;
    let models = ask.cluster().models();
    let is_seen = |row: &IndexRow<'_>| ask.may(Permission::Models, Some(row.name)).is_ok();
    let rows: Vec<_> = index(&models, request.ready.unwrap_or(false)).filter(is_seen).collect();
    Ok(Answer::json(StatusCode::OK, &rows))
}

#[derive(Default, serde::Deserialize)]
struct ChangeRequest<'a> {
    #[serde(default, borrow)]
    parameters: Option<Object<'a, PARAMETERS_MAX>>,
}

/// `POST /v2/repository/models/{model}/load`, and the same with `/unload`.
pub(crate) async fn repository_change<C: Cluster>(
    ask: &mut Ask<'_, '_, C>,
    change: Change,
    model: &str,
) -> Result<Answer, Refusal> {
    let (body, room) = ask.body().await?;
    let request: ChangeRequest<'_> = read(&body)?;
    for (name, value) in request.parameters.unwrap_or_default().0 {
        known(change, &name, value).map_err(Refusal::bad_request)?;
    }
    drop((body, room));
    // What cannot be a name names nothing that exists.
    let name: ModelName = model.parse().map_err(|_| unknown_model(model, None))?;
    let _place = ask.enter()?;
    let deadline = ask.shared().change_deadline(ask.arrived(), ask.timeout);
    let params = ChangeParams { model: name, version: None, nodes: Vec::new() };
    let result = in_time(deadline, ask.cluster().change(change, params, deadline)).await?;
    match outcome(change, model, &result)? {
        Outcome::Done => Ok(Answer::json(StatusCode::OK, &Done { nodes: &result.nodes })),
        Outcome::Failed { error, executed } => {
            let request_id = ask.visit.id.to_str().unwrap_or_default();
            let nodes = &result.nodes;
            let body =
                Failed { error: &error, code: "CHANGE_FAILED", request_id, executed, retryable: true, nodes };
            Ok(Answer::json(StatusCode::BAD_REQUEST, &body))
        }
    }
}

/// What became of a change on every node that has the model.
#[derive(Serialize)]
struct Done<'a> {
    nodes: &'a [NodeChange],
}

/// An error like any other, with what became of the change on each node.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a str,
    code: &'static str,
    request_id: &'a str,
    executed: Executed,
    retryable: bool,
    nodes: &'a [NodeChange],
}

/// What became of a change in the whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every node that has the model did it.
    Done,
    /// At least one of them did not.
    Failed { error: String, executed: Executed },
}

/// Judges a change by what the nodes said.
///
/// # Errors
/// No node has the model.
pub(crate) fn outcome(change: Change, model: &str, result: &ChangeResult) -> Result<Outcome, Fault> {
    let there: Vec<_> = result.nodes.iter().filter(|node| !node.absent).collect();
    if there.is_empty() {
        return Err(unknown_model(model, None));
    }
    let failed: Vec<_> = there.iter().filter(|node| !node.done).collect();
    if failed.is_empty() {
        return Ok(Outcome::Done);
    }
    let what = match change {
        Change::Load => "load",
        Change::Unload => "unload",
    };
    let said = |node: &&&NodeChange| {
        let name = if node.name.is_empty() { node.node.to_string() } else { node.name.clone() };
        format!("{name}: {}", node.reason.as_deref().unwrap_or("it gave no reason"))
    };
    let said: Vec<_> = failed.iter().map(said).collect();
    let (failures, nodes) = (failed.len(), there.len());
    let error = format!("failed to {what} '{model}' on {failures} of {nodes} nodes: {}", said.join("; "));
    // Those that failed may have begun, too.
    Ok(Outcome::Failed { error, executed: Executed::Maybe })
}

/// Whether a parameter can be followed.
fn known(change: Change, name: &str, value: &RawValue) -> Result<(), String> {
    match (change, name) {
        (Change::Load, "config") => Err(
            "a configuration cannot be sent with a load: put model.toml beside the model's file on the nodes"
                .to_owned(),
        ),
        (Change::Load, file) if file.starts_with("file:") => {
            Err("a model's file cannot be sent with a load: put it into the models folder of the nodes"
                .to_owned())
        }
        // No model here depends on another one.
        (Change::Unload, "unload_dependents") if matches!(value.get(), "true" | "false") => Ok(()),
        (Change::Unload, "unload_dependents") => Err("unload_dependents must be true or false".to_owned()),
        _ => Err(format!("the parameter {:?} is not known here", oip::excerpt(name))),
    }
}

/// Reads a body that may also be empty.
fn read<'a, T: serde::Deserialize<'a> + Default>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    let wrong = |error: serde_json::Error| {
        Refusal::bad_request(format!(
            "the body is not what this path takes: {}",
            oip::excerpt(&error.to_string())
        ))
    };
    serde_json::from_slice::<Named<T>>(body).map(|body| body.0).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use lineside_wire::{FaultCode, NodeId};

    use super::*;

    fn node(name: &str, done: bool, absent: bool) -> NodeChange {
        let reason = (!done && !absent).then(|| "the file is damaged".to_owned());
        NodeChange { node: NodeId::from_bytes([7; 16]), name: name.to_owned(), done, absent, reason }
    }

    fn judged(nodes: Vec<NodeChange>) -> Result<Outcome, FaultCode> {
        outcome(Change::Load, "weld", &ChangeResult { models: vec![], nodes }).map_err(|fault| fault.code)
    }

    #[test]
    fn a_change_is_done_when_every_node_that_has_the_model_did_it() {
        let (did, absent, failed) =
            (node("press", true, false), node("weld", false, true), node("paint", false, false));
        assert_eq!(judged(vec![did.clone(), absent.clone()]), Ok(Outcome::Done));
        assert_eq!(judged(vec![absent.clone()]), Err(FaultCode::ModelNotFound));
        assert_eq!(judged(vec![]), Err(FaultCode::ModelNotFound));
        let error = "failed to load 'weld' on 1 of 2 nodes: paint: the file is damaged".to_owned();
        assert_eq!(
            judged(vec![did, absent, failed]),
            Ok(Outcome::Failed { error, executed: Executed::Maybe })
        );
    }
}
