//! Several calls as one run of the model.

use lineside_wire::{Fault, InvalidTensor, Tensor};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    Job, Post,
    work::{Ran, Work, running, still_wanted},
};
use crate::{
    check::Fitting,
    engine::{RunError, Session, guarded},
    joining::{NotSplit, join, split},
    queue::Place,
    statistics::{Run, now_ms},
    task::{Failure, Request, Turn},
};

/// What became of calls that were to run together.
pub(super) enum Together {
    /// Everybody has been answered.
    Answered,
    /// Each is to run alone.
    Apart(Vec<Job>),
    /// The engine panicked, in its words. Everybody has been answered.
    Panicked(String),
}

/// Why calls did not run together.
enum Parted {
    /// They cannot be put together.
    NotJoined(InvalidTensor),
    /// The model failed on them. One of them may be the cause, and the others must not bear it.
    Failed(Failure),
    /// The model does not treat its rows one by one.
    NotSplit(NotSplit),
}

/// What one call asks of a run.
struct Part<'a> {
    fitting: &'a Fitting,
    classes: &'a [Option<u32>],
    rows: u64,
}

/// What each call gets, and the run.
type Outcome = (Vec<Result<Vec<Tensor>, Failure>>, Run);

impl Work<'_> {
    /// Runs several calls as one and answers each.
    pub(super) fn together(self, session: &mut dyn Session, mut jobs: Vec<Job>) -> Together {
        Place::begin(jobs.iter_mut().map(|job| &mut job.place), self.taken);
        let Some(parts) = parts(&jobs) else { return Together::Apart(jobs) };
        let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
        let Post { slot, watch, counters, .. } = self.post;
        let wanted = || wanted_by_any(&jobs);
        slot.begin(jobs.iter().map(running));
        jobs.iter().map(|job| job.deadline).max().into_iter().for_each(|last| watch.by(last));
        let begun = Instant::now();
        let mut turn = Turn::new(session, &wanted);
        let outcome = guarded(|| self.joined(&parts, &rows, &mut turn));
        let stopped = slot.end();
        let (ran, took) = (turn.into_runs(), begun.elapsed());
        match outcome {
            Ok(Ok((outputs, run))) => {
                self.answer_each(jobs, outputs, &rows, &run);
                Together::Answered
            }
            Ok(Err(Parted::Failed(Failure::Run(RunError::Stopped)))) if stopped => {
                counters.stopped();
                if let Some(first) = jobs.first() {
                    first.place.stopped_after(took);
                }
                jobs.into_iter().for_each(|job| self.fail_stopped(job, &[], took));
                Together::Answered
            }
            Ok(Err(parted)) => {
                counters.ran(&ran, now_ms());
                self.parted(&parted, rows.iter().sum());
                Together::Apart(jobs)
            }
            Err(panic) => {
                let (fault, took) = (self.panicked(), self.taken.elapsed());
                jobs.into_iter().for_each(|job| self.fail(job, &fault, &[], took));
                Together::Panicked(panic)
            }
        }
    }

    fn joined(self, parts: &[Part<'_>], rows: &[u64], turn: &mut Turn<'_>) -> Result<Outcome, Parted> {
        let inputs: Vec<&[Tensor]> = parts.iter().map(|part| &part.fitting.inputs[..]).collect();
        let inputs = turn.prepare(|| join(&inputs)).map_err(Parted::NotJoined)?;
        let wanted = wanted(parts);
        let outputs = turn.run(&inputs, &wanted, rows.iter().sum()).map_err(Parted::Failed)?;
        let each = turn.finish(|| {
            let split = split(&outputs, rows)?;
            Ok(split
                .into_iter()
                .zip(parts)
                .map(|(outputs, part)| self.part(part, &wanted, outputs))
                .collect())
        });
        Ok((each.map_err(Parted::NotSplit)?, turn.last().unwrap_or_default()))
    }

    /// What one call asked for, out of its rows of all outputs.
    fn part(self, part: &Part<'_>, all: &[usize], outputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
        let outputs = if part.fitting.wanted == all {
            outputs
        } else {
            let at = |index: &usize| all.iter().position(|one| one == index);
            let of = |index| at(index).and_then(|at| outputs.get(at)).cloned();
            part.fitting.wanted.iter().filter_map(of).collect()
        };
        self.post.tasks.classified(part.fitting, part.classes, outputs)
    }

    fn answer_each(
        self,
        jobs: Vec<Job>,
        outputs: Vec<Result<Vec<Tensor>, Failure>>,
        rows: &[u64],
        run: &Run,
    ) {
        let took = self.taken.elapsed();
        self.post.counters.ran(std::slice::from_ref(run), now_ms());
        if let Some(first) = jobs.first() {
            first.place.ran(took, jobs.len());
        }
        for ((job, outputs), rows) in jobs.into_iter().zip(outputs).zip(rows) {
            match outputs {
                Ok(outputs) => {
                    let queue = self.taken.saturating_duration_since(job.arrived);
                    let own = Run { rows: *rows, ..*run };
                    self.post.counters.answered_of(&own, queue, job.arrived.elapsed());
                    self.answer(job, &outputs, &Ran { took, batch: run.rows });
                }
                Err(failure) => self.fail(job, &self.fault(failure, true), &[], took),
            }
        }
    }

    /// Learns from a run that failed: what cannot be joined is not tried again and again.
    fn parted(self, parted: &Parted, rows: u64) {
        let (id, line) = (&self.post.id, &self.post.line);
        match parted {
            Parted::NotSplit(reason) => {
                if line.join_at_most(1) {
                    warn!(
                        model = %id.name, version = %id.version, %reason,
                        "the model does not treat rows one by one: its requests are not joined any more"
                    );
                }
            }
            Parted::Failed(Failure::Run(RunError::TooLarge { bytes, max })) => {
                if line.join_at_most(rows / 2) {
                    debug!(model = %id.name, version = %id.version, rows, bytes, max, "fewer rows are joined");
                }
            }
            Parted::Failed(failure) => debug!(model = %id.name, ?failure, "a joined run failed"),
            Parted::NotJoined(reason) => debug!(model = %id.name, %reason, "requests could not be joined"),
        }
    }
}

/// Whether the run of these calls is wanted: as long as one of them is.
fn wanted_by_any(jobs: &[Job]) -> Result<(), Fault> {
    let wanted = jobs.iter().map(still_wanted).find(Result::is_ok);
    wanted.unwrap_or_else(|| jobs.first().map_or(Ok(()), still_wanted))
}

/// What the calls ask for; `None` when one of them does not bring the model's own tensors.
fn parts(jobs: &[Job]) -> Option<Vec<Part<'_>>> {
    let parts = jobs.iter().map(|job| match &job.request {
        Request::Tensors { fitting, classes, rows } => Some(Part { fitting, classes, rows: *rows }),
        Request::Predict(_) | Request::Embed(_) => None,
    });
    parts.collect()
}

/// The outputs that any of them wants; where all want the same, in their order.
fn wanted(parts: &[Part<'_>]) -> Vec<usize> {
    let mut all = Vec::new();
    for index in parts.iter().flat_map(|part| &part.fitting.wanted) {
        if !all.contains(index) {
            all.push(*index);
        }
    }
    all
}
