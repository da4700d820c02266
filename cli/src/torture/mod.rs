//! `lineside torture`: a cluster on this machine, under load, while things break as a seed says; then the ledger.
//!
//! ```text
//!  torture ──starts──> press, weld, paint, drill (nodes), north, south (gateways), each behind a lossy network (relay)
//!    ├─ load ──HTTP, JSON-RPC, QUIC──> both gateways     each request has numbers of its own, each answer is checked
//!    │    └─> ledger, tally ──> report
//!    └─ schedule (pure, from the seed) ──> breaker       kills, stops, restarts, cordons, cuts, and mends again
//! ```

mod breaker;
mod load;
mod report;
mod schedule;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use lineside_client::Client;
use lineside_faults::relay::Relay;
use lineside_wire::Role;
use rand::RngExt as _;
use tokio::time::Instant;

use crate::{
    exit::{Exit, Failure, OrFail as _, Outcome},
    local::{
        Floor, Member, Model, Plan, Start,
        stage::{self, Stage},
    },
    output::{self, Progress},
};
use breaker::Breaker;
use load::Load;
use report::Report;
use schedule::{GATEWAYS, NODES, Schedule};

/// How long the members may take to find each other, with seeds.
const FORMS_WITHIN: Duration = Duration::from_secs(30);

/// The cluster. One session and one shard each: six processes share the cores that one would have.
const PLAN: Plan = Plan {
    cluster: "torture",
    members: &[
        Member::node(NODES[0]),
        Member::node(NODES[1]),
        Member::node(NODES[2]),
        Member::node(NODES[3]),
        Member::gateway(GATEWAYS[0]),
        Member::gateway(GATEWAYS[1]),
    ],
    models: &[
        Model {
            name: "add",
            onnx: include_bytes!("../../../models/repository/add/1/model.onnx"),
            settings: None,
        },
        Model {
            name: "slow-add",
            onnx: include_bytes!("../../../models/test/slow-add/1/model.onnx"),
            settings: None,
        },
        Model {
            name: "accumulate",
            onnx: include_bytes!("../../../models/test/accumulate/1/model.onnx"),
            settings: Some(include_str!("../../../models/test/accumulate/model.toml")),
        },
    ],
    settings: "\
[node]
sessions = 1

[gateway]
shards = 1
rate_per_second = 0

[log]
format = \"human\"
level = \"info\"
",
};

/// How it runs.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How long there is load.
    pub(crate) length: Duration,
    /// What decides over the faults; `None` draws one.
    pub(crate) seed: Option<u64>,
    /// Requests in a second, in calm, beside the sequences.
    pub(crate) rate: u32,
    /// The ONNX Runtime library; `None` searches for it, and installs it if need be.
    pub(crate) onnxruntime: Option<PathBuf>,
    /// Whether logs and data stay on disk.
    pub(crate) keep: bool,
    /// Whether the report is one JSON object.
    pub(crate) json: bool,
}

/// Runs it. The exit code says whether the cluster kept its promises.
pub(crate) fn run(options: &Options) -> Outcome {
    let seed = options.seed.unwrap_or_else(|| rand::rng().random_range(0..1 << 32));
    let schedule = Schedule::draw(seed, options.length);
    let mut progress = Progress::start(false);
    progress.stage(format_args!(
        "seed {seed}: {} faults in {:.0} s of load",
        schedule.faults.len(),
        options.length.as_secs_f64()
    ));
    let library = options.onnxruntime.as_deref();
    stage::run("the torture", PLAN, library, progress, async |stage| {
        let Stage { floor, stop, progress } = stage;
        let outcome = tokio::select! {
            outcome = Box::pin(torture(floor, options, seed, &schedule, progress)) => outcome,
            () = stop.asked() => Err(stage::broken_off("the torture")),
        };
        if options.keep || !matches!(outcome, Ok(Exit::Ok)) {
            floor.keep();
            progress.stage(format_args!("logs and data stay in {}", floor.home().path().display()));
        }
        outcome
    })
}

async fn torture(
    floor: &mut Floor,
    options: &Options,
    seed: u64,
    schedule: &Schedule,
    progress: &mut Progress,
) -> Outcome {
    let relays = start(floor, seed, progress).await?;
    let doors = GATEWAYS.map(|name| relays[name].address());
    let client = connect(floor.home().client(), doors).await?;
    let admin = connect(floor.home().admin(), doors).await?;
    let http = GATEWAYS.into_iter().map(|name| Ok(floor.doors(name)?.1)).collect::<Result<_, Failure>>()?;
    let load = Load::start(http, client.clone(), floor.home().names().clone(), options.rate, seed);
    let begun = Instant::now();
    progress
        .stage(format_args!("load: {} requests/s and sequences, by HTTP, JSON-RPC and QUIC", options.rate));
    let mut breaker = Breaker {
        floor,
        relays: &relays,
        admin: &admin,
        load: Arc::clone(load.shared()),
        broken: BTreeSet::new(),
    };
    let broken = breaker.run(schedule, progress).await;
    progress.step("waiting for the end of every request");
    let (sums, tally, complaints) = load.finish().await;
    let took = begun.elapsed();
    client.close().await;
    admin.close().await;
    let report =
        Report { seed, took, rate: options.rate, schedule: schedule.clone(), sums, tally, complaints };
    if options.json {
        output::json(&report.json())?;
    } else {
        output::data(&report)?;
    }
    broken?;
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Failure })
}

async fn connect(identity: PathBuf, doors: [std::net::SocketAddr; 2]) -> Result<Client, Failure> {
    Client::connect(identity, doors).await.or_fail(Exit::Failure, "the client library cannot connect", "")
}

/// Starts all members, each behind a relay of its own, and waits until they are one cluster that serves.
async fn start(
    floor: &mut Floor,
    seed: u64,
    progress: &mut Progress,
) -> Result<BTreeMap<&'static str, Relay>, Failure> {
    let mut relays = BTreeMap::new();
    for (name, number) in NODES.into_iter().chain(GATEWAYS).zip(0..) {
        let relay = Relay::open(seed.wrapping_add(number)).await;
        relays.insert(name, relay.or_fail(Exit::Failure, "no UDP socket for a relay", "")?);
    }
    let seeds: Vec<_> = NODES.iter().map(|name| relays[name].address()).collect();
    for (name, relay) in &relays {
        let advertise = Some(relay.address());
        floor.launch(Start { advertise, seeds: seeds.clone(), mdns: false, ..Start::new(name) })?;
    }
    progress.step("starting four nodes and two gateways");
    for (name, relay) in &relays {
        if let Some(addresses) = floor.up(name).await? {
            relay.leads_to(addresses.members);
        }
    }
    progress.step("waiting until they have found each other and loaded every model");
    if !floor.forms_within(FORMS_WITHIN).await? {
        return Err(floor.not_formed("the members do not find each other").await);
    }
    floor.wait_for_models().await?;
    let (nodes, gateways) = (floor.names(Role::Node).count(), floor.names(Role::Gateway).count());
    progress.stage(format_args!("{nodes} nodes and {gateways} gateways are up, each behind a relay"));
    Ok(relays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_members_are_valid() {
        let home = crate::local::Home::make(PLAN).unwrap();
        let sources = crate::config::Sources { file: Some(home.settings()), ..Default::default() };
        crate::config::load(&sources).expect("the settings are valid");
        assert!(home.models().join("accumulate/model.toml").is_file());
    }
}
