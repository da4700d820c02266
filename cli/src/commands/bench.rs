//! `lineside bench`: flags become options of a measurement.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use crate::{
    bench::{self, Options, Via},
    exit::Outcome,
};

/// Most requests in a second that one thread could send and check.
const RATE_MAX: u32 = 100_000;
/// Longest step: an hour.
const SECONDS_MAX: u64 = 3_600;

/// `lineside bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// More and more requests through one gateway and three nodes, one of which is killed on each step
    Ladder(LadderArgs),
}

/// `lineside bench ladder`.
#[derive(Debug, Args)]
#[command(after_help = ENDS)]
pub(crate) struct LadderArgs {
    /// Requests per second, step by step
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [500, 2_000, 5_000, 8_000], value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    steps: Vec<u32>,
    /// How long each step takes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
    /// By which door the requests go
    #[arg(long, value_enum, default_value_t = Via::Http)]
    via: Via,
    /// The ONNX Runtime library [default: searched for, and installed if there is none]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Write the report as one JSON object
    #[arg(long)]
    json: bool,
}

/// Below the help text.
const ENDS: &str = "\
Requests come when they are due, whether or not the ones before have their answers, and latencies count from then. At \
most 96 are under way; what is due beyond waits, and its wait counts. CPU is user and system time of a step, the load's \
own too, which shares the cores. REACHED is what was answered in the step's time.

The report goes to stdout, progress to stderr. Exit code 1 if a request that was sent had no right answer. Use a release \
build: another one measures itself.";

impl BenchCommand {
    /// Runs it.
    pub(crate) fn run(self) -> Outcome {
        let Self::Ladder(LadderArgs { steps, seconds, via, onnxruntime, json }) = self;
        bench::run(&Options { steps, length: Duration::from_secs(seconds), via, onnxruntime, json })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Cli;

    #[test]
    fn the_flags_are_checked_before_anything_starts() {
        let parses = |flags: &[&str]| Cli::try_parse_from([&["lineside", "bench"], flags].concat()).is_ok();
        assert!(parses(&["ladder"]) && parses(&["ladder", "--steps", "50,100", "--via", "quic", "--json"]));
        assert!(
            !parses(&[]) && !parses(&["ladder", "--steps", "0"]) && !parses(&["ladder", "--seconds", "0"])
        );
        assert!(!parses(&["ladder", "--via", "carrier-pigeon"]));
    }
}
