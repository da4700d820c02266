//! `lineside bench`: measurements of a whole cluster on this machine.
//!
//! ```text
//!  ladder ──starts──> press, weld, paint (nodes), gateway
//!    └─ for each step: generator ──scheduled requests──> gateway ──> nodes, one of which is killed in the middle
//!         └─> usage (/proc), latencies ──> report
//! ```

mod generator;
mod report;
mod usage;

use std::{path::PathBuf, time::Duration};

use lineside_client::Client;
use tokio::time::{Instant, sleep_until};

use crate::{
    exit::{Exit, Failure, OrFail as _, Outcome},
    local::{
        Floor, Member, Model, Plan, Start,
        stage::{self, Stage},
    },
    output::{self, Progress},
};
use generator::{Door, Run};
use report::{Report, Rung};
use usage::Usage;

pub(crate) use generator::Via;

/// The machines that run the model.
const NODES: [&str; 3] = ["press", "weld", "paint"];
/// The door.
const GATEWAY: &str = "gateway";

/// How long the members may take to find each other, with seeds.
const FORMS_WITHIN: Duration = Duration::from_secs(30);
/// Requests that are not counted, before the first step: connections are made, code is read from disk.
const WARM_UP: Duration = Duration::from_secs(1);
/// Which part of a step a node is there for.
const KILLED_AFTER: f64 = 0.4;

/// The cluster. One session and one shard each: four processes and the load share the cores that one would have.
const PLAN: Plan = Plan {
    cluster: "ladder",
    members: &[
        Member::node(NODES[0]),
        Member::node(NODES[1]),
        Member::node(NODES[2]),
        Member::gateway(GATEWAY),
    ],
    models: &[Model {
        name: "add",
        onnx: include_bytes!("../../../models/repository/add/1/model.onnx"),
        settings: None,
    }],
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
    /// Requests per second, step by step.
    pub(crate) steps: Vec<u32>,
    /// How long each step takes.
    pub(crate) length: Duration,
    /// By which door.
    pub(crate) via: Via,
    /// The ONNX Runtime library; `None` searches for it, and installs it if need be.
    pub(crate) onnxruntime: Option<PathBuf>,
    /// Whether the report is one JSON object.
    pub(crate) json: bool,
}

/// Runs the ladder. The exit code says whether every request had its right answer.
pub(crate) fn run(options: &Options) -> Outcome {
    let (library, progress) = (options.onnxruntime.as_deref(), Progress::start(false));
    stage::run("the ladder", PLAN, library, progress, async |stage| {
        let Stage { floor, stop, progress } = stage;
        tokio::select! {
            outcome = Box::pin(ladder(floor, options, progress)) => outcome,
            () = stop.asked() => Err(stage::broken_off("the ladder")),
        }
    })
}

async fn ladder(floor: &mut Floor, options: &Options, progress: &mut Progress) -> Outcome {
    start(floor, progress).await?;
    let (gateway, http) = floor.doors(GATEWAY)?;
    let client = Client::connect(floor.home().client(), [gateway]).await;
    let client = client.or_fail(Exit::Failure, "the client library cannot connect", "")?;
    let door = match options.via {
        Via::Http => Door::Http(http),
        Via::Quic => Door::Quic(client.clone()),
    };
    generator::run(&door, options.steps.first().copied().unwrap_or(1), WARM_UP).await;
    let mut rungs = Vec::new();
    for (rate, victim) in options.steps.iter().copied().zip(NODES.into_iter().cycle()) {
        let rung = step(floor, &door, rate, options.length, victim).await?;
        progress.stage(format_args!(
            "{rate} requests/s: {} answers, {} errors, without {victim} from the middle on",
            rung.run.answers,
            rung.run.failures()
        ));
        rungs.push(rung);
        floor.relaunch(victim)?;
        floor.up(victim).await?;
        floor.wait_for_models().await?;
    }
    client.close().await;
    let report = Report { via: options.via, length: options.length, rungs };
    if options.json {
        output::json(&report.json())?;
    } else {
        output::data(&report)?;
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Failure })
}

/// Starts all members and waits until they are one cluster that serves.
async fn start(floor: &mut Floor, progress: &mut Progress) -> Result<(), Failure> {
    progress.step("starting three nodes and a gateway");
    floor.launch(Start { mdns: false, ..Start::new(NODES[0]) })?;
    let first = floor.up(NODES[0]).await?;
    let seeds: Vec<_> = first.map(|addresses| addresses.members).into_iter().collect();
    for name in NODES.into_iter().skip(1).chain([GATEWAY]) {
        floor.launch(Start { mdns: false, seeds: seeds.clone(), ..Start::new(name) })?;
    }
    floor.all_up().await?;
    if !floor.forms_within(FORMS_WITHIN).await? {
        return Err(floor.not_formed("the members do not find each other").await);
    }
    floor.wait_for_models().await?;
    progress.stage("three nodes and a gateway are up");
    Ok(())
}

/// One step: all nodes, then one less.
async fn step(
    floor: &mut Floor,
    door: &Door,
    rate: u32,
    length: Duration,
    victim: &'static str,
) -> Result<Rung, Failure> {
    let pid = |floor: &Floor, name| floor.member(name).and_then(|process| process.pid());
    let others: Vec<_> = NODES.into_iter().filter(|node| *node != victim).collect();
    let (gateway, own, of_victim) = (pid(floor, GATEWAY), Some(std::process::id()), pid(floor, victim));
    let nodes: Vec<_> = others.iter().map(|name| pid(floor, name)).collect();
    let look =
        |pids: &[Option<u32>]| pids.iter().map(|pid| usage::of(*pid)).fold(Usage::default(), Usage::and);
    let before = [look(&[gateway]), look(&nodes), look(&[of_victim]), look(&[own])];
    let kill_at = Instant::now() + length.mul_f64(KILLED_AFTER);
    let killing = async {
        sleep_until(kill_at).await;
        let last = look(&[of_victim]);
        floor.kill(victim).await;
        last
    };
    let (run, last): (Run, Usage) = tokio::join!(generator::run(door, rate, length), killing);
    let after = [look(&[gateway]), look(&nodes), last, look(&[own])];
    let [gateway, others, victims, load] = [0, 1, 2, 3].map(|index| after[index].since(before[index]));
    Ok(Rung { rate, killed: victim, run, gateway, nodes: others.and(victims), load })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_members_are_valid() {
        let home = crate::local::Home::make(PLAN).unwrap();
        let sources = crate::config::Sources { file: Some(home.settings()), ..Default::default() };
        crate::config::load(&sources).expect("the settings are valid");
    }
}
