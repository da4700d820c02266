//! How many calls may be tried again, so that a sick cluster is not made sicker.
//!
//! Only tries that may have run a model count: a call that a full node sent away costs the cluster nothing, a call
//! that is run twice costs it twice.

use std::{
    array,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// One call in so many may be repeated.
const CALLS_PER_REPEAT: u64 = 10;

/// Repeats per second that are always allowed, so that a quiet client can repeat at all.
const REPEATS_PER_SECOND: u64 = 2;

/// One call in so many may be hedged: what it costs the cluster stays within what its load varies by. A quiet client is
/// allowed none on top: nothing has failed yet, so nothing is lost without.
const CALLS_PER_HEDGE: u64 = 20;

/// For how many seconds a call's share can be spent.
const SECONDS_KEPT: u64 = 10;

/// Counts calls, repeats and hedges of the last ten seconds; shared by all who call, without a lock.
///
/// Two threads that meet at the turn of a second may lose a count: a budget, no accounting.
#[derive(Debug)]
pub struct Budget {
    started: Instant,
    seconds: [Second; SECONDS_KEPT as usize],
    counters: Counters,
}

/// What happened in one second. `number` says which: the ring is written over.
#[derive(Debug, Default)]
struct Second {
    number: AtomicU64,
    calls: AtomicU32,
    repeats: AtomicU32,
    hedges: AtomicU32,
}

/// Why a try began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the call's first.
    First,
    /// The one before ran nothing: its peer was busy, leaving or not to be reached.
    Moved,
    /// The one before broke, and may have run.
    Repeat,
    /// The peer of the one before has stalled.
    Stall,
    /// The one before takes longer than nearly all do.
    Hedge,
    /// The one before takes so much longer than others that its peer must hang, though it gives signs of life.
    Slow,
    /// The model failed in the one before: is it the input, or the peer?
    Opinion,
}

impl Why {
    /// All of them, in the order of [`TryCounts::tries`].
    pub const ALL: [Self; 7] =
        [Self::First, Self::Moved, Self::Repeat, Self::Stall, Self::Hedge, Self::Slow, Self::Opinion];

    /// Its name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Moved => "moved",
            Self::Repeat => "repeat",
            Self::Stall => "stall",
            Self::Hedge => "hedge",
            Self::Slow => "slow",
            Self::Opinion => "opinion",
        }
    }
}

/// What the calls of one process have come to, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TryCounts {
    /// Calls.
    pub calls: u64,
    /// Tries, by why they began, in the order of [`Why::ALL`].
    pub tries: [u64; Why::ALL.len()],
    /// Tries whose peer gave no sign of life, also those that no second was begun beside.
    pub stalls: u64,
    /// Hedges that answered before the try that they were begun beside.
    pub hedges_won: u64,
    /// Second opinions that showed the first peer to be wrong.
    pub overruled: u64,
    /// Tries that the budget, or a cluster without room, did not allow.
    pub refused: u64,
}

impl TryCounts {
    /// Tries that began for this reason.
    #[must_use]
    pub const fn of(&self, why: Why) -> u64 {
        self.tries[why as usize]
    }
}

/// The same, as any thread counts it.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    calls: AtomicU64,
    tries: [AtomicU64; Why::ALL.len()],
    pub(crate) stalls: Count,
    pub(crate) hedges_won: Count,
    pub(crate) overruled: Count,
    pub(crate) refused: Count,
}

/// One number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Counters {
    pub(crate) fn tried(&self, why: Why) {
        self.tries[why as usize].fetch_add(1, Relaxed);
    }
}

impl Budget {
    /// A budget that nobody has used.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        let seconds = array::from_fn(|_| Second::default());
        Self { started, seconds, counters: Counters::default() }
    }

    /// Notes a new call: it adds a tenth of a repeat, and a twentieth of a hedge.
    pub fn called(&self, now: Instant) {
        self.counters.calls.fetch_add(1, Relaxed);
        self.second(now).calls.fetch_add(1, Relaxed);
    }

    /// Takes one repeat, if there is one left.
    pub fn repeat(&self, now: Instant) -> bool {
        let (calls, repeats) = self.lately(now, |second| &second.repeats);
        let left = repeats < calls / CALLS_PER_REPEAT + REPEATS_PER_SECOND * SECONDS_KEPT;
        if left {
            self.second(now).repeats.fetch_add(1, Relaxed);
        }
        left
    }

    /// Takes one hedge, if there is one left.
    pub fn hedge(&self, now: Instant) -> bool {
        let (calls, hedges) = self.lately(now, |second| &second.hedges);
        let left = hedges < calls / CALLS_PER_HEDGE;
        if left {
            self.second(now).hedges.fetch_add(1, Relaxed);
        }
        left
    }

    /// What was counted since the start, by all pools that share this budget.
    #[must_use]
    pub fn counts(&self) -> TryCounts {
        let Counters { calls, tries, stalls, hedges_won, overruled, refused } = &self.counters;
        let read = |Count(count): &Count| count.load(Relaxed);
        TryCounts {
            calls: calls.load(Relaxed),
            tries: tries.each_ref().map(|count| count.load(Relaxed)),
            stalls: read(stalls),
            hedges_won: read(hedges_won),
            overruled: read(overruled),
            refused: read(refused),
        }
    }

    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The calls of the last seconds, and of what `spent` counts.
    fn lately(&self, now: Instant, spent: impl Fn(&Second) -> &AtomicU32) -> (u64, u64) {
        let current = self.number(now);
        let mut sums = (0, 0);
        for second in &self.seconds {
            if current < second.number.load(Relaxed) + SECONDS_KEPT {
                sums.0 += u64::from(second.calls.load(Relaxed));
                sums.1 += u64::from(spent(second).load(Relaxed));
            }
        }
        sums
    }

    /// Seconds since the start, and one ring more, so that the empty ring's zeros are long past.
    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() + SECONDS_KEPT
    }

    fn second(&self, now: Instant) -> &Second {
        let number = self.number(now);
        let second = &self.seconds[(number % SECONDS_KEPT) as usize];
        if second.number.swap(number, Relaxed) != number {
            second.calls.store(0, Relaxed);
            second.repeats.store(0, Relaxed);
            second.hedges.store(0, Relaxed);
        }
        second
    }

    /// For how long a call's share can be spent.
    #[must_use]
    pub const fn kept() -> Duration {
        Duration::from_secs(SECONDS_KEPT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn repeats(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.repeat(now)).count()
    }

    #[test]
    fn a_quiet_client_may_repeat_a_little() {
        let now = now();
        assert_eq!(repeats(&Budget::new(now), now), 20);
    }

    #[test]
    fn a_busy_client_may_repeat_every_tenth_call() {
        let now = now();
        let budget = Budget::new(now);
        (0..1_000).for_each(|_| budget.called(now));
        assert_eq!(repeats(&budget, now), 120);
        assert!(!budget.repeat(now + Duration::from_secs(9)));
    }

    #[test]
    fn what_was_not_spent_is_forgotten_after_ten_seconds() {
        let now = now();
        let budget = Budget::new(now);
        (0..1_000).for_each(|_| budget.called(now));
        assert_eq!(repeats(&budget, now + Budget::kept()), 20);
    }

    #[test]
    fn spent_repeats_come_back_after_ten_seconds() {
        let now = now();
        let budget = Budget::new(now);
        assert_eq!(repeats(&budget, now), 20);
        assert_eq!(repeats(&budget, now + Budget::kept()), 20);
    }

    #[test]
    fn every_twentieth_call_may_be_hedged_and_none_of_a_quiet_client() {
        let now = now();
        let budget = Budget::new(now);
        let hedges = |budget: &Budget| (0..10_000).take_while(|_| budget.hedge(now)).count();
        (0..19).for_each(|_| budget.called(now));
        assert_eq!(hedges(&budget), 0);
        (19..1_000).for_each(|_| budget.called(now));
        assert_eq!(hedges(&budget), 50);
        // One does not take from the other.
        assert_eq!(repeats(&budget, now), 120);
        assert_eq!(budget.counts().calls, 1_000);
    }

    proptest! {
        #[test]
        fn repeats_never_pass_a_tenth_of_the_calls_and_the_floor(steps in prop::collection::vec((0_u64..3_000, 0_u16..60), 1..80)) {
            let start = now();
            let budget = Budget::new(start);
            let (mut now, mut calls, mut repeated) = (start, Vec::new(), Vec::new());
            for (pause_ms, count) in steps {
                now += Duration::from_millis(pause_ms);
                for _ in 0..count {
                    budget.called(now);
                    calls.push(now);
                    if budget.repeat(now) {
                        repeated.push(now);
                        // Whole seconds are kept: at least nine, at most eleven.
                        let within = |times: &[Instant], seconds| {
                            times.iter().filter(|at| now < **at + Duration::from_secs(seconds)).count()
                        };
                        prop_assert!(within(&repeated, 9) <= within(&calls, 11) / 10 + 20);
                    }
                }
            }
        }
    }
}
