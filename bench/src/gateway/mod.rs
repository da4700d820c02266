//! HTTP to a tiny model: a Lineside gateway and node, beside nginx in front of a server that adds.
//!
//! Two such servers: `sum` adds on the spot and is what a plain echo costs; `model` has ONNX Runtime add, in a session
//! on a thread of its own, which is what a node does. The second needs `--onnxruntime`.
//!
//! Both hops behind the door are mutual TLS 1.3 with the same certificates. Door and backend are counted, the load
//! generator (`wrk`, one thread) is not. nginx has as many workers as the gateway has shards, keep-alive to its
//! backend, no access log; Lineside's metrics are on.

pub(crate) mod body;
pub(crate) mod echo;
mod lineside;
pub(crate) mod nginx;
mod runner;
pub(crate) mod wrk;

use std::time::Duration;

use anyhow::{Context as _, bail};
use body::Body;
use lineside_wire::Role;

use crate::{
    compare::{Measured, Round, null_pair, pairs, print, print_head, print_machine},
    cpu,
    identities::Identities,
    member,
};

/// The request's path at both doors.
pub(crate) const PATH: &str = "/v2/models/add/infer";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pairs of rounds per case; the medians are printed
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of one round
    #[arg(long, default_value_t = 2)]
    round_s: u64,
    /// Seconds of the sustained run at 64 connections
    #[arg(long, default_value_t = 20)]
    sustain_s: u64,
    /// Gateway shards and nginx workers
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// The `lineside` binary [default: beside this one]
    #[arg(long)]
    lineside: Option<std::path::PathBuf>,
    /// The ONNX Runtime library [default: found by the node]
    #[arg(long)]
    onnxruntime: Option<std::path::PathBuf>,
    /// Write everything that was measured to this file, as JSON
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// A door with what stands behind it.
pub(crate) trait Door {
    /// Its HTTP address.
    fn address(&self) -> std::net::SocketAddr;
    /// Every process of it, the load generator left out.
    fn pids(&self) -> Vec<u32>;
}

struct Case<'a> {
    name: &'static str,
    door: &'a dyn Door,
    body: &'a Body,
    connections: usize,
    lasting: Duration,
}

impl Measured for Case<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn round(&mut self) -> anyhow::Result<Round> {
        let pids = self.door.pids();
        let before = cpu::used(&pids);
        let load = wrk::run(self.door.address(), self.body, self.connections, self.lasting)?;
        let cpu = cpu::used(&pids) - before;
        if load.errors != 0 {
            bail!(
                "{}: {} of {} requests failed: a comparison needs none",
                self.name,
                load.errors,
                load.requests
            );
        }
        Ok(Round::new(load.requests, load.took, cpu, load.p50_us, load.p99_us))
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    for (tool, package) in [("nginx", "nginx-light"), ("wrk", "wrk")] {
        wrk::check(tool).with_context(|| format!("{tool} is needed: install the package {package}"))?;
    }
    print_machine();
    let identities = Identities::make()?;
    let node = identities.issue(Role::Node, "node", "node/identity")?;
    let gateway = identities.issue(Role::Gateway, "gateway", "gateway/identity")?;
    let binary = member::binary(args.lineside)?;
    let ours = lineside::Cluster::start(&binary, &identities, args.shards, args.onnxruntime.as_deref())?;
    let sums = nginx::Nginx::start(&identities, &gateway, &node, args.shards, None)?;
    let runs = match &args.onnxruntime {
        Some(library) => Some(nginx::Nginx::start(&identities, &gateway, &node, args.shards, Some(library))?),
        None => None,
    };
    let lasting = Duration::from_secs(args.round_s);
    print_head();
    let mut ratios = Vec::new();
    let (small, large) = (Body::small(), Body::large());
    for (body, connections) in [(&small, 1), (&small, 16), (&small, 64), (&large, 1), (&large, 8)] {
        let case = format!("{}, c={connections}", body.name);
        let of = |name, door| Case { name, door, body, connections, lasting };
        let mut lineside = of("lineside", &ours as &dyn Door);
        let mut measured = vec![pairs(&case, &mut lineside, &mut of("nginx+sum", &sums), args.pairs)?];
        // The model is the same few additions: with large bodies it would only hide what the door costs.
        if let (Some(runs), None) = (&runs, body.headers().get(1)) {
            measured.push(pairs(&case, &mut lineside, &mut of("nginx+model", runs), args.pairs)?);
        }
        if connections == 64 {
            measured.push(null_pair(&case, &mut lineside, args.pairs)?);
        }
        measured.iter().for_each(print);
        ratios.append(&mut measured);
    }
    let load = wrk::run(ours.address(), &small, 64, Duration::from_secs(args.sustain_s))?;
    let per_second = load.requests as f64 / load.took.as_secs_f64();
    println!(
        "sustained for {} s at 64 connections: {per_second:.0} requests/s, {} errors, p50 {} us, p99 {} us",
        args.sustain_s, load.errors, load.p50_us, load.p99_us
    );
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&ratios)?)?;
    }
    Ok(())
}
