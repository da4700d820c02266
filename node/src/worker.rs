//! The thread that owns a session: takes calls up, runs them, answers them.
//!
//! One call runs with its inputs as they were received. Several run together ([`Work::together`]); when that fails, each
//! runs alone, so that an error meets only its cause. A run is stopped on the way when nobody waits for it any more.

mod together;
mod work;

use std::sync::Arc;

use lineside_mesh::Responder;
use lineside_wire::{Fault, FaultCode, NodeId};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use self::{together::Together, work::Work};
use crate::{
    batcher::Waiting,
    cache::{CacheKey, ResponseCache},
    engine::{Session, guarded},
    line::Line,
    model::{Alive, Lost, Reopen},
    queue::Place,
    repository::VersionId,
    sequence::{Sequences, Step},
    statistics::Counters,
    task::{Request, Tasks},
    watch::{Slot, Watch},
};

/// How much an inference thread yields to the network's threads and to gossip, so that a node which computes on every
/// core is not taken for dead.
const NICENESS: i32 = 5;

/// A call that was accepted. Dropped without an answer, its caller is told so.
pub(crate) struct Job {
    pub(crate) request: Request,
    /// What it does with its sequence.
    pub(crate) step: Option<Step>,
    /// Where its answer is kept.
    pub(crate) cache_key: Option<CacheKey>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) reply: Responder,
    /// Last, so that it is given up after the answer: an idle node has answered everybody.
    pub(crate) place: Place,
}

/// Owns one session.
pub(crate) struct Worker {
    pub(crate) session: Box<dyn Session>,
    pub(crate) post: Post,
    pub(crate) reopen: Arc<Reopen>,
    pub(crate) lost: Arc<Lost>,
    /// Of the version, whose unload waits for its workers, and of the node. Last, so that the session is freed before.
    pub(crate) _alive: (Alive, Alive),
}

/// What a worker has beside its session.
pub(crate) struct Post {
    pub(crate) id: VersionId,
    pub(crate) node: NodeId,
    /// Where a run can be stopped.
    pub(crate) slot: Arc<Slot>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) sequences: Option<Arc<Sequences>>,
    pub(crate) cache: Option<Arc<ResponseCache>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) line: Arc<Line>,
    pub(crate) watch: Arc<Watch>,
}

impl Worker {
    /// Serves until the version is dropped and nobody waits, or the session is lost for good.
    pub(crate) fn run(mut self) {
        yield_to_the_network();
        while let Some(batch) = self.post.line.next() {
            // A request of a sequence runs alone.
            let sequence = batch.first().and_then(|first| first.traits.sequence.clone());
            // Whatever fails here: the line must hear of the sequence's end, and the session must not be lost unsaid.
            let served = guarded(|| self.serve(batch)).unwrap_or_else(|panic| self.renew(&panic));
            if let Some(sequence) = sequence {
                self.post.line.ended(&sequence);
            }
            if let Err(reason) = served {
                let VersionId { name, version } = &self.post.id;
                warn!(model = %name, %version, reason, "a session is lost");
                return (self.lost)(&format!(
                    "a session panicked and could not be opened again: {reason}; load the model again"
                ));
            }
        }
    }

    /// Runs and answers what was taken up together.
    ///
    /// # Errors
    /// The session is lost, with the reason. Everybody has been answered.
    fn serve(&mut self, batch: Vec<Waiting<Job>>) -> Result<(), String> {
        let taken = Instant::now();
        let work = Work { post: &self.post, taken };
        let mut jobs = work.wanted(batch);
        if 1 < jobs.len() {
            match work.together(self.session.as_mut(), jobs) {
                Together::Answered => return Ok(()),
                Together::Panicked(panic) => return self.renew(&panic),
                Together::Apart(apart) => jobs = apart,
            }
        }
        let mut jobs = jobs.into_iter();
        while let Some(mut job) = jobs.next() {
            let work = Work { post: &self.post, taken };
            Place::begin([&mut job.place], taken);
            let Err(panic) = work.alone(self.session.as_mut(), job) else { continue };
            if let Err(reason) = self.renew(&panic) {
                let text = format!("{} lost its session; see the node's log", self.post.id.name);
                let fault = Fault::new(FaultCode::ModelUnavailable, text);
                let work = Work { post: &self.post, taken };
                jobs.for_each(|job| work.turn_away(job, &fault));
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Replaces a session that panicked: what it left behind is not to be trusted.
    fn renew(&mut self, panic: &str) -> Result<(), String> {
        let VersionId { name, version } = &self.post.id;
        error!(model = %name, %version, panic, "the engine panicked");
        let opened = guarded(|| (self.reopen)())?;
        let old = std::mem::replace(&mut self.session, opened.map_err(|error| error.to_string())?);
        self.post.slot.renew(self.session.stopper());
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
