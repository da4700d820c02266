//! Models through a gateway and a node, beside ONNX Runtime alone and beside other servers.
//!
//! `bare loop` is a session per core on a thread of its own, which runs the model over and over: what the machine can do.
//! The node has the same sessions, and the same two cores also carry the load generator (`wrk`, one thread), the gateway
//! and the network. The rest are numbers of the node alone: what a request costs beyond its run, how many threads and
//! how much memory ten models take, and whether the network answers while every core computes.

mod bare;
mod many;
mod served;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use bare::Bare;
use ort::environment::Environment;
use served::{Load, Served};

use crate::{
    compare::{Measured as _, Ratio, Round, pairs, print, print_head, print_machine},
    gateway::{body::Body, wrk},
    member,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pairs of rounds per case; the medians are printed
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Seconds of one round
    #[arg(long, default_value_t = 2)]
    round_s: u64,
    /// The `lineside` binary [default: beside this one]
    #[arg(long)]
    lineside: Option<PathBuf>,
    /// The ONNX Runtime library
    #[arg(long)]
    onnxruntime: PathBuf,
    /// Another server of a case, as CASE=ADDRESS; bench/peers starts some. It takes POST /predict with base64, or the
    /// Open Inference Protocol's binary form where CASE ends with `:oip`
    #[arg(long, value_name = "CASE=ADDRESS")]
    peer: Vec<String>,
    /// Write everything that was measured to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A model, how it is asked, and by how many at once.
struct Case {
    name: &'static str,
    model: PathBuf,
    input: &'static str,
    /// Of one row.
    shape: &'static [usize],
    callers: usize,
}

fn cases() -> Vec<Case> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let (real, test) = (models.join("real"), models.join("test"));
    let picture = &[1, 3, 224, 224];
    vec![
        Case {
            name: "resnet50",
            model: real.join("resnet50"),
            input: "gpu_0/data_0",
            shape: picture,
            callers: 4,
        },
        Case {
            name: "squeezenet",
            model: real.join("squeezenet"),
            input: "data_0",
            shape: picture,
            callers: 4,
        },
        Case { name: "mlp", model: test.join("mlp"), input: "x", shape: &[1, 784], callers: 64 },
    ]
}

/// Rows that are joined in the bare loop that a batched node is compared with.
const JOINED: usize = 16;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    wrk::check("wrk").context("wrk is needed: install the package wrk")?;
    print_machine();
    let binary = member::binary(args.lineside.clone())?;
    let environment = ort::init_from(&args.onnxruntime)?.build()?;
    let mut ratios = Vec::new();
    print_head();
    for case in cases() {
        if !case.model.exists() {
            bail!("{} is not there: `just models` fetches it", case.model.display());
        }
        ratios.append(&mut measure(args, &binary, &environment, &case)?);
    }
    overhead(args, &binary, &environment)?;
    many::run(&binary, &args.onnxruntime)?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&ratios)?)?;
    }
    Ok(())
}

/// One case while its gateway and node run.
struct Running<'a> {
    case: &'a Case,
    served: Served,
    environment: &'a Environment,
    body: Body,
    pairs: usize,
    lasting: Duration,
}

fn measure(args: &Args, binary: &Path, environment: &Environment, case: &Case) -> anyhow::Result<Vec<Ratio>> {
    let body = Body::floats(case.name, case.name, case.input, case.shape);
    let served = Served::start(binary, &args.onnxruntime, &[(case.name, &case.model)])?;
    served.until_ready(&body)?;
    let lasting = Duration::from_secs(args.round_s);
    let running = Running { case, served, environment, body, pairs: args.pairs, lasting };
    let mut ratios = vec![running.beside_bare()?, running.one_caller()?];
    if case.name == "mlp" {
        ratios.push(running.rows_together()?);
    }
    for peer in &args.peer {
        ratios.extend(running.beside_peer(peer)?);
    }
    ratios.iter().for_each(print);
    let p50 = |rounds: &[Round]| {
        let mut all: Vec<f64> = rounds.iter().map(|round| round.p50_us).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (ours, theirs) = (p50(&ratios[1].rounds_of), p50(&ratios[1].rounds_to));
    println!(
        "{:<22} p50 of one caller: {ours:.0} us, in process {theirs:.0} us: {:.2}",
        case.name,
        ours / theirs
    );
    if case.name == "resnet50" {
        pings(binary, &running.served, &running.body, case.callers)?;
    }
    Ok(ratios)
}

impl Running<'_> {
    fn load<'b>(&self, body: &'b Body, callers: usize, rows: usize) -> Load<'b> {
        let pids = vec![self.served.gateway.process.pid(), self.served.node.process.pid()];
        let (to, lasting) = (self.served.http(), self.lasting);
        Load { name: "lineside", to, body, callers, rows: rows as u64, lasting, pids }
    }

    fn bare(&self, shape: &[usize], sessions: usize) -> anyhow::Result<Bare> {
        let file = self.case.model.join("1/model.onnx");
        Bare::open(self.environment, &file, (self.case.input, shape), sessions, self.lasting)
    }

    fn title(&self) -> String {
        format!("{}, {} callers", self.case.name, self.case.callers)
    }

    fn beside_bare(&self) -> anyhow::Result<Ratio> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let mut bare = self.bare(self.case.shape, cores)?;
        pairs(&self.title(), &mut self.load(&self.body, self.case.callers, 1), &mut bare, self.pairs)
    }

    fn one_caller(&self) -> anyhow::Result<Ratio> {
        let title = format!("{}, one caller", self.case.name);
        let mut bare = self.bare(self.case.shape, 1)?;
        pairs(&title, &mut self.load(&self.body, 1, 1), &mut bare, self.pairs)
    }

    /// Callers that send sixteen rows in a request, beside a loop that runs as many.
    fn rows_together(&self) -> anyhow::Result<Ratio> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let shape: Vec<usize> = [&[JOINED], &self.case.shape[1..]].concat();
        let body = Body::floats("mlp of 16", self.case.name, self.case.input, &shape);
        let title = format!("{} of {JOINED}, 8 callers", self.case.name);
        let mut bare = self.bare(&shape, cores)?;
        pairs(&title, &mut self.load(&body, 8, JOINED), &mut bare, self.pairs)
    }

    /// A server that somebody else started, if it has this case.
    fn beside_peer(&self, peer: &str) -> anyhow::Result<Option<Ratio>> {
        let (of, address) = peer.split_once('=').context("--peer is CASE=ADDRESS")?;
        let (of, oip) = of.strip_suffix(":oip").map_or((of, false), |of| (of, true));
        if of != self.case.name {
            return Ok(None);
        }
        let to: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
        let base64 = Body::base64(self.case.name, self.case.shape);
        let (name, body) = if oip { ("tritonserver", &self.body) } else { ("litserve", &base64) };
        let (callers, lasting) = (self.case.callers, self.lasting);
        let mut peer = Load { name, to, body, callers, rows: 1, lasting, pids: Vec::new() };
        pairs(&self.title(), &mut self.load(&self.body, callers, 1), &mut peer, self.pairs).map(Some)
    }
}

/// What a request of the smallest model costs the node beyond the run, in CPU.
fn overhead(args: &Args, binary: &Path, environment: &Environment) -> anyhow::Result<()> {
    let lasting = Duration::from_secs(args.round_s);
    let model = member::models().join("add");
    let body = Body::small();
    let served = Served::start(binary, &args.onnxruntime, &[("add", &model)])?;
    served.until_ready(&body)?;
    let mut node = Load {
        name: "node",
        to: served.http(),
        body: &body,
        callers: 16,
        rows: 1,
        lasting,
        pids: vec![served.node.process.pid()],
    };
    let file = model.join("1/model.onnx");
    // The same model with one input twice would be another model: what is compared is a run of two inputs of four numbers.
    let mut bare = bare_add(environment, &file, lasting)?;
    let mut beyond: Vec<f64> = Vec::new();
    for _ in 0..args.pairs.max(1) {
        let (node, bare) = (node.round()?, bare()?);
        beyond.push(node.cpu_us - bare);
    }
    beyond.sort_by(f64::total_cmp);
    println!(
        "node beyond the run of `add`, 16 callers: {:.1} us of CPU per request ({:.1}-{:.1})",
        beyond[beyond.len() / 2],
        beyond[0],
        beyond[beyond.len() - 1]
    );
    Ok(())
}

/// Gives a measurement of one run of `add`, in microseconds.
fn bare_add(
    environment: &Environment,
    model: &Path,
    lasting: Duration,
) -> anyhow::Result<impl FnMut() -> anyhow::Result<f64>> {
    use ort::{session::Session, value::TensorRef};
    let text = |error: &dyn std::fmt::Display| anyhow::anyhow!("{error}");
    let builder = Session::builder(environment).map_err(|error| text(&error))?;
    let mut builder = builder.with_intra_threads(1).map_err(|error| text(&error))?;
    let mut session = builder.commit_from_file(model).map_err(|error| text(&error))?;
    let values = [1.0_f32, 2.0, 3.0, 4.0];
    Ok(move || {
        let (mut runs, begun) = (0_u64, member::now());
        while begun.elapsed() < lasting {
            let tensor =
                || TensorRef::from_array_view(([4], values.as_slice())).map_err(|error| text(&error));
            let outputs = session.run(ort::inputs!["a" => tensor()?, "b" => tensor()?]);
            drop(outputs.map_err(|error| text(&error))?);
            runs += 1;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e6 / runs.max(1) as f64)
    })
}

/// The network's answers while every core computes.
fn pings(binary: &Path, served: &Served, body: &Body, callers: usize) -> anyhow::Result<()> {
    for (what, load) in [("idle", false), ("every core computes", true)] {
        let lasting = Duration::from_secs(4);
        let output = std::thread::scope(|scope| {
            let load = load.then(|| scope.spawn(|| wrk::run(served.http(), body, callers, lasting)));
            let output = Command::new(binary)
                .args(["ping", "node", "--count", "3000", "--data-dir"])
                .arg(served.identities.home.path().join("gateway"))
                .output();
            if let Some(load) = load {
                drop(load.join());
            }
            output
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        println!("ping of the node, {what}: {last} {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Threads of a process.
fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}
