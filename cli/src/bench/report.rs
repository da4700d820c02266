//! What is said at the end: a table, and one JSON object. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use super::{
    generator::{Run, Via},
    usage::Usage,
};
use crate::output::{Table, time_us};

/// From which part of its rate on a step counts as reached: noise is a few requests.
const REACHED_FROM: f64 = 0.98;

/// All steps.
pub(super) struct Report {
    /// By which door.
    pub(super) via: Via,
    /// How long each step took.
    pub(super) length: Duration,
    /// They.
    pub(super) rungs: Vec<Rung>,
}

/// One step.
pub(super) struct Rung {
    /// Requests per second that came due.
    pub(super) rate: u32,
    /// The node that was killed.
    pub(super) killed: &'static str,
    /// What became of the requests.
    pub(super) run: Run,
    /// What the gateway used.
    pub(super) gateway: Usage,
    /// What the nodes used, the killed one until then.
    pub(super) nodes: Usage,
    /// What this program used.
    pub(super) load: Usage,
}

/// The JSON object. Its keys stay.
#[derive(Serialize)]
struct Object<'a> {
    clean: bool,
    via: Via,
    seconds: f64,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    rate: u32,
    reached: f64,
    due: u64,
    answers: u64,
    errors: &'a BTreeMap<String, u64>,
    unsent: u64,
    mean_us: f64,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    killed: &'static str,
    gateway_cpu_seconds: f64,
    nodes_cpu_seconds: f64,
    load_cpu_seconds: f64,
    gateway_memory_bytes: u64,
    nodes_memory_bytes: u64,
}

impl Rung {
    fn step(&self) -> Step<'_> {
        let Self { rate, killed, run, gateway, nodes, load } = self;
        Step {
            rate: *rate,
            reached: run.reached(),
            due: run.due,
            answers: run.answers,
            errors: &run.errors,
            unsent: run.unsent,
            mean_us: run.latencies.mean(),
            p50_us: run.latencies.value_at_quantile(0.5),
            p99_us: run.latencies.value_at_quantile(0.99),
            max_us: run.latencies.max(),
            killed,
            gateway_cpu_seconds: gateway.cpu.as_secs_f64(),
            nodes_cpu_seconds: nodes.cpu.as_secs_f64(),
            load_cpu_seconds: load.cpu.as_secs_f64(),
            gateway_memory_bytes: gateway.memory,
            nodes_memory_bytes: nodes.memory,
        }
    }

    fn is_reached(&self) -> bool {
        f64::from(self.rate) * REACHED_FROM <= self.run.reached()
    }
}

impl Report {
    /// Whether every request that was sent has its right answer.
    pub(super) fn is_clean(&self) -> bool {
        self.rungs.iter().all(|rung| rung.run.failures() == 0 && 0 < rung.run.answers)
    }

    /// The JSON object.
    pub(super) fn json(&self) -> impl Serialize {
        let steps = self.rungs.iter().map(Rung::step).collect();
        Object { clean: self.is_clean(), via: self.via, seconds: self.length.as_secs_f64(), steps }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = [
            "REQ/S",
            "REACHED",
            "ERRORS",
            "UNSENT",
            "MEAN",
            "P50",
            "P99",
            "MAX",
            "CPU GATEWAY",
            "CPU NODES",
            "CPU LOAD",
            "MEM GATEWAY",
            "MEM NODES",
            "KILLED",
        ];
        let mut table = Table::new(head).right([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        for rung in &self.rungs {
            let step = rung.step();
            let seconds = |seconds: f64| format!("{seconds:.2} s");
            let memory = |bytes: u64| format!("{} MiB", bytes >> 20);
            table.row([
                step.rate.to_string(),
                format!("{:.0}", step.reached),
                rung.run.failures().to_string(),
                step.unsent.to_string(),
                // Below 2^53.
                time_us(step.mean_us as u64),
                time_us(step.p50_us),
                time_us(step.p99_us),
                time_us(step.max_us),
                seconds(step.gateway_cpu_seconds),
                seconds(step.nodes_cpu_seconds),
                seconds(step.load_cpu_seconds),
                memory(step.gateway_memory_bytes),
                memory(step.nodes_memory_bytes),
                step.killed.to_owned(),
            ]);
        }
        write!(f, "{table}")?;
        for rung in &self.rungs {
            if !rung.is_reached() {
                let (rate, reached) = (rung.rate, rung.run.reached());
                writeln!(f, "{rate} requests/s were not reached on this machine, but {reached:.0}")?;
            }
            for (what, count) in &rung.run.errors {
                writeln!(f, "{count} of {} requests/s: {what}", rung.rate)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    fn rung(rate: u32, in_time: u64, errors: u64) -> Rung {
        let mut latencies = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        latencies.record_n(1_500, 99).unwrap();
        latencies.record(80_000).unwrap();
        let errors = (0 < errors).then(|| ("BUSY".to_owned(), errors)).into_iter().collect();
        let length = Duration::from_secs(10);
        let due = u64::from(rate) * 10;
        let usage = Usage { cpu: Duration::from_millis(2_500), memory: 30 << 20 };
        let run = Run { due, answers: due, answers_in_time: in_time, errors, unsent: 0, latencies, length };
        Rung { rate, killed: "weld", run, gateway: usage, nodes: usage.and(usage), load: usage }
    }

    fn report(rungs: Vec<Rung>) -> Report {
        Report { via: Via::Http, length: Duration::from_secs(10), rungs }
    }

    #[test]
    fn a_row_says_what_a_step_cost() {
        let text = report(vec![rung(500, 5_000, 0)]).to_string();
        assert!(text.starts_with("REQ/S") && text.lines().count() == 2, "{text}");
        for word in ["500", "2.50 s", "5.00 s", "30 MiB", "60 MiB", "weld"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn a_rate_that_was_not_reached_is_said_plainly_and_is_no_error() {
        let report = report(vec![rung(8_000, 61_000, 0)]);
        assert!(report.is_clean());
        assert!(report.to_string().contains("8000 requests/s were not reached on this machine, but 6100"));
    }

    #[test]
    fn one_error_is_no_clean_ladder() {
        let report = report(vec![rung(500, 5_000, 0), rung(2_000, 20_000, 1)]);
        assert!(!report.is_clean() && report.to_string().contains("1 of 2000 requests/s: BUSY"));
        let json = serde_json::to_value(report.json()).unwrap();
        assert_eq!((&json["clean"], &json["steps"][1]["errors"]["BUSY"]), (&false.into(), &1.into()));
    }
}
