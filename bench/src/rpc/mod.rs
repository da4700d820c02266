//! One hop: a caller and a node, two processes, loopback.

pub(crate) mod lineside;
mod load;
pub(crate) mod tonic;
pub(crate) mod udp;

use std::time::Duration;

use lineside_wire::Role;

use crate::{
    children::{Process, System},
    compare::{Measured, Ratio, Round, null_pair, pairs, print, print_head, print_machine},
    identities::Identities,
};
use load::Load;

/// A picture of 224 x 224 in three FP32 planes.
const BULK_BYTES: usize = 602_112;
const BULK_ANSWER_BYTES: usize = 4_096;
const SMALL_BYTES: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pairs of rounds per case; the medians are printed
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Milliseconds of one round
    #[arg(long, default_value_t = 400)]
    round_ms: u64,
    /// Only cases with so many callers
    #[arg(long)]
    callers: Option<usize>,
    /// Write everything that was measured to this file, as JSON
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// One system under one load.
struct Case<'a> {
    name: &'static str,
    caller: &'a mut dyn Caller,
    load: Load,
}

/// A connected caller of one system.
pub(crate) trait Caller {
    fn run(&mut self, load: &Load) -> anyhow::Result<Round>;
}

impl Measured for Case<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn round(&mut self) -> anyhow::Result<Round> {
        self.caller.run(&self.load)
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    print_machine();
    print_head();
    let identities = Identities::make()?;
    let node = identities.issue(Role::Node, "node", "node")?;
    let caller = identities.issue(Role::Gateway, "caller", "caller")?;
    let mut ratios = Vec::new();
    let sizes = [
        (SMALL_BYTES, SMALL_BYTES, "100 B", &[1, 16, 64][..]),
        (BULK_BYTES, BULK_ANSWER_BYTES, "602 KB", &[1, 8]),
    ];
    for (request, answer, size, callers) in sizes {
        let serve = |system| Process::serve(system, &node, answer);
        let (lineside, tonic) = (serve(System::Lineside)?, serve(System::Tonic)?);
        let mut lineside = lineside::Calls::connect(lineside, &caller, &node)?;
        let mut tonic = tonic::Calls::connect(tonic, &caller, &node)?;
        let mut udp = match request {
            SMALL_BYTES => Some(udp::Calls::connect(serve(System::Udp)?)),
            _ => None, // A datagram does not hold it.
        };
        for callers in callers.iter().filter(|callers| args.callers.is_none_or(|only| only == **callers)) {
            let load = Load { callers: *callers, request, lasting: Duration::from_millis(args.round_ms) };
            let case = format!("{size}, c={callers}");
            let mut of = Case { name: "lineside", caller: &mut lineside, load };
            let mut measured: Vec<Ratio> = Vec::new();
            measured.push(pairs(
                &case,
                &mut of,
                &mut Case { name: "tonic", caller: &mut tonic, load },
                args.pairs,
            )?);
            if let Some(udp) = &mut udp {
                measured.push(pairs(
                    &case,
                    &mut of,
                    &mut Case { name: "bare UDP", caller: udp, load },
                    args.pairs,
                )?);
            }
            measured.push(null_pair(&case, &mut of, args.pairs)?);
            measured.iter().for_each(print);
            ratios.append(&mut measured);
        }
    }
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&ratios)?)?;
    }
    Ok(())
}
