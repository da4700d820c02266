//! The cluster as it is at the moment somebody looks.

use std::fmt;

use lineside_client::Rest;
use lineside_wire::{MemberRow, MembersResult, ModelInfo, ModelState, Role};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// The states of members. All are there even when nobody is in them, so that a graph has no holes.
const STATES: [&str; 5] = ["alive", "suspect", "down", "left", "revoked"];

/// Members and models at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    members: Vec<MemberRow>,
    models_ready: usize,
}

impl Snapshot {
    pub(super) fn new(members: MembersResult, models: &[ModelInfo]) -> Self {
        let models_ready = models.iter().filter(|model| model.state == ModelState::Ready).count();
        Self { members: members.members, models_ready }
    }

    /// Writes one value of every node. Doors that run no models are called by nobody.
    fn nodes(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, kind): (&str, &str, MetricType),
        value: impl Fn(&MemberRow) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for row in self.members.iter().filter(|row| row.role == Some(Role::Node)) {
            let id = row.node.to_string();
            let labels = [("node", id.as_str()), ("name", row.name.as_str())];
            let metric = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value(row)).encode(metric)?,
                _ => ConstGauge::new(i64::try_from(value(row)).unwrap_or(i64::MAX)).encode(metric)?,
            }
        }
        Ok(())
    }

    /// Writes what the nodes say of their load.
    fn loads(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let load = |row: &MemberRow| row.member.as_ref().map(|member| member.load).unwrap_or_default();
        let running = ("lineside_node_running", "Calls that the node runs, as it says", MetricType::Gauge);
        self.nodes(encoder, running, |row| load(row).running.into())?;
        let waiting = ("lineside_node_waiting", "Calls that wait on the node, as it says", MetricType::Gauge);
        self.nodes(encoder, waiting, |row| load(row).queued.into())?;
        let help =
            "Calls that the node takes at once, as it says, those that wait included; 0: it does not say";
        self.nodes(encoder, ("lineside_node_limit", help, MetricType::Gauge), |row| load(row).limit.into())?;
        let help = "Mean time of one call on one slot of the node, as it says; 0: it does not know yet";
        let name = "lineside_node_call_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for row in self.members.iter().filter(|row| row.role == Some(Role::Node)) {
            let id = row.node.to_string();
            let labels = [("node", id.as_str()), ("name", row.name.as_str())];
            let seconds = f64::from(load(row).call_us) / 1e6;
            ConstGauge::new(seconds).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes how often each node was given no calls for a while, by reason.
    fn ejections(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How often this door gave the node no calls for a while";
        let mut family = encoder.encode_descriptor("lineside_ejections", help, None, MetricType::Counter)?;
        for row in self.members.iter().filter(|row| row.role == Some(Role::Node)) {
            let id = row.node.to_string();
            for rest in Rest::ALL {
                let reason = rest.as_str();
                let labels = [("node", id.as_str()), ("name", row.name.as_str()), ("reason", reason)];
                let count = row.ejections.get(reason).copied().unwrap_or(0);
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// Writes how far the clocks of the members are ahead, where that was measured.
    fn clocks(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How far the member's clock was ahead of ours when it was last met";
        let mut family =
            encoder.encode_descriptor("lineside_clock_ahead_seconds", help, None, MetricType::Gauge)?;
        for row in &self.members {
            let Some(ahead_ms) = row.clock_ahead_ms else { continue };
            let id = row.node.to_string();
            let labels = [("node", id.as_str()), ("name", row.name.as_str())];
            // Far below 2^53 milliseconds.
            ConstGauge::new(ahead_ms as f64 / 1e3).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let help = "Members that were ever seen, by state";
        let mut family = encoder.encode_descriptor("lineside_members", help, None, MetricType::Gauge)?;
        for state in STATES {
            let count = self.members.iter().filter(|member| member.state == state).count();
            gauge(count).encode(family.encode_family(&[("state", state)])?)?;
        }
        let help = "Model versions that a node serves";
        let metric = encoder.encode_descriptor("lineside_models_ready", help, None, MetricType::Gauge)?;
        gauge(self.models_ready).encode(metric)?;

        let up = ("lineside_node_up", "Whether the node is alive", MetricType::Gauge);
        self.nodes(&mut encoder, up, |row| u64::from(row.state == STATES[0]))?;
        let in_flight =
            ("lineside_node_in_flight", "Calls of this door that the node has now", MetricType::Gauge);
        self.nodes(&mut encoder, in_flight, |row| row.in_flight.into())?;
        let calls = ("lineside_node_calls", "Calls of this door to the node", MetricType::Counter);
        self.nodes(&mut encoder, calls, |row| row.calls)?;
        let failures =
            ("lineside_node_failures", "Calls of this door to the node that failed", MetricType::Counter);
        self.nodes(&mut encoder, failures, |row| row.failures)?;
        self.loads(&mut encoder)?;
        self.ejections(&mut encoder)?;
        self.clocks(&mut encoder)
    }
}
