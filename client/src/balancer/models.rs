//! How long the answers for each model take, over all peers: what is usual for it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use lineside_wire::ModelName;

use crate::latency::Latencies;

/// Models whose times are kept, half a kilobyte each: more than nodes of a line have. Calls of further ones are not
/// compared, and not hedged.
const MODELS_MAX: usize = 256;

/// Within so much of what is usual, in microseconds, nobody is slow: a thread that wakes late, a packet that is sent
/// twice. Three times nothing is still nothing.
const SLACK: u64 = 10_000;

/// What is as long as usual. Peers are compared by the thousandth.
pub(super) const AS_USUAL: u64 = 1_000;

/// The models that were called. A snapshot, replaced at a model's first call.
#[derive(Debug, Default)]
pub(super) struct Models {
    known: ArcSwap<HashMap<ModelName, Arc<Times>>>,
    adding: Mutex<()>,
}

/// How long the answers for one model took.
#[derive(Debug, Default)]
pub(super) struct Times {
    latencies: Latencies,
    /// A quarter of them took no longer, in microseconds, when that was last looked up; 0 before. Half would be the slow
    /// one's own time where one of two peers is slow.
    usual: AtomicU64,
}

impl Times {
    /// Adds an answer, and says how long it took beside what is usual, in thousandths; `None` while nobody knows.
    pub(super) fn add(&self, took: Duration) -> Option<u64> {
        self.latencies.add(took);
        let (took, usual) = (super::micros(took), self.usual.load(Relaxed));
        match usual {
            0 => None,
            _ if took <= usual + SLACK => Some(AS_USUAL),
            _ => Some(took.saturating_mul(AS_USUAL) / usual),
        }
    }

    pub(super) fn percentile(&self, percent: u64) -> Option<Duration> {
        self.latencies.percentile(percent)
    }
}

impl Models {
    /// The times of a model, new ones at its first call; `None` when there is no place for it. Waits for nobody.
    pub(super) fn of(&self, model: &ModelName) -> Option<Arc<Times>> {
        let known = self.known.load();
        if let Some(times) = known.get(model) {
            return Some(Arc::clone(times));
        }
        // Not even the lock is asked for a place that is not there.
        if MODELS_MAX <= known.len() {
            return None;
        }
        let _one_at_a_time = self.adding.try_lock().ok()?;
        let mut more = HashMap::clone(&self.known.load());
        if MODELS_MAX <= more.len() {
            return None;
        }
        let times = Arc::clone(more.entry(model.clone()).or_default());
        self.known.store(Arc::new(more));
        Some(times)
    }

    /// The times of a model that has been called.
    pub(super) fn known(&self, model: &ModelName) -> Option<Arc<Times>> {
        self.known.load().get(model).cloned()
    }

    /// Looks up anew what is usual. When there is no place left, models that nobody serves any more make some.
    pub(super) fn review(&self, is_served: impl Fn(&ModelName) -> bool) {
        let known = self.known.load();
        for times in known.values() {
            let usual = times.percentile(25).map_or(0, super::micros);
            times.usual.store(usual, Relaxed);
        }
        if MODELS_MAX <= known.len()
            && let Ok(_one_at_a_time) = self.adding.try_lock()
        {
            let mut fewer = HashMap::clone(&self.known.load());
            fewer.retain(|model, _| is_served(model));
            self.known.store(Arc::new(fewer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_compared_with_itself_and_small_differences_are_none() {
        let times = Times::default();
        assert_eq!(times.add(Duration::from_millis(20)), None);
        let models = Models::default();
        let name: ModelName = "add".parse().unwrap();
        let times = models.of(&name).unwrap();
        for _ in 0..10 {
            times.add(Duration::from_micros(100));
        }
        models.review(|_| true);
        assert_eq!(times.add(Duration::from_millis(9)), Some(AS_USUAL));
        assert!(500 * AS_USUAL < times.add(Duration::from_millis(100)).unwrap());
    }

    #[test]
    fn a_flood_of_models_finds_its_end_and_makes_place_when_they_are_gone() {
        let models = Models::default();
        let name = |i: usize| format!("m{i}").parse::<ModelName>().unwrap();
        let kept = (0..2 * MODELS_MAX).filter(|i| models.of(&name(*i)).is_some()).count();
        assert_eq!(kept, MODELS_MAX);
        models.review(|model| *model == name(3));
        assert!(models.known(&name(3)).is_some() && models.known(&name(4)).is_none());
        assert!(models.of(&name(2 * MODELS_MAX)).is_some());
    }
}
