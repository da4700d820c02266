//! How long a member needs to be there, a cluster to be formed, and what both hold in memory.

pub(crate) mod bare;
mod http;

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::bail;
use lineside_wire::Role;

use crate::{
    children::Process,
    compare::print_machine,
    cpu,
    identities::Identities,
    member::{Member, UP_WITHIN, binary, models, now},
};

/// How long an idle process is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(5);

const MIB: f64 = 1_048_576.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Starts of each kind; the median is printed
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The `lineside` binary [default: beside this one]
    #[arg(long)]
    lineside: Option<std::path::PathBuf>,
    /// The ONNX Runtime library
    #[arg(long)]
    onnxruntime: std::path::PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    print_machine();
    let binary = binary(args.lineside.clone())?;
    let library = args.onnxruntime.display().to_string();
    times("`up` in an existing data directory, to ready", args.runs, || cold_start(&binary, &library))?;
    times("three nodes and a gateway, one seed, to all known", args.runs, || form(&binary, &library, true))?;
    times("three nodes and a gateway, mDNS, to all known", args.runs, || form(&binary, &library, false))?;
    memory(&binary, &library)
}

/// Prints the median, the shortest and the longest of several runs.
fn times(what: &str, runs: usize, mut run: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<()> {
    let mut all = (0..runs.max(1)).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    all.sort();
    println!("{what}: {:?} ({:?}-{:?}, {} runs)", all[all.len() / 2], all[0], all[all.len() - 1], all.len());
    Ok(())
}

/// From the start of the process to the first "ready" over HTTP, without models.
fn cold_start(binary: &Path, library: &str) -> anyhow::Result<Duration> {
    let identities = Identities::make()?;
    identities.issue(Role::Node, "cold", "cold/identity")?;
    let data = identities.home.path().join("cold");
    let empty = data.join("no-models");
    fs::create_dir_all(&empty)?;
    let empty = empty.display().to_string();
    let begin = now();
    let arguments =
        ["up", "--no-mdns", "--http", "127.0.0.1:0", "--models", &empty, "--onnxruntime", library];
    let member = Member::start(binary, &data, &arguments)?;
    while !http::get(member.http()?, "/readyz").is_ok_and(|answer| answer.status == 200) {
        give_up_after(begin)?;
    }
    Ok(begin.elapsed())
}

/// From the start of four processes to a member list with all of them alive.
fn form(binary: &Path, library: &str, by_seed: bool) -> anyhow::Result<Duration> {
    let identities = Identities::make()?;
    let names = ["one", "two", "three"];
    for name in names {
        identities.issue(Role::Node, name, &format!("{name}/identity"))?;
    }
    identities.issue(Role::Gateway, "door", "door/identity")?;
    let models = models().display().to_string();
    let home = |name: &str| identities.home.path().join(name);
    let begin = now();
    let mut nodes = Vec::new();
    let mut seed = None;
    for name in names {
        let arguments = ["node", "--models", &models, "--onnxruntime", library];
        nodes.push(Member::start(
            binary,
            &home(name),
            &[&arguments, &joining(by_seed, seed.as_deref())[..]].concat(),
        )?);
        seed.get_or_insert_with(|| nodes[0].addresses.members.to_string());
    }
    let arguments = ["gateway", "--http", "127.0.0.1:0"];
    let door =
        Member::start(binary, &home("door"), &[&arguments, &joining(by_seed, seed.as_deref())[..]].concat())?;
    while alive(&door)? < names.len() + 1 {
        give_up_after(begin)?;
    }
    Ok(begin.elapsed())
}

/// The flags that say how a member finds the others.
fn joining(by_seed: bool, seed: Option<&str>) -> Vec<&str> {
    match (by_seed, seed) {
        (true, Some(seed)) => vec!["--no-mdns", "--seed", seed],
        (true, None) => vec!["--no-mdns"],
        (false, _) => Vec::new(),
    }
}

/// Members that the door's list calls alive and that have said who they are.
fn alive(door: &Member) -> anyhow::Result<usize> {
    let question = r#"{"jsonrpc":"2.0","id":1,"method":"cluster.members"}"#;
    let answer = http::post(door.http()?, "/rpc", question)?;
    let list: serde_json::Value = serde_json::from_str(&answer.body)?;
    let rows = list["result"]["members"].as_array().cloned().unwrap_or_default();
    Ok(rows.iter().filter(|row| row["state"] == "alive" && row["member"].is_object()).count())
}

fn give_up_after(begin: std::time::Instant) -> anyhow::Result<()> {
    if UP_WITHIN < begin.elapsed() {
        bail!("not there within {UP_WITHIN:?}");
    }
    std::thread::sleep(Duration::from_millis(2));
    Ok(())
}

/// Memory of an idle gateway, and of a node beyond a process that only runs the model.
fn memory(binary: &Path, library: &str) -> anyhow::Result<()> {
    let identities = Identities::make()?;
    identities.issue(Role::Node, "node", "node/identity")?;
    identities.issue(Role::Gateway, "door", "door/identity")?;
    let only_add = identities.home.path().join("models");
    fs::create_dir_all(&only_add)?;
    let model = models().join("add/1/model.onnx");
    fs::copy(&model, only_add.join("add.onnx"))?;
    let only_add = only_add.display().to_string();
    let home = |name: &str| identities.home.path().join(name);
    let arguments = ["node", "--no-mdns", "--models", &only_add, "--onnxruntime", library];
    let node = Member::start(binary, &home("node"), &arguments)?;
    let seed = node.addresses.members.to_string();
    let arguments = ["gateway", "--no-mdns", "--http", "127.0.0.1:0", "--seed", &seed];
    let door = Member::start(binary, &home("door"), &arguments)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "bare", "--library", library, "--model"]).arg(&model);
    let bare = Process::announced(command, "bare")?;
    std::thread::sleep(SETTLE);
    let [door, node, bare] = [door.process.pid(), node.process.pid(), bare.pid()].map(cpu::memory);
    let mib = |bytes: u64| bytes as f64 / MIB;
    println!("gateway, idle: {:.1} MiB resident, {:.1} MiB its own", mib(door.resident), mib(door.anonymous));
    println!(
        "node with `add`, idle: {:.1} MiB resident, {:.1} MiB its own",
        mib(node.resident),
        mib(node.anonymous)
    );
    println!(
        "bare ONNX Runtime with `add`: {:.1} MiB resident, {:.1} MiB its own",
        mib(bare.resident),
        mib(bare.anonymous)
    );
    println!("node beyond that: {:.1} MiB resident", mib(node.resident) - mib(bare.resident));
    Ok(())
}
