//! The places of one model's sessions, and how long a run takes there.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use crate::batcher::Rules;

/// Weight of the newest run in the means: one in eight forgets a slow start within some ten calls.
const MEAN_SHIFT: u32 = 3;

/// Calls that fit one run are counted in parts of this many: a mean of 1.5 makes a difference.
pub(super) const CALL: u64 = 256;

/// The places of one model's sessions.
#[derive(Debug)]
pub(crate) struct Lane {
    sessions: usize,
    /// Calls that may wait here.
    pub(super) max: usize,
    rules: Rules,
    /// Calls that wait, by priority; the first is the highest.
    pub(super) waiting: Box<[AtomicUsize]>,
    /// Calls that have a session, or for which one was kept when they came. Above the sessions there are, so many of the
    /// latter were overtaken.
    pub(super) taken: AtomicUsize,
    /// Calls on the way to the session that is kept for them: others can still join their run.
    pub(super) coming: AtomicUsize,
    /// Mean run time in microseconds; 0 until the first run.
    pub(super) run_us: AtomicU64,
    /// Calls that fit one run, in parts of [`CALL`].
    pub(super) fits: AtomicU64,
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

    /// How long a run takes; nothing until the first.
    pub(super) fn run_time(&self) -> Duration {
        Duration::from_micros(self.run_us.load(Ordering::Relaxed))
    }

    /// So many calls were taken up for one run, and some may have been left behind.
    ///
    /// A run that took all there were says that so many fit, and nothing of how many more would have.
    pub(super) fn took_up(&self, calls: u64, left: bool) {
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
    pub(super) fn expected_wait(&self, level: usize) -> Duration {
        let ahead: usize = self.waiting[..=level].iter().map(|count| count.load(Ordering::Acquire)).sum();
        let fits = self.fits.load(Ordering::Relaxed);
        let coming = self.coming.load(Ordering::Acquire);
        if 0 < coming && ((coming + ahead) as u64).saturating_mul(CALL) < fits {
            return Duration::ZERO;
        }
        let round = fits.saturating_mul(self.sessions as u64) / CALL;
        let rounds = ahead as u64 / round.max(1) + 1;
        self.run_time().saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
    }

    /// Whether no call waits or runs here.
    pub(crate) fn is_idle(&self) -> bool {
        self.count() == 0 && self.taken.load(Ordering::Acquire) == 0
    }

    /// Calls that wait.
    pub(super) fn count(&self) -> usize {
        self.waiting.iter().map(|count| count.load(Ordering::Acquire)).sum()
    }

    /// The place of a priority among the others, 0 the highest.
    pub(super) fn level(&self, priority: u8) -> usize {
        usize::from(self.rules.level(priority).saturating_sub(1)).min(self.waiting.len() - 1)
    }

    /// Whether its calls have priorities. Those of a model without any are neither above nor below another model's.
    pub(super) const fn is_ranked(&self) -> bool {
        1 < self.waiting.len()
    }

    /// The lowest level of which a call waits here.
    pub(crate) fn lowest(&self) -> Option<usize> {
        self.waiting.iter().rposition(|count| 0 < count.load(Ordering::Acquire))
    }

    /// Keeps an idle session for a call, where there is one.
    pub(super) fn take_session(&self) -> bool {
        let take = |taken| (taken < self.sessions).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    /// A call that waited has a session now. True when that was kept for one that is on its way, and is still: it came
    /// with an earlier deadline a moment later, and the other one waits in its place.
    pub(super) fn overtakes(&self) -> bool {
        self.sessions <= self.taken.fetch_add(1, Ordering::AcqRel)
    }

    /// Gives a session back. True when it is the one that a call on its way lost: there is one for it again.
    pub(super) fn give_back(&self) -> bool {
        self.sessions < self.taken.fetch_sub(1, Ordering::AcqRel)
    }
}
