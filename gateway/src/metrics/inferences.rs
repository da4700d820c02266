//! Inferences by model: what became of them, how many are on their way, and what their nodes said of them.
//!
//! All of it is the door's own knowledge: every answer says how long it waited and ran, and how many rows ran with it.
//! What the models have done for all doors together is in their statistics.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use lineside_wire::{FaultCode, ModelName, RunReport};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Models that are counted under their own name; further ones count as [`OTHER`]. Far beyond a line's models.
pub(super) const MODELS_MAX: usize = 1_000;

/// The name of models that the cluster does not have, or that are too many.
const OTHER: &str = "unknown";

/// Times of a model that are told in seconds.
type Seconds = (&'static str, &'static str, fn(&OneModel) -> &AtomicU64);

const SECONDS: [Seconds; 3] = [
    ("lineside_infer_seconds", "Time from a call to its answer, of all answers", |model| &model.whole_us),
    ("lineside_infer_queue_seconds", "Time in nodes' queues, of all answers", |model| &model.queue_us),
    ("lineside_infer_run_seconds", "Time in nodes' sessions, of all answers", |model| &model.run_us),
];

/// How an inference ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// With an answer, so long after it began here.
    Answered(&'a RunReport, Duration),
    /// With a fault, after so many tries.
    Failed(FaultCode, u8),
}

impl Outcome<'_> {
    /// Tries that it took.
    pub(super) const fn attempts(self) -> u8 {
        match self {
            Self::Answered(report, _) => report.attempts,
            Self::Failed(_, attempts) => attempts,
        }
    }
}

/// The counters of one model.
#[derive(Debug, Default)]
struct OneModel {
    results: Results,
    pending: AtomicU64,
    /// Of answers, in microseconds: from the call to its answer, in the node's queue, in the run.
    whole_us: AtomicU64,
    queue_us: AtomicU64,
    run_us: AtomicU64,
    rows: AtomicU64,
}

impl OneModel {
    fn count(&self, outcome: Outcome<'_>) {
        match outcome {
            Outcome::Answered(report, whole) => {
                self.results.count(None);
                // Each wraps after half a million years of waiting.
                let whole = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX);
                self.whole_us.fetch_add(whole, Relaxed);
                self.queue_us.fetch_add(report.queue_us, Relaxed);
                self.run_us.fetch_add(report.run_us, Relaxed);
                self.rows.fetch_add(report.batch.into(), Relaxed);
            }
            Outcome::Failed(fault, _) => self.results.count(Some(fault)),
        }
    }
}

/// Counts one inference as pending until dropped, however it ends.
#[derive(Debug)]
pub(crate) struct Pending(Option<Arc<OneModel>>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(model) = &self.0 {
            model.pending.fetch_sub(1, Relaxed);
        }
    }
}

/// One counter for "ok" and one for each fault.
#[derive(Debug)]
struct Results([AtomicU64; FaultCode::ALL.len() + 1]);

impl Default for Results {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; FaultCode::ALL.len() + 1])
    }
}

impl Results {
    fn count(&self, fault: Option<FaultCode>) {
        let at = fault.and_then(|fault| FaultCode::ALL.iter().position(|code| *code == fault));
        self.0[at.map_or(0, |at| at + 1)].fetch_add(1, Relaxed);
    }

    /// Each result's name with its count.
    fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = std::iter::once("ok").chain(FaultCode::ALL.iter().map(|code| code.name()));
        names.zip(self.0.iter().map(|count| count.load(Relaxed)))
    }
}

/// The counters of every model.
#[derive(Debug, Default)]
pub(super) struct Inferences {
    known: RwLock<HashMap<ModelName, Arc<OneModel>>>,
    unknown: OneModel,
}

impl Inferences {
    /// Counts one that begins. Of a model that never answered yet, it is not counted: its name may be an outsider's.
    pub(super) fn begin(&self, model: &ModelName) -> Pending {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(model).cloned();
        if let Some(model) = &known {
            model.pending.fetch_add(1, Relaxed);
        }
        Pending(known)
    }

    pub(super) fn count(&self, model: Option<&ModelName>, outcome: Outcome<'_>) {
        let Some(model) = model else { return self.unknown.count(outcome) };
        if let Some(counted) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(model) {
            return counted.count(outcome);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match known.len() < MODELS_MAX {
            true => known.entry(model.clone()).or_default().count(outcome),
            false => self.unknown.count(outcome),
        }
    }
}

impl Collector for Inferences {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let known: Vec<_> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.iter().map(|(name, model)| (name.clone(), Arc::clone(model))).collect()
        };
        let help = "Inferences asked of the cluster, by model and result (ok, or the fault's name)";
        let mut family =
            encoder.encode_descriptor("lineside_infer_requests", help, None, MetricType::Counter)?;
        let mut write = |model: &str, results: &Results| {
            results.each().filter(|(_, count)| 0 < *count).try_for_each(|(result, count)| {
                let labels = [("model", model), ("result", result)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)
            })
        };
        write(OTHER, &self.unknown.results)?;
        known.iter().try_for_each(|(name, model)| write(name.as_str(), &model.results))?;

        let help = "Inferences that this door waits for, by model";
        let mut family =
            encoder.encode_descriptor("lineside_infer_pending", help, None, MetricType::Gauge)?;
        for (name, model) in &known {
            let pending = i64::try_from(model.pending.load(Relaxed)).unwrap_or(i64::MAX);
            ConstGauge::new(pending).encode(family.encode_family(&[("model", name.as_str())])?)?;
        }
        for (name, help, of) in SECONDS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (model, counted) in &known {
                let seconds = Duration::from_micros(of(counted).load(Relaxed)).as_secs_f64();
                ConstCounter::new(seconds).encode(family.encode_family(&[("model", model.as_str())])?)?;
            }
        }
        let help = "Rows of the runs that answers came from: by answers, how many rows ran together";
        let mut family =
            encoder.encode_descriptor("lineside_infer_batch_rows", help, None, MetricType::Counter)?;
        known.iter().try_for_each(|(name, model)| {
            let rows = ConstCounter::new(model.rows.load(Relaxed));
            rows.encode(family.encode_family(&[("model", name.as_str())])?)
        })
    }
}
