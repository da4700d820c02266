//! Two systems in turn, and what one is to the other.

use std::time::Duration;

use serde::Serialize;

/// What one system did in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    /// Requests per second.
    pub(crate) per_second: f64,
    /// CPU of all processes for one request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Median latency, in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, in microseconds.
    pub(crate) p99_us: f64,
}

impl Round {
    pub(crate) fn new(requests: u64, took: Duration, cpu: Duration, p50: u64, p99: u64) -> Self {
        // Counts of one round stay far below 2^53.
        let requests = requests.max(1) as f64;
        Self {
            per_second: requests / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / requests,
            p50_us: p50 as f64,
            p99_us: p99 as f64,
        }
    }
}

/// Something that can be measured for one round.
pub(crate) trait Measured {
    fn name(&self) -> &str;
    fn round(&mut self) -> anyhow::Result<Round>;
}

/// A number with how far it strays.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}-{:.2})", self.median, self.min, self.max)
    }
}

/// What A is to B.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) case: String,
    pub(crate) of: String,
    pub(crate) to: String,
    pub(crate) per_second: Spread,
    pub(crate) cpu: Spread,
    pub(crate) p99: Spread,
    pub(crate) rounds_of: Vec<Round>,
    pub(crate) rounds_to: Vec<Round>,
}

/// Runs A and B in turn, A B B A, after one round each that is not counted.
pub(crate) fn pairs(
    case: &str,
    a: &mut dyn Measured,
    b: &mut dyn Measured,
    pairs: usize,
) -> anyhow::Result<Ratio> {
    a.round()?;
    b.round()?;
    let (mut of, mut to) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        if pair % 2 == 0 {
            of.push(a.round()?);
            to.push(b.round()?);
        } else {
            to.push(b.round()?);
            of.push(a.round()?);
        }
    }
    Ok(ratio(case, (a.name(), &of), (b.name(), &to)))
}

/// A system against itself: what noise alone makes of a ratio.
pub(crate) fn null_pair(case: &str, a: &mut dyn Measured, pairs: usize) -> anyhow::Result<Ratio> {
    let (mut of, mut to) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        of.push(a.round()?);
        to.push(a.round()?);
    }
    Ok(ratio(case, (a.name(), &of), ("itself", &to)))
}

fn ratio(case: &str, of: (&str, &[Round]), to: (&str, &[Round])) -> Ratio {
    let each =
        |part: fn(&Round) -> f64| Spread::of(of.1.iter().zip(to.1).map(|(a, b)| part(a) / part(b)).collect());
    Ratio {
        case: case.to_owned(),
        of: of.0.to_owned(),
        to: to.0.to_owned(),
        per_second: each(|round| round.per_second),
        cpu: each(|round| round.cpu_us),
        p99: each(|round| round.p99_us),
        rounds_of: of.1.to_vec(),
        rounds_to: to.1.to_vec(),
    }
}

/// Prints the head of a table of ratios.
pub(crate) fn print_head() {
    println!(
        "{:<22} {:<20} {:>20} {:>20} {:>20} {:>24} {:>24}",
        "case", "of / to", "requests/s", "CPU per request", "p99", "absolute (of)", "absolute (to)"
    );
}

/// Prints one row.
pub(crate) fn print(ratio: &Ratio) {
    let typical = |rounds: &[Round]| {
        let median = |part: fn(&Round) -> f64| Spread::of(rounds.iter().map(part).collect()).median;
        format!("{:.0}/s {:.1} us", median(|round| round.per_second), median(|round| round.cpu_us))
    };
    println!(
        "{:<22} {:<20} {:>20} {:>20} {:>20} {:>24} {:>24}",
        ratio.case,
        format!("{} / {}", ratio.of, ratio.to),
        ratio.per_second.to_string(),
        ratio.cpu.to_string(),
        ratio.p99.to_string(),
        typical(&ratio.rounds_of),
        typical(&ratio.rounds_to),
    );
}

/// Says on which machine this was measured.
pub(crate) fn print_machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    println!(
        "{} · {cores} cores ·{}",
        read("/proc/sys/kernel/osrelease"),
        model.trim_start_matches([' ', '\t', ':'])
    );
}
