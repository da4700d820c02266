//! What every run on a cluster of its own begins and ends with.

use std::path::Path;

use super::{Floor, Home, Plan, Stop};
use crate::{
    exit::{Exit, Failure, OrFail as _, Outcome},
    output::Progress,
};

/// A cluster that can be started, and what it is shown with.
pub(crate) struct Stage {
    /// The members, none of them started yet.
    pub(crate) floor: Floor,
    /// Whether somebody asks for the end.
    pub(crate) stop: Stop,
    /// How far it is.
    pub(crate) progress: Progress,
}

/// Runs `act` on a cluster of this plan, and ends the members behind it, whatever came of it. `what` is run, for messages.
pub(crate) fn run(
    what: &str,
    plan: Plan,
    onnxruntime: Option<&Path>,
    mut progress: Progress,
    act: impl AsyncFnOnce(&mut Stage) -> Outcome,
) -> Outcome {
    let program = std::env::current_exe().or_fail(Exit::Failure, "this binary cannot find itself", "")?;
    // Before anything is started, so that nothing has to be ended when it fails or is broken off.
    let library = lineside_node::runtime::ensure(onnxruntime, &mut |line| progress.stage(line))?.path;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.or_fail(Exit::Failure, format!("{what} cannot start"), "")?;
    runtime.block_on(async {
        let stop = Stop::listen().or_fail(Exit::Failure, "signals cannot be taken over", "")?;
        let remedy = "make room in the temporary directory, or name another one with TMPDIR";
        let home = Home::make(plan).or_fail(Exit::Failure, format!("{what} has no place on disk"), remedy)?;
        let mut stage = Stage { floor: Floor::new(home, program, library), stop, progress };
        let outcome = act(&mut stage).await;
        stage.progress.step("ending the members");
        stage.floor.end(&mut stage.stop).await;
        outcome
    })
}

/// A signal came before the report.
pub(crate) fn broken_off(what: &str) -> Failure {
    let text = format!("{what} was broken off before its report");
    Failure::new(Exit::Failure, text, "a signal asked it to end", "")
}
