//! How the process follows its cluster, at the moment somebody looks.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::MembershipReport;

/// What the process said of itself.
#[derive(Debug)]
pub(super) struct Snapshot(pub(super) MembershipReport);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let MembershipReport { turn_age, suspicion_multiplier, disagreements, rejected } = &self.0;
        let (name, help) =
            ("lineside_gossip_turn_age_seconds", "Time since the gossip thread last took a turn");
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(turn_age.as_secs_f64()).encode(metric)?;

        let (name, help) = (
            "lineside_gossip_suspicion_multiplier",
            "How many times as long as usual suspects have to object, because this member is slow itself",
        );
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(*suspicion_multiplier)).encode(metric)?;

        let (name, help) = (
            "lineside_membership_disagreements",
            "Times that gossip and this door's own calls contradicted each other",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, count) in disagreements {
            ConstCounter::new(*count).encode(family.encode_family(&[("kind", *kind)])?)?;
        }

        let (name, help) =
            ("lineside_discovery_rejected", "Records, packets and peers that were not taken, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (reason, count) in rejected {
            ConstCounter::new(*count).encode(family.encode_family(&[("reason", *reason)])?)?;
        }
        Ok(())
    }
}
