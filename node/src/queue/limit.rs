//! How many calls may wait on the node: found out from how long they do.
//!
//! Pure: no clock, no lock. Every call that waited says how long, and how long it should have at most: its *aim*, half of
//! the time that its caller gave it, and no more than [`RUNS_AIMED`] runs. Calls that wait longer than that are late even
//! where they are answered, and another node would have answered them sooner; so the limit falls in proportion, in one
//! step to where the wait fits. It rises while calls are refused that would have had to wait for less.
//!
//! ```text
//!   wait : aim     limit
//!   over 1         the most that waited, divided by it; at most to the half in one step
//!   0.75 to 1      stays: a limit that is right does not swing
//!   below          a quarter more, and one, if calls were refused meanwhile
//! ```
//!
//! A step is judged only by calls that came after it: what the old limit let in says nothing of the new one. So it
//! settles instead of following its own echo. One call may wait at all times, so a limit can always be found to be too
//! low, and an idle node, where nobody waits, refuses nobody.

use std::time::Duration;

use tokio::time::Instant;

/// Runs that a call should wait for at most. Sixteen keep a session busy through any gap between two calls, and a caller
/// who is told to wait for seventeen is better off elsewhere.
const RUNS_AIMED: u32 = 16;

/// Waits below this are never too long: models that take a millisecond must be able to take a burst.
const AIM_MIN: Duration = Duration::from_millis(250);

/// Calls that are looked at before the limit moves: fewer say more of chance than of the load.
const SAMPLES: u32 = 16;

/// Shortest time between two steps: with calls of some microseconds, sixteen of them are one burst.
const STEP_MIN: Duration = Duration::from_millis(50);

/// After this long a few calls are enough: models that take a second must not wait for half a minute.
const STEP_SLOW: Duration = Duration::from_secs(1);

/// As few.
const SAMPLES_SLOW: u32 = 4;

/// Part of the aim that is left alone below it, and above which nothing rises.
const NEAR: f64 = 0.75;

/// Most that one wait counts for, in aims: a single call that was forgotten must not shut the node.
const LATE_MAX: f64 = 4.0;

/// How long a call should wait at most that has so much time, where one run takes so long.
pub(super) fn aim(time: Duration, run: Duration) -> Duration {
    (time / 2).min(run.saturating_mul(RUNS_AIMED).max(AIM_MIN))
}

/// The limit, in calls that wait.
#[derive(Debug)]
pub(super) struct Limit {
    /// As many as are allowed at most.
    max: usize,
    room: usize,
    /// Since when calls are looked at.
    since: Option<Instant>,
    samples: u32,
    /// Their waits, in aims.
    waits: f64,
}

/// One call that was taken up, or that waited in vain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// When it came.
    pub(super) asked: Instant,
    /// For how long it waited.
    pub(super) waited: Duration,
    /// For how long it should have at most.
    pub(super) aim: Duration,
}

/// What happened since the step before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressure {
    /// The most that waited at one time.
    pub(super) waiting_max: usize,
    /// Whether the limit kept a call out.
    pub(super) refused: bool,
}

impl Limit {
    /// At most so many. It begins there: nothing speaks against it yet.
    pub(super) const fn new(max: usize) -> Self {
        Self { max, room: max, since: None, samples: 0, waits: 0.0 }
    }

    /// Calls that may wait.
    pub(super) const fn room(&self) -> usize {
        self.room
    }

    /// Takes one call's wait into account. True when it is time for a [step](Self::step).
    pub(super) fn waited(&mut self, wait: Wait) -> bool {
        let since = *self.since.get_or_insert(wait.asked);
        if wait.asked < since {
            return false;
        }
        let aims = wait.waited.as_secs_f64() / wait.aim.as_secs_f64().max(1e-6);
        self.samples += 1;
        self.waits += aims.min(LATE_MAX);
        let passed = (wait.asked + wait.waited).saturating_duration_since(since);
        (SAMPLES <= self.samples && STEP_MIN <= passed)
            || (SAMPLES_SLOW <= self.samples && STEP_SLOW <= passed)
    }

    /// Moves the limit to where the waits say it should be.
    pub(super) fn step(&mut self, pressure: Pressure, now: Instant) {
        let wait = self.waits / f64::from(self.samples.max(1));
        (self.since, self.samples, self.waits) = (Some(now), 0, 0.0);
        if 1.0 < wait {
            let there = self.room.min(pressure.waiting_max);
            if there == 0 {
                // They waited for a thread, not for each other: fewer of them would not wait for less.
                return;
            }
            // Far below 2^53.
            let fits = (there as f64 / wait).ceil() as usize;
            self.room = fits.max(there / 2).clamp(1, self.room);
        } else if wait < NEAR && pressure.refused {
            self.room = (self.room + self.room / 4 + 1).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One session that never rests: whoever comes finds the limit's places taken but one.
    struct Saturated {
        limit: Limit,
        run: Duration,
        time: Duration,
        now: Instant,
    }

    impl Saturated {
        fn with(max: usize, run: Duration, time: Duration) -> Self {
            Self { limit: Limit::new(max), run, time, now: Instant::now() }
        }

        /// So many calls wait as long as the limit lets them; gives the limits that were in force.
        fn runs(&mut self, calls: usize) -> Vec<usize> {
            let mut seen = Vec::new();
            for _ in 0..calls {
                let room = self.limit.room();
                let waited = self.run.saturating_mul(u32::try_from(room).unwrap());
                let wait = Wait { asked: self.now, waited, aim: aim(self.time, self.run) };
                self.now += self.run;
                if self.limit.waited(wait) {
                    self.limit.step(Pressure { waiting_max: room, refused: true }, self.now);
                }
                seen.push(self.limit.room());
            }
            seen
        }
    }

    #[test]
    fn it_settles_where_the_wait_is_what_it_should_be_and_stays_there() {
        for (run, time, settled) in [
            // Half of the caller's second is five runs.
            (100, 1_000, 4..=5),
            // Sixteen runs, whatever the caller would bear.
            (100, 60_000, 12..=16),
            // A quarter of a second is always allowed.
            (10, 60_000, 19..=25),
            (1, 60_000, 64..=64),
            // A run takes longer than it should wait: one at a time.
            (2_000, 2_500, 1..=1),
        ] {
            let mut floor = Saturated::with(64, ms(run), ms(time));
            floor.runs(300);
            let later = floor.runs(300);
            assert!(later.iter().all(|room| settled.contains(room)), "{run} {time}: {later:?}");
            assert!(later.windows(2).all(|two| two[0] == two[1]), "it swings: {later:?}");
        }
    }

    #[test]
    fn it_falls_in_some_steps_and_is_back_within_a_second_or_so() {
        let mut floor = Saturated::with(64, ms(100), ms(1_000));
        floor.runs(80);
        assert!(floor.limit.room() <= 8, "{:?}", floor.limit);
        // The model is fast again: refusals show it.
        floor.run = ms(2);
        let calls = floor.runs(2_000).iter().position(|room| *room == 64).expect("it comes back");
        assert!(calls < 1_000, "two seconds are {calls} calls");
    }

    #[test]
    fn without_refusals_it_does_not_move_and_old_calls_do_not_move_it() {
        let mut limit = Limit::new(9);
        let now = Instant::now();
        let wait = |asked, waited| Wait { asked, waited, aim: ms(100) };
        let mut stepped = 0;
        for at in 0..64 {
            let asked = now + ms(10 * at);
            if limit.waited(wait(asked, ms(1))) {
                limit.step(Pressure { waiting_max: 3, refused: false }, asked + ms(1));
                stepped += 1;
            }
        }
        assert!(2 < stepped && limit.room() == 9);
        let since = limit.since.unwrap();
        assert!((0..99).all(|_| !limit.waited(wait(since - ms(1), ms(9_000)))));
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds_and_always_comes_back(
            max in 1_usize..2_000,
            calls in prop::collection::vec((0_u64..20_000, 1_u64..5_000, 0_usize..2_000, any::<bool>()), 0..400),
        ) {
            let (mut limit, mut now) = (Limit::new(max), Instant::now());
            for (waited, aim, waiting_max, refused) in calls {
                now += ms(waited);
                if limit.waited(Wait { asked: now, waited: ms(waited), aim: ms(aim) }) {
                    let before = limit.room();
                    limit.step(Pressure { waiting_max, refused }, now);
                    prop_assert!(before.min(waiting_max) / 2 <= limit.room(), "it fell too far");
                }
                prop_assert!((1..=max).contains(&limit.room()));
            }
            let mut steps = 0;
            while limit.room() < max {
                now += ms(20);
                if limit.waited(Wait { asked: now, waited: ms(1), aim: ms(250) }) {
                    limit.step(Pressure { waiting_max: 1, refused: true }, now);
                    steps += 1;
                }
                prop_assert!(steps < 40, "{:?}", limit);
            }
        }
    }
}
