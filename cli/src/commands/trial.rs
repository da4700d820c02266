//! `lineside try-model`: the process in which a node tries a model. Started by nodes, and by nobody else.

use clap::Args;

use crate::exit::{Exit, Failure, Outcome};

/// `lineside try-model`.
#[derive(Debug, Args)]
pub(crate) struct TrialArgs {}

impl TrialArgs {
    /// Carries out the order on standard input.
    pub(crate) fn run(self) -> Outcome {
        let tried = lineside_node::trial::child(std::io::stdin().lock(), std::io::stdout().lock());
        match tried {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => Err(Failure::new(
                Exit::Failure,
                "no model was tried",
                error,
                "nodes run this command with their order on its standard input; put the model into a repository instead",
            )),
        }
    }
}
