//! `lineside demo`: flags become options of the demo.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    demo::{self, Options, SECONDS_MAX, SECONDS_MIN},
    exit::Outcome,
};

/// `lineside demo`.
#[derive(Debug, Args)]
#[command(after_help = ENDS)]
pub(crate) struct DemoArgs {
    /// Where the gateway serves HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    http: SocketAddr,
    /// How long there is traffic, in seconds
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(SECONDS_MIN..=SECONDS_MAX))]
    seconds: u64,
    /// The ONNX Runtime library [default: searched for, and installed if there is none]
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// End after the report, in the place of running until ctrl-C
    #[arg(long)]
    exit: bool,
    /// Write the report as one JSON object; combine with --exit in scripts
    #[arg(long)]
    json: bool,
}

/// Below the help text.
const ENDS: &str = "\
Starts three nodes and a gateway on this machine, sends them pictures and vibration rows by HTTP and by QUIC, kills a \
node and starts it again. Without --exit they go on until ctrl-C, also with --json; all of them end with the demo.

The report goes to stdout, progress to stderr. Exit code 1 if a request was lost or had a wrong answer.";

/// Runs the demo.
pub(crate) fn run(args: DemoArgs) -> Outcome {
    let DemoArgs { http, seconds, onnxruntime, exit, json } = args;
    demo::run(&Options { length: Duration::from_secs(seconds), http, onnxruntime, exit, json })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Cli;

    #[test]
    fn the_flags_are_checked_before_anything_starts() {
        let parses = |flags: &[&str]| Cli::try_parse_from([&["lineside", "demo"], flags].concat()).is_ok();
        assert!(parses(&[]) && parses(&["--exit", "--json", "--seconds", "3", "--http", "127.0.0.1:8080"]));
        assert!(!parses(&["--seconds", "2"]) && !parses(&["--seconds", "4000"]));
        assert!(!parses(&["--http", "8080"]) && !parses(&["--http", "localhost"]));
    }
}
