//! How many calls may be repeated, so that a sick cluster is not made sicker.
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

/// For how many seconds a call's share can be spent.
const SECONDS_KEPT: u64 = 10;

/// Counts calls and repeats of the last ten seconds; shared by all who call, without a lock.
///
/// Two threads that meet at the turn of a second may lose a count: a budget, no accounting.
#[derive(Debug)]
pub struct Budget {
    started: Instant,
    seconds: [Second; SECONDS_KEPT as usize],
}

/// What happened in one second. `number` says which: the ring is written over.
#[derive(Debug, Default)]
struct Second {
    number: AtomicU64,
    calls: AtomicU32,
    repeats: AtomicU32,
}

impl Budget {
    /// A budget that nobody has used.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        Self { started, seconds: array::from_fn(|_| Second::default()) }
    }

    /// Notes a new call: it adds a tenth of a repeat.
    pub fn called(&self, now: Instant) {
        self.second(now).calls.fetch_add(1, Relaxed);
    }

    /// Takes one repeat, if there is one left.
    pub fn repeat(&self, now: Instant) -> bool {
        let current = self.number(now);
        let (mut calls, mut repeats) = (0_u64, 0_u64);
        for second in &self.seconds {
            if current < second.number.load(Relaxed) + SECONDS_KEPT {
                calls += u64::from(second.calls.load(Relaxed));
                repeats += u64::from(second.repeats.load(Relaxed));
            }
        }
        let allowed = calls / CALLS_PER_REPEAT + REPEATS_PER_SECOND * SECONDS_KEPT;
        let left = repeats < allowed;
        if left {
            self.second(now).repeats.fetch_add(1, Relaxed);
        }
        left
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
