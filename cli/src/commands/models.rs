//! `lineside models`: what the cluster can run, and what a repository holds.

mod change;
mod check;
mod list;

use clap::{Args, Subcommand};
use lineside_client::Roster;
use lineside_wire::{ModelName, method};

use super::connect::{ConnectArgs, not_answered};
use crate::{
    exit::{Exit, Failure, Outcome},
    output::{self, Format, FormatArgs},
};

pub(crate) use list::specs;

/// `lineside models`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only this model, with all that its nodes say of it
    name: Option<ModelName>,
    /// Show of every model what it takes and gives, and how each node runs it
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Load a model, or load it anew, from each node's own repository
    Load(change::ChangeArgs),
    /// Unload a model; its files stay
    Unload(change::ChangeArgs),
    /// Look at a model repository, without a cluster: what would serve from it, with what, and why the rest would not
    Check(check::CheckArgs),
    /// Show a model's settings file with every key, its default and what it means
    Settings,
}

impl ModelsArgs {
    /// Lists the models, changes one, or looks at a repository.
    pub(crate) fn run(self) -> Outcome {
        match self.action {
            None => list(self.name, self.verbose, self.connect, self.format.output),
            Some(Action::Load(args)) => change::change(method::MODELS_LOAD, args),
            Some(Action::Unload(args)) => change::change(method::MODELS_UNLOAD, args),
            Some(Action::Check(args)) => args.run(),
            Some(Action::Settings) => {
                output::data(lineside_node::sample_settings())?;
                Ok(Exit::Ok)
            }
        }
    }
}

fn list(name: Option<ModelName>, verbose: bool, connect: ConnectArgs, output: Format) -> Outcome {
    connect.run(async move |client| {
        let list = client.members().await.map_err(|error| not_answered(&error))?;
        let mut models = list::models_of(&Roster::new(list));
        if let Some(name) = &name {
            models.retain(|model| model.is_called(name));
            if models.is_empty() {
                let what = format!("no node has the model {name}");
                return Err(Failure::new(Exit::Failure, what, "", "`lineside models` lists the models"));
            }
        }
        match output {
            Format::Json => output::json(&models)?,
            Format::Table if models.is_empty() => {
                output::note("the cluster has no models: put them in a node's model repository");
            }
            Format::Table if verbose || name.is_some() => output::data(list::full(&models))?,
            Format::Table => output::data(list::table(&models))?,
        }
        Ok(Exit::Ok)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use lineside_wire::{Datatype, ModelInfo, ModelState, ModelVersion, TensorSpec};

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
            tasks: Vec::new(),
            engine: None,
        }
    }
}
