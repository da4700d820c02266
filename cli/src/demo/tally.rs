//! Counts what became of the requests. Pure.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

use super::samples::{Answer, Sample};

/// Reasons that are kept: enough to see what went wrong, few enough to print.
const REASONS_MAX: usize = 5;

/// Longest latency that a histogram tells apart; a request's deadline is far below.
const LATENCY_US_MAX: u64 = 120_000_000;

/// By which way a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Door {
    /// HTTP, Open Inference Protocol.
    Http,
    /// QUIC, the client library.
    Quic,
}

impl Door {
    /// Its name in the report.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Quic => "QUIC",
        }
    }
}

/// A good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// What the model said.
    pub(super) answer: Answer,
    /// The node that did the work.
    pub(super) node: String,
    /// Tries that it took.
    pub(super) attempts: u64,
}

/// The requests that went one way.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Sent.
    pub(super) requests: u64,
    /// Answered in time.
    pub(super) answered: u64,
    /// Latencies of the answered ones, in microseconds.
    latencies: Histogram<u64>,
}

impl Default for Way {
    fn default() -> Self {
        Self { requests: 0, answered: 0, latencies: histogram() }
    }
}

impl Way {
    /// A percentile of the latencies, in microseconds.
    pub(super) fn percentile_us(&self, percentile: f64) -> u64 {
        self.latencies.value_at_percentile(percentile)
    }

    /// The longest latency, in microseconds.
    pub(super) fn max_us(&self) -> u64 {
        self.latencies.max()
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants and valid")
}

/// How good a model's answers were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Accuracy {
    /// Answers.
    pub(super) answered: u64,
    /// Those that agree with the label.
    pub(super) as_labelled: u64,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Answers that are what the model says elsewhere.
    pub(super) correct: u64,
    /// Answers that are not.
    pub(super) wrong: u64,
    /// Requests without a good answer.
    pub(super) lost: u64,
    /// Tries beyond the first, of requests that were answered.
    pub(super) failovers: u64,
    /// Answers per node.
    pub(super) nodes: BTreeMap<String, u64>,
    /// Per model.
    pub(super) models: BTreeMap<&'static str, Accuracy>,
    /// Why requests were lost or wrong: the first few.
    pub(super) reasons: Vec<String>,
    ways: BTreeMap<Door, Way>,
}

impl Tally {
    /// A request ended with an answer.
    pub(super) fn answered(&mut self, door: Door, sample: &Sample, reply: &Reply, latency: Duration) {
        let way = self.ways.entry(door).or_default();
        way.requests += 1;
        way.answered += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
        way.latencies.saturating_record(micros.max(1));
        self.failovers += reply.attempts.saturating_sub(1);
        *self.nodes.entry(reply.node.clone()).or_default() += 1;
        let accuracy = self.models.entry(sample.model).or_default();
        accuracy.answered += 1;
        accuracy.as_labelled += u64::from(reply.answer == sample.truth);
        if reply.answer == sample.expected {
            self.correct += 1;
        } else {
            self.wrong += 1;
            let (model, door) = (sample.model, door.as_str());
            self.reason(format!("{door} {model}: {:?} in the place of {:?}", reply.answer, sample.expected));
        }
    }

    /// A request ended without one.
    pub(super) fn lost(&mut self, door: Door, sample: &Sample, reason: &str) {
        self.ways.entry(door).or_default().requests += 1;
        self.lost += 1;
        self.reason(format!("{} {}: {reason}", door.as_str(), sample.model));
    }

    fn reason(&mut self, reason: String) {
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(reason);
        }
    }

    /// Requests sent, by all ways.
    pub(super) fn requests(&self) -> u64 {
        self.ways.values().map(|way| way.requests).sum()
    }

    /// Requests answered, by all ways.
    pub(super) fn answers(&self) -> u64 {
        self.ways.values().map(|way| way.answered).sum()
    }

    /// Each way that was used.
    pub(super) fn ways(&self) -> impl Iterator<Item = (Door, &Way)> {
        self.ways.iter().map(|(door, way)| (*door, way))
    }

    /// All ways as one.
    pub(super) fn total(&self) -> Way {
        let mut total = Way::default();
        for way in self.ways.values() {
            total.requests += way.requests;
            total.answered += way.answered;
            total.latencies.add(&way.latencies).expect("all histograms have the same bounds");
        }
        total
    }

    /// Whether every request has the right answer.
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.wrong == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        super::super::samples::samples()
            .into_iter()
            .find(|sample| sample.expected == sample.truth)
            .expect("one")
    }

    fn reply(answer: Answer, attempts: u64) -> Reply {
        Reply { answer, node: "press".into(), attempts }
    }

    #[test]
    fn every_request_is_answered_or_lost() {
        let (mut tally, sample) = (Tally::default(), sample());
        tally.answered(Door::Http, &sample, &reply(sample.expected, 1), Duration::from_millis(2));
        tally.answered(Door::Quic, &sample, &reply(sample.expected, 2), Duration::from_millis(4));
        assert!(tally.is_clean());
        tally.lost(Door::Http, &sample, "503");
        assert_eq!((tally.requests(), tally.answers(), tally.lost), (3, 2, 1));
        assert_eq!((tally.failovers, tally.nodes["press"]), (1, 2));
        assert!(!tally.is_clean());
        assert_eq!(tally.total().requests, 3);
        assert!((3_900..=4_100).contains(&tally.total().max_us()));
    }

    #[test]
    fn a_wrong_answer_is_answered_but_not_correct() {
        let (mut tally, sample) = (Tally::default(), sample());
        let other = match sample.expected {
            Answer::Class(class) => Answer::Class(class + 1),
            Answer::Anomalous(flag) => Answer::Anomalous(!flag),
        };
        tally.answered(Door::Http, &sample, &reply(other, 1), Duration::ZERO);
        assert_eq!((tally.answers(), tally.correct, tally.wrong), (1, 0, 1));
        assert_eq!(tally.models[sample.model].as_labelled, 0);
        assert!(!tally.is_clean());
    }

    #[test]
    fn only_the_first_reasons_are_kept() {
        let (mut tally, sample) = (Tally::default(), sample());
        (0..100).for_each(|_| tally.lost(Door::Quic, &sample, "gone"));
        assert_eq!((tally.lost, tally.reasons.len()), (100, REASONS_MAX));
    }
}
