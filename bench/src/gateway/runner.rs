//! What the backend behind nginx does with two vectors: adds them, or has ONNX Runtime add them.

use std::{path::Path, sync::mpsc, thread};

use anyhow::Context as _;
use ort::{
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};
use tokio::sync::oneshot;

/// Two vectors, and where their sum goes.
type Job = (Vec<f32>, Vec<f32>, oneshot::Sender<Vec<f32>>);

/// Adds.
#[derive(Clone)]
pub(crate) enum Runner {
    /// On the spot.
    Sum,
    /// The model `add` on threads of its own, one session each: the same work that a node does.
    Model(Vec<mpsc::Sender<Job>>),
}

impl Runner {
    /// One session per core.
    pub(crate) fn model(library: &Path, model: &Path) -> anyhow::Result<Self> {
        let environment = ort::init_from(library)?.build()?;
        let cores = thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let mut threads = Vec::new();
        for _ in 0..cores {
            let builder = Session::builder(&environment).map_err(text)?;
            let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
            let mut builder =
                builder.with_intra_threads(1).map_err(text)?.with_inter_threads(1).map_err(text)?;
            let mut session = builder.commit_from_file(model).map_err(text)?;
            let (jobs, queue) = mpsc::channel::<Job>();
            thread::spawn(move || {
                while let Ok((a, b, reply)) = queue.recv() {
                    // A sum that nobody gets shows as a failed request.
                    drop(run(&mut session, &a, &b).map(|sum| reply.send(sum)));
                }
            });
            threads.push(jobs);
        }
        Ok(Self::Model(threads))
    }

    /// The sum; `turn` spreads calls over the sessions.
    pub(crate) async fn add(&self, a: Vec<f32>, b: Vec<f32>, turn: usize) -> Option<Vec<f32>> {
        match self {
            Self::Sum => Some(a.iter().zip(&b).map(|(a, b)| a + b).collect()),
            Self::Model(threads) => {
                let (reply, sum) = oneshot::channel();
                threads.get(turn % threads.len())?.send((a, b, reply)).ok()?;
                sum.await.ok()
            }
        }
    }
}

fn run(session: &mut Session, a: &[f32], b: &[f32]) -> anyhow::Result<Vec<f32>> {
    let a = TensorRef::from_array_view(([a.len()], a)).map_err(text)?;
    let b = TensorRef::from_array_view(([b.len()], b)).map_err(text)?;
    let outputs = session.run(ort::inputs!["a" => a, "b" => b]).map_err(text)?;
    let (_, sum) = outputs
        .get("sum")
        .context("the model has no output sum")?
        .try_extract_tensor::<f32>()
        .map_err(text)?;
    Ok(sum.to_vec())
}

fn text(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
