//! Requests by route and status, and how long they took: a fixed table of counters.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter},
};

use super::CLIENT_GONE;
use crate::route::Route;

/// The statuses that the door answers with, each with its label; 499 is a client that hung up.
const STATUSES: [(u16, &str); 22] = [
    // A WebSocket was opened.
    (101, "101"),
    (200, "200"),
    (204, "204"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (426, "426"),
    (429, "429"),
    (431, "431"),
    (CLIENT_GONE, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    // Any other: there is none today.
    (0, "other"),
];

/// Upper bounds of the durations' buckets, in seconds: from a tiny model on the next machine to the longest
/// default deadline.
const BUCKETS: [f64; 15] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0, 60.0, f64::INFINITY];

/// The counters of every route.
#[derive(Debug, Default)]
pub(super) struct Requests([OneRoute; Route::LABELS.len()]);

#[derive(Debug, Default)]
struct OneRoute {
    by_status: [AtomicU64; STATUSES.len()],
    by_duration: [AtomicU64; BUCKETS.len()],
    nanoseconds: AtomicU64,
}

impl Requests {
    pub(super) fn count(&self, route: &str, code: u16, took: Duration) {
        let Some(at) = Route::LABELS.iter().position(|label| *label == route) else { return };
        let route = &self.0[at];
        let status = STATUSES.iter().position(|(status, _)| *status == code).unwrap_or(STATUSES.len() - 1);
        route.by_status[status].fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len() - 1);
        route.by_duration[bucket].fetch_add(1, Ordering::Relaxed);
        // Wraps after five centuries of waiting.
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        route.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn routes(&self) -> impl Iterator<Item = (&'static str, &OneRoute)> {
        Route::LABELS.into_iter().zip(&self.0)
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Requests answered, by route and status";
        let mut family =
            encoder.encode_descriptor("lineside_http_requests", help, None, MetricType::Counter)?;
        for (route, counters) in self.routes() {
            for ((_, code), count) in STATUSES.iter().zip(&counters.by_status) {
                let count = count.load(Ordering::Relaxed);
                if 0 < count {
                    let labels = [("route", route), ("code", *code)];
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let help = "Time from the head of a request to its answer";
        let name = "lineside_http_request_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (route, counters) in self.routes() {
            let count = |at: usize| (BUCKETS[at], counters.by_duration[at].load(Ordering::Relaxed));
            let buckets: [(f64, u64); BUCKETS.len()] = std::array::from_fn(count);
            let total = buckets.iter().map(|(_, count)| count).sum();
            if 0 < total {
                let sum = Duration::from_nanos(counters.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
                let labels = [("route", route)];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_histogram::<NoLabelSet>(sum, total, &buckets, None)?;
            }
        }
        Ok(())
    }
}
