//! Who gets a place: the node's bounded queue, and what it can do in time.
//!
//! Counters and arithmetic; no lock that is waited for, no clock. A call gets an idle session's place at once; when its
//! model has none it waits, and all waiting calls of the node together have so many places as the [limit](limit) says,
//! those of a model at most its own number. A call that would wait past its deadline is refused at once, with the wait it
//! would have had, so that another node may take it. How long that is comes from the runs so far: how long they took, and
//! how many calls one run takes together.
//!
//! ```text
//!   an idle session ───────────────────────────────▸ runs
//!   none, and a place is left ────▸ waits ─────────▸ runs
//!   no place left ─┬─ a call of a lower priority waits, or one of a caller with more than its share:
//!                  │  the newest of them is sent away, and this one has its place
//!                  └─ else it is refused at once
//!   its turn would come too late ──▸ refused at once
//! ```

mod callers;
mod lane;
mod limit;
mod place;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lineside_wire::LoadReport;
use tokio::{sync::Notify, time::Instant};

pub(crate) use self::{
    callers::Caller,
    lane::Lane,
    place::{Claim, Place},
};
use self::{
    callers::Callers,
    limit::{Limit, Pressure, Wait},
    place::Step,
};

/// Weight of one call in the mean time of a call, as a part of this many. A run of several calls weighs as much as they do,
/// up to [`CALLS_AT_ONCE`].
const CALL_WEIGHT: u64 = 16;

/// Most calls of one run that its time counts for: half of the mean is from before.
const CALLS_AT_ONCE: u64 = CALL_WEIGHT / 2;

/// The node's places.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    running: AtomicUsize,
    /// Of those that count as running, the ones whose session another call took before they came to it: they wait.
    ///
    /// Below zero for a moment, when two threads meet.
    overtaken: AtomicIsize,
    /// Calls that have given their place up and are not answered yet.
    answering: AtomicUsize,
    max: usize,
    slots: usize,
    /// What moves [`Self::room`]; `None`: nothing does.
    limit: Option<Mutex<Limit>>,
    /// Calls that may wait while every slot is taken.
    room: AtomicUsize,
    /// The most that waited since the limit was looked at.
    waiting_max: AtomicUsize,
    /// Whether it kept a call out since then.
    refused: AtomicBool,
    /// Mean time of one call on one slot, in nanoseconds; 0 until the first.
    call_ns: AtomicU64,
    callers: Callers,
    /// Told when the last call has ended.
    idle: Notify,
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
    pub(crate) caller: Caller,
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

    /// When to come again: where there is no place, when half of those who wait have gone, so that nobody who waits for
    /// that finds the sessions idle; where the turn would come too late, when there is none before it.
    pub(crate) fn come_again_in(self) -> Duration {
        match self {
            Self::Full { wait } | Self::ModelFull { wait } => wait / 2,
            Self::TooLate { wait } => wait,
        }
    }
}

impl Queue {
    /// Places for `max` calls that wait for so many slots; `adaptive` finds out how many of them do good.
    pub(crate) fn new(slots: usize, max: usize, adaptive: bool) -> Self {
        let [waiting, running, answering, waiting_max] = [0; 4].map(AtomicUsize::new);
        Self {
            waiting,
            running,
            overtaken: AtomicIsize::new(0),
            answering,
            max,
            slots,
            limit: adaptive.then(|| Mutex::new(Limit::new(max))),
            room: AtomicUsize::new(max),
            waiting_max,
            refused: AtomicBool::new(false),
            call_ns: AtomicU64::new(0),
            callers: Callers::new(),
            idle: Notify::new(),
        }
    }

    /// Gives a place in `lane` to a call.
    pub(crate) fn admit(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        wish: Wish,
        now: Instant,
    ) -> Result<Place, Refusal> {
        let level = lane.level(wish.priority);
        let run = lane.run_time();
        let time = wish.patience.map_or(wish.remaining, |patience| patience.min(wish.remaining));
        let (caller, aim) = (wish.caller, limit::aim(time, run));
        let place = |step| {
            let (queue, lane) = (Arc::clone(self), Arc::clone(lane));
            Place { queue, lane, step, level, caller, asked: now, aim }
        };
        // Nobody overtakes those who wait, for whom the next session is.
        if lane.count() == 0 && lane.take_session() {
            self.running.fetch_add(1, Ordering::AcqRel);
            lane.coming.fetch_add(1, Ordering::AcqRel);
            return Ok(place(Step::Comes));
        }
        let wait = lane.expected_wait(level);
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
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.places() <= before {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            self.refused.store(true, Ordering::Relaxed);
            return undo(Refusal::Full { wait });
        }
        self.waiting_max.fetch_max(before + 1, Ordering::Relaxed);
        self.callers.enter(caller);
        Ok(place(Step::Waits))
    }

    /// How much there is to do, and how much would be taken.
    pub(crate) fn load(&self) -> LoadReport {
        let [running, queued, room] =
            [&self.running, &self.waiting, &self.room].map(|count| count.load(Ordering::Acquire));
        let overtaken = usize::try_from(self.overtaken.load(Ordering::Acquire)).unwrap_or(0).min(running);
        let (running, queued) = (running - overtaken, queued + overtaken);
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let call_us = self.call_ns.load(Ordering::Relaxed).div_ceil(1_000);
        LoadReport {
            running: number(running),
            queued: number(queued),
            slots: number(self.slots),
            // What was taken was within the limit of its time: a run that joins calls has more than one in a slot, and a
            // limit that falls sends nobody away.
            limit: number(running.max(self.slots) + room.max(queued)),
            call_us: u32::try_from(call_us).unwrap_or(u32::MAX),
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

    /// Calls that may wait now: slots that nothing runs in are places, too, where the only session of a model is taken.
    fn places(&self) -> usize {
        let free = self.slots.saturating_sub(self.running.load(Ordering::Acquire));
        self.room.load(Ordering::Relaxed).saturating_add(free).min(self.max)
    }

    /// A call has waited, and its turn has come or its time was over.
    fn waited(&self, wait: Wait) {
        let Some(limit) = &self.limit else { return };
        let mut limit = match limit.try_lock() {
            Ok(limit) => limit,
            Err(TryLockError::Poisoned(limit)) => limit.into_inner(),
            // Another worker measures just now; then one measurement is lost, which a mean can bear.
            Err(TryLockError::WouldBlock) => return,
        };
        if limit.waited(wait) {
            let waiting = self.waiting.load(Ordering::Acquire);
            let pressure = Pressure {
                waiting_max: self.waiting_max.swap(waiting, Ordering::Relaxed),
                refused: self.refused.swap(false, Ordering::Relaxed),
            };
            limit.step(pressure, wait.asked + wait.waited);
            self.room.store(limit.room(), Ordering::Relaxed);
        }
    }

    /// Takes the time of a run, which answered so many calls, into the mean time of a call.
    fn ran(&self, took: Duration, calls: usize) {
        let calls = u64::try_from(calls).unwrap_or(u64::MAX).max(1);
        let each = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / calls;
        let weight = calls.min(CALLS_AT_ONCE);
        let mean = match self.call_ns.load(Ordering::Relaxed) {
            0 => each,
            mean => mean - mean / CALL_WEIGHT * weight + each / CALL_WEIGHT * weight,
        };
        // As in a lane's mean, one of two measurements at once may be lost.
        self.call_ns.store(mean.max(1), Ordering::Relaxed);
    }
}
