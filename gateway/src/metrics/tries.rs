//! What the calls to nodes have come to, at the moment somebody looks.

use std::fmt;

use lineside_client::{TryCounts, Why};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

/// What the pools of this process have counted.
#[derive(Debug)]
pub(super) struct Snapshot(pub(super) TryCounts);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.0;
        let help = "Tries that calls to nodes took, by why each began";
        let mut family = encoder.encode_descriptor("lineside_tries", help, None, MetricType::Counter)?;
        for why in Why::ALL {
            ConstCounter::new(counts.of(why)).encode(family.encode_family(&[("why", why.name())])?)?;
        }
        let others = [
            ("lineside_stalls", "Tries whose node gave no sign of life", counts.stalls),
            ("lineside_hedges_won", "Hedges that answered before the first try", counts.hedges_won),
            ("lineside_opinions_overruled", "Nodes that failed where another answered", counts.overruled),
            ("lineside_tries_refused", "Tries that the budget did not allow", counts.refused),
        ];
        for (name, help, count) in others {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(metric)?;
        }
        Ok(())
    }
}
