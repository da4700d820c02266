//! `lineside models`, `models load`, `models unload`: what the cluster can run.

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use lineside_client::{AskError, Client, Roster, Standing};
use lineside_wire::{
    FaultCode, MemberRow, ModelInfo, ModelName, ModelParams, ModelState, ModelVersion, ModelsResult, NodeId,
    Role, TensorSpec, method,
};
use serde::Serialize;

use super::connect::{ConnectArgs, label, not_answered, select};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs, Table},
};

/// `lineside models`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Load a model, or load it anew, from each node's own repository
    Load(ChangeArgs),
    /// Unload a model; its files stay
    Unload(ChangeArgs),
}

#[derive(Debug, Args)]
struct ChangeArgs {
    /// The model's name
    model: ModelName,
    /// Only this version [default: all]
    #[arg(long = "version", id = "model_version", value_name = "N")]
    version: Option<ModelVersion>,
    /// Only on this node: its name or the beginning of its id [default: every node that has the model]
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    format: FormatArgs,
}

impl ModelsArgs {
    /// Lists the models, or changes one.
    pub(crate) fn run(self) -> Outcome {
        let output = self.format.output;
        match self.change {
            None => self.connect.run(async move |client| {
                let list = client.members().await.map_err(|error| not_answered(&error))?;
                let models = models_of(&Roster::new(list));
                match output {
                    Format::Json => output::json(&models)?,
                    Format::Table if models.is_empty() => {
                        output::note("the cluster has no models: put them in a node's model repository");
                    }
                    Format::Table => output::data(table(&models))?,
                }
                Ok(Exit::Ok)
            }),
            Some(Change::Load(args)) => change(method::MODELS_LOAD, args),
            Some(Change::Unload(args)) => change(method::MODELS_UNLOAD, args),
        }
    }
}

/// A model as the list shows it.
#[derive(Debug, Serialize)]
struct ListedModel {
    #[serde(flatten)]
    model: ModelInfo,
    nodes: Vec<OnNode>,
}

/// What one node says of a model.
#[derive(Debug, Serialize)]
struct OnNode {
    name: String,
    node: NodeId,
    /// What the cluster thinks of the node.
    standing: String,
    state: ModelState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl OnNode {
    fn serves(&self) -> bool {
        self.state == ModelState::Ready && self.standing.parse().is_ok_and(Standing::is_present)
    }
}

fn models_of(roster: &Roster) -> Vec<ListedModel> {
    let on_nodes = |model: &ModelInfo| {
        let nodes = roster.rows().iter().filter_map(|row| {
            let said = row.member.as_ref()?.models.iter();
            let own = said.into_iter().find(|own| own.name == model.name && own.version == model.version)?;
            Some(OnNode {
                name: label(roster.rows(), row),
                node: row.node,
                standing: row.state.clone(),
                state: own.state,
                reason: own.reason.clone(),
            })
        });
        nodes.collect()
    };
    let models = roster.models().iter();
    models.map(|model| ListedModel { nodes: on_nodes(model), model: model.clone() }).collect()
}

fn table(models: &[ListedModel]) -> Table {
    let mut table = Table::new(["MODEL", "VERSION", "STATE", "NODES", "INPUTS", "OUTPUTS", "REASON"]);
    for ListedModel { model, nodes } in models {
        let serving: Vec<_> =
            nodes.iter().filter(|node| node.serves()).map(|node| node.name.as_str()).collect();
        table.row([
            model.name.to_string(),
            model.version.to_string(),
            model.state.as_str().to_owned(),
            serving.join(","),
            specs(&model.inputs),
            specs(&model.outputs),
            reason(model, nodes),
        ]);
    }
    table
}

/// Why a model does not serve; of one that serves somewhere, which nodes cannot and why.
fn reason(model: &ModelInfo, nodes: &[OnNode]) -> String {
    if model.state != ModelState::Ready {
        return model.reason.clone().unwrap_or_default();
    }
    let troubles = nodes.iter().filter_map(|node| Some(format!("{}: {}", node.name, node.reason.as_ref()?)));
    troubles.collect::<Vec<_>>().join("; ")
}

/// `a:FP32[-1,4] b:INT64[1]`.
pub(crate) fn specs(specs: &[TensorSpec]) -> String {
    let one = |spec: &TensorSpec| {
        let dims: Vec<_> = spec.shape.iter().map(ToString::to_string).collect();
        format!("{}:{}[{}]", spec.name, spec.datatype, dims.join(","))
    };
    specs.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// What became of a change on one node.
#[derive(Debug, Serialize)]
struct Changed {
    name: String,
    node: NodeId,
    ok: bool,
    models: Vec<ModelInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn change(method: &'static str, args: ChangeArgs) -> Outcome {
    let ChangeArgs { model, version, node, connect, format: FormatArgs { output } } = args;
    connect.run_for(Some(method), async move |client| {
        let list = client.members().await.map_err(|error| not_answered(&error))?;
        let targets = targets(&list.members, method, &model, node.as_deref())?;
        let params = ModelParams { model, version };
        let asked = targets.into_iter().map(|row| ask(client, method, &params, &list.members, row));
        let changed = join_all(asked).await;
        match output {
            Format::Json => output::json(&changed)?,
            Format::Table => output::data(changes(&changed))?,
        }
        Ok(if changed.iter().all(|node| node.ok) { Exit::Ok } else { Exit::Failure })
    })
}

/// The nodes that a change goes to. A model that no node lists may still lie in the repositories: every node is
/// asked to load it.
fn targets<'a>(
    rows: &'a [MemberRow],
    method: &str,
    model: &ModelName,
    wanted: Option<&str>,
) -> Result<Vec<&'a MemberRow>, Failure> {
    if let Some(wanted) = wanted {
        return select(rows, wanted).map(|row| vec![row]);
    }
    let is_present =
        |row: &&MemberRow| row.role == Some(Role::Node) && row.state.parse().is_ok_and(Standing::is_present);
    let nodes: Vec<_> = rows.iter().filter(is_present).collect();
    let has_it = |row: &&MemberRow| {
        row.member.as_ref().is_some_and(|member| member.models.iter().any(|own| own.name == *model))
    };
    let having: Vec<_> = nodes.iter().copied().filter(has_it).collect();
    match (having.is_empty(), nodes.is_empty()) {
        (false, _) => Ok(having),
        (true, false) if method == method::MODELS_LOAD => Ok(nodes),
        (true, _) => Err(Failure::new(
            Exit::Failure,
            format!("no node that is alive has the model {model}"),
            "",
            "`lineside models` lists the models, `lineside members` the nodes",
        )),
    }
}

async fn ask(
    client: &Client,
    method: &'static str,
    params: &ModelParams,
    rows: &[MemberRow],
    row: &MemberRow,
) -> Changed {
    let answer: Result<ModelsResult, AskError> = client.ask_member(row.node, method, params).await;
    let (models, error) = match answer {
        Ok(list) => (list.models, None),
        Err(AskError::Late { within }) => {
            let text = format!("no answer within {within:?}; it may still be at work: see `lineside models`");
            (Vec::new(), Some(text))
        }
        Err(AskError::Refused { fault, .. }) if fault.code == FaultCode::ModelNotFound => {
            let what = params.version.map_or_else(String::new, |version| format!(" version {version}"));
            let text = format!(
                "it has no {}{what}; to have it, put {}.onnx or {}/VERSION/model.onnx into its models directory",
                params.model, params.model, params.model
            );
            (Vec::new(), Some(text))
        }
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    // A model that was to be loaded and cannot serve is no success, though the node did answer.
    let failed = |model: &ModelInfo| method == method::MODELS_LOAD && model.state == ModelState::Unavailable;
    let ok = error.is_none() && !models.iter().filter(|model| model.name == params.model).any(failed);
    Changed { name: label(rows, row), node: row.node, ok, models, error }
}

fn changes(changed: &[Changed]) -> Table {
    let mut table = Table::new(["NODE", "RESULT", "MODEL", "VERSION", "STATE", "REASON"]);
    for node in changed {
        let result = if node.ok { "ok" } else { "failed" };
        if node.models.is_empty() {
            let reason = node.error.clone().unwrap_or_default();
            table.row([
                node.name.clone(),
                result.into(),
                String::new(),
                String::new(),
                String::new(),
                reason,
            ]);
        }
        for model in &node.models {
            table.row([
                node.name.clone(),
                result.to_owned(),
                model.name.to_string(),
                model.version.to_string(),
                model.state.as_str().to_owned(),
                model.reason.clone().unwrap_or_default(),
            ]);
        }
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use lineside_wire::Datatype;

    use super::*;
    use crate::commands::connect::tests as rows;

    /// A model as other commands' tests need it.
    pub(crate) fn model(name: &str, state: ModelState) -> ModelInfo {
        let spec =
            |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: vec![-1, 2] };
        ModelInfo {
            name: name.parse().unwrap(),
            version: ModelVersion(1),
            state,
            reason: (state == ModelState::Unavailable).then(|| "it is no ONNX model".to_owned()),
            inputs: vec![spec("a"), spec("b")],
            outputs: vec![spec("sum")],
            slots: 2,
        }
    }

    #[test]
    fn the_list_says_where_a_model_serves_and_where_it_cannot() {
        let mut weld = rows::row("weld", vec![model("add", ModelState::Ready)]);
        weld.state = "down".to_owned();
        let list = rows::list(vec![
            rows::row("glue", vec![model("add", ModelState::Unavailable)]),
            rows::row("press", vec![model("add", ModelState::Ready)]),
            weld,
        ]);
        let models = models_of(&Roster::new(list));
        let text = table(&models).to_string();
        let row: Vec<_> =
            text.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(
            row,
            [
                "add",
                "1",
                "READY",
                "press",
                "a:FP32[-1,2] b:FP32[-1,2]",
                "sum:FP32[-1,2]",
                "glue: it is no ONNX model"
            ]
        );
        let json = serde_json::to_value(&models).unwrap();
        assert_eq!(json[0]["name"], "add");
        assert_eq!(json[0]["nodes"][2]["standing"], "down");
    }

    #[test]
    fn a_change_goes_to_the_nodes_that_have_the_model() {
        let mut weld = rows::row("weld", vec![model("add", ModelState::Ready)]);
        weld.state = "down".to_owned();
        let rows =
            [rows::row("glue", Vec::new()), rows::row("press", vec![model("add", ModelState::Ready)]), weld];
        let asked = |method, name: &str, node| {
            let targets = targets(&rows, method, &name.parse().unwrap(), node);
            targets.map(|rows| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>()).ok()
        };
        assert_eq!(asked(method::MODELS_UNLOAD, "add", None).unwrap(), ["press"]);
        assert_eq!(asked(method::MODELS_LOAD, "add", Some("glue")).unwrap(), ["glue"]);
        // A model that was just copied there is on no list yet.
        assert_eq!(asked(method::MODELS_LOAD, "new", None).unwrap(), ["glue", "press"]);
        assert_eq!(asked(method::MODELS_UNLOAD, "new", None), None);
    }
}
