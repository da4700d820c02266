//! One call in the hands of a worker: its run, and its answer.

use std::time::Duration;

use lineside_wire::{Executed, Fault, FaultCode, InferResult, Parameters, RunReport, Tensor, join_tensors};
use tokio::time::Instant;

use super::{Job, Post};
use crate::{
    batcher::Waiting,
    engine::{RunError, Session, guarded},
    statistics::{Run, now_ms},
    task::{Failure, Turn},
    watch::{Running, unwanted},
};

/// What a worker took up at one time.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) post: &'a Post,
    pub(super) taken: Instant,
}

/// How an answered call was run.
pub(super) struct Ran {
    /// Time of the run, or runs.
    pub(super) took: Duration,
    /// Rows that ran together with the call's; 1 where it was not joined with others.
    pub(super) batch: u64,
}

impl Work<'_> {
    /// Those for which somebody waits; the others are answered.
    pub(super) fn wanted(self, batch: Vec<Waiting<Job>>) -> Vec<Job> {
        let wanted = |waiting: Waiting<Job>| match unwanted(&self.post.id.name, &waiting, self.taken) {
            None => Some(waiting.job),
            Some(fault) => {
                self.turn_away(waiting.job, &fault);
                None
            }
        };
        batch.into_iter().filter_map(wanted).collect()
    }

    /// Answers a call for which nothing was run.
    pub(super) fn turn_away(self, job: Job, fault: &Fault) {
        if fault.code != FaultCode::Cancelled {
            job.place.waited(self.taken);
        }
        self.post.counters.dropped(fault, job.arrived.elapsed());
        self.tell(job, fault, Duration::ZERO);
    }

    /// Runs and answers one call, whose place has begun.
    ///
    /// # Errors
    /// The engine panicked, in its words. The caller has been answered.
    pub(super) fn alone(self, session: &mut dyn Session, job: Job) -> Result<(), String> {
        let Post { slot, watch, .. } = self.post;
        let begun = Instant::now();
        let still_wanted = || still_wanted(&job);
        slot.begin([running(&job)]);
        watch.by(job.deadline);
        let mut turn = Turn::new(session, &still_wanted);
        let outcome = guarded(|| self.outputs(&job, &mut turn));
        let stopped = slot.end();
        let (runs, took) = (turn.into_runs(), begun.elapsed());
        match outcome {
            Ok(Ok(outputs)) => {
                job.place.ran(took, 1);
                // Before the answer: who reads the statistics after it finds the call there.
                let queue = self.taken.saturating_duration_since(job.arrived);
                self.post.counters.answered(&runs, queue, job.arrived.elapsed(), now_ms());
                self.answer(job, &outputs, &Ran { took, batch: 1 });
                Ok(())
            }
            Ok(Err(Failure::Run(RunError::Stopped))) if stopped => {
                self.post.counters.stopped();
                job.place.stopped_after(took);
                self.fail_stopped(job, &runs, took);
                Ok(())
            }
            Ok(Err(failure)) => {
                // What was refused before the model ran says nothing of how long a run takes.
                if !matches!(failure, Failure::Sent(_) | Failure::Stopped(_)) {
                    job.place.ran(took, 1);
                }
                self.fail(job, &self.fault(failure, !runs.is_empty()), &runs, took);
                Ok(())
            }
            Err(panic) => {
                self.fail(job, &self.panicked(), &runs, took);
                Err(panic)
            }
        }
    }

    /// What a call asks for. One of a sequence runs on its state.
    fn outputs(self, job: &Job, turn: &mut Turn<'_>) -> Result<Vec<Tensor>, Failure> {
        let Post { tasks, sequences, .. } = self.post;
        let (Some(step), Some(sequences)) = (&job.step, sequences) else {
            return tasks.run(&job.request, turn);
        };
        let begun = sequences.begin(step, Instant::now()).map_err(Failure::Stopped)?;
        let no_tensors =
            || Failure::Sent("a request of a sequence brings the model's own tensors".to_owned());
        let request = begun.around(&job.request).ok_or_else(no_tensors)?;
        let outputs = tasks.run(&request, turn)?;
        begun.keep(outputs, Instant::now()).map_err(Failure::Stopped)
    }

    pub(super) fn panicked(self) -> Fault {
        let text = format!("the engine panicked while {} ran; see the node's log", self.post.id.name);
        Fault::new(FaultCode::Internal, text)
    }

    pub(super) fn fault(self, failure: Failure, ran: bool) -> Fault {
        let name = &self.post.id.name;
        match failure {
            Failure::Run(error @ (RunError::Failed(_) | RunError::Stopped)) => {
                Fault::new(FaultCode::InferenceFailed, format!("{name} failed on this input: {error}"))
            }
            Failure::Run(error @ RunError::TooLarge { .. }) => {
                let fault = Fault::new(FaultCode::LimitExceeded, error.to_string());
                Fault { executed: Executed::Yes, ..fault }
            }
            Failure::Sent(reason) => {
                let fault = Fault::new(FaultCode::InvalidParams, reason);
                Fault { executed: if ran { Executed::Yes } else { Executed::No }, ..fault }
            }
            Failure::Outputs(reason) => {
                let text = format!("{name} ran, and what it gave is not what its model.toml says: {reason}");
                Fault::new(FaultCode::InferenceFailed, text)
            }
            Failure::Stopped(fault) if ran => fault,
            Failure::Stopped(fault) => Fault { executed: Executed::No, ..fault },
        }
    }

    /// Sends an answer, and keeps it where the call says so.
    pub(super) fn answer(self, mut job: Job, outputs: &[Tensor], ran: &Ran) {
        if let (Some(key), Some(cache)) = (job.cache_key.take(), &self.post.cache) {
            cache.put(key, outputs);
        }
        let (outputs, payload) = join_tensors(outputs);
        let result = InferResult {
            model: self.post.id.name.clone(),
            version: self.post.id.version,
            outputs,
            parameters: Parameters::new(),
        };
        let report = self.report(&mut job, ran);
        job.reply.answer(&result, Some(&report), payload);
    }

    pub(super) fn fail(self, job: Job, fault: &Fault, runs: &[Run], took: Duration) {
        self.post.counters.failed(fault, runs, job.arrived.elapsed(), now_ms());
        self.tell(job, fault, took);
    }

    /// Answers a call whose run was stopped, because nobody waits for it any more.
    pub(super) fn fail_stopped(self, job: Job, runs: &[Run], took: Duration) {
        let fault = still_wanted(&job).err().unwrap_or_else(cancelled);
        self.fail(job, &fault, runs, took);
    }

    fn tell(self, mut job: Job, fault: &Fault, took: Duration) {
        let report = self.report(&mut job, &Ran { took, batch: 1 });
        job.reply.fail(fault, Some(&report));
    }

    fn report(self, job: &mut Job, ran: &Ran) -> RunReport {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        RunReport {
            node: self.post.node,
            load: job.place.end(),
            queue_us: us(self.taken.saturating_duration_since(job.arrived)),
            run_us: us(ran.took),
            attempts: 1,
            batch: u32::try_from(ran.batch).unwrap_or(u32::MAX),
        }
    }
}

/// What the watch knows of a call that runs.
pub(super) fn running(job: &Job) -> Running {
    Running { cancelled: job.reply.cancelled(), deadline: job.deadline }
}

fn cancelled() -> Fault {
    Fault::new(FaultCode::Cancelled, "the caller cancelled the call while it ran")
}

/// Whether anybody waits for the rest of a call that is being worked on.
pub(super) fn still_wanted(job: &Job) -> Result<(), Fault> {
    if job.reply.cancelled().is_set() {
        return Err(cancelled());
    }
    if job.deadline <= Instant::now() {
        let text = "the time ran out while the call ran; what was left of it was not run";
        return Err(Fault::new(FaultCode::DeadlineExceededRunning, text));
    }
    Ok(())
}
