//! What a lost server costs the callers: a Lineside gateway with three nodes, beside nginx with three servers.
//!
//! Callers ask at a steady pace while one of the three is killed, or falls silent as a machine does whose cable is pulled.
//! nginx is set to do what Lineside does by itself: `least_conn`, `proxy_next_upstream error timeout non_idempotent`, times
//! of a second. A call is affected when its door says that it tried more than one server; what it took longer than the
//! median before is what the loss cost it. Both run in a network namespace of their own, one after the other.

mod load;
mod network;
mod ours;
mod theirs;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use lineside_wire::Role;

use crate::{
    compare::print_machine,
    gateway::{body::Body, wrk},
    identities::Identities,
    member::{self, now},
};
use load::{Call, Load};

/// Servers behind each door.
const SERVERS: usize = 3;

/// How long callers ask before a loss: the door knows all servers, and what a call takes.
const CALM: Duration = Duration::from_secs(3);

/// How long is waited behind a loss: longer than any door's patience here.
const AFTER: Duration = Duration::from_secs(6);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Losses of each kind
    #[arg(long, default_value_t = 5)]
    losses: usize,
    /// Callers
    #[arg(long, default_value_t = 16)]
    callers: usize,
    /// Milliseconds from one call of a caller to its next
    #[arg(long, default_value_t = 10)]
    pace_ms: u64,
    /// The `lineside` binary [default: beside this one]
    #[arg(long)]
    lineside: Option<PathBuf>,
    /// The ONNX Runtime library
    #[arg(long)]
    onnxruntime: PathBuf,
    /// Write everything that was measured to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How a server is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Its process is killed: the system tells whoever asks.
    Crash,
    /// Nothing comes from it any more.
    Silence,
}

/// A door with servers behind it.
pub(crate) trait Site {
    fn name(&self) -> &'static str;
    fn door(&self) -> std::net::SocketAddr;
    /// Loses one server.
    fn lose(&mut self, server: usize, loss: Loss) -> anyhow::Result<()>;
    /// Has it back, and waits until the door uses it again.
    fn mend(&mut self, server: usize, loss: Loss) -> anyhow::Result<()>;
}

/// What the losses of one kind cost at one door.
#[derive(Debug, serde::Serialize)]
struct Cost {
    door: &'static str,
    loss: String,
    calls: usize,
    failed: usize,
    affected: usize,
    /// Of all calls before a loss, in milliseconds.
    calm_p50_ms: f64,
    calm_p99_ms: f64,
    /// What affected calls took beyond the median before, in milliseconds.
    added_p50_ms: f64,
    added_p99_ms: f64,
    added_max_ms: f64,
    /// The slowest call of all behind a loss, affected or not.
    slowest_ms: f64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    network::enter()?;
    wrk::check("nginx").context("nginx is needed: install the package nginx-light")?;
    print_machine();
    let identities = Identities::make()?;
    let nodes = (0..SERVERS)
        .map(|n| identities.issue(Role::Node, &format!("node-{n}"), &format!("node-{n}/identity")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let gateway = identities.issue(Role::Gateway, "gateway", "gateway/identity")?;
    let binary = member::binary(args.lineside.clone())?;
    println!(
        "{:<10} {:<8} {:>8} {:>7} {:>9} {:>9} {:>9} {:>10} {:>10} {:>10} {:>10}",
        "door",
        "loss",
        "calls",
        "failed",
        "affected",
        "calm p50",
        "calm p99",
        "added p50",
        "added p99",
        "added max",
        "slowest"
    );
    let mut costs = Vec::new();
    let mut measure = |site: &mut dyn Site| -> anyhow::Result<()> {
        for loss in [Loss::Crash, Loss::Silence] {
            let cost = cost(site, loss, args)?;
            print(&cost);
            costs.push(cost);
        }
        Ok(())
    };
    let mut ours = ours::Ours::start(&binary, &identities, &args.onnxruntime)?;
    measure(&mut ours)?;
    drop(ours);
    measure(&mut theirs::Theirs::start(&identities, &gateway, &nodes, &args.onnxruntime)?)?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&costs)?)?;
    }
    Ok(())
}

/// Loses servers in turn, while callers ask.
fn cost(site: &mut dyn Site, loss: Loss, args: &Args) -> anyhow::Result<Cost> {
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    for number in 0..args.losses {
        let load =
            Load::start(site.door(), &Body::small(), args.callers, Duration::from_millis(args.pace_ms));
        std::thread::sleep(CALM);
        let lost = now();
        site.lose(number % SERVERS, loss)?;
        std::thread::sleep(AFTER);
        let calls = load.end();
        // Those that had begun a moment before may be under way at the loss.
        let (calm, late): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|call| call.began + call.took < lost);
        before.extend(calm);
        behind.extend(late);
        site.mend(number % SERVERS, loss)?;
    }
    Ok(summary(site.name(), loss, before, &behind))
}

fn summary(door: &'static str, loss: Loss, before: Vec<Call>, behind: &[Call]) -> Cost {
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    let calls = before.len() + behind.len();
    let failed = before.iter().chain(behind).filter(|call| call.status != Some(200)).count();
    let mut calm: Vec<_> = before.into_iter().map(|call| millis(call.took)).collect();
    calm.sort_by(f64::total_cmp);
    let calm_p50 = at(&calm, 50);
    let affected = behind.iter().filter(|call| call.moved || call.status != Some(200));
    let mut added: Vec<_> = affected.map(|call| (millis(call.took) - calm_p50).max(0.0)).collect();
    added.sort_by(f64::total_cmp);
    Cost {
        door,
        loss: format!("{loss:?}").to_lowercase(),
        calls,
        failed,
        affected: added.len(),
        calm_p50_ms: calm_p50,
        calm_p99_ms: at(&calm, 99),
        added_p50_ms: at(&added, 50),
        added_p99_ms: at(&added, 99),
        added_max_ms: at(&added, 100),
        slowest_ms: behind.iter().map(|call| millis(call.took)).fold(0.0, f64::max),
    }
}

/// A percentile of sorted numbers; 0 of none.
fn at(sorted: &[f64], percent: usize) -> f64 {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(0.0)
}

fn print(cost: &Cost) {
    println!(
        "{:<10} {:<8} {:>8} {:>7} {:>9} {:>9.2} {:>9.2} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
        cost.door,
        cost.loss,
        cost.calls,
        cost.failed,
        cost.affected,
        cost.calm_p50_ms,
        cost.calm_p99_ms,
        cost.added_p50_ms,
        cost.added_p99_ms,
        cost.added_max_ms,
        cost.slowest_ms,
    );
}
