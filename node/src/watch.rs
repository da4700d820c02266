//! Work that nobody waits for any more: found at once, dropped where it waits, stopped where it runs.
//!
//! One thread per node. It sleeps until the earliest deadline of a waiting or running request, or until the mesh says
//! that callers went away ([`NodeService::abandoned`](crate::NodeService)), and costs the path of a call one comparison.
//!
//! ```text
//!   push, begin ─ by(deadline): earlier than the next wake? ─┐           ┌─ lines: take out and answer
//!   callers went away ─ look() ──────────────────────────────┴─► thread ─┤
//!                                                                        └─ slots: stop the run
//! ```
//!
//! It knows versions and their sessions weakly: nothing lives longer for being watched.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use lineside_mesh::Cancelled;
use lineside_wire::{Executed, Fault, FaultCode, ModelName, NodeId, RunReport};
use tokio::time::Instant;
use tracing::error;

use crate::{
    batcher::Waiting,
    engine::{Stopper, guarded},
    line::{Line, Swept},
    model::Alive,
    queue::{Claim, Lane},
    sequence::Sequences,
    statistics::Counters,
    worker::Job,
};

/// Shortest time between two looks. A peer that takes calls back one by one makes the thread look a thousand times a
/// second and no oftener, and no answer is later by more than this.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// The next wake of a thread that sleeps until it is told, or that looks just now: every deadline is earlier.
const NEVER: u64 = u64::MAX;

/// What runs in one session, where it can be stopped.
pub(crate) struct Slot(Mutex<State>);

struct State {
    stopper: Arc<dyn Stopper>,
    /// Who waits for the run; empty between two runs. It keeps its memory for the next.
    running: Vec<Running>,
    stopped: bool,
}

/// A call that runs, alone or joined with others.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) cancelled: Cancelled,
    pub(crate) deadline: Instant,
}

impl Slot {
    pub(crate) fn new(stopper: Arc<dyn Stopper>) -> Self {
        Self(Mutex::new(State { stopper, running: Vec::new(), stopped: false }))
    }

    /// The session was replaced.
    pub(crate) fn renew(&self, stopper: Arc<dyn Stopper>) {
        *self.lock() = State { stopper, running: Vec::new(), stopped: false };
    }

    /// A run of these calls begins. It may be stopped once nobody waits for any of them.
    pub(crate) fn begin(&self, running: impl IntoIterator<Item = Running>) {
        self.lock().running.extend(running);
    }

    /// It has ended; true when it was stopped. The session can be used again.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.lock();
        state.running.clear();
        let stopped = std::mem::take(&mut state.stopped);
        if stopped {
            state.stopper.reset();
        }
        stopped
    }

    /// Stops the run if nobody waits for it any more. Gives the time of the next look at it: when the last of those whose
    /// callers are there is too late.
    fn look(&self, now: Instant) -> Option<Instant> {
        // Held while it is stopped: a run that ends meanwhile waits here, and no stop can come after its reset.
        let mut state = self.lock();
        if state.stopped || state.running.is_empty() {
            return None;
        }
        let waits = state.running.iter().filter(|one| !one.cancelled.is_set());
        if let Some(last) = waits.map(|one| one.deadline).max().filter(|last| now < *last) {
            return Some(last);
        }
        state.stopped = true;
        state.stopper.stop();
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A version that is watched.
pub(crate) struct Watched {
    pub(crate) node: NodeId,
    pub(crate) name: ModelName,
    pub(crate) counters: Arc<Counters>,
    pub(crate) lane: Arc<Lane>,
    pub(crate) line: Weak<Line>,
    pub(crate) slots: Vec<Weak<Slot>>,
    /// Forgotten when they are idle for too long, also where no further request comes.
    pub(crate) sequences: Option<Weak<Sequences>>,
}

/// When there is something to look at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    At(Instant),
    Never,
}

impl Watched {
    fn is_gone(&self) -> bool {
        self.line.strong_count() == 0
    }

    /// Answers what waits in vain, and counts it; gives when to look again.
    fn sweep(&self, now: Instant) -> (usize, Next) {
        let Some(line) = self.line.upgrade() else { return (0, Next::Never) };
        let Swept { removed, next, again } = line.sweep(now);
        let count = removed.len();
        for waiting in removed {
            let fault = in_vain(&self.name, &waiting, now);
            if fault.code != FaultCode::Cancelled {
                waiting.job.place.waited(now);
            }
            let waited = now.saturating_duration_since(waiting.job.arrived);
            self.counters.dropped(&fault, waited);
            self.answer(waiting.job, &fault, waited);
        }
        match (again, next) {
            (true, _) => (count, Next::At(now + LOOK_PAUSE)),
            (false, Some(deadline)) => (count, Next::At(deadline)),
            (false, None) => (count, Next::Never),
        }
    }

    /// Sends the request away whose place this claim may have; false where there is none.
    fn shed(&self, claim: &Claim, now: Instant) -> bool {
        let shed = self.line.upgrade().and_then(|line| line.yield_to(claim));
        let Some(Waiting { job, .. }) = shed else { return false };
        let waited = now.saturating_duration_since(job.arrived);
        let (ms, again) = (waited.as_millis(), job.place.come_again_in().as_millis());
        let text = format!(
            "this node is full, and after {ms} ms in its queue the request gave way to one of a higher priority, or of a \
             caller with fewer; nothing was run"
        );
        let fault =
            Fault::new(FaultCode::Busy, text).retry_after_ms(u64::try_from(again).unwrap_or(u64::MAX).max(1));
        self.counters.shed(job.place.level(), waited);
        self.answer(job, &fault, waited);
        true
    }

    fn answer(&self, mut job: Job, fault: &Fault, waited: Duration) {
        let report = RunReport {
            node: self.node,
            load: job.place.end(),
            queue_us: u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
            run_us: 0,
            attempts: 1,
            batch: 1,
        };
        job.reply.fail(fault, Some(&report));
    }

    /// Drops and stops what nobody waits for; gives when to look again.
    fn look(&self, now: Instant) -> Next {
        let (_, next) = self.sweep(now);
        let runs = self.slots.iter().filter_map(Weak::upgrade).filter_map(|slot| slot.look(now)).min();
        let sequences = self.sequences.as_ref().and_then(Weak::upgrade);
        next.or(runs).or(sequences.and_then(|sequences| sequences.expire(now)))
    }
}

impl Next {
    fn or(self, other: Option<Instant>) -> Self {
        match (self, other) {
            (Self::At(one), Some(other)) => Self::At(one.min(other)),
            (Self::Never, Some(other)) => Self::At(other),
            (next, None) => next,
        }
    }
}

/// Why a request that waits is not to be run, or `None` while somebody waits for it.
pub(crate) fn unwanted(name: &ModelName, waiting: &Waiting<Job>, now: Instant) -> Option<Fault> {
    let wanted = now.into_std() < waiting.traits.deadline && !waiting.job.reply.cancelled().is_set();
    (!wanted).then(|| in_vain(name, waiting, now))
}

fn in_vain(name: &ModelName, waiting: &Waiting<Job>, now: Instant) -> Fault {
    let job = &waiting.job;
    if job.reply.cancelled().is_set() {
        let fault = Fault::new(FaultCode::Cancelled, "the caller cancelled the call before it ran");
        return Fault { executed: Executed::No, ..fault };
    }
    let waited = now.saturating_duration_since(job.arrived).as_millis();
    if now < job.deadline {
        // The caller has time left, which another node may use better.
        let text = format!(
            "the request waited {waited} ms, which is as long as the queue of {name} lets one wait; nothing was run"
        );
        return Fault::new(FaultCode::Busy, text)
            .retry_after_ms(u64::try_from(waited).unwrap_or(u64::MAX).max(1));
    }
    let text = format!("the time ran out after {waited} ms in the queue; nothing was run");
    Fault::new(FaultCode::DeadlineExceeded, text)
}

/// What looks for work that nobody waits for. The thread ends when the last of those who can tell it is gone.
pub(crate) struct Watch {
    nudge: Sender<()>,
    board: Arc<Board>,
}

/// What the thread shares with those who tell it.
struct Board {
    began: Instant,
    /// When the thread wakes next, in nanoseconds after `began`.
    next_wake: AtomicU64,
    versions: ArcSwap<Vec<Arc<Watched>>>,
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(crate) fn start(alive: Alive) -> io::Result<Arc<Self>> {
        let (watch, nudged) = Self::pair();
        let board = Arc::clone(&watch.board);
        thread::Builder::new().name("lineside-watch".to_owned()).spawn(move || {
            board.run(&nudged);
            drop(alive);
        })?;
        Ok(Arc::new(watch))
    }

    fn pair() -> (Self, Receiver<()>) {
        // One nudge is enough: who finds it there will be looked at with it.
        let (nudge, nudged) = bounded(1);
        let (next_wake, versions) = (AtomicU64::new(NEVER), ArcSwap::default());
        (Self { nudge, board: Arc::new(Board { began: Instant::now(), next_wake, versions }) }, nudged)
    }

    /// Looks after a version's waiting and running requests, as long as it is there.
    pub(crate) fn add(&self, version: Watched) {
        let version = Arc::new(version);
        self.board.versions.rcu(|versions| {
            let alive = versions.iter().filter(|version| !version.is_gone());
            alive.chain([&version]).map(Arc::clone).collect::<Vec<_>>()
        });
    }

    /// Something waits or runs that is to be looked at by then. It must be where a look finds it.
    pub(crate) fn by(&self, deadline: Instant) {
        // With the fence of `Board::look`: either this sees that the thread is about to look, or the look sees what
        // was put there before this.
        fence(Ordering::SeqCst);
        if self.board.since_began(deadline) < self.board.next_wake.load(Ordering::Relaxed) {
            self.look();
        }
    }

    /// Some callers went away: look now.
    pub(crate) fn look(&self) {
        // Full, a nudge is on its way; closed, nothing is left to look at.
        let _ = self.nudge.try_send(());
    }

    /// Drops the waiting calls that nobody wants any more, on the thread of who asks, and counts them.
    pub(crate) fn sweep(&self, now: Instant) -> usize {
        self.board.versions.load().iter().map(|version| version.sweep(now).0).sum()
    }
}

impl Watch {
    /// Sends a waiting call away, on the thread of who asks, so that one that claims its place can have it. False where
    /// none may be sent away, or a session is looking for work just now.
    ///
    /// Of the lowest priority first; where two versions are alike, of the one that the claim is about.
    pub(crate) fn shed(&self, claim: &Claim, now: Instant) -> bool {
        let versions = self.board.versions.load();
        let mut ranked: Vec<_> =
            versions.iter().filter_map(|version| Some((claim.rank(&version.lane)?, version))).collect();
        ranked.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        ranked.into_iter().any(|(_, version)| version.shed(claim, now))
    }
}

impl Board {
    fn run(&self, nudged: &Receiver<()>) {
        let mut next = Next::Never;
        loop {
            let woken = match next {
                Next::At(at) => nudged.recv_deadline(at.into_std()),
                Next::Never => nudged.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            next = guarded(|| self.look(Instant::now())).unwrap_or_else(|panic| {
                error!(panic, "the search for abandoned calls panicked");
                Next::Never
            });
            thread::sleep(LOOK_PAUSE);
        }
    }

    /// Looks at everything; gives when to look again.
    fn look(&self, now: Instant) -> Next {
        self.next_wake.store(NEVER, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let versions = self.versions.load();
        let next = versions.iter().fold(Next::Never, |next, version| match version.look(now) {
            Next::At(at) => next.or(Some(at)),
            Next::Never => next,
        });
        let wake = match next {
            Next::At(at) => self.since_began(at),
            Next::Never => NEVER,
        };
        // Who came in meanwhile saw `NEVER` and has nudged: the thread will look again at once.
        self.next_wake.store(wake, Ordering::Relaxed);
        if versions.iter().any(|version| version.is_gone()) {
            self.versions.rcu(|versions| {
                versions.iter().filter(|version| !version.is_gone()).map(Arc::clone).collect::<Vec<_>>()
            });
        }
        next
    }

    fn since_began(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.began).as_nanos()).unwrap_or(NEVER)
    }
}

#[cfg(test)]
mod tests;
