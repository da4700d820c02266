//! A call's place in the queue, and how far the call has come.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use lineside_wire::LoadReport;
use tokio::time::Instant;

use super::{Caller, Lane, Queue, Wish, limit::Wait};

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
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
    pub(super) const fn holds(self) -> bool {
        matches!(self, Self::Comes | Self::Runs { holds: true })
    }
}

/// A call's place, from its acceptance until it is dropped, so that no way out of a call can leak it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(super) queue: Arc<Queue>,
    pub(super) lane: Arc<Lane>,
    pub(super) step: Step,
    /// Of its priority.
    pub(super) level: usize,
    pub(super) caller: Caller,
    pub(super) asked: Instant,
    /// How long it should wait at most.
    pub(super) aim: Duration,
}

/// A call that found no place, and whose place it may have instead.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(super) lane: Arc<Lane>,
    pub(super) level: usize,
    /// Only of this caller, who has more than its share; `None`: of anybody with a lower priority.
    pub(super) of: Option<Caller>,
    /// Only within its own lane, which is full while the node is not.
    pub(super) own_lane: bool,
}

impl Claim {
    /// Whether a call that waits in this lane may have to go; the rank tells where to look first.
    pub(crate) fn rank(&self, lane: &Arc<Lane>) -> Option<(usize, bool)> {
        let lowest = lane.lowest()?;
        self.concerns(lane, lowest).then(|| (lowest, Arc::ptr_eq(&self.lane, lane)))
    }

    /// Whether a call of this level in this lane is below the one that claims, or where that one is of a caller with too
    /// few places, not above.
    fn concerns(&self, lane: &Arc<Lane>, level: usize) -> bool {
        if Arc::ptr_eq(&self.lane, lane) {
            return if self.of.is_some() { self.level <= level } else { self.level < level };
        }
        if self.own_lane {
            return false;
        }
        match (self.lane.is_ranked() && lane.is_ranked(), self.of.is_some()) {
            (true, false) => self.level < level,
            (true, true) => self.level <= level,
            (false, shared) => shared,
        }
    }
}

impl Place {
    /// Whether this waiting call may be sent away for one that claims its place: with its level, of which the lowest
    /// goes first.
    pub(crate) fn yields_to(&self, claim: &Claim) -> Option<usize> {
        let asked_for = claim.of.is_none_or(|caller| caller == self.caller);
        (asked_for && claim.concerns(&self.lane, self.level)).then_some(self.level)
    }

    /// Its priority's place among the others, 0 the highest.
    pub(crate) const fn level(&self) -> usize {
        self.level
    }

    /// When there may be a place for it again.
    pub(crate) fn come_again_in(&self) -> Duration {
        self.lane.expected_wait(self.level) / 2
    }

    /// A session has taken these calls of one model up, to run them together.
    pub(crate) fn begin<'a>(places: impl IntoIterator<Item = &'a mut Self>, now: Instant) {
        let (mut calls, mut lane) = (0, None);
        for place in places {
            place.waited(now);
            // One session for all of them: what the others were given is free again.
            place.runs(calls == 0);
            calls += 1;
            lane = Some(Arc::clone(&place.lane));
        }
        if let Some(lane) = lane {
            lane.took_up(calls, 0 < lane.count());
        }
    }

    /// The call's turn has come, or its time is over: how long it waited tells how many may wait.
    pub(crate) fn waited(&self, now: Instant) {
        // Who was given an idle session waited for nobody.
        if self.step == Step::Waits {
            let waited = now.saturating_duration_since(self.asked);
            self.queue.waited(Wait { asked: self.asked, waited, aim: self.aim });
        }
    }

    /// The session is free for the next call; this one is answered now. Gives the node's load without it.
    ///
    /// Before the answer goes out, so that a caller who sends its next call at once finds the place free.
    pub(crate) fn end(&mut self) -> LoadReport {
        self.answers();
        self.queue.load()
    }

    /// Takes the time of a run into the means; of a run of several calls, one says it for all.
    pub(crate) fn ran(&self, took: Duration, calls: usize) {
        self.lane.ran(took);
        self.queue.ran(took, calls);
    }

    /// A run was stopped after this time: it would have taken at least as long.
    pub(crate) fn stopped_after(&self, took: Duration) {
        if self.lane.run_time() < took {
            self.lane.ran(took);
        }
    }

    fn runs(&mut self, holds: bool) {
        if self.step == Step::Answers {
            return;
        }
        if self.step.holds() && !holds {
            self.give_session_back();
        } else if !self.step.holds() && holds && self.lane.overtakes() {
            self.queue.overtaken.fetch_add(1, Ordering::AcqRel);
        }
        self.advance(Step::Runs { holds });
    }

    fn answers(&mut self) {
        if self.step == Step::Answers {
            return;
        }
        if self.step.holds() {
            self.give_session_back();
        }
        self.advance(Step::Answers);
    }

    fn give_session_back(&self) {
        if self.lane.give_back() {
            self.queue.overtaken.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Counts the call where it is now, before it is not counted any more where it was.
    fn advance(&mut self, to: Step) {
        self.queue.count(to).fetch_add(1, Ordering::AcqRel);
        self.queue.count(self.step).fetch_sub(1, Ordering::AcqRel);
        match self.step {
            Step::Waits => {
                self.lane.waiting[self.level].fetch_sub(1, Ordering::AcqRel);
                self.queue.callers.leave(self.caller);
            }
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

impl Queue {
    /// Whose place a call may have that found none: first of one with a lower priority, then, when its caller has fewer
    /// places than its share, of whoever has the most. `full` says that the node is, and not the model alone.
    pub(crate) fn claims(&self, lane: &Arc<Lane>, wish: Wish, full: bool) -> impl Iterator<Item = Claim> {
        let (level, own_lane) = (lane.level(wish.priority), !full);
        let claim = |of| Claim { lane: Arc::clone(lane), level, of, own_lane };
        let places = if full { self.places() } else { lane.max.min(self.max) };
        let greedy = self.callers.greediest(wish.caller, places);
        [Some(claim(None)), greedy.map(|caller| claim(Some(caller)))].into_iter().flatten()
    }
}
