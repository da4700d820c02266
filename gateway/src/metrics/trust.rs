//! The certificate and the trust list of this process, at the moment somebody looks.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::TrustReport;

/// What the process said of itself.
#[derive(Debug)]
pub(super) struct Snapshot(pub(super) TrustReport);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let TrustReport { certificate_left, renewals, renewals_failed, trust_number } = self.0;
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let (name, help) =
            ("lineside_certificate_expiry_seconds", "Time until this process' certificate ends");
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge(certificate_left.as_secs()).encode(metric)?;

        let (name, help) =
            ("lineside_certificate_renewals", "Tries to renew this process' certificate, by result");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (result, count) in [("ok", renewals), ("failed", renewals_failed)] {
            ConstCounter::new(count).encode(family.encode_family(&[("result", result)])?)?;
        }

        let (name, help) =
            ("lineside_trust_list_number", "Number of the trust list in force; the same on all members");
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge(trust_number).encode(metric)
    }
}
