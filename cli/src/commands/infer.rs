//! `lineside infer`: one call of a model, from the command line.

mod inputs;
mod outputs;

use std::time::Duration;

use clap::Args;
use lineside_client::{Answer, CallError, Roster};
use lineside_wire::{Executed, ModelInfo, ModelState, ModelVersion};
use tokio::time::Instant;

use super::connect::{ConnectArgs, label, not_answered};
use crate::{
    config::read_time,
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs},
};
use inputs::{GivenInput, GivenShape};

/// `lineside infer`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InferArgs {
    /// The model's name
    model: String,
    /// Only this version [default: the latest that serves]
    #[arg(long = "version", id = "model_version", value_name = "N")]
    version: Option<ModelVersion>,
    /// An input: NAME=JSON (nested or flat arrays), NAME=@FILE.json, or NAME=@FILE with the tensor's bytes as they are
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = GivenInput::parse)]
    input: Vec<GivenInput>,
    /// The shape of an input, NAME=1,16 [default: from the JSON's nesting and the model]
    #[arg(long, value_name = "NAME=DIMS", value_parser = GivenShape::parse)]
    shape: Vec<GivenShape>,
    /// How long to wait, all tries together
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = deadline)]
    deadline: Duration,
    /// Only this output; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    output_name: Vec<String>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// Below the help text.
const EXAMPLES: &str = "\
Examples:
  lineside infer add --input a=[1,2] --input b=[3,4]
  lineside infer vibration-anomaly --input features=@row.json --deadline 500ms -o json
  lineside infer surface-defects --input image=@parts.f32 --shape image=10,1,64,64";

fn deadline(text: &str) -> Result<Duration, String> {
    read_time(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "write a time such as 500ms or 5s".to_owned())
}

impl InferArgs {
    /// Calls the model and shows the answer.
    pub(crate) fn run(self) -> Outcome {
        let Self { model, version, input, shape, deadline, output_name, connect, format } = self;
        connect.run(async move |client| {
            let list = client.members().await.map_err(|error| not_answered(&error))?;
            let roster = Roster::new(list);
            let info = known(find(roster.models(), &model, version)?)?;
            let tensors = inputs::tensors(&input, &shape, info)?;
            let mut request = client.infer(&model).deadline(deadline);
            if let Some(ModelVersion(version)) = version {
                request = request.version(version);
            }
            for tensor in tensors {
                request = request.tensor(tensor);
            }
            for name in &output_name {
                request = request.output(name);
            }
            let start = Instant::now();
            let answer = request.send().await.map_err(|error| not_inferred(&error, info))?;
            show(&roster, &answer, start.elapsed(), format.output)
        })
    }
}

/// What the cluster knows of the model: of several versions the one that would run.
fn find<'a>(
    models: &'a [ModelInfo],
    name: &str,
    version: Option<ModelVersion>,
) -> Result<&'a ModelInfo, Failure> {
    let fits = |model: &&ModelInfo| {
        model.name.as_str() == name && version.is_none_or(|version| version == model.version)
    };
    let best =
        models.iter().filter(fits).max_by_key(|model| (model.state == ModelState::Ready, model.version));
    best.ok_or_else(|| {
        let mut names: Vec<_> =
            models.iter().map(|model| format!("{} {}", model.name, model.version)).collect();
        names.dedup();
        let why = match names.is_empty() {
            true => "it has no models at all".to_owned(),
            false => format!("it has {}", names.join(", ")),
        };
        let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
        let remedy = match names.is_empty() {
            true => "put a model into the models directory of a node; `lineside status` tells whether there is a node",
            false => "`lineside models` lists them",
        };
        Failure::new(Exit::Failure, format!("the cluster has no model {name}{version}"), why, remedy)
    })
}

/// A model that was never loaded has not said what it takes: nothing could be sent to it.
fn known(model: &ModelInfo) -> Result<&ModelInfo, Failure> {
    if model.state == ModelState::Ready || !model.inputs.is_empty() {
        return Ok(model);
    }
    let why = model.reason.as_deref().unwrap_or("no node has loaded it yet");
    let what = format!("{} version {} is {}", model.name, model.version, model.state.as_str());
    Err(Failure::new(Exit::Failure, what, why, "`lineside models` tells when it is READY"))
}

/// What a model takes, for whoever gave it something else.
fn takes(model: &ModelInfo) -> String {
    match model.inputs.is_empty() {
        true => "the cluster does not know what the model takes; see `lineside models`".to_owned(),
        false => format!("{} takes {}", model.name, super::models::specs(&model.inputs)),
    }
}

/// A call that failed, and whether the model may have run.
fn not_inferred(error: &CallError, model: &ModelInfo) -> Failure {
    let remedy = match error {
        CallError::UnknownModel { .. } | CallError::UnknownVersion { .. } => {
            "`lineside models` lists the models".to_owned()
        }
        CallError::NoNode { .. } => "`lineside status` tells what is wrong".to_owned(),
        CallError::AllBusy { .. } => "try again, or add a node".to_owned(),
        CallError::Late { executed: Executed::No, .. } => {
            "try again with a longer --deadline; nothing was run".to_owned()
        }
        CallError::Late { .. } => "try again with a longer --deadline; the model may have run".to_owned(),
        CallError::Lost { .. } => "try again; the model may have run".to_owned(),
        CallError::Refused { .. } => takes(model),
    };
    Failure::new(Exit::Failure, format!("{} gave no answer", model.name), error, remedy)
}

fn show(roster: &Roster, answer: &Answer, took: Duration, format: Format) -> Outcome {
    let row = roster.rows().iter().find(|row| row.node == answer.node);
    let node = row.map_or_else(|| answer.node.short(), |row| label(roster.rows(), row));
    match format {
        Format::Json => output::json(&outputs::json(answer, &node, took))?,
        Format::Table => output::data(outputs::text(answer, &node, took))?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::models::tests::model;

    #[test]
    fn of_several_versions_the_latest_that_serves_is_meant() {
        let mut versions = [
            model("add", ModelState::Ready),
            model("add", ModelState::Ready),
            model("add", ModelState::Loading),
        ];
        (versions[1].version, versions[2].version) = (ModelVersion(2), ModelVersion(3));
        assert_eq!(find(&versions, "add", None).unwrap().version, ModelVersion(2));
        assert_eq!(find(&versions, "add", Some(ModelVersion(3))).unwrap().version, ModelVersion(3));
        let text = find(&versions, "sub", None).unwrap_err().text();
        assert!(text.contains("no model sub") && text.contains("add 1, add 2, add 3"), "{text}");
    }

    #[test]
    fn a_model_that_was_never_loaded_says_why_in_the_place_of_what_it_takes() {
        let mut broken = model("add", ModelState::Unavailable);
        assert!(known(&broken).is_ok());
        broken.inputs.clear();
        assert!(known(&broken).unwrap_err().text().contains("it is no ONNX model"));
    }

    #[test]
    fn a_deadline_has_a_unit_and_is_not_zero() {
        assert_eq!(deadline("500ms"), Ok(Duration::from_millis(500)));
        assert!(deadline("500").is_err() && deadline("0s").is_err());
    }
}
