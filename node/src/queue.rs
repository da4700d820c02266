//! Who gets a place: the node's bounded queue, and what it can do in time.
//!
//! Counters and arithmetic; no lock, no clock. A call gets an idle session's place at once; when its model has none it
//! waits, and all waiting calls of the node together have `max` places, those of a model at most its own number. A call
//! that would wait past its deadline is refused at once, with the wait it would have had, so that another node may take
//! it. How long that is comes from the runs so far: how long they took, and how many calls one run takes together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lineside_wire::LoadReport;
use tokio::sync::Notify;

use crate::batcher::Rules;

/// Weight of the newest run in the means: one in eight forgets a slow start within some ten calls.
const MEAN_SHIFT: u32 = 3;

/// Calls that fit one run are counted in parts of this many: a mean of 1.5 makes a difference.
const CALL: u64 = 256;

/// The node's places.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    running: AtomicUsize,
    /// Calls that have given their place up and are not answered yet.
    answering: AtomicUsize,
    max: usize,
    slots: usize,
    /// Told when the last call has ended.
    idle: Notify,
}

/// The places of one model's sessions.
#[derive(Debug)]
pub(crate) struct Lane {
    sessions: usize,
    /// Calls that may wait here.
    max: usize,
    rules: Rules,
    /// Calls that wait, by priority; the first is the highest.
    waiting: Box<[AtomicUsize]>,
    /// Sessions that run, or are kept for a call that is on its way to one.
    taken: AtomicUsize,
    /// Calls on the way to the session that is kept for them: others can still join their run.
    coming: AtomicUsize,
    /// Mean run time in microseconds; 0 until the first run.
    run_us: AtomicU64,
    /// Calls that fit one run, in parts of [`CALL`].
    fits: AtomicU64,
}

/// What a call that asks for a place says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Time until it must be answered.
    pub(crate) remaining: Duration,
    /// Time that it may wait, where its model sets one.
    pub(crate) patience: Option<Duration>,
    /// As the caller gave it; 0 is none.
    pub(crate) priority: u8,
}

/// Why there is no place, and how long a call would wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// All places of the node are taken.
    Full { wait: Duration },
    /// All places of the model are taken.
    ModelFull { wait: Duration },
    /// There is a place, but its turn comes too late.
    TooLate { wait: Duration },
}

impl Refusal {
    /// How long a call would wait.
    pub(crate) const fn wait(self) -> Duration {
        match self {
            Self::Full { wait } | Self::ModelFull { wait } | Self::TooLate { wait } => wait,
        }
    }
}

impl Queue {
    pub(crate) fn new(slots: usize, max: usize) -> Self {
        let [waiting, running, answering] = [0; 3].map(AtomicUsize::new);
        Self { waiting, running, answering, max, slots, idle: Notify::new() }
    }

    /// Gives a place in `lane` to a call.
    pub(crate) fn admit(self: &Arc<Self>, lane: &Arc<Lane>, wish: Wish) -> Result<Place, Refusal> {
        let level = lane.level(wish.priority);
        let place = |step| Place { queue: Arc::clone(self), lane: Arc::clone(lane), step, level };
        // Nobody overtakes those who wait, for whom the next session is.
        if lane.count() == 0 && lane.take_session() {
            self.running.fetch_add(1, Ordering::AcqRel);
            lane.coming.fetch_add(1, Ordering::AcqRel);
            return Ok(place(Step::Comes));
        }
        let run = Duration::from_micros(lane.run_us.load(Ordering::Relaxed));
        let wait = lane.expected_wait(level, run);
        let late = wish.patience.is_some_and(|patience| patience < wait);
        if late || wish.remaining < wait.saturating_add(run) {
            return Err(Refusal::TooLate { wait });
        }
        lane.waiting[level].fetch_add(1, Ordering::AcqRel);
        let undo = |refusal| {
            lane.waiting[level].fetch_sub(1, Ordering::AcqRel);
            Err(refusal)
        };
        if lane.max < lane.count() {
            return undo(Refusal::ModelFull { wait });
        }
        if self.max <= self.waiting.fetch_add(1, Ordering::AcqRel) {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return undo(Refusal::Full { wait });
        }
        Ok(place(Step::Waits))
    }

    /// How much there is to do.
    pub(crate) fn load(&self) -> LoadReport {
        let count = |value: &AtomicUsize| u32::try_from(value.load(Ordering::Acquire)).unwrap_or(u32::MAX);
        LoadReport {
            running: count(&self.running),
            queued: count(&self.waiting),
            slots: u32::try_from(self.slots).unwrap_or(u32::MAX),
            limit: 0,
            call_us: 0,
        }
    }

    /// Waits until every call is answered. Cancel-safe.
    pub(crate) async fn until_idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// In the order of a call's steps, each of which is counted before the one before it is not: none is missed.
    fn is_idle(&self) -> bool {
        [&self.waiting, &self.running, &self.answering].iter().all(|count| count.load(Ordering::Acquire) == 0)
    }

    fn count(&self, step: Step) -> &AtomicUsize {
        match step {
            Step::Waits => &self.waiting,
            Step::Comes | Step::Runs { .. } => &self.running,
            Step::Answers => &self.answering,
        }
    }
}

impl Lane {
    /// The places of so many sessions, whose runs are joined by these rules. `max` calls may wait for them.
    pub(crate) fn new(sessions: usize, max: usize, rules: Rules) -> Self {
        let levels = usize::from(rules.levels.max(1));
        Self {
            sessions,
            max,
            waiting: (0..levels).map(|_| AtomicUsize::new(0)).collect(),
            taken: AtomicUsize::new(0),
            coming: AtomicUsize::new(0),
            run_us: AtomicU64::new(0),
            // Of calls of one row; what is less, runs that leave calls behind will show.
            fits: AtomicU64::new(rules.joined_max().clamp(1, u64::MAX / CALL) * CALL),
            rules,
        }
    }

    /// Takes the time of one run into the mean; also of one that was measured before the first call.
    pub(crate) fn ran(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Two workers may do this at once; then one measurement is lost, which a mean can bear.
        let mean = match self.run_us.load(Ordering::Relaxed) {
            0 => took,
            mean => mean - (mean >> MEAN_SHIFT) + (took >> MEAN_SHIFT),
        };
        self.run_us.store(mean.max(1), Ordering::Relaxed);
    }

    /// So many calls were taken up for one run, and some may have been left behind.
    ///
    /// A run that took all there were says that so many fit, and nothing of how many more would have.
    fn took_up(&self, calls: u64, left: bool) {
        let (calls, mean) = (calls.saturating_mul(CALL), self.fits.load(Ordering::Relaxed));
        if mean < calls || left {
            let next = mean - (mean >> MEAN_SHIFT) + (calls >> MEAN_SHIFT);
            self.fits.store(next.max(CALL), Ordering::Relaxed);
        }
    }

    /// How long a call of this level waits behind those that wait now, when every session runs.
    ///
    /// With an idle session it is nothing, so such a call is always tried: only runs can correct a mean that one slow
    /// run has raised. It is nothing too where there is room in a run that waits for others. Who has an earlier deadline
    /// than those who wait may come sooner than this says.
    fn expected_wait(&self, level: usize, run: Duration) -> Duration {
        let ahead: usize = self.waiting[..=level].iter().map(|count| count.load(Ordering::Acquire)).sum();
        let fits = self.fits.load(Ordering::Relaxed);
        let coming = self.coming.load(Ordering::Acquire);
        if 0 < coming && ((coming + ahead) as u64).saturating_mul(CALL) < fits {
            return Duration::ZERO;
        }
        let round = fits.saturating_mul(self.sessions as u64) / CALL;
        let rounds = ahead as u64 / round.max(1) + 1;
        run.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    /// Whether no call waits or runs here.
    pub(crate) fn is_idle(&self) -> bool {
        self.count() == 0 && self.taken.load(Ordering::Acquire) == 0
    }

    /// Calls that wait.
    fn count(&self) -> usize {
        self.waiting.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }

    /// The place of a priority among the others, 0 the highest.
    fn level(&self, priority: u8) -> usize {
        usize::from(self.rules.level(priority).saturating_sub(1)).min(self.waiting.len() - 1)
    }

    /// Keeps an idle session for a call, where there is one.
    fn take_session(&self) -> bool {
        let idle = self.taken.fetch_add(1, Ordering::AcqRel) < self.sessions;
        if !idle {
            self.taken.fetch_sub(1, Ordering::AcqRel);
        }
        idle
    }
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waits,
    /// A session is kept for it.
    Comes,
    /// With a session, or as one of several in one run, of which the first holds the session.
    Runs {
        holds: bool,
    },
    Answers,
}

impl Step {
    /// Whether a session is taken by the call.
    const fn holds(self) -> bool {
        matches!(self, Self::Comes | Self::Runs { holds: true })
    }
}

/// A call's place, from its acceptance until it is dropped, so that no way out of a call can leak it.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    lane: Arc<Lane>,
    step: Step,
    /// Of its priority.
    level: usize,
}

impl Place {
    /// A session has taken these calls of one model up, to run them together.
    pub(crate) fn begin<'a>(places: impl IntoIterator<Item = &'a mut Self>) {
        let (mut calls, mut lane) = (0, None);
        for place in places {
            // One session for all of them: what the others were given is free again.
            place.runs(calls == 0);
            calls += 1;
            lane = Some(Arc::clone(&place.lane));
        }
        if let Some(lane) = lane {
            lane.took_up(calls, 0 < lane.count());
        }
    }

    /// The session is free for the next call; this one is answered now. Gives the node's load without it.
    ///
    /// Before the answer goes out, so that a caller who sends its next call at once finds the place free.
    pub(crate) fn end(&mut self) -> LoadReport {
        self.answers();
        self.queue.load()
    }

    /// Takes the time of a run into its model's mean; of a run of several calls, one says it for all.
    pub(crate) fn ran(&self, took: Duration) {
        self.lane.ran(took);
    }

    /// A run was stopped after this time: it would have taken at least as long.
    pub(crate) fn stopped_after(&self, took: Duration) {
        if Duration::from_micros(self.lane.run_us.load(Ordering::Relaxed)) < took {
            self.lane.ran(took);
        }
    }

    fn runs(&mut self, holds: bool) {
        if self.step == Step::Answers {
            return;
        }
        match (self.step.holds(), holds) {
            (false, true) => _ = self.lane.taken.fetch_add(1, Ordering::AcqRel),
            (true, false) => _ = self.lane.taken.fetch_sub(1, Ordering::AcqRel),
            (true, true) | (false, false) => {}
        }
        self.advance(Step::Runs { holds });
    }

    fn answers(&mut self) {
        if self.step == Step::Answers {
            return;
        }
        if self.step.holds() {
            self.lane.taken.fetch_sub(1, Ordering::AcqRel);
        }
        self.advance(Step::Answers);
    }

    /// Counts the call where it is now, before it is not counted any more where it was.
    fn advance(&mut self, to: Step) {
        self.queue.count(to).fetch_add(1, Ordering::AcqRel);
        self.queue.count(self.step).fetch_sub(1, Ordering::AcqRel);
        match self.step {
            Step::Waits => _ = self.lane.waiting[self.level].fetch_sub(1, Ordering::AcqRel),
            Step::Comes => _ = self.lane.coming.fetch_sub(1, Ordering::AcqRel),
            Step::Runs { .. } | Step::Answers => {}
        }
        self.step = to;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.answers();
        self.queue.answering.fetch_sub(1, Ordering::AcqRel);
        if self.queue.is_idle() {
            self.queue.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
