//! What the door counts, in the form that Prometheus reads.
//!
//! Every label has a bounded set of values: routes, statuses and results are closed sets, nodes are members, and a
//! model is named only once the cluster has shown that it has it. Counting takes no lock but a shared one for a
//! model's name.

mod cluster;
mod http;
mod inferences;
mod membership;
mod refused;
mod tries;
mod trust;

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use lineside_client::{Panic, TryCounts};
use lineside_wire::{MembersResult, ModelInfo, ModelName};
use prometheus_client::{
    encoding::text,
    metrics::{
        counter::{ConstCounter, Counter},
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

pub(crate) use inferences::{Outcome, Pending};
pub(crate) use refused::Reason;

use crate::{
    MembershipReport, TrustReport,
    limit::{Crowded, Limit},
};

/// The media type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The status that is counted when a client hung up before its answer. Never sent.
pub(crate) const CLIENT_GONE: u16 = 499;

/// The counters of one door, over all its shards.
pub(crate) struct Metrics {
    registry: Registry,
    http: Arc<http::Requests>,
    inferences: Arc<inferences::Inferences>,
    pub(crate) in_flight: Gauge<i64, AtomicI64>,
    pub(crate) connections: Gauge<i64, AtomicI64>,
    attempts: Counter,
    failovers: Counter,
    refused: Arc<refused::Refused>,
    pub(crate) handshakes_failed: Counter,
    sockets: Gauge<i64, AtomicI64>,
    pub(crate) socket_messages: Counter,
}

/// Counts one WebSocket until it is dropped.
pub(crate) struct CountedSocket<'a>(&'a Metrics);

impl Drop for CountedSocket<'_> {
    fn drop(&mut self) {
        self.0.sockets.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let http = Arc::<http::Requests>::default();
        let inferences = Arc::<inferences::Inferences>::default();
        let (in_flight, connections) = (Gauge::default(), Gauge::default());
        let refused = Arc::<refused::Refused>::default();
        let (attempts, failovers, handshakes_failed) =
            (Counter::default(), Counter::default(), Counter::default());
        let r = &mut registry;
        r.register_collector(Box::new(Arc::clone(&http)));
        r.register_collector(Box::new(Arc::clone(&inferences)));
        r.register("lineside_http_in_flight", "Requests being worked on", in_flight.clone());
        r.register("lineside_http_connections", "Open connections", connections.clone());
        r.register("lineside_infer_attempts", "Tries that inferences took", attempts.clone());
        let help = "Tries beyond the first that inferences took";
        r.register("lineside_failovers", help, failovers.clone());
        r.register_collector(Box::new(Arc::clone(&refused)));
        let help = "TLS handshakes that failed";
        r.register("lineside_tls_handshakes_failed", help, handshakes_failed.clone());
        let (sockets, socket_messages) = (Gauge::default(), Counter::default());
        r.register("lineside_websockets", "Open WebSockets", sockets.clone());
        let help = "Messages that came over WebSockets";
        r.register("lineside_websocket_messages", help, socket_messages.clone());
        Self {
            registry,
            http,
            inferences,
            in_flight,
            connections,
            attempts,
            failovers,
            refused,
            handshakes_failed,
            sockets,
            socket_messages,
        }
    }
}

impl Metrics {
    /// Counts a WebSocket while it is open.
    pub(crate) fn socket(&self) -> CountedSocket<'_> {
        self.sockets.inc();
        CountedSocket(self)
    }

    /// Counts a caller that was refused.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refused.caller(reason);
    }

    /// Counts what came too soon.
    pub(crate) fn limited(&self, limit: Limit) {
        self.refused.limited(limit);
    }

    /// Counts a request for which there was no place.
    pub(crate) fn crowded(&self, crowded: Crowded) {
        self.refused.crowded(crowded);
    }

    /// Counts an answered request. `route` is one of [`Route::LABELS`](crate::route::Route::LABELS).
    pub(crate) fn answered(&self, route: &'static str, code: u16, took: Duration) {
        self.http.count(route, code, took);
    }

    /// Counts an inference that begins, until what comes back is dropped.
    pub(crate) fn pending(&self, model: &ModelName) -> Pending {
        self.inferences.begin(model)
    }

    /// Counts an inference that has ended. `model` is `None` when the cluster has not shown that it has what was asked
    /// for.
    pub(crate) fn inferred(&self, model: Option<&ModelName>, outcome: Outcome<'_>) {
        self.inferences.count(model, outcome);
        let attempts = u64::from(outcome.attempts());
        self.attempts.inc_by(attempts);
        self.failovers.inc_by(attempts.saturating_sub(1));
    }

    /// All of it as text, with the cluster as it is now. `web` is the time that is left of the certificate for HTTPS:
    /// none where there is no HTTPS, and zero where there is no certificate for it yet.
    pub(crate) fn text(
        &self,
        members: MembersResult,
        models: &[ModelInfo],
        (tries, panic): (Option<TryCounts>, Option<Panic>),
        (membership, trust): (Option<MembershipReport>, Option<TrustReport>),
        web: Option<Duration>,
    ) -> String {
        let mut now = Registry::default();
        if let Some(left) = web {
            let help = "Time until the certificate for HTTPS ends; 0 while there is none";
            let left = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
            now.register("lineside_web_certificate_expiry_seconds", help, ConstGauge::new(left));
        }
        if let Some(tries) = tries {
            now.register_collector(Box::new(tries::Snapshot(tries)));
        }
        if let Some(Panic { is_on, leases }) = panic {
            let help = "Whether so many nodes rest that bars were set aside in the last ten seconds";
            now.register("lineside_panic_mode", help, ConstGauge::new(i64::from(is_on)));
            let help = "Calls to nodes that rest, because most of them do";
            now.register("lineside_panic_calls", help, ConstCounter::new(leases));
        }
        if let Some(membership) = membership {
            now.register_collector(Box::new(membership::Snapshot(membership)));
        }
        if let Some(trust) = trust {
            now.register_collector(Box::new(trust::Snapshot(trust)));
        }
        now.register_collector(Box::new(cluster::Snapshot::new(members, models)));
        let mut out = String::new();
        let written = text::encode_registry(&mut out, &self.registry)
            .and_then(|()| text::encode_registry(&mut out, &now))
            .and_then(|()| text::encode_eof(&mut out));
        written.expect("a string takes any text");
        out
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::{ClusterId, FaultCode, LoadReport, NodeId, RunReport};

    use super::*;

    fn report() -> RunReport {
        let (node, load) = (
            NodeId::from_bytes([1; 16]),
            LoadReport { running: 0, queued: 0, slots: 1, limit: 0, call_us: 0 },
        );
        RunReport { node, load, queue_us: 250, run_us: 1_500, attempts: 3, batch: 8 }
    }

    fn text(metrics: &Metrics) -> String {
        let members = MembersResult {
            cluster: ClusterId::from_bytes([1; 16]),
            answered_by: NodeId::from_bytes([2; 16]),
            members: Vec::new(),
        };
        let trust = TrustReport {
            certificate_left: Duration::from_secs(90),
            renewals: 2,
            renewals_failed: 1,
            trust_number: 7,
        };
        let tries = TryCounts { tries: [9, 1, 2, 3, 4, 7, 5], refused: 6, ..TryCounts::default() };
        let membership = MembershipReport {
            turn_age: Duration::from_millis(1_500),
            suspicion_multiplier: 3,
            disagreements: vec![("down_and_answers", 2), ("alive_and_fails", 0)],
            rejected: vec![("foreign_cluster_record", 7)],
        };
        metrics.text(
            members,
            &[],
            (Some(tries), Some(Panic { is_on: true, leases: 4 })),
            (Some(membership), Some(trust)),
            Some(Duration::from_secs(80)),
        )
    }

    #[test]
    fn what_was_counted_can_be_read() {
        let metrics = Metrics::default();
        let add: ModelName = "add".parse().expect("a name");
        metrics.answered("infer", 200, Duration::from_micros(700));
        metrics.answered("infer", 200, Duration::from_secs(100));
        metrics.answered("infer", 299, Duration::ZERO);
        metrics.inferred(Some(&add), Outcome::Answered(&report(), Duration::from_millis(2)));
        let _waits = metrics.pending(&add);
        drop(metrics.pending(&add));
        let _unheard_of = metrics.pending(&"subtract".parse().expect("a name"));
        metrics.limited(Limit::Model);
        metrics.refused(Reason::NoKey);
        metrics.crowded(Crowded::Share(9));
        metrics.inferred(None, Outcome::Failed(FaultCode::ModelNotFound, 0));
        let text = text(&metrics);
        for line in [
            "lineside_http_requests_total{route=\"infer\",code=\"200\"} 2",
            "lineside_http_requests_total{route=\"infer\",code=\"other\"} 1",
            "lineside_http_request_duration_seconds_bucket{le=\"0.001\",route=\"infer\"} 2",
            "lineside_http_request_duration_seconds_bucket{le=\"+Inf\",route=\"infer\"} 3",
            "lineside_infer_requests_total{model=\"add\",result=\"ok\"} 1",
            "lineside_infer_requests_total{model=\"unknown\",result=\"MODEL_NOT_FOUND\"} 1",
            "lineside_infer_pending{model=\"add\"} 1",
            "lineside_infer_seconds_total{model=\"add\"} 0.002",
            "lineside_infer_queue_seconds_total{model=\"add\"} 0.00025",
            "lineside_infer_run_seconds_total{model=\"add\"} 0.0015",
            "lineside_infer_batch_rows_total{model=\"add\"} 8",
            "lineside_infer_attempts_total 3",
            "lineside_failovers_total 2",
            "lineside_members{state=\"suspect\"} 0",
            "lineside_tries_total{why=\"first\"} 9",
            "lineside_tries_total{why=\"hedge\"} 4",
            "lineside_tries_refused_total 6",
            "lineside_panic_mode 1",
            "lineside_panic_calls_total 4",
            "lineside_certificate_expiry_seconds 90",
            "lineside_certificate_renewals_total{result=\"ok\"} 2",
            "lineside_certificate_renewals_total{result=\"failed\"} 1",
            "lineside_trust_list_number 7",
            "lineside_gossip_turn_age_seconds 1.5",
            "lineside_gossip_suspicion_multiplier 3",
            "lineside_membership_disagreements_total{kind=\"down_and_answers\"} 2",
            "lineside_discovery_rejected_total{reason=\"foreign_cluster_record\"} 7",
            "lineside_web_certificate_expiry_seconds 80",
            "lineside_rate_limited_total{limit=\"model\"} 1",
            "lineside_rate_limited_total{limit=\"client\"} 0",
            "lineside_callers_refused_total{reason=\"no_key\"} 1",
            "lineside_busy_total{reason=\"full\"} 0",
            "lineside_busy_total{reason=\"share\"} 1",
            "lineside_tls_handshakes_failed_total 0",
        ] {
            assert!(text.lines().any(|there| there == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_flood_of_models_does_not_become_a_flood_of_labels() {
        let metrics = Metrics::default();
        for i in 0..2 * inferences::MODELS_MAX {
            let model = format!("m{i}").parse().expect("a name");
            drop(metrics.pending(&model));
            metrics.inferred(Some(&model), Outcome::Failed(FaultCode::Busy, 1));
        }
        let lines =
            text(&metrics).lines().filter(|line| line.starts_with("lineside_infer_requests_total")).count();
        assert_eq!(lines, inferences::MODELS_MAX + 1);
    }
}
