//! What a version has done: counters that every worker adds to without a lock.
//!
//! As Triton counts: what belongs to a request is counted once per request, also where several share a run; then each
//! has the whole run's time, and the run itself, under its rows, is counted once. `inference_count` is rows,
//! `execution_count` runs, and their ratio the mean batch. An answer out of the cache is a success without either.
//!
//! They begin when a version is loaded and go on when it is loaded anew in its place; unloading ends them. A reader may
//! see a call in one counter that it does not see in the next: each is right, and none goes back.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lineside_wire::{BatchStatistics, Fault, FaultCode, ModelStatistics, Spent};

use crate::repository::VersionId;

/// Most sizes of runs that are counted apart, in the order in which they come first. Callers choose the size.
const SIZES_MAX: usize = 32;

/// Most bytes of a list in a document, which ends at 64 KiB. Past it, runs are not told by size.
const LIST_BYTES_MAX: usize = 56 << 10;

/// Bytes of a version and of one size of runs in a document, with the largest numbers and without the name.
const VERSION_BYTES: usize = 700;
const SIZE_BYTES: usize = 160;

/// Priorities that a model can have, at most.
const LEVELS: usize = 16;

/// One run of the model, and the work on both sides of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) rows: u64,
    pub(crate) input: Duration,
    pub(crate) infer: Duration,
    pub(crate) output: Duration,
}

#[derive(Debug, Default)]
struct Sum {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Sum {
    fn add(&self, time: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> Spent {
        Spent { count: self.count.load(Relaxed), ns: self.ns.load(Relaxed) }
    }
}

/// The runs of one size.
#[derive(Debug, Default)]
struct Size {
    /// 0 until it is some size's place.
    rows: AtomicU64,
    input: Sum,
    infer: Sum,
    output: Sum,
}

/// The counters of one version.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    last_ms: AtomicU64,
    rows: AtomicU64,
    runs: AtomicU64,
    success: Sum,
    fail: Sum,
    queue: Sum,
    input: Sum,
    infer: Sum,
    output: Sum,
    cache_hit: Sum,
    cache_miss: Sum,
    cancel: Sum,
    expired: AtomicU64,
    rejected: AtomicU64,
    /// By level, the highest first.
    shed: [AtomicU64; LEVELS],
    stopped: AtomicU64,
    memory_bytes: AtomicU64,
    sizes: [Size; SIZES_MAX],
}

impl Counters {
    /// A call was answered after these runs; `whole` is its time from arrival, `now_ms` since 1970.
    pub(crate) fn answered(&self, runs: &[Run], queue: Duration, whole: Duration, now_ms: u64) {
        self.request(runs, queue, whole);
        self.ran(runs, now_ms);
    }

    /// A call was answered out of a run that it shared: `part` is the run with this call's own rows. The run itself is
    /// told once, to [`Self::ran`].
    pub(crate) fn answered_of(&self, part: &Run, queue: Duration, whole: Duration) {
        self.request(std::slice::from_ref(part), queue, whole);
    }

    fn request(&self, runs: &[Run], queue: Duration, whole: Duration) {
        let sum = |part: fn(&Run) -> Duration| runs.iter().map(part).sum();
        self.rows.fetch_add(runs.iter().map(|run| run.rows).sum(), Relaxed);
        self.success.add(whole);
        self.queue.add(queue);
        self.input.add(sum(|run| run.input));
        self.infer.add(sum(|run| run.infer));
        self.output.add(sum(|run| run.output));
    }

    /// A call failed with this fault after it was taken up; what was run before counts as run. A caller that went away
    /// is no failure of the model.
    pub(crate) fn failed(&self, fault: &Fault, runs: &[Run], whole: Duration, now_ms: u64) {
        if fault.code == FaultCode::Cancelled { &self.cancel } else { &self.fail }.add(whole);
        self.ran(runs, now_ms);
    }

    /// A call was dropped with this fault before anything was run for it: its caller went away, or it waited too long.
    pub(crate) fn dropped(&self, fault: &Fault, whole: Duration) {
        self.failed(fault, &[], whole, 0);
        // Busy: longer than its model's queue lets one wait.
        if matches!(fault.code, FaultCode::DeadlineExceeded | FaultCode::Busy) {
            self.expired.fetch_add(1, Relaxed);
        }
    }

    /// A call was refused: there is no room, or no time for it.
    pub(crate) fn rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// A call of this level was sent away while it waited, so that another could have its place.
    pub(crate) fn shed(&self, level: usize, whole: Duration) {
        self.fail.add(whole);
        if let Some(count) = self.shed.get(level) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// A run was stopped on the way.
    pub(crate) fn stopped(&self) {
        self.stopped.fetch_add(1, Relaxed);
    }

    /// The cache was asked for a call's answer, which took so long.
    pub(crate) fn looked_up(&self, found: bool, took: Duration) {
        if found { &self.cache_hit } else { &self.cache_miss }.add(took);
    }

    /// A call was answered without a run and without waiting.
    pub(crate) fn succeeded_at_once(&self, whole: Duration, now_ms: u64) {
        self.success.add(whole);
        self.queue.add(Duration::ZERO);
        self.last_ms.fetch_max(now_ms, Relaxed);
    }

    /// What the version takes of the node's memory.
    pub(crate) fn takes(&self, memory_bytes: u64) {
        self.memory_bytes.store(memory_bytes, Relaxed);
    }

    /// The model ran. What [`Self::answered`] and [`Self::failed`] are told, they count themselves.
    pub(crate) fn ran(&self, runs: &[Run], now_ms: u64) {
        if runs.is_empty() {
            return;
        }
        self.runs.fetch_add(runs.len() as u64, Relaxed);
        self.last_ms.fetch_max(now_ms, Relaxed);
        for run in runs {
            if let Some(size) = self.size(run.rows) {
                size.input.add(run.input);
                size.infer.add(run.infer);
                size.output.add(run.output);
            }
        }
    }

    /// The place of a size, taken if it is new and one is left.
    fn size(&self, rows: u64) -> Option<&Size> {
        let rows = rows.max(1);
        self.sizes.iter().find(|size| match size.rows.compare_exchange(0, rows, Relaxed, Relaxed) {
            Ok(_) => true,
            Err(taken) => taken == rows,
        })
    }

    /// Everything so far, under the version's name.
    pub(crate) fn read(&self, id: &VersionId) -> ModelStatistics {
        let mut batches: Vec<_> = self.sizes.iter().filter_map(batch).collect();
        batches.sort_by_key(|batch| batch.batch_size);
        ModelStatistics {
            name: id.name.clone(),
            version: id.version,
            last_inference_ms: self.last_ms.load(Relaxed),
            inference_count: self.rows.load(Relaxed),
            execution_count: self.runs.load(Relaxed),
            success: self.success.read(),
            fail: self.fail.read(),
            queue: self.queue.read(),
            compute_input: self.input.read(),
            compute_infer: self.infer.read(),
            compute_output: self.output.read(),
            cache_hit: self.cache_hit.read(),
            cache_miss: self.cache_miss.read(),
            batches,
            cancel: self.cancel.read(),
            expired: self.expired.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            shed: shed(&self.shed),
            stopped: self.stopped.load(Relaxed),
            memory_bytes: self.memory_bytes.load(Relaxed),
        }
    }
}

/// The wall's clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The counts up to the last level that has one.
fn shed(counts: &[AtomicU64]) -> Vec<u64> {
    let mut counts: Vec<u64> = counts.iter().map(|count| count.load(Relaxed)).collect();
    counts.truncate(counts.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1));
    counts
}

fn batch(size: &Size) -> Option<BatchStatistics> {
    let batch_size = size.rows.load(Relaxed);
    (batch_size != 0).then(|| BatchStatistics {
        batch_size,
        compute_input: size.input.read(),
        compute_infer: size.infer.read(),
        compute_output: size.output.read(),
    })
}

/// Shortens a list to what fits a document.
pub(crate) fn fitting(mut models: Vec<ModelStatistics>) -> Vec<ModelStatistics> {
    let heads: usize = models.iter().map(|model| VERSION_BYTES + model.name.as_str().len()).sum();
    let mut left = LIST_BYTES_MAX.saturating_sub(heads) / SIZE_BYTES;
    for model in &mut models {
        model.batches.truncate(left);
        left -= model.batches.len();
    }
    models
}

#[cfg(test)]
mod tests {
    use lineside_wire::{EncodedFrame, ModelVersion, PayloadBuilder, RequestId, StatisticsResult};

    use super::*;
    use crate::repository::VERSIONS_MAX;

    fn id(name: &str) -> VersionId {
        VersionId { name: name.parse().unwrap(), version: ModelVersion(u64::MAX) }
    }

    fn run(rows: u64) -> Run {
        let ns = Duration::from_nanos;
        Run { rows, input: ns(1), infer: ns(20), output: ns(300) }
    }

    #[test]
    fn a_call_counts_once_however_often_its_model_ran() {
        let counters = Counters::default();
        let ns = Duration::from_nanos;
        counters.answered(&[run(32), run(8)], ns(5), ns(1000), 77);
        counters.failed(&Fault::new(FaultCode::InferenceFailed, "x"), &[], ns(40), 99);
        let read = counters.read(&id("weld"));
        assert_eq!((read.inference_count, read.execution_count, read.last_inference_ms), (40, 2, 77));
        let spent = |count, ns| Spent { count, ns };
        assert_eq!((read.success, read.fail, read.queue), (spent(1, 1000), spent(1, 40), spent(1, 5)));
        assert_eq!((read.compute_input, read.compute_infer), (spent(1, 2), spent(1, 40)));
        assert_eq!(read.compute_output, spent(1, 600));
        let sizes: Vec<_> =
            read.batches.iter().map(|batch| (batch.batch_size, batch.compute_infer)).collect();
        assert_eq!(sizes, [(8, spent(1, 20)), (32, spent(1, 20))]);
    }

    #[test]
    fn a_shared_run_is_one_run_and_each_request_has_its_time() {
        let counters = Counters::default();
        let (ns, own) = (Duration::from_nanos, |rows| Run { rows, ..run(6) });
        counters.ran(&[run(6)], 77);
        [1, 2, 3].into_iter().for_each(|rows| counters.answered_of(&own(rows), ns(5), ns(1000)));
        let read = counters.read(&id("weld"));
        let spent = |count, ns| Spent { count, ns };
        assert_eq!((read.inference_count, read.execution_count, read.last_inference_ms), (6, 1, 77));
        assert_eq!(
            (read.success, read.queue, read.compute_infer),
            (spent(3, 3000), spent(3, 15), spent(3, 60))
        );
        assert_eq!((read.batches.len(), read.batches[0].batch_size), (1, 6));
        assert_eq!(read.batches[0].compute_infer, spent(1, 20));
    }

    #[test]
    fn what_was_not_run_counts_as_that_and_as_no_computing() {
        let counters = Counters::default();
        let ns = Duration::from_nanos;
        for code in [FaultCode::Cancelled, FaultCode::DeadlineExceeded, FaultCode::Busy, FaultCode::Internal]
        {
            counters.dropped(&Fault::new(code, "x"), ns(7));
        }
        counters.failed(&Fault::new(FaultCode::Cancelled, "x"), &[], ns(1), 0);
        counters.rejected();
        counters.shed(1, ns(0));
        counters.stopped();
        counters.takes(99);
        counters.looked_up(true, ns(2));
        counters.succeeded_at_once(ns(9), 77);
        counters.looked_up(false, ns(3));
        let read = counters.read(&id("weld"));
        let spent = |count, ns| Spent { count, ns };
        assert_eq!((read.cancel, read.fail, read.expired), (spent(2, 8), spent(4, 21), 2));
        assert_eq!((read.rejected, read.stopped, read.memory_bytes), (1, 1, 99));
        assert_eq!((read.cache_hit, read.cache_miss), (spent(1, 2), spent(1, 3)));
        assert_eq!((read.success, read.queue, read.last_inference_ms), (spent(1, 9), spent(1, 0), 77));
        assert_eq!((read.inference_count, read.execution_count, read.compute_infer.count), (0, 0, 0));
    }

    #[test]
    fn callers_cannot_make_the_list_of_sizes_long() {
        let counters = Counters::default();
        (1..1000).for_each(|rows| counters.answered(&[run(rows)], Duration::ZERO, Duration::ZERO, 1));
        let read = counters.read(&id("weld"));
        assert_eq!((read.batches.len(), read.execution_count), (SIZES_MAX, 999));
    }

    #[test]
    fn a_list_of_all_that_a_node_may_have_fits_a_document() {
        let full = Spent { count: u64::MAX, ns: u64::MAX };
        let batch = BatchStatistics {
            batch_size: u64::MAX,
            compute_input: full,
            compute_infer: full,
            compute_output: full,
        };
        let name = "x".repeat(lineside_wire::ModelName::BYTES_MAX);
        let one = ModelStatistics {
            last_inference_ms: u64::MAX,
            inference_count: u64::MAX,
            execution_count: u64::MAX,
            success: full,
            fail: full,
            queue: full,
            compute_input: full,
            compute_infer: full,
            compute_output: full,
            cache_hit: full,
            cache_miss: full,
            cancel: full,
            expired: u64::MAX,
            rejected: u64::MAX,
            shed: vec![u64::MAX; LEVELS],
            stopped: u64::MAX,
            memory_bytes: u64::MAX,
            batches: vec![batch; SIZES_MAX],
            ..Counters::default().read(&id(&name))
        };
        let models = fitting(vec![one; VERSIONS_MAX]);
        assert!(!models[0].batches.is_empty() && models[VERSIONS_MAX - 1].batches.is_empty());
        let result = StatisticsResult { models };
        let frame = EncodedFrame::response(RequestId(1), &result, None, PayloadBuilder::new());
        assert!(frame.len() < 64 << 10, "{}", frame.len());
    }
}
