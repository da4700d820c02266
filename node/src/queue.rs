//! Who gets a place: the node's bounded queue, and what it can do in time.
//!
//! Counters and arithmetic; no lock, no clock. A call gets an idle session's place at once; when its model has none it
//! waits, and all waiting calls of the node together have `max` places. A call that would wait past its deadline is
//! refused at once, with the wait it would have had, so that another node may take it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lineside_wire::LoadReport;
use tokio::sync::Notify;

/// Weight of the newest run in the mean run time: one in eight forgets a slow start within some ten calls.
const MEAN_SHIFT: u32 = 3;

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
    in_flight: AtomicUsize,
    /// Mean run time in microseconds; 0 until the first run.
    run_us: AtomicU64,
}

/// Why there is no place, and how long a call would wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// All places are taken.
    Full { wait: Duration },
    /// There is a place, but its turn comes too late.
    TooLate { wait: Duration },
}

impl Refusal {
    /// How long a call would wait.
    pub(crate) const fn wait(self) -> Duration {
        match self {
            Self::Full { wait } | Self::TooLate { wait } => wait,
        }
    }
}

impl Queue {
    pub(crate) fn new(slots: usize, max: usize) -> Self {
        let [waiting, running, answering] = [0; 3].map(AtomicUsize::new);
        Self { waiting, running, answering, max, slots, idle: Notify::new() }
    }

    /// Gives a place in `lane` to a call that has `remaining` left.
    pub(crate) fn admit(self: &Arc<Self>, lane: &Arc<Lane>, remaining: Duration) -> Result<Place, Refusal> {
        let ahead = lane.in_flight.fetch_add(1, Ordering::AcqRel);
        let undo = |refusal| {
            lane.in_flight.fetch_sub(1, Ordering::AcqRel);
            Err(refusal)
        };
        let waits = lane.sessions <= ahead;
        if waits {
            let run = Duration::from_micros(lane.run_us.load(Ordering::Relaxed));
            let wait = expected_wait(ahead, lane.sessions, run);
            if remaining < wait.saturating_add(run) {
                return undo(Refusal::TooLate { wait });
            }
            if self.max <= self.waiting.fetch_add(1, Ordering::AcqRel) {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                return undo(Refusal::Full { wait });
            }
        } else {
            self.running.fetch_add(1, Ordering::AcqRel);
        }
        let step = if waits { Step::Waits } else { Step::Runs };
        Ok(Place { queue: Arc::clone(self), lane: Arc::clone(lane), step })
    }

    /// How much there is to do.
    pub(crate) fn load(&self) -> LoadReport {
        let count = |value: &AtomicUsize| u32::try_from(value.load(Ordering::Acquire)).unwrap_or(u32::MAX);
        LoadReport {
            running: count(&self.running),
            queued: count(&self.waiting),
            slots: u32::try_from(self.slots).unwrap_or(u32::MAX),
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
        [Step::Waits, Step::Runs, Step::Answers]
            .iter()
            .all(|step| self.count(*step).load(Ordering::Acquire) == 0)
    }

    fn count(&self, step: Step) -> &AtomicUsize {
        match step {
            Step::Waits => &self.waiting,
            Step::Runs => &self.running,
            Step::Answers => &self.answering,
        }
    }
}

impl Lane {
    pub(crate) fn new(sessions: usize) -> Self {
        Self { sessions, in_flight: AtomicUsize::new(0), run_us: AtomicU64::new(0) }
    }

    /// Takes the time of one run into the mean.
    pub(crate) fn ran(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Two workers may do this at once; then one measurement is lost, which a mean can bear.
        let mean = match self.run_us.load(Ordering::Relaxed) {
            0 => took,
            mean => mean - (mean >> MEAN_SHIFT) + (took >> MEAN_SHIFT),
        };
        self.run_us.store(mean.max(1), Ordering::Relaxed);
    }
}

/// How long a call waits behind `ahead` others, of which every session runs one.
///
/// With an idle session it is nothing, so such a call is always tried: only runs can correct a mean that one slow run
/// has raised.
fn expected_wait(ahead: usize, sessions: usize, run: Duration) -> Duration {
    let rounds = (ahead + 1).saturating_sub(sessions).div_ceil(sessions.max(1));
    run.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Waits,
    Runs,
    Answers,
}

/// A call's place, from its acceptance until it is dropped, so that no way out of a call can leak it.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
    lane: Arc<Lane>,
    step: Step,
}

impl Place {
    /// A session has taken the call up.
    pub(crate) fn begin(&mut self) {
        self.advance(Step::Runs);
    }

    /// The session is free for the next call; this one is answered now. Gives the node's load without it.
    ///
    /// Before the answer goes out, so that a caller who sends its next call at once finds the place free.
    pub(crate) fn end(&mut self) -> LoadReport {
        self.advance(Step::Answers);
        self.queue.load()
    }

    /// Takes the time of this call's run into its model's mean.
    pub(crate) fn ran(&self, took: Duration) {
        self.lane.ran(took);
    }

    fn advance(&mut self, to: Step) {
        if self.step < to {
            self.queue.count(to).fetch_add(1, Ordering::AcqRel);
            self.queue.count(self.step).fetch_sub(1, Ordering::AcqRel);
            self.step = to;
            if to == Step::Answers {
                self.lane.in_flight.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.advance(Step::Answers);
        self.queue.answering.fetch_sub(1, Ordering::AcqRel);
        if self.queue.is_idle() {
            self.queue.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn floor(sessions: usize, max: usize) -> (Arc<Queue>, Arc<Lane>) {
        (Arc::new(Queue::new(sessions, max)), Arc::new(Lane::new(sessions)))
    }

    #[test]
    fn sessions_fill_first_then_the_queue_then_nobody() {
        let (queue, lane) = floor(2, 1);
        let mut held: Vec<_> = (0..3).map(|_| queue.admit(&lane, LONG).unwrap()).collect();
        assert_eq!(queue.load(), LoadReport { running: 2, queued: 1, slots: 2 });
        assert!(matches!(queue.admit(&lane, LONG), Err(Refusal::Full { .. })));

        drop(held.remove(0));
        held[1].begin();
        assert_eq!(queue.load(), LoadReport { running: 2, queued: 0, slots: 2 });
        assert_eq!(held[1].end().running, 1);
        assert!(queue.admit(&lane, LONG).is_ok());
    }

    #[test]
    fn the_queue_is_the_whole_nodes() {
        let (queue, weld) = floor(1, 1);
        let press = Arc::new(Lane::new(1));
        let _held = [&weld, &weld, &press].map(|lane| queue.admit(lane, LONG).unwrap());
        assert!(matches!(queue.admit(&press, LONG), Err(Refusal::Full { .. })));
    }

    #[test]
    fn who_would_wait_too_long_is_told_how_long() {
        let (queue, lane) = floor(1, 9);
        lane.ran(ms(100));
        let _running = queue.admit(&lane, ms(50)).expect("an idle session tries every call");
        let _waiting = queue.admit(&lane, ms(250)).unwrap();
        assert_eq!(queue.admit(&lane, ms(250)).err(), Some(Refusal::TooLate { wait: ms(200) }));
        assert_eq!(queue.load().queued, 1);
    }

    #[test]
    fn the_mean_follows_the_runs() {
        let lane = Lane::new(1);
        lane.ran(ms(1000));
        (0..60).for_each(|_| lane.ran(ms(10)));
        let mean = lane.run_us.load(Ordering::Relaxed);
        assert!((9_000..12_000).contains(&mean), "{mean}");
    }

    proptest! {
        #[test]
        fn places_never_leak_and_never_exceed_their_number(
            sessions in 1_usize..4, max in 1_usize..5, steps in prop::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..80),
        ) {
            let (queue, lane) = floor(sessions, max);
            let mut held: Vec<Place> = Vec::new();
            for (step, which) in steps {
                match step {
                    0 => held.extend(queue.admit(&lane, LONG)),
                    1 if !held.is_empty() => { held.remove(which.index(held.len())); }
                    2 if !held.is_empty() => { let at = which.index(held.len()); held[at].begin(); }
                    3 if !held.is_empty() => { let at = which.index(held.len()); held[at].end(); }
                    _ => {}
                }
                let load = queue.load();
                let open = held.iter().filter(|place| place.step < Step::Answers).count();
                prop_assert_eq!((load.running + load.queued) as usize, open);
                prop_assert_eq!(queue.is_idle(), held.is_empty());
                prop_assert!(load.queued as usize <= max);
            }
            held.clear();
            prop_assert!(queue.is_idle());
            prop_assert_eq!(lane.in_flight.load(Ordering::Relaxed), 0);
        }
    }
}
