//! `lineside models load` and `models unload`.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use lineside_client::{AskError, Client, Standing};
use lineside_mesh::Destination;
use lineside_wire::{
    ChangeParams, ChangeResult, FaultCode, MemberRow, ModelInfo, ModelName, ModelParams, ModelState,
    ModelVersion, ModelsResult, NodeChange, NodeId, Role, method,
};
use serde::Serialize;
use tokio::time::Instant;

use super::super::connect::{ConnectArgs, label, not_answered, select};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs, Table},
};

/// Longest wait for a change: opening a large model takes its node a while, and each node is told of by itself.
const CHANGE_WITHIN: Duration = Duration::from_secs(60);

/// What is changed, and where.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// The model's name
    model: ModelName,
    /// Only this version [default: all]
    #[arg(long = "version", id = "model_version", value_name = "N")]
    version: Option<ModelVersion>,
    /// Only on this node: its name or the beginning of its id; may be given several times [default: every node that has
    /// the model; to load, every node that has its file]
    #[arg(long)]
    node: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// What became of a change on one node.
#[derive(Debug, Serialize)]
struct Changed {
    name: String,
    node: NodeId,
    ok: bool,
    /// It does not have the model.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    absent: bool,
    /// The model as the node has it now; by way of a door, as the cluster has it.
    models: Vec<ModelInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Loads or unloads a model on the nodes that it concerns.
pub(super) fn change(method: &'static str, args: ChangeArgs) -> Outcome {
    let ChangeArgs { model, version, node, connect, format: FormatArgs { output } } = args;
    connect.run_for(Some(method), async move |client| {
        let list = client.members().await.map_err(|error| not_answered(&error))?;
        let targets = targets(&list.members, method, &model, &node)?;
        let changed = if is_for_a_door(client.credentials().identity().role(), &list.members) {
            let nodes = targets.iter().filter(|_| !node.is_empty()).map(|row| row.node).collect();
            let params = ChangeParams { model: model.clone(), version, nodes };
            by_door(client, method, &params, &list.members).await?
        } else {
            let params = ModelParams { model: model.clone(), version };
            let asked = targets.into_iter().map(|row| ask(client, method, &params, &list.members, row));
            join_all(asked).await
        };
        match output {
            Format::Json => output::json(&changed)?,
            Format::Table => output::data(changes(&changed))?,
        }
        Ok(exit(&changed, !node.is_empty()))
    })
}

/// Whether a door is asked, which asks the nodes: there is one, and it does so for this role. A member's own call is each
/// node's by itself.
fn is_for_a_door(role: Role, rows: &[MemberRow]) -> bool {
    !role.is_member() && !doors(rows).is_empty()
}

/// The doors that are there, those that answer first.
fn doors(rows: &[MemberRow]) -> Vec<&MemberRow> {
    let is_door = |row: &&MemberRow| {
        let has_door = row.member.as_ref().is_some_and(|member| member.door);
        has_door && row.state.parse().is_ok_and(Standing::is_present)
    };
    let mut doors: Vec<_> = rows.iter().filter(is_door).collect();
    doors.sort_by_key(|row| row.state.parse() != Ok(Standing::Alive));
    doors
}

/// All who have the model have done it. Of nodes that were named, each has to have it.
fn exit(changed: &[Changed], is_named: bool) -> Exit {
    let is_well = |node: &Changed| node.ok || (node.absent && !is_named);
    match changed.iter().all(is_well) && changed.iter().any(|node| node.ok) {
        true => Exit::Ok,
        false => Exit::Failure,
    }
}

/// The nodes that a change goes to. A model that no node lists may still lie in the repositories: every node is
/// asked to load it.
fn targets<'a>(
    rows: &'a [MemberRow],
    method: &str,
    model: &ModelName,
    wanted: &[String],
) -> Result<Vec<&'a MemberRow>, Failure> {
    if !wanted.is_empty() {
        return wanted.iter().map(|wanted| select(rows, wanted)).collect();
    }
    let is_present =
        |row: &&MemberRow| row.role == Some(Role::Node) && row.state.parse().is_ok_and(Standing::is_present);
    let nodes: Vec<_> = rows.iter().filter(is_present).collect();
    let has_it = |row: &&MemberRow| {
        row.member.as_ref().is_some_and(|member| member.models.iter().any(|own| own.name == *model))
    };
    let having: Vec<_> = nodes.iter().copied().filter(has_it).collect();
    match (having.is_empty(), nodes.is_empty()) {
        (false, _) if method == method::MODELS_UNLOAD => Ok(having),
        (_, false) if method == method::MODELS_LOAD => Ok(nodes),
        (_, _) => Err(nobody_has(model)),
    }
}

fn nobody_has(model: &ModelName) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("no node that is alive has the model {model}"),
        "",
        "`lineside models` lists the models, `lineside members` the nodes",
    )
}

/// Asks a door, which asks all nodes side by side. It has the whole time: a large model takes its node a while to load.
/// The next one is asked where a door cannot be reached or leaves; a node that is told twice has the model all the same.
async fn by_door(
    client: &Client,
    method: &'static str,
    params: &ChangeParams,
    rows: &[MemberRow],
) -> Result<Vec<Changed>, Failure> {
    let until = Instant::now() + CHANGE_WITHIN;
    let mut answer: Result<ChangeResult, AskError> = Err(AskError::NoMember);
    for row in doors(rows) {
        let to = Destination { node: row.node, address: row.address };
        answer = client.pool().ask_at(to, method, params, until).await;
        match &answer {
            Err(AskError::Broken { .. }) => {}
            Err(AskError::Refused { fault, .. }) if fault.code == FaultCode::Draining => {}
            Ok(_) | Err(_) => break,
        }
    }
    let ChangeResult { models, nodes } = match answer {
        Ok(result) => result,
        Err(AskError::Refused { fault, .. }) if fault.code == FaultCode::ModelNotFound => {
            return Err(nobody_has(&params.model));
        }
        Err(error) => return Err(not_answered(&error)),
    };
    let changed = nodes.into_iter().map(|NodeChange { node, name, done, absent, reason }| Changed {
        name: rows.iter().find(|row| row.node == node).map_or(name, |row| label(rows, row)),
        node,
        ok: done,
        absent,
        models: if done { models.clone() } else { Vec::new() },
        error: if absent { Some(not_there(&params.model, params.version)) } else { reason },
    });
    Ok(changed.collect())
}

/// Asks one node by itself.
async fn ask(
    client: &Client,
    method: &'static str,
    params: &ModelParams,
    rows: &[MemberRow],
    row: &MemberRow,
) -> Changed {
    let to = Destination { node: row.node, address: row.address };
    let until = Instant::now() + CHANGE_WITHIN;
    let answer: Result<ModelsResult, AskError> = client.pool().ask_at(to, method, params, until).await;
    let (absent, models, error) = match answer {
        Ok(list) => (false, list.models, None),
        Err(AskError::Late { within }) => {
            let text = format!("no answer within {within:?}; it may still be at work: see `lineside models`");
            (false, Vec::new(), Some(text))
        }
        Err(AskError::Refused { fault, .. }) if fault.code == FaultCode::ModelNotFound => {
            (true, Vec::new(), Some(not_there(&params.model, params.version)))
        }
        Err(error) => (false, Vec::new(), Some(error.to_string())),
    };
    // A model that was to be loaded and cannot serve is no success, though the node did answer.
    let has_failed = |model: &&ModelInfo| {
        method == method::MODELS_LOAD
            && model.name == params.model
            && params.version.is_none_or(|version| version == model.version)
            && model.state == ModelState::Unavailable
    };
    let failed = models.iter().find(has_failed).map(|model| model.reason.clone().unwrap_or_default());
    let error = error.or(failed);
    Changed { name: label(rows, row), node: row.node, ok: error.is_none(), absent, models, error }
}

fn not_there(model: &ModelName, version: Option<ModelVersion>) -> String {
    let what = version.map_or_else(String::new, |version| format!(" version {version}"));
    format!(
        "it has no {model}{what}; to have it, put {model}.onnx or {model}/VERSION/model.onnx into its models directory"
    )
}

fn changes(changed: &[Changed]) -> Table {
    let mut table = Table::new(["NODE", "RESULT", "REASON"]);
    for node in changed {
        let result = match (node.ok, node.absent) {
            (true, _) => "done",
            (false, true) => "not there",
            (false, false) => "failed",
        };
        table.row([node.name.clone(), result.to_owned(), node.error.clone().unwrap_or_default()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{connect::tests as rows, models::tests::model};

    #[test]
    fn a_change_goes_to_the_nodes_that_have_the_model() {
        let mut weld = rows::row("weld", vec![model("add", ModelState::Ready)]);
        weld.state = "down".to_owned();
        let rows =
            [rows::row("glue", Vec::new()), rows::row("press", vec![model("add", ModelState::Ready)]), weld];
        let asked = |method, name: &str, nodes: &[&str]| {
            let nodes: Vec<_> = nodes.iter().map(|node| (*node).to_owned()).collect();
            let targets = targets(&rows, method, &name.parse().unwrap(), &nodes);
            targets.map(|rows| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>()).ok()
        };
        assert_eq!(asked(method::MODELS_UNLOAD, "add", &[]).unwrap(), ["press"]);
        assert_eq!(asked(method::MODELS_LOAD, "add", &["glue"]).unwrap(), ["glue"]);
        assert_eq!(asked(method::MODELS_UNLOAD, "add", &["press", "glue"]).unwrap(), ["press", "glue"]);
        // A model that was just copied there is on no list yet.
        assert_eq!(asked(method::MODELS_LOAD, "new", &[]).unwrap(), ["glue", "press"]);
        assert_eq!(asked(method::MODELS_LOAD, "add", &[]).unwrap(), ["glue", "press"]);
        assert_eq!(asked(method::MODELS_UNLOAD, "new", &[]), None);
    }

    fn became(ok: bool, absent: bool) -> Changed {
        let error = (!ok).then(|| "a reason".to_owned());
        let node = NodeId::from_bytes([1; 16]);
        Changed { name: "press".to_owned(), node, ok, absent, models: Vec::new(), error }
    }

    #[test]
    fn a_change_is_well_when_all_who_have_the_model_did_it() {
        let (done, not_there, failed) =
            (|| became(true, false), || became(false, true), || became(false, false));
        for (changed, is_named, expected) in [
            (vec![done(), done()], false, Exit::Ok),
            (vec![done(), not_there()], false, Exit::Ok),
            (vec![done(), not_there()], true, Exit::Failure),
            (vec![done(), failed()], false, Exit::Failure),
            (vec![not_there()], false, Exit::Failure),
            (vec![], false, Exit::Failure),
        ] {
            assert_eq!(exit(&changed, is_named), expected, "{changed:?}");
        }
        let text = changes(&[done(), not_there(), failed()]).to_string();
        let expected = [["done", "-"], ["not there", "a reason"], ["failed", "a reason"]];
        for (line, expected) in text.lines().skip(1).zip(expected) {
            let cells: Vec<_> = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
            assert_eq!(cells[1..], expected, "{text}");
        }
    }

    #[test]
    fn an_admin_asks_a_door_if_there_is_one_and_a_member_asks_the_nodes() {
        let mut door = rows::row("door", Vec::new());
        let without = [rows::row("press", Vec::new())];
        door.member.as_mut().unwrap().door = true;
        let mut closed = door.clone();
        closed.state = "down".to_owned();
        assert!(is_for_a_door(Role::Admin, &[without[0].clone(), door.clone()]));
        let mut slow = door.clone();
        slow.state = "suspect".to_owned();
        let both = [slow, door.clone()];
        let states: Vec<_> = doors(&both).iter().map(|row| row.state.as_str()).collect();
        assert_eq!(states, ["alive", "suspect"]);
        assert!(!is_for_a_door(Role::Node, &[door]));
        assert!(!is_for_a_door(Role::Admin, &[closed]) && !is_for_a_door(Role::Admin, &without));
    }
}
