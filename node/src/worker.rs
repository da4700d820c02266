//! The thread that owns a session: takes calls up, runs them, answers them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::Receiver;
use lineside_mesh::Responder;
use lineside_wire::{
    Executed, Fault, FaultCode, InferResult, NodeId, Parameters, RunReport, Tensor, join_tensors,
};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{
    engine::{RunError, Session, guarded},
    model::{Alive, Lost, Reopen},
    queue::Place,
    repository::VersionId,
    statistics::{Counters, Run},
    task::{Failure, Request, Tasks, Turn},
};

/// How much an inference thread yields to the network's threads and to gossip, so that a node which computes on every
/// core is not taken for dead.
const NICENESS: i32 = 5;

/// A call that was accepted. Dropped without an answer, its caller is told so.
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) reply: Responder,
    /// Last, so that it is given up after the answer: an idle node has answered everybody.
    pub(crate) place: Place,
}

/// Owns one session.
pub(crate) struct Worker {
    pub(crate) id: VersionId,
    pub(crate) node: NodeId,
    pub(crate) session: Box<dyn Session>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) jobs: Arc<Receiver<Job>>,
    pub(crate) reopen: Arc<Reopen>,
    pub(crate) lost: Arc<Lost>,
    /// Of the version, whose unload waits for its workers, and of the node. Last, so that the session is freed before.
    pub(crate) _alive: (Alive, Alive),
}

impl Worker {
    /// Serves until the version is dropped and nobody waits, or the session is lost for good.
    pub(crate) fn run(mut self) {
        yield_to_the_network();
        while let Ok(job) = self.jobs.recv() {
            let (tasks, counters) = (&*self.tasks, &*self.counters);
            let work = Work { id: &self.id, node: self.node, tasks, counters, taken: Instant::now() };
            if let Err(panic) = work.run(self.session.as_mut(), job) {
                error!(model = %self.id.name, version = %self.id.version, panic, "the engine panicked");
                if let Err(reason) = self.renew() {
                    warn!(model = %self.id.name, version = %self.id.version, reason, "a session is lost");
                    return (self.lost)(&format!(
                        "a session panicked and could not be opened again: {reason}; load the model again"
                    ));
                }
            }
        }
    }

    /// Replaces a session that panicked: what it left behind is not to be trusted.
    fn renew(&mut self) -> Result<(), String> {
        let opened = guarded(|| (self.reopen)())?;
        let old = std::mem::replace(&mut self.session, opened.map_err(|error| error.to_string())?);
        guarded(|| drop(old))
    }
}

/// Gives the thread a lower priority. Without the right to it, the thread runs as any other.
fn yield_to_the_network() {
    // Linux counts threads as processes here; elsewhere this would slow the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        debug!(%error, "inference threads keep the usual priority");
    }
}

/// One call in the hands of a worker.
struct Work<'a> {
    id: &'a VersionId,
    node: NodeId,
    tasks: &'a Tasks,
    counters: &'a Counters,
    taken: Instant,
}

impl Work<'_> {
    /// Runs and answers one call.
    ///
    /// # Errors
    /// The engine panicked, in its words. The caller has been answered.
    fn run(&self, session: &mut dyn Session, mut job: Job) -> Result<(), String> {
        job.place.begin();
        if let Err(fault) = self.still_wanted(&job) {
            self.fail(job, &fault, &[], Duration::ZERO);
            return Ok(());
        }
        let still_wanted = || still_wanted(&job);
        let mut turn = Turn::new(session, &still_wanted);
        let outcome = guarded(|| self.tasks.run(&job.request, &mut turn));
        let runs = turn.into_runs();
        let took = self.taken.elapsed();
        match outcome {
            Ok(Ok(outputs)) => {
                job.place.ran(took);
                self.answer(job, &outputs, &runs, took);
                Ok(())
            }
            Ok(Err(failure)) => {
                // What was refused before the model ran says nothing of how long a run takes.
                if !matches!(failure, Failure::Sent(_) | Failure::Stopped(_)) {
                    job.place.ran(took);
                }
                self.fail(job, &self.fault(failure, &runs), &runs, took);
                Ok(())
            }
            Err(panic) => {
                let text = format!("the engine panicked while {} ran; see the node's log", self.id.name);
                self.fail(job, &Fault::new(FaultCode::Internal, text), &runs, took);
                Err(panic)
            }
        }
    }

    /// Whether anybody waits for the result, before anything is done for it.
    fn still_wanted(&self, job: &Job) -> Result<(), Fault> {
        if job.reply.cancelled().is_set() {
            let fault = Fault::new(FaultCode::Cancelled, "the caller cancelled the call before it ran");
            return Err(Fault { executed: Executed::No, ..fault });
        }
        if job.deadline <= self.taken {
            let waited = (self.taken - job.arrived).as_millis();
            let text = format!("the time ran out after {waited} ms in the queue; nothing was run");
            return Err(Fault::new(FaultCode::DeadlineExceeded, text));
        }
        Ok(())
    }

    fn fault(&self, failure: Failure, runs: &[Run]) -> Fault {
        let name = &self.id.name;
        match failure {
            Failure::Run(error @ RunError::Failed(_)) => {
                Fault::new(FaultCode::InferenceFailed, format!("{name} failed on this input: {error}"))
            }
            Failure::Run(error @ RunError::TooLarge { .. }) => {
                let fault = Fault::new(FaultCode::LimitExceeded, error.to_string());
                Fault { executed: Executed::Yes, ..fault }
            }
            Failure::Sent(reason) => {
                let fault = Fault::new(FaultCode::InvalidParams, reason);
                Fault { executed: if runs.is_empty() { Executed::No } else { Executed::Yes }, ..fault }
            }
            Failure::Outputs(reason) => {
                let text = format!("{name} ran, and what it gave is not what its model.toml says: {reason}");
                Fault::new(FaultCode::InferenceFailed, text)
            }
            Failure::Stopped(fault) if runs.is_empty() => Fault { executed: Executed::No, ..fault },
            Failure::Stopped(fault) => fault,
        }
    }

    fn answer(&self, mut job: Job, outputs: &[Tensor], runs: &[Run], took: Duration) {
        let (outputs, payload) = join_tensors(outputs);
        let result = InferResult {
            model: self.id.name.clone(),
            version: self.id.version,
            outputs,
            parameters: Parameters::new(),
        };
        // Before the answer: who reads the statistics after it finds the call there.
        let queue = self.taken.saturating_duration_since(job.arrived);
        self.counters.answered(runs, queue, job.arrived.elapsed(), now_ms());
        let report = self.report(&mut job, took);
        job.reply.answer(&result, Some(&report), payload);
    }

    fn fail(&self, mut job: Job, fault: &Fault, runs: &[Run], took: Duration) {
        // A caller that went away is no failure of the model.
        if fault.code != FaultCode::Cancelled {
            self.counters.failed(runs, job.arrived.elapsed(), now_ms());
        }
        let report = self.report(&mut job, took);
        job.reply.fail(fault, Some(&report));
    }

    fn report(&self, job: &mut Job, took: Duration) -> RunReport {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        RunReport {
            node: self.node,
            load: job.place.end(),
            queue_us: us(self.taken.saturating_duration_since(job.arrived)),
            run_us: us(took),
            attempts: 1,
            batch: 1,
        }
    }
}

/// Whether anybody waits for the rest of a call that is being worked on.
fn still_wanted(job: &Job) -> Result<(), Fault> {
    if job.reply.cancelled().is_set() {
        return Err(Fault::new(FaultCode::Cancelled, "the caller cancelled the call while it ran"));
    }
    if job.deadline <= Instant::now() {
        let text = "the time ran out while the call ran; what was left of it was not run";
        return Err(Fault::new(FaultCode::DeadlineExceededRunning, text));
    }
    Ok(())
}

/// The wall's clock, in milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
