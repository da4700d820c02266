//! What is said at the end: for people, and as one JSON object. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use lineside_faults::ledger::Sums;
use serde::Serialize;

use super::{
    schedule::{Fault, Kind, Schedule},
    tally::{Tally, middle_and_worst},
};
use crate::output::time_us;

/// Everything that is known at the end.
pub(super) struct Report {
    /// What decided over the faults.
    pub(super) seed: u64,
    /// How long there was load.
    pub(super) took: Duration,
    /// Requests in a second, in calm.
    pub(super) rate: u32,
    /// The faults that were planned.
    pub(super) schedule: Schedule,
    /// The ledger.
    pub(super) sums: Sums,
    /// What is known beside it.
    pub(super) tally: Tally,
    /// What went wrong, in the ledger's words.
    pub(super) complaints: Vec<String>,
}

/// The JSON object. Its keys stay.
#[derive(Serialize)]
struct Object<'a> {
    clean: bool,
    seed: u64,
    seconds: f64,
    rate: u32,
    ledger: &'a Sums,
    forbidden: &'a BTreeMap<String, u64>,
    rough_ends: u64,
    repeated: u64,
    hung_up: u64,
    unsent: u64,
    looked_up: u64,
    faults: BTreeMap<Kind, u64>,
    recovery: Option<Times>,
    node_return: Option<Times>,
    latency: BTreeMap<&'static str, Latency>,
    schedule: &'a [Fault],
    complaints: Vec<&'a String>,
}

#[derive(Serialize)]
struct Times {
    median_ms: u128,
    worst_ms: u128,
}

#[derive(Serialize)]
struct Latency {
    answers: u64,
    p50_us: u64,
    p99_us: u64,
}

fn times(times: &[Duration]) -> Option<Times> {
    let (median, worst) = middle_and_worst(times)?;
    Some(Times { median_ms: median.as_millis(), worst_ms: worst.as_millis() })
}

impl Report {
    /// Whether every promise was kept.
    pub(super) fn is_clean(&self) -> bool {
        self.sums.breach().is_none()
            && self.tally.is_clean()
            && self.sums.unrecovered == 0
            && 0 < self.sums.answers
    }

    /// The JSON object.
    pub(super) fn json(&self) -> impl Serialize {
        let tally = &self.tally;
        Object {
            clean: self.is_clean(),
            seed: self.seed,
            seconds: self.took.as_secs_f64(),
            rate: self.rate,
            ledger: &self.sums,
            forbidden: &tally.forbidden,
            rough_ends: tally.rough_ends,
            repeated: tally.repeated,
            hung_up: tally.hung_up,
            unsent: tally.unsent,
            looked_up: tally.looked_up,
            faults: tally.faults.clone(),
            recovery: times(&tally.recoveries),
            node_return: times(&tally.returns),
            latency: tally
                .latencies()
                .map(|(name, answers, p50_us, p99_us)| (name, Latency { answers, p50_us, p99_us }))
                .into(),
            schedule: &self.schedule.faults,
            complaints: self.complaints.iter().chain(&tally.complaints).collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, took, rate, sums, tally, complaints, .. } = self;
        writeln!(f, "seed {seed}, {:.0} s, {rate} requests/s and sequences\n", took.as_secs_f64())?;
        writeln!(f, "{sums}\n")?;
        let kinds: Vec<_> = tally.faults.iter().map(|(kind, n)| format!("{} {n}", kind.as_str())).collect();
        writeln!(
            f,
            "faults by kind: {}",
            if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
        )?;
        if let Some((median, worst)) = middle_and_worst(&tally.recoveries) {
            let (median, worst) = (median.as_secs_f64(), worst.as_secs_f64());
            writeln!(
                f,
                "from a fault to the first of ten right answers in a row: median {median:.2} s, worst {worst:.2} s"
            )?;
        }
        if let Some((median, worst)) = middle_and_worst(&tally.returns) {
            let (median, worst) = (median.as_secs_f64(), worst.as_secs_f64());
            writeln!(
                f,
                "from the mending of a node to its first answer: median {median:.2} s, worst {worst:.2} s"
            )?;
        }
        for (name, answers, p50, p99) in tally.latencies().into_iter().filter(|(_, answers, ..)| 0 < *answers)
        {
            writeln!(f, "{name:6} {answers} answers, p50 {}, p99 {}", time_us(p50), time_us(p99))?;
        }
        let Tally { repeated, looked_up, hung_up, unsent, .. } = tally;
        writeln!(
            f,
            "sent again by their caller: {repeated}; sequences in doubt that were looked up: {looked_up}; callers that \
             hung up: {hung_up}; not sent, because too many were under way: {unsent}"
        )?;
        complaints.iter().chain(&tally.complaints).try_for_each(|line| writeln!(f, "  {line}"))?;
        let mut bad: Vec<String> = sums.breach().into_iter().collect();
        bad.extend(
            tally
                .forbidden
                .iter()
                .map(|(code, count)| format!("{count} ended with {code}, which must not be")),
        );
        if tally.rough_ends != 0 {
            bad.push(format!("{} members did not end in order", tally.rough_ends));
        }
        if sums.unrecovered != 0 {
            bad.push(format!("{} faults were not recovered from", sums.unrecovered));
        }
        match bad.is_empty() {
            true => writeln!(f, "every promise was kept: nothing lost, nothing twice, nothing wrong"),
            false => writeln!(f, "broken promises: {}", bad.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let sums = Sums { requests: 10, answers: 10, ..Sums::default() };
        let schedule = Schedule::draw(7, Duration::from_secs(60));
        let took = Duration::from_secs(60);
        Report { seed: 7, took, rate: 250, schedule, sums, tally: Tally::default(), complaints: Vec::new() }
    }

    #[test]
    fn a_clean_run_says_so_and_another_says_what_was_broken() {
        let mut report = report();
        assert!(report.is_clean() && report.to_string().contains("every promise was kept"));
        (report.sums.answers, report.sums.lost) = (9, 1);
        report.complaints.push("QUIC: no answer in time".into());
        let text = report.to_string();
        assert!(
            !report.is_clean() && text.contains("1 lost") && text.contains("no answer in time"),
            "{text}"
        );
    }

    #[test]
    fn a_typed_error_that_was_not_announced_and_a_rough_end_are_no_clean_run() {
        let mut report = report();
        report.tally.forbid("LOST", "HTTP JSON: LOST after 0.2 s".into());
        report.tally.rough_ends = 1;
        let text = report.to_string();
        assert!(
            !report.is_clean() && text.contains("1 ended with LOST") && text.contains("in order"),
            "{text}"
        );
    }

    #[test]
    fn the_json_has_what_a_program_needs() {
        let json = serde_json::to_value(report().json()).unwrap();
        assert_eq!(
            (&json["clean"], &json["seed"], &json["ledger"]["lost"]),
            (&true.into(), &7.into(), &0.into())
        );
        assert!(json["schedule"][0]["kind"].is_string() && json["schedule"][0]["at_ms"].is_u64(), "{json}");
    }
}
