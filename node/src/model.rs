//! One loaded version of a model: its signature, its line of waiting calls, and a thread per session.

use std::{convert::Infallible, io, sync::Arc, thread, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use lineside_wire::{EngineInfo, NodeId};

use crate::{
    batcher::Waiting,
    cache::ResponseCache,
    engine::{OpenError, STACK_BYTES, Session, Signature},
    line::Line,
    opening::Ready,
    queue::Lane,
    repository::VersionId,
    sequence::Sequences,
    settings::Settings,
    statistics::Counters,
    task::Tasks,
    watch::{Slot, Watch, Watched},
    worker::{Job, Post, Worker},
};

/// A version that serves. When it is dropped, its workers finish what waits and end.
pub(crate) struct Model {
    pub(crate) id: VersionId,
    /// Tells two loads of one version apart.
    pub(crate) serial: u64,
    /// What callers send and get: without the state of sequences.
    pub(crate) signature: Arc<Signature>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) lane: Arc<Lane>,
    pub(crate) sequences: Option<Arc<Sequences>>,
    pub(crate) cache: Option<Arc<ResponseCache>>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) info: EngineInfo,
    /// Sessions, which are slots.
    pub(crate) sessions: usize,
    jobs: Sender<Waiting<Job>>,
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
    pub(crate) counters: Arc<Counters>,
    /// Waiting calls of the whole node: no version can have more.
    pub(crate) queue_max: usize,
    pub(crate) watch: Arc<Watch>,
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
    pub(crate) fn start(id: VersionId, ready: Ready, around: &Around) -> io::Result<Self> {
        let (count, lane) = (ready.sessions.len(), Arc::new(lane(&ready, around.queue_max)));
        let visible = ready.sequences.as_ref().map(|sequences| sequences.visible(&ready.signature));
        let visible = visible.unwrap_or(ready.signature);
        let (tasks, sequences) = (Arc::new(ready.tasks), ready.sequences.map(Arc::new));
        let cache = ready.cache.map(Arc::new);
        // Room for all who can have a place: who waits, and who was given an idle session a moment ago.
        let (jobs, line) = Line::new(ready.rules, around.queue_max + count);
        let (line, (alive, ended)) = (Arc::new(line), Ended::pair());
        let mut slots = Vec::with_capacity(count);
        for (number, session) in ready.sessions.into_iter().enumerate() {
            let slot = Arc::new(Slot::new(session.stopper()));
            slots.push(Arc::downgrade(&slot));
            let post = Post {
                id: id.clone(),
                node: around.node,
                slot,
                tasks: Arc::clone(&tasks),
                sequences: sequences.clone(),
                cache: cache.clone(),
                counters: Arc::clone(&around.counters),
                line: Arc::clone(&line),
                watch: Arc::clone(&around.watch),
            };
            let worker = Worker {
                session,
                post,
                reopen: Arc::clone(&around.reopen),
                lost: Arc::clone(&around.lost),
                _alive: (alive.clone(), around.alive.clone()),
            };
            thread::Builder::new()
                .name(format!("lineside-{}-{number}", id.name))
                .stack_size(STACK_BYTES)
                .spawn(move || worker.run())?;
        }
        around.counters.takes(ready.info.memory_bytes);
        around.watch.add(Watched {
            node: around.node,
            name: id.name.clone(),
            counters: Arc::clone(&around.counters),
            lane: Arc::clone(&lane),
            line: Arc::downgrade(&line),
            slots,
            sequences: sequences.as_ref().map(Arc::downgrade),
        });
        Ok(Self {
            id,
            serial: around.serial,
            signature: Arc::new(visible),
            tasks,
            counters: Arc::clone(&around.counters),
            lane,
            sequences,
            cache,
            settings: Arc::new(ready.settings),
            info: ready.info,
            sessions: count,
            jobs,
            ended,
        })
    }

    /// Hands a call to the workers. Its place guarantees the room; it comes back when no worker is left.
    pub(crate) fn push(&self, job: Waiting<Job>) -> Result<(), Box<Job>> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(waiting) | TrySendError::Disconnected(waiting) => Box::new(waiting.job),
        })
    }

    /// Tells when the workers have ended, once this version is dropped.
    pub(crate) fn ended(&self) -> Ended {
        self.ended.clone()
    }
}

/// The places of a version's sessions.
fn lane(ready: &Ready, queue_max: usize) -> Lane {
    let own = ready.settings.queue.max.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
    let lane = Lane::new(ready.sessions.len(), own.unwrap_or(queue_max), ready.rules.clone());
    // Until the first call, what was measured at load is the best guess.
    ready.run_time.into_iter().for_each(|took| lane.ran(took));
    lane
}
