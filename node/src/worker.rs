//! The thread that owns a session: takes calls up, runs them, answers them.

use std::{sync::Arc, time::Duration};

use crossbeam_channel::Receiver;
use lineside_mesh::Responder;
use lineside_wire::{
    Executed, Fault, FaultCode, InferResult, NodeId, Parameters, RunReport, Tensor, join_tensors,
};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::{
    check::Fitting,
    engine::{RunError, Session, guarded},
    model::{Alive, Lost, Reopen},
    queue::Place,
    repository::VersionId,
};

/// How much an inference thread yields to the network's threads and to gossip, so that a node which computes on every
/// core is not taken for dead.
const NICENESS: i32 = 5;

/// A call that was accepted. Dropped without an answer, its caller is told so.
pub(crate) struct Job {
    pub(crate) request: Fitting,
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
            let work = Work { id: &self.id, node: self.node, taken: Instant::now() };
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
            self.fail(job, &fault, Duration::ZERO);
            return Ok(());
        }
        let Fitting { inputs, wanted } = &job.request;
        let outcome = guarded(|| session.run(inputs, wanted));
        let took = self.taken.elapsed();
        match outcome {
            Ok(Ok(outputs)) => {
                job.place.ran(took);
                self.answer(job, &outputs, took);
                Ok(())
            }
            Ok(Err(error)) => {
                job.place.ran(took);
                self.fail(job, &self.fault(&error), took);
                Ok(())
            }
            Err(panic) => {
                let text = format!("the engine panicked while {} ran; see the node's log", self.id.name);
                self.fail(job, &Fault::new(FaultCode::Internal, text), took);
                Err(panic)
            }
        }
    }

    /// Whether anybody waits for the result.
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

    fn fault(&self, error: &RunError) -> Fault {
        match error {
            RunError::Failed(_) => {
                let text = format!("{} failed on this input: {error}", self.id.name);
                Fault::new(FaultCode::InferenceFailed, text)
            }
            RunError::TooLarge { .. } => {
                let fault = Fault::new(FaultCode::LimitExceeded, error.to_string());
                Fault { executed: Executed::Yes, ..fault }
            }
        }
    }

    fn answer(&self, mut job: Job, outputs: &[Tensor], took: Duration) {
        let (outputs, payload) = join_tensors(outputs);
        let result = InferResult {
            model: self.id.name.clone(),
            version: self.id.version,
            outputs,
            parameters: Parameters::new(),
        };
        let report = self.report(&mut job, took);
        job.reply.answer(&result, Some(&report), payload);
    }

    fn fail(&self, mut job: Job, fault: &Fault, took: Duration) {
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
        }
    }
}
