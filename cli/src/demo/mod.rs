//! `lineside demo`: a whole cluster on one machine, under traffic, with a node killed in the middle.
//!
//! ```text
//!  demo ──starts──> press, weld, paint (nodes), gateway          local: how members run on this machine
//!    └─ load ──HTTP and QUIC──> gateway ──> nodes                 floor: how they find each other
//!         └─> tally ──> report                                    schedule: when weld is killed and started again
//! ```

mod floor;
mod home;
mod http;
mod load;
mod report;
mod samples;
mod schedule;
mod tally;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use lineside_client::Client;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    exit::{Exit, Failure, OrFail as _, Outcome},
    local::{
        Floor, LOOK_EVERY, Process, Stop, serving,
        stage::{self, Stage},
    },
    output::{self, Progress},
};
use floor::Discovery;
use home::{GATEWAY, NODES, PLAN};
use load::Load;
use report::{Loss, Node, Places, Report};
use schedule::Schedule;

pub(crate) use schedule::{SECONDS_MAX, SECONDS_MIN};

/// The node that is killed.
const VICTIM: &str = NODES[1];

/// How long a node that was started again may take until it answers.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long is waited, after the traffic, for the last model of a node that came back.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How often the step on the terminal changes.
const STEP_EVERY: Duration = Duration::from_millis(250);

/// How the demo runs.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How long there is traffic.
    pub(crate) length: Duration,
    /// Where the gateway serves HTTP; port 0 takes a free one.
    pub(crate) http: SocketAddr,
    /// The ONNX Runtime library; `None` searches for it, and installs it if need be.
    pub(crate) onnxruntime: Option<PathBuf>,
    /// Whether it ends after the report.
    pub(crate) exit: bool,
    /// Whether the report is one JSON object.
    pub(crate) json: bool,
}

/// Runs the demo. The exit code says whether every request had its right answer.
pub(crate) fn run(options: &Options) -> Outcome {
    check_free(options.http)?;
    let (library, progress) = (options.onnxruntime.as_deref(), Progress::start(false));
    stage::run("the demo", PLAN, library, progress, async |stage| {
        let Stage { floor, stop, progress } = stage;
        let outcome = tokio::select! {
            outcome = Box::pin(show(floor, options, progress)) => outcome,
            () = stop.asked() => Err(stage::broken_off("the demo")),
        };
        if outcome.is_ok() && !options.exit {
            stay(floor, stop, progress).await;
        }
        outcome
    })
}

/// That the gateway will have its port: found out before certificates are made and processes started.
fn check_free(http: SocketAddr) -> Result<(), Failure> {
    let remedy = "choose another port with --http, or leave it out for a free one";
    TcpListener::bind(http).map(drop).or_fail(
        Exit::Failure,
        format!("{http} cannot be used for HTTP"),
        remedy,
    )
}

/// The demo from the first start to the report.
async fn show(floor: &mut Floor, options: &Options, progress: &mut Progress) -> Outcome {
    let start = Instant::now();
    let discovery = floor::start(floor, options.http, progress).await?;
    let took = start.elapsed().as_secs_f64();
    progress.stage(format_args!("3 nodes and a gateway are up ({}, {took:.1} s)", discovery.as_str()));
    let (gateway, http) = floor.doors(GATEWAY)?;
    progress.stage(format_args!("HTTP on http://{http}, members on {gateway} (QUIC)"));
    let client = Client::connect(floor.home().client(), [gateway]).await;
    let client = client.or_fail(Exit::Failure, "the client library cannot connect", "")?;
    let load = Load::start(http, &client, floor.home().names());
    let start = Instant::now();
    progress.stage("pictures and vibration rows go in, by HTTP and by QUIC");
    let loss = lose_a_node(floor, options, &load, progress).await?;
    let traffic = start.elapsed();
    let tally = load.finish().await;
    client.close().await;
    let report = report(floor, options, discovery, loss, traffic, tally).await?;
    if options.json {
        output::json(&report.json())?;
    } else {
        output::data(&report)?;
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Failure })
}

/// The traffic's course: all nodes, one killed, started again, all nodes.
async fn lose_a_node(
    floor: &mut Floor,
    options: &Options,
    load: &Load,
    progress: &mut Progress,
) -> Result<Loss, Failure> {
    let schedule = Schedule::of(options.length);
    let start = Instant::now();
    watch(load, start + schedule.kill_at, progress).await;
    let (answers, of_victim) = (load.answers(), load.answers_of(VICTIM));
    progress.stage(format_args!("{answers} answers, {of_victim} of {VICTIM}: killing {VICTIM} with SIGKILL"));
    floor.kill(VICTIM).await;
    let killed = Instant::now();
    watch(load, start + schedule.restart_at, progress).await;
    let (meanwhile, lost) = (load.answers() - answers, load.lost());
    progress
        .stage(format_args!("{meanwhile} answers without {VICTIM}, {lost} lost: starting {VICTIM} again"));
    let before = load.answers_of(VICTIM);
    let (away, restart) = (killed.elapsed(), Instant::now());
    floor.relaunch(VICTIM)?;
    floor.up(VICTIM).await?;
    while load.answers_of(VICTIM) == before {
        if BACK_WITHIN <= restart.elapsed() {
            let why = format!("it runs, and was called by nobody for {BACK_WITHIN:?}");
            return Err(Failure::new(Exit::Failure, format!("{VICTIM} does not come back"), why, ""));
        }
        progress.step(format_args!("{} answers, waiting for one of {VICTIM}", load.answers()));
        sleep(LOOK_EVERY).await;
    }
    let back_after = restart.elapsed();
    progress.stage(format_args!("{VICTIM} is back after {:.1} s", back_after.as_secs_f64()));
    watch(load, start + schedule.end_at(start.elapsed()), progress).await;
    Ok(Loss { node: VICTIM, away: away + back_after, back_after })
}

/// Waits until a moment, and says how far the traffic is.
async fn watch(load: &Load, until: Instant, progress: &mut Progress) {
    while Instant::now() < until {
        progress.step(format_args!("{} answers, {} lost", load.answers(), load.lost()));
        sleep_until(until.min(Instant::now() + STEP_EVERY)).await;
    }
}

async fn report(
    floor: &Floor,
    options: &Options,
    discovery: Discovery,
    loss: Loss,
    traffic: Duration,
    tally: tally::Tally,
) -> Result<Report, Failure> {
    let until = Instant::now() + SETTLED_WITHIN;
    let members = loop {
        match floor.members_list().await {
            Some(list) if serving(&list, PLAN.models.len()) == NODES.len() || until <= Instant::now() => {
                break list;
            }
            None if until <= Instant::now() => {
                return Err(Failure::new(Exit::Failure, "the gateway does not tell its members", "", ""));
            }
            Some(_) | None => sleep(LOOK_EVERY).await,
        }
    };
    let node = |process: &Process| Node {
        name: process.name(),
        pid: process.pid(),
        address: process.addresses().map(|addresses| addresses.members),
    };
    let (gateway, http) = floor.doors(GATEWAY)?;
    let (home, program) = (floor.home(), floor.program().to_owned());
    let places =
        Places { program, http, gateway, client: home.client(), logs: home.logs(), ends: options.exit };
    let nodes = NODES.iter().filter_map(|name| floor.member(name)).map(node).collect();
    Ok(Report { tally, members, nodes, discovery, loss, traffic, places })
}

/// Lets the cluster run until a signal; says when a member has ended, as one that is killed by hand.
async fn stay(floor: &mut Floor, stop: &mut Stop, progress: &mut Progress) {
    let mut known = Vec::new();
    loop {
        tokio::select! {
            () = stop.asked() => return,
            () = sleep(STEP_EVERY) => {}
        }
        for line in floor.newly_ended(&mut known) {
            progress.stage(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let text = check_free(address).unwrap_err().text();
        assert!(text.contains(&address.to_string()) && text.contains("--http"), "{text}");
        drop(taken);
        check_free(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    }
}
