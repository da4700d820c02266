//! One loaded version of a model: its signature, its line of waiting calls, and a thread per session.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use lineside_wire::NodeId;

use crate::{
    engine::{OpenError, Session, Signature},
    queue::Lane,
    repository::VersionId,
    statistics::Counters,
    task::Tasks,
    worker::{Job, Worker},
};

/// A version that serves. When it is dropped, its workers finish what waits and end.
pub(crate) struct Model {
    pub(crate) id: VersionId,
    /// Tells two loads of one version apart.
    pub(crate) serial: u64,
    pub(crate) signature: Arc<Signature>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) lane: Arc<Lane>,
    jobs: Sender<Job>,
    /// The other end of `jobs`, which is the workers': without them it is gone.
    line: Weak<Receiver<Job>>,
    ended: Ended,
}

/// Held by a thread while it lives; never sent on.
pub(crate) type Alive = Sender<Infallible>;

/// Tells when every thread that held an [`Alive`] has ended.
#[derive(Clone)]
pub(crate) struct Ended(Receiver<Infallible>);

impl Ended {
    /// What the threads hold, and what tells of their end.
    pub(crate) fn pair() -> (Alive, Self) {
        let (alive, ended) = bounded(0);
        (alive, Self(ended))
    }

    /// Whether they have ended within this time.
    pub(crate) fn within(&self, time: Duration) -> bool {
        matches!(self.0.recv_timeout(time), Err(RecvTimeoutError::Disconnected))
    }
}

/// What the workers of a version need of the node.
pub(crate) struct Around {
    pub(crate) node: NodeId,
    /// Tells two loads of one version apart.
    pub(crate) serial: u64,
    /// What the version does beyond its own tensors.
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) counters: Arc<Counters>,
    /// Waiting calls of the whole node: no version can have more.
    pub(crate) queue_max: usize,
    /// Held by every worker: the node's end waits for them.
    pub(crate) alive: Alive,
    /// Opens the model again after a panic.
    pub(crate) reopen: Arc<Reopen>,
    /// Told, with the reason, when a session is lost for good.
    pub(crate) lost: Arc<Lost>,
}

pub(crate) type Reopen = dyn Fn() -> Result<Box<dyn Session>, OpenError> + Send + Sync;
pub(crate) type Lost = dyn Fn(&str) + Send + Sync;

impl Model {
    /// Starts a thread for each session.
    ///
    /// # Errors
    /// The system gives no more threads; those that were started end again.
    pub(crate) fn start(id: VersionId, sessions: Vec<Box<dyn Session>>, around: &Around) -> io::Result<Self> {
        let signature = sessions.first().map(|session| session.signature().clone()).unwrap_or_default();
        // Room for all who can have a place: who waits, and who was given an idle session a moment ago.
        let (jobs, waiting) = bounded(around.queue_max + sessions.len());
        let waiting = Arc::new(waiting);
        let line = Arc::downgrade(&waiting);
        let (alive, ended) = Ended::pair();
        let lane = Arc::new(Lane::new(sessions.len()));
        for (number, session) in sessions.into_iter().enumerate() {
            let worker = Worker {
                id: id.clone(),
                node: around.node,
                session,
                tasks: Arc::clone(&around.tasks),
                counters: Arc::clone(&around.counters),
                jobs: Arc::clone(&waiting),
                reopen: Arc::clone(&around.reopen),
                lost: Arc::clone(&around.lost),
                _alive: (alive.clone(), around.alive.clone()),
            };
            thread::Builder::new()
                .name(format!("lineside-{}-{number}", id.name))
                .spawn(move || worker.run())?;
        }
        let (serial, signature) = (around.serial, Arc::new(signature));
        let (tasks, counters) = (Arc::clone(&around.tasks), Arc::clone(&around.counters));
        Ok(Self { id, serial, signature, tasks, counters, lane, jobs, line, ended })
    }

    /// Hands a call to the workers. Its place guarantees the room; it comes back when no worker is left.
    pub(crate) fn push(&self, job: Job) -> Result<(), Box<Job>> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => Box::new(job),
        })
    }

    /// Drops the waiting calls that nobody wants any more, and counts them. The others stay in their order, but for one
    /// that a worker takes up meanwhile.
    pub(crate) fn clear_cancelled(&self) -> usize {
        let Some(line) = self.line.upgrade() else { return 0 };
        let mut cleared = 0;
        for _ in 0..line.len() {
            let Ok(job) = line.try_recv() else { break };
            if job.reply.cancelled().is_set() {
                // Its responder says so, and its place is free.
                drop(job);
                cleared += 1;
            } else if let Err(job) = self.push(job) {
                debug_assert!(false, "a call that has a place has room");
                drop(job);
            }
        }
        cleared
    }

    /// Tells when the workers have ended, once this version is dropped.
    pub(crate) fn ended(&self) -> Ended {
        self.ended.clone()
    }
}
