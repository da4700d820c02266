//! `lineside torture`: flags become options of the torture.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args};

use crate::{
    exit::Outcome,
    torture::{self, Options},
};

/// Longest run: a week of nights is a script's business.
const MINUTES_MAX: u32 = 24 * 60;
/// Shortest and longest run in seconds: below, no fault has room.
const SECONDS: [u64; 2] = [10, MINUTES_MAX as u64 * 60];
/// Most requests in a second: one thread sends and checks them all.
const RATE_MAX: u32 = 5_000;

/// `lineside torture`.
#[derive(Debug, Args)]
#[command(after_help = ENDS)]
pub(crate) struct TortureArgs {
    /// How long there is load
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(MINUTES_MAX)))]
    minutes: u32,
    /// The same in seconds
    #[arg(long, value_name = "N", hide = true, conflicts_with = "minutes", value_parser = clap::value_parser!(u64).range(SECONDS[0]..=SECONDS[1]))]
    seconds: Option<u64>,
    /// What decides over the faults: the same seed breaks the same things at the same times [default: drawn, and told]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Requests per second in calm, beside the sequences
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate: u32,
    /// The ONNX Runtime library [default: searched for, and installed if there is none]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// Leave logs and data on disk, as after a run that was not clean
    #[arg(long, action = ArgAction::SetTrue)]
    keep: bool,
    /// Write the report as one JSON object
    #[arg(long)]
    json: bool,
}

/// Below the help text.
const ENDS: &str = "\
Starts four nodes and two gateways on this machine, each behind a network that can be spoilt, sends them requests by \
HTTP, JSON-RPC and QUIC, and breaks up to two things at a time: members are killed, stopped, restarted, cordoned; links \
are cut, lossy, slow, or pass one way only; load triples; callers hang up. Two nodes and a gateway always stay whole. \
Every answer is checked.

The report goes to stdout, progress to stderr. Exit code 1 if a request was lost, ran twice, had a wrong answer, or \
ended with an error that must not be. The schedule is the seed's; how the processes' own times fall is not.";

/// Runs the torture.
pub(crate) fn run(args: TortureArgs) -> Outcome {
    let TortureArgs { minutes, seconds, seed, rate, onnxruntime, keep, json } = args;
    let length = Duration::from_secs(seconds.unwrap_or_else(|| u64::from(minutes) * 60));
    torture::run(&Options { length, seed, rate, onnxruntime, keep, json })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Cli;

    #[test]
    fn the_flags_are_checked_before_anything_starts() {
        let parses = |flags: &[&str]| Cli::try_parse_from([&["lineside", "torture"], flags].concat()).is_ok();
        assert!(parses(&[]) && parses(&["--minutes", "10", "--seed", "7", "--json", "--keep"]));
        assert!(parses(&["--seconds", "20", "--rate", "40"]));
        assert!(!parses(&["--minutes", "0"]) && !parses(&["--rate", "0"]) && !parses(&["--seconds", "5"]));
        assert!(!parses(&["--minutes", "1", "--seconds", "20"]) && !parses(&["--seed", "press"]));
    }
}
