//! What the door turned away, and why: fixed tables of counters, each with one label.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::limit::{Crowded, Limit};

/// Why a caller was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It shows no key, where one is needed.
    NoKey,
    /// The key that it shows is not known, was revoked or has ended.
    KeyNotValid,
    /// It may not do what it asks for.
    NotAllowed,
}

impl Reason {
    const ALL: [Self; 3] = [Self::NoKey, Self::KeyNotValid, Self::NotAllowed];

    const fn label(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::KeyNotValid => "key_not_valid",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// The limits, in the order of their counters.
const LIMITS: [Limit; 4] = [Limit::Client, Limit::ClientBytes, Limit::Model, Limit::FailedKeys];

/// Who and what was refused.
#[derive(Debug, Default)]
pub(super) struct Refused {
    callers: [AtomicU64; Reason::ALL.len()],
    limits: [AtomicU64; LIMITS.len()],
    /// All places were taken.
    full: AtomicU64,
    /// The client had its share of them.
    share: AtomicU64,
}

impl Refused {
    pub(super) fn caller(&self, reason: Reason) {
        count(&Reason::ALL, &self.callers, &reason);
    }

    pub(super) fn limited(&self, limit: Limit) {
        count(&LIMITS, &self.limits, &limit);
    }

    pub(super) fn crowded(&self, crowded: Crowded) {
        match crowded {
            Crowded::Full => &self.full,
            Crowded::Share(_) => &self.share,
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

fn count<T: PartialEq>(all: &[T], counts: &[AtomicU64], one: &T) {
    let at = all.iter().position(|other| other == one);
    if let Some(count) = at.and_then(|at| counts.get(at)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Collector for Refused {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Requests and batch entries refused because they came too soon, by limit";
        let mut family =
            encoder.encode_descriptor("lineside_rate_limited", help, None, MetricType::Counter)?;
        for (limit, count) in LIMITS.iter().zip(&self.limits) {
            let (labels, count) = ([("limit", limit.name())], count.load(Ordering::Relaxed));
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Requests refused for what their caller is or may do, by reason";
        let mut family =
            encoder.encode_descriptor("lineside_callers_refused", help, None, MetricType::Counter)?;
        for (reason, count) in Reason::ALL.iter().zip(&self.callers) {
            let (labels, count) = ([("reason", reason.label())], count.load(Ordering::Relaxed));
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Requests answered with 503 because the door's places were taken, or the client had its share of them";
        let mut family = encoder.encode_descriptor("lineside_busy", help, None, MetricType::Counter)?;
        for (reason, count) in [("full", &self.full), ("share", &self.share)] {
            let count = count.load(Ordering::Relaxed);
            ConstCounter::new(count).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_every_limit_has_a_counter_of_its_own() {
        let refused = Refused::default();
        for reason in [Reason::NoKey, Reason::KeyNotValid, Reason::NotAllowed] {
            refused.caller(reason);
        }
        for limit in [Limit::Client, Limit::ClientBytes, Limit::Model, Limit::FailedKeys] {
            refused.limited(limit);
        }
        let counts = refused.callers.iter().chain(&refused.limits);
        assert!(counts.map(|count| count.load(Ordering::Relaxed)).eq([1; 7]));
    }
}
