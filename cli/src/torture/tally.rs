//! What became of the requests beside the ledger: how long they took in calm and with faults, how soon things were well
//! again, which typed errors there were and whether they may be. Pure.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::schedule::Kind;

/// Longest latency that a histogram tells apart: callers wait for less.
const LATENCY_US_MAX: u64 = 120_000_000;
/// How long after a fault was mended requests still count as disturbed by it.
const WAKE: Duration = Duration::from_secs(2);
/// Right answers in a row, to requests that were begun after a fault, that end it.
const IN_A_ROW: u32 = 10;
/// Unexpected errors that are kept in words.
const COMPLAINTS_MAX: usize = 8;

/// What a request may end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Its model keeps nothing between requests: with a second or more it gets its answer.
    Pure,
    /// Its model's state is on one node: when that is lost, it is told so.
    Stateful,
}

/// Typed errors that a stateful request may end with: its state, or the only node that has it, is gone or out of reach,
/// or nobody knows whether it ran.
const STATEFUL_MAY: [&str; 7] = [
    "SEQUENCE_LOST",
    "LOST",
    "UNREACHABLE",
    "MODEL_UNAVAILABLE",
    "DRAINING",
    "DEADLINE_EXCEEDED",
    "DEADLINE_EXCEEDED_RUNNING",
];

/// What any request may end with while there is three times the load: the cluster says that it is full, at once.
const OVERLOADED_MAY: [&str; 1] = ["BUSY"];

/// Whether a typed error is one that was announced.
pub(super) fn is_allowed(promise: Promise, code: &str, overloaded: bool) -> bool {
    (overloaded && OVERLOADED_MAY.contains(&code))
        || (promise == Promise::Stateful && (STATEFUL_MAY.contains(&code) || OVERLOADED_MAY.contains(&code)))
}

/// A fault that is waited out.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    right: u32,
    /// The end of the first of them.
    first: Option<Instant>,
}

/// A node that was mended and has not answered yet.
#[derive(Debug)]
struct Away {
    node: String,
    mended: Instant,
}

/// The tally.
#[derive(Debug)]
pub(super) struct Tally {
    /// Latencies in microseconds without and with a fault.
    calm: Histogram<u64>,
    disturbed: Histogram<u64>,
    active: usize,
    last_mended: Option<Instant>,
    waiting: Vec<Waiting>,
    away: Vec<Away>,
    /// From a fault to the first of ten right answers in a row.
    pub(super) recoveries: Vec<Duration>,
    /// From the mending of a node to its first answer.
    pub(super) returns: Vec<Duration>,
    /// Faults that were made.
    pub(super) faults: BTreeMap<Kind, u64>,
    /// Requests that the caller had to send again.
    pub(super) repeated: u64,
    /// Requests of callers that hung up; nobody waits for their end.
    pub(super) hung_up: u64,
    /// Requests that were due and not sent, because too many were under way already.
    pub(super) unsent: u64,
    /// Stateful requests in doubt whose effect was looked up afterwards.
    pub(super) looked_up: u64,
    /// Typed errors that must not be, by code.
    pub(super) forbidden: BTreeMap<String, u64>,
    /// Some of those in words, and members that did not end in order.
    pub(super) complaints: Vec<String>,
    /// Members that did not end in order after SIGTERM.
    pub(super) rough_ends: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants and valid");
        Self {
            calm: histogram(),
            disturbed: histogram(),
            active: 0,
            last_mended: None,
            waiting: Vec::new(),
            away: Vec::new(),
            recoveries: Vec::new(),
            returns: Vec::new(),
            faults: BTreeMap::new(),
            repeated: 0,
            hung_up: 0,
            unsent: 0,
            looked_up: 0,
            forbidden: BTreeMap::new(),
            complaints: Vec::new(),
            rough_ends: 0,
        }
    }
}

impl Tally {
    /// A fault begins.
    pub(super) fn breaks(&mut self, kind: Kind, now: Instant) {
        *self.faults.entry(kind).or_default() += 1;
        self.active += 1;
        self.waiting.push(Waiting { since: now, right: 0, first: None });
    }

    /// A fault is mended. A node that was away is looked out for.
    pub(super) fn mended(&mut self, node: Option<&str>, now: Instant) {
        self.active = self.active.saturating_sub(1);
        self.last_mended = Some(now);
        self.away.extend(node.map(|node| Away { node: node.to_owned(), mended: now }));
    }

    /// Whether a fault is felt.
    pub(super) fn is_disturbed(&self, now: Instant) -> bool {
        0 < self.active || self.last_mended.is_some_and(|mended| now < mended + WAKE)
    }

    /// A right answer, to a request that began then.
    pub(super) fn right(&mut self, node: &str, begun: Instant, was_disturbed: bool, now: Instant) {
        let micros =
            u64::try_from(now.saturating_duration_since(begun).as_micros()).unwrap_or(LATENCY_US_MAX);
        let disturbed = was_disturbed || self.is_disturbed(now);
        let latencies = if disturbed { &mut self.disturbed } else { &mut self.calm };
        latencies.saturating_record(micros.max(1));
        let recoveries = &mut self.recoveries;
        self.waiting.retain_mut(|fault| {
            if begun < fault.since {
                return true;
            }
            let first = *fault.first.get_or_insert(now);
            fault.right += 1;
            if IN_A_ROW <= fault.right {
                recoveries.push(first.saturating_duration_since(fault.since));
            }
            fault.right < IN_A_ROW
        });
        let returns = &mut self.returns;
        self.away.retain(|away| {
            let is_back = away.node == node && away.mended <= begun;
            if is_back {
                returns.push(now.saturating_duration_since(away.mended));
            }
            !is_back
        });
    }

    /// A request ended otherwise.
    pub(super) fn not_right(&mut self, begun: Instant) {
        let felt = self.waiting.iter_mut().filter(|fault| fault.since <= begun);
        felt.for_each(|fault| (fault.right, fault.first) = (0, None));
    }

    /// A typed error that must not be.
    pub(super) fn forbid(&mut self, code: &str, what: String) {
        *self.forbidden.entry(code.to_owned()).or_default() += 1;
        self.complain(what);
    }

    /// Something to tell at the end.
    pub(super) fn complain(&mut self, what: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(what);
        }
    }

    /// Whether only what may be has been, the ledger aside.
    pub(super) fn is_clean(&self) -> bool {
        self.forbidden.is_empty() && self.rough_ends == 0
    }

    /// Median and 99th percentile in calm and with faults, in microseconds, with how many there were.
    pub(super) fn latencies(&self) -> [(&'static str, u64, u64, u64); 2] {
        [("calm", &self.calm), ("faults", &self.disturbed)].map(|(name, latencies)| {
            (name, latencies.len(), latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99))
        })
    }
}

/// The middle one, and the largest.
pub(super) fn middle_and_worst(times: &[Duration]) -> Option<(Duration, Duration)> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    Some((*sorted.get(sorted.len() / 2)?, *sorted.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_fault_is_over_with_the_first_of_ten_right_answers_in_a_row_to_later_requests() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        tally.breaks(Kind::Kill, start + ms(10));
        // Begun before it: says nothing.
        (0..20).for_each(|_| tally.right("press", start, false, start + ms(20)));
        assert!(tally.recoveries.is_empty());
        (0..9).for_each(|_| tally.right("press", start + ms(30), true, start + ms(40)));
        tally.not_right(start + ms(30));
        (0..10).for_each(|n| tally.right("press", start + ms(50), true, start + ms(100 + n)));
        assert_eq!(tally.recoveries, [ms(90)]);
    }

    #[test]
    fn a_node_is_back_with_its_first_answer_to_a_later_request() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        tally.breaks(Kind::Kill, start);
        tally.mended(Some("weld"), start + ms(100));
        tally.right("weld", start + ms(50), true, start + ms(150));
        tally.right("press", start + ms(110), true, start + ms(150));
        assert!(tally.returns.is_empty());
        tally.right("weld", start + ms(200), true, start + ms(400));
        tally.right("weld", start + ms(210), true, start + ms(500));
        assert_eq!(tally.returns, [ms(300)]);
    }

    #[test]
    fn latencies_are_told_for_calm_and_for_faults() {
        let (mut tally, start) = (Tally::default(), Instant::now());
        tally.right("press", start, false, start + ms(2));
        tally.breaks(Kind::Pause, start + ms(5));
        tally.right("press", start + ms(3), false, start + ms(303));
        tally.mended(None, start + ms(400));
        assert!(tally.is_disturbed(start + ms(500)) && !tally.is_disturbed(start + WAKE + ms(401)));
        let [calm, faults] = tally.latencies();
        assert_eq!((calm.1, faults.1), (1, 1));
        assert!(
            (1_990..=2_010).contains(&calm.2) && (299_000..=301_000).contains(&faults.3),
            "{calm:?} {faults:?}"
        );
    }

    #[test]
    fn only_announced_errors_may_be() {
        assert!(is_allowed(Promise::Stateful, "SEQUENCE_LOST", false));
        assert!(!is_allowed(Promise::Pure, "LOST", false) && !is_allowed(Promise::Pure, "BUSY", false));
        assert!(is_allowed(Promise::Pure, "BUSY", true) && !is_allowed(Promise::Pure, "LOST", true));
        assert!(!is_allowed(Promise::Stateful, "INTERNAL", false));
        let mut tally = Tally::default();
        assert!(tally.is_clean());
        tally.forbid("LOST", "HTTP: lost press".into());
        assert!(!tally.is_clean());
    }

    #[test]
    fn the_middle_and_the_worst_of_some_times() {
        assert_eq!(middle_and_worst(&[]), None);
        assert_eq!(middle_and_worst(&[ms(3), ms(1), ms(2)]), Some((ms(2), ms(3))));
    }
}
