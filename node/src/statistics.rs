//! What a version has done: counters that every worker adds to without a lock.
//!
//! They begin when a version is loaded and go on when it is loaded anew in its place; unloading ends them. A reader may
//! see a call in one counter that it does not see in the next: each is right, and none goes back.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use lineside_wire::{BatchStatistics, ModelStatistics, Spent};

use crate::repository::VersionId;

/// Most sizes of runs that are counted apart, in the order in which they come first. Callers choose the size.
const SIZES_MAX: usize = 32;

/// Most bytes of a list in a document, which ends at 64 KiB. Past it, runs are not told by size.
const LIST_BYTES_MAX: usize = 48 << 10;

/// Bytes of a version and of one size of runs in a document, with the largest numbers and without the name.
const VERSION_BYTES: usize = 520;
const SIZE_BYTES: usize = 160;

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
    sizes: [Size; SIZES_MAX],
}

impl Counters {
    /// A call was answered after these runs; `whole` is its time from arrival, `now_ms` since 1970.
    pub(crate) fn answered(&self, runs: &[Run], queue: Duration, whole: Duration, now_ms: u64) {
        let sum = |part: fn(&Run) -> Duration| runs.iter().map(part).sum();
        self.rows.fetch_add(runs.iter().map(|run| run.rows).sum(), Relaxed);
        self.success.add(whole);
        self.queue.add(queue);
        self.input.add(sum(|run| run.input));
        self.infer.add(sum(|run| run.infer));
        self.output.add(sum(|run| run.output));
        self.ran(runs, now_ms);
    }

    /// A call failed after it was accepted; what was run before counts as run.
    pub(crate) fn failed(&self, runs: &[Run], whole: Duration, now_ms: u64) {
        self.fail.add(whole);
        self.ran(runs, now_ms);
    }

    fn ran(&self, runs: &[Run], now_ms: u64) {
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
            cache_hit: Spent::default(),
            cache_miss: Spent::default(),
            batches,
        }
    }
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
        counters.failed(&[], ns(40), 99);
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
