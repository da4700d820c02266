//! What a call asks of a model, and what a worker does for it.
//!
//! ```text
//!   tensors ──> check ──────────────────────────────> session ──> (classes) ──> tensors
//!   an image ─> decode ─> pixels ──> elements ──────> session ──> scores, boxes ──> prediction
//!   texts ────> words ──> groups of some texts ─────> session, once a group ──> pooling ──> vectors
//! ```
//!
//! On the network's thread a request is looked at as far as its shapes go ([`Tasks::fit`]); everything that takes time
//! is done by the worker ([`Tasks::run`]). What a model can do beyond its own tensors is settled when it is loaded, out
//! of its settings and its signature ([`Tasks::new`]), so that a mistake there is found before the first call.

mod boxes;
mod classes;
mod embed;
mod fitting;
mod numbers;
mod picture;
mod pixels;
mod pooling;
mod predict;
mod prediction;
mod scores;
mod words;

use std::{collections::BTreeMap, time::Duration};

use lineside_wire::{Fault, FaultCode, InferParams, ModelName, Parameter, Task, Tensor};
use tokio::time::Instant;

pub(crate) use fitting::Fit;

use crate::{
    check::{Fitting, ShapeLimits, check},
    engine::{RunError, Session, Signature},
    settings::{Folder, Settings, Wrong},
    statistics::Run,
};

/// What a version does with inputs that are not its own tensors, and with its outputs.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    predict: Option<predict::Predictor>,
    embed: Option<embed::Embedder>,
    limits: ShapeLimits,
    /// The names of an output's elements, by its place, where a `config.pbtxt` has them.
    labels: BTreeMap<usize, Vec<String>>,
}

/// A request that fits its model.
#[derive(Debug)]
pub(crate) enum Request {
    /// The model's own tensors, and of which wanted outputs how many classes are asked for.
    Tensors { fitting: Fitting, classes: Vec<Option<u32>>, rows: u64 },
    /// An image.
    Predict(predict::Sent),
    /// Texts.
    Embed(embed::Sent),
}

/// Why a request that fits has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was sent cannot be used.
    Sent(String),
    /// The engine's own.
    Run(RunError),
    /// The model's outputs are not what its settings say.
    Outputs(String),
    /// Nobody waits any more.
    Stopped(Fault),
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

/// A session while one call has it, and the times of what is done there.
pub(crate) struct Turn<'a> {
    session: &'a mut dyn Session,
    /// Whether anybody still waits.
    wanted: &'a dyn Fn() -> Result<(), Fault>,
    runs: Vec<Run>,
    /// Work since the last run, which the next one needs.
    prepared: Duration,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(session: &'a mut dyn Session, wanted: &'a dyn Fn() -> Result<(), Fault>) -> Self {
        Self { session, wanted, runs: Vec::new(), prepared: Duration::ZERO }
    }

    /// The runs so far.
    pub(crate) fn into_runs(self) -> Vec<Run> {
        self.runs
    }

    /// The newest run.
    pub(crate) fn last(&self) -> Option<Run> {
        self.runs.last().copied()
    }

    /// Does what must be done before a run.
    pub(crate) fn prepare<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        self.prepared += begun.elapsed();
        done
    }

    /// Runs the model on so many rows, unless nobody waits any more.
    pub(crate) fn run(
        &mut self,
        inputs: &[Tensor],
        outputs: &[usize],
        rows: u64,
    ) -> Result<Vec<Tensor>, Failure> {
        self.still_wanted()?;
        let begun = Instant::now();
        let outputs = self.session.run(inputs, outputs)?;
        let input = std::mem::take(&mut self.prepared);
        self.runs.push(Run { rows, input, infer: begun.elapsed(), output: Duration::ZERO });
        Ok(outputs)
    }

    /// Does what makes an answer of the last run.
    pub(crate) fn finish<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        if let Some(run) = self.runs.last_mut() {
            run.output += begun.elapsed();
        }
        done
    }

    fn still_wanted(&self) -> Result<(), Failure> {
        (self.wanted)().map_err(Failure::Stopped)
    }
}

impl Tasks {
    /// What these settings make of a model with this signature, as callers see it.
    ///
    /// # Errors
    /// They do not fit it, or name a file that is not there.
    pub(crate) fn new(settings: &Settings, signature: &Signature, folder: &Folder) -> Result<Self, Wrong> {
        let fit = Fit { signature, folder };
        let predict = settings.predict.as_ref().map(|settings| predict::Predictor::new(settings, fit));
        let embed = settings.embed.as_ref().map(|settings| embed::Embedder::new(settings, fit));
        let limits = ShapeLimits::new(&settings.limits, signature.inputs.iter()).of_rows(settings.rows_max());
        let labels = fit.labels(settings.declared.as_ref())?;
        Ok(Self { predict: predict.transpose()?, embed: embed.transpose()?, limits, labels })
    }

    /// By their names on the wire.
    pub(crate) fn list(&self) -> Vec<Task> {
        let predict = self.predict.as_ref().map(|_| Task::Predict);
        predict.into_iter().chain(self.embed.as_ref().map(|_| Task::Embed)).collect()
    }

    /// Looks whether a request fits the model, as far as shapes go. `params` without its inputs, which are `given`.
    ///
    /// # Errors
    /// In the words of both sides.
    pub(crate) fn fit(
        &self,
        model: &ModelName,
        signature: &Signature,
        params: &InferParams,
        given: Vec<Tensor>,
    ) -> Result<Request, Fault> {
        if params.task.is_some() && !params.classification.is_empty() {
            return Err(invalid(
                "classes are taken of a model's own outputs: a call with a task has others".to_owned(),
            ));
        }
        match (params.task, &self.predict, &self.embed) {
            (None, ..) => self.fit_tensors(model, signature, params, given),
            (Some(Task::Predict), Some(predict), _) => {
                predict.fit(model, params, given).map(Request::Predict)
            }
            (Some(Task::Embed), _, Some(embed)) => embed.fit(model, params, given).map(Request::Embed),
            (Some(Task::Predict), None, _) => Err(self.cannot(model, signature, "an image", "predict")),
            (Some(Task::Embed), _, None) => Err(self.cannot(model, signature, "texts", "embed")),
        }
    }

    fn fit_tensors(
        &self,
        model: &ModelName,
        signature: &Signature,
        params: &InferParams,
        given: Vec<Tensor>,
    ) -> Result<Request, Fault> {
        let fitting = check(model, signature, &self.limits, given, &params.outputs)?;
        let mut classes = vec![None; fitting.wanted.len()];
        for (name, count) in &params.classification {
            let at = fitting.wanted.iter().position(|output| signature.outputs[*output].name == *name);
            let Some(at) = at else {
                let name = crate::engine::clipped(name, 64);
                return Err(invalid(format!(
                    "classes of {name:?} are asked for, which is no output of this call"
                )));
            };
            let datatype = signature.outputs[fitting.wanted[at]].datatype;
            if *count == 0 {
                return Err(invalid(format!("0 classes of {name:?} are asked for: ask for at least 1")));
            }
            if !numbers::is_number(datatype) {
                return Err(invalid(format!(
                    "the output {name:?} of {model} is {datatype}: only numbers have classes"
                )));
            }
            classes[at] = Some(*count);
        }
        let rows = rows(signature, &fitting.inputs);
        Ok(Request::Tensors { fitting, classes, rows })
    }

    fn cannot(&self, model: &ModelName, signature: &Signature, what: &str, section: &str) -> Fault {
        let can = match &self.list()[..] {
            [] => "its own tensors alone".to_owned(),
            tasks => {
                let names: Vec<_> = tasks.iter().map(|task| task.as_str()).collect();
                format!("its own tensors, and {}", names.join(", "))
            }
        };
        let inputs: Vec<_> = signature.inputs.iter().take(8).map(|spec| spec.name.as_str()).collect();
        invalid(format!(
            "{model} takes no {}: it takes {can} ({}); a section [{section}] in its model.toml makes it take {what}",
            what.trim_start_matches("an "),
            inputs.join(", ")
        ))
    }

    /// Does what a request asks for.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) fn run(&self, request: &Request, turn: &mut Turn<'_>) -> Result<Vec<Tensor>, Failure> {
        match (request, &self.predict, &self.embed) {
            (Request::Tensors { fitting, classes, rows }, ..) => {
                let outputs = turn.run(&fitting.inputs, &fitting.wanted, *rows)?;
                turn.finish(|| self.classified(fitting, classes, outputs))
            }
            (Request::Predict(sent), Some(predict), _) => predict.run(sent, turn),
            (Request::Embed(sent), _, Some(embed)) => embed.run(sent, turn),
            (Request::Predict(_) | Request::Embed(_), ..) => {
                unreachable!("a request was looked at by its own model")
            }
        }
    }

    /// The names of an output's elements.
    fn labels_of(&self, output: usize) -> &[String] {
        match self.labels.get(&output) {
            Some(labels) => labels,
            None => self.predict.as_ref().map_or(&[][..], |predict| predict.labels_of(output)),
        }
    }

    /// The wanted outputs of a request, with classes in the place of those of which they are asked for.
    ///
    /// # Errors
    /// An output has no classes.
    pub(crate) fn classified(
        &self,
        fitting: &Fitting,
        classes: &[Option<u32>],
        outputs: Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Failure> {
        if classes.iter().all(Option::is_none) {
            return Ok(outputs);
        }
        let one = |((output, count), index): ((Tensor, &Option<u32>), &usize)| match count {
            None => Ok(output),
            Some(count) => classes::largest(&output, *count, self.labels_of(*index)).map_err(Failure::from),
        };
        outputs.into_iter().zip(classes).zip(&fitting.wanted).map(one).collect()
    }
}

/// How many things of one kind a call brings: the first dimension, where it varies and is the same in every input.
fn rows(signature: &Signature, inputs: &[Tensor]) -> u64 {
    let varies = signature.inputs.iter().all(|spec| spec.shape.first().is_some_and(|dim| *dim < 0));
    let mut firsts = inputs.iter().map(|input| input.shape.dims().first().copied().unwrap_or(0));
    match firsts.next() {
        Some(first) if varies && 0 < first && firsts.all(|other| other == first) => first,
        _ => 1,
    }
}

/// The one input of a task, by the first of these names that is there, and which of them it is.
fn only_input(
    model: &ModelName,
    task: Task,
    names: &[&str],
    mut given: Vec<Tensor>,
) -> Result<(usize, Tensor), Fault> {
    let takes = || format!("{model} takes one input of BYTES for {}: {}", task.as_str(), names.join(" or "));
    let (Some(tensor), true) = (given.pop(), given.is_empty()) else { return Err(invalid(takes())) };
    let Some(which) = names.iter().position(|name| *name == tensor.name) else {
        return Err(invalid(takes()));
    };
    if tensor.datatype != lineside_wire::Datatype::Bytes {
        return Err(invalid(format!("{}, but {} was sent", takes(), tensor.datatype)));
    }
    Ok((which, tensor))
}

/// Which of a task's outputs are wanted, in this order; all, when none is named.
fn wanted(model: &ModelName, task: Task, names: &[&str], asked: &[String]) -> Result<Vec<usize>, Fault> {
    if asked.is_empty() {
        return Ok((0..names.len()).collect());
    }
    let mut wanted = Vec::with_capacity(names.len());
    for name in asked {
        match names.iter().position(|known| known == name) {
            Some(at) if !wanted.contains(&at) => wanted.push(at),
            _ => {
                let name = crate::engine::clipped(name, 64);
                let gives = names.join(", ");
                return Err(invalid(format!(
                    "{model} gives {gives} for {}, each once: not {name:?}",
                    task.as_str()
                )));
            }
        }
    }
    Ok(wanted)
}

/// A parameter that is a whole number of this range.
fn whole(params: &InferParams, name: &str, max: u32) -> Result<Option<u32>, Fault> {
    let number = match params.parameters.get(name) {
        None => return Ok(None),
        Some(Parameter::Integer(number)) => u32::try_from(*number).ok(),
        Some(Parameter::Unsigned(number)) => u32::try_from(*number).ok(),
        Some(Parameter::Bool(_) | Parameter::Number(_) | Parameter::Text(_)) => None,
    };
    match number {
        Some(number) if (1..=max).contains(&number) => Ok(Some(number)),
        _ => Err(invalid(format!("the parameter {name} is a whole number of 1 to {max}"))),
    }
}

/// A parameter that is a number.
fn number(params: &InferParams, name: &str) -> Result<Option<f32>, Fault> {
    let number = match params.parameters.get(name) {
        None => return Ok(None),
        Some(Parameter::Integer(number)) => *number as f32,
        Some(Parameter::Unsigned(number)) => *number as f32,
        Some(Parameter::Number(number)) => *number as f32,
        Some(Parameter::Bool(_) | Parameter::Text(_)) => f32::NAN,
    };
    match number.is_finite() {
        true => Ok(Some(number)),
        false => Err(invalid(format!("the parameter {name} is a number, as 0.5"))),
    }
}

fn invalid(text: String) -> Fault {
    Fault::new(FaultCode::InvalidParams, text)
}
