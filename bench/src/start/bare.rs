//! A process that loads ONNX Runtime and one model with a session per core, and nothing else: what a node's memory
//! is compared with.

use std::path::Path;

use anyhow::Context as _;
use ort::session::{Session, builder::GraphOptimizationLevel};

use crate::children::{announce, end_with_stdin};

pub(crate) fn serve(library: Option<&Path>, model: Option<&Path>) -> anyhow::Result<()> {
    let library = library.context("--library is needed")?;
    let model = model.context("--model is needed")?;
    let environment = ort::init_from(library)?.build()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let open = || -> anyhow::Result<Session> {
        let builder = Session::builder(&environment).map_err(text)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
        let mut builder = builder.with_intra_threads(1).map_err(text)?.with_inter_threads(1).map_err(text)?;
        builder.commit_from_file(model).map_err(text)
    };
    let sessions = (0..cores).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
    end_with_stdin();
    announce(([127, 0, 0, 1], 0).into());
    std::thread::park();
    drop(sessions);
    Ok(())
}

fn text(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
