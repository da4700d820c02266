//! Ten models in one node, beside a process for each.

use std::{path::Path, process::Command, time::Duration};

use super::{served::Served, threads};
use crate::{children::Process, cpu::proportional, gateway::body::Body};

/// How many models.
const MODELS: usize = 10;

/// How long everything is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn run(binary: &Path, library: &Path) -> anyhow::Result<()> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let of = models.join("real/squeezenet");
    let names: Vec<String> = (0..MODELS).map(|number| format!("squeezenet-{number}")).collect();
    let all: Vec<(&str, &Path)> = names.iter().map(|name| (name.as_str(), of.as_path())).collect();
    let served = Served::start(binary, library, &all)?;
    for name in &names {
        served.until_ready(&Body::floats("squeezenet", name, "data_0", &[1, 3, 224, 224]))?;
    }
    let mut apart = Vec::new();
    for _ in &names {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "bare", "--library"]).arg(library).arg("--model").arg(of.join("1/model.onnx"));
        apart.push(Process::announced(command, "bare")?);
    }
    std::thread::sleep(SETTLE);
    let (node, apart): (_, Vec<u32>) = (served.node.process.pid(), apart.iter().map(Process::pid).collect());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let all_threads: usize = apart.iter().map(|pid| threads(*pid)).sum();
    println!("{MODELS} models in one node: {} threads, {:.0} MiB", threads(node), mib(proportional(&[node])));
    println!("{MODELS} processes with one each: {all_threads} threads, {:.0} MiB", mib(proportional(&apart)));
    Ok(())
}
