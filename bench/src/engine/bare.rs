//! ONNX Runtime without anything around it: a session per core, each on a thread that runs it over and over.

use std::{path::Path, thread, time::Duration};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use ort::{
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};

use crate::{
    compare::{Measured, Round},
    cpu,
    gateway::body::numbers,
    member::now,
};

/// Sessions of one model with the settings that a node opens it with, and the input that each of its runs gets.
pub(crate) struct Bare {
    name: String,
    sessions: Vec<Session>,
    input: String,
    shape: Vec<usize>,
    /// Rows of a run: 1, unless rows are joined here.
    rows: usize,
    lasting: Duration,
}

impl Bare {
    pub(crate) fn open(
        environment: &Environment,
        model: &Path,
        (input, shape): (&str, &[usize]),
        sessions: usize,
        lasting: Duration,
    ) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Session> {
            let builder = Session::builder(environment).map_err(text)?;
            let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
            let builder = builder.with_intra_threads(1).map_err(text)?.with_inter_threads(1).map_err(text)?;
            let builder = builder.with_intra_op_spinning(false).map_err(text)?;
            let mut builder = builder.with_inter_op_spinning(false).map_err(text)?;
            builder.commit_from_file(model).map_err(text)
        };
        let opened = (0..sessions).map(|_| open()).collect::<anyhow::Result<Vec<_>>>();
        let opened = opened.with_context(|| format!("{} does not open", model.display()))?;
        let rows = shape.first().copied().unwrap_or(1);
        let name = if rows == 1 { "bare loop".to_owned() } else { format!("bare loop of {rows} rows") };
        Ok(Self { name, sessions: opened, input: input.to_owned(), shape: shape.to_vec(), rows, lasting })
    }
}

impl Measured for Bare {
    fn name(&self) -> &str {
        &self.name
    }

    fn round(&mut self) -> anyhow::Result<Round> {
        let begun = now();
        let (input, shape, lasting) = (&self.input, &self.shape, self.lasting);
        let runs = thread::scope(|scope| {
            let threads: Vec<_> = self
                .sessions
                .iter_mut()
                .map(|session| scope.spawn(move || over_and_over(session, input, shape, lasting)))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("a run does not panic")).collect::<Vec<_>>()
        });
        let took = begun.elapsed();
        let (mut all, mut cpu) = (Histogram::<u64>::new(3)?, Duration::ZERO);
        for run in runs {
            let (times, used) = run?;
            all.add(times)?;
            cpu += used;
        }
        let rows = all.len() * self.rows as u64;
        Ok(Round::new(rows, took, cpu, all.value_at_quantile(0.5), all.value_at_quantile(0.99)))
    }
}

/// Times of the runs, in microseconds, and the CPU that they took.
fn over_and_over(
    session: &mut Session,
    input: &str,
    shape: &[usize],
    lasting: Duration,
) -> anyhow::Result<(Histogram<u64>, Duration)> {
    let values = numbers(shape.iter().product());
    let mut times = Histogram::new(3)?;
    let (end, before) = (now() + lasting, cpu::of_this_thread());
    loop {
        let begun = now();
        if end <= begun {
            return Ok((times, cpu::of_this_thread() - before));
        }
        let tensor = TensorRef::from_array_view((shape.to_vec(), values.as_slice())).map_err(text)?;
        let outputs = session.run(ort::inputs![input => tensor]).map_err(text)?;
        drop(outputs);
        times.record(u64::try_from(begun.elapsed().as_micros())?)?;
    }
}

fn text(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
