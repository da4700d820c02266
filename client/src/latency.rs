//! How long a peer's answers took lately: a histogram that any thread may add to, without a lock.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Buckets per doubling: a percentile is at most a fifth too large.
const STEPS_PER_DOUBLING: usize = 4;

/// From one microsecond to more than an hour.
const BUCKETS: usize = 32 * STEPS_PER_DOUBLING;

/// After so many answers all counts are halved, so that the last few thousand decide.
const ANSWERS_KEPT: u32 = 4096;

/// Counts answers by how long they took. Old ones fade.
#[derive(Debug)]
pub(crate) struct Latencies {
    buckets: [AtomicU32; BUCKETS],
    total: AtomicU32,
    /// The 99th percentile in microseconds, looked up when it is asked for; 0 after another answer.
    p99_us: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            total: AtomicU32::new(0),
            p99_us: AtomicU64::new(0),
        }
    }
}

impl Latencies {
    /// Adds one answer.
    pub(crate) fn add(&self, took: Duration) {
        self.buckets[bucket(took)].fetch_add(1, Relaxed);
        self.p99_us.store(0, Relaxed);
        if self.total.fetch_add(1, Relaxed) + 1 == ANSWERS_KEPT {
            self.fade();
        }
    }

    /// Halves every count. Answers that are added meanwhile may be lost: this is a statistic.
    fn fade(&self) {
        let mut total = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Relaxed) / 2;
            bucket.store(half, Relaxed);
            total += half;
        }
        self.total.store(total, Relaxed);
    }

    /// How many answers decide now.
    pub(crate) fn count(&self) -> u32 {
        self.total.load(Relaxed)
    }

    /// Forgets all answers. One that is added meanwhile may be lost, too.
    pub(crate) fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
        self.total.store(0, Relaxed);
        self.p99_us.store(0, Relaxed);
    }

    /// The 99th percentile in microseconds. Where models take longer than peers may be quiet, every lease asks for that of
    /// every peer.
    pub(crate) fn p99_us(&self) -> Option<u64> {
        let known = self.p99_us.load(Relaxed);
        if known != 0 {
            return Some(known);
        }
        let p99 = self.percentile(99)?.as_micros().try_into().unwrap_or(u64::MAX);
        self.p99_us.store(p99, Relaxed);
        Some(p99)
    }

    /// The time within which this share of the answers came, rounded up to the bucket's end; `None` without any.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        if self.count() == 0 {
            return None;
        }
        let counts = self.buckets.each_ref().map(|bucket| u64::from(bucket.load(Relaxed)));
        let total: u64 = counts.iter().sum();
        let wanted = (total * percent).div_ceil(100).max(1);
        let mut below = 0;
        let at = counts.iter().position(|count| {
            below += count;
            wanted <= below
        })?;
        Some(Duration::from_micros(end_of(at)))
    }
}

/// The bucket of a time: the doubling it falls into, and the quarter of it.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let doubling = micros.ilog2();
    let above = u128::from(micros - (1 << doubling));
    let step = (above * STEPS_PER_DOUBLING as u128) >> doubling;
    (doubling as usize * STEPS_PER_DOUBLING + step as usize).min(BUCKETS - 1)
}

/// The first microsecond behind a bucket.
fn end_of(bucket: usize) -> u64 {
    let (doubling, step) = (bucket / STEPS_PER_DOUBLING, bucket % STEPS_PER_DOUBLING);
    let start = 1_u64 << doubling;
    start + (start * (step as u64 + 1)).div_ceil(STEPS_PER_DOUBLING as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_known_before_the_first_answer() {
        assert_eq!(Latencies::default().percentile(95), None);
    }

    #[test]
    fn the_slowest_twentieth_decides_the_95th_percentile() {
        let latencies = Latencies::default();
        (0..90).for_each(|_| latencies.add(Duration::from_millis(1)));
        (0..10).for_each(|_| latencies.add(Duration::from_millis(100)));
        let (p50, p95) = (latencies.percentile(50).unwrap(), latencies.percentile(95).unwrap());
        assert!((1_000..=1_250).contains(&p50.as_micros()), "{p50:?}");
        assert!((100_000..=125_000).contains(&p95.as_micros()), "{p95:?}");
    }

    #[test]
    fn the_99th_percentile_is_kept_until_the_next_answer() {
        let latencies = Latencies::default();
        assert_eq!(latencies.p99_us(), None);
        latencies.add(Duration::from_millis(1));
        let first = latencies.p99_us();
        assert_eq!(
            (first, first),
            (latencies.percentile(99).map(|p99| p99.as_micros() as u64), latencies.p99_us())
        );
        latencies.add(Duration::from_secs(1));
        assert!(first < latencies.p99_us());
        latencies.clear();
        assert_eq!(latencies.p99_us(), None);
    }

    #[test]
    fn what_was_long_ago_fades() {
        let latencies = Latencies::default();
        (0..4_000).for_each(|_| latencies.add(Duration::from_secs(1)));
        (0..60_000).for_each(|_| latencies.add(Duration::from_millis(1)));
        assert!(latencies.percentile(99).unwrap() < Duration::from_millis(2));
    }

    proptest! {
        #[test]
        fn a_percentile_is_never_too_small_and_at_most_a_quarter_too_large(micros in 1_u64..3_000_000_000) {
            let latencies = Latencies::default();
            latencies.add(Duration::from_micros(micros));
            let told = latencies.percentile(95).unwrap().as_micros() as u64;
            prop_assert!(micros <= told && told <= micros + micros / 4 + 1, "{micros} became {told}");
        }
    }
}
