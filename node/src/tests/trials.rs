//! Trials: with a shell in the place of the child, and with a real child, which is this test binary once more.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use lineside_wire::{FaultCode, ModelState};
use tempfile::TempDir;

use super::{
    floor::{Floor, Request, config},
    graph::{BOOL, FLOAT, INT64, Network, Type, message, model, number, text, value},
    onnx::{library, models},
};
use crate::{
    Node, NodeConfig,
    repository::Files,
    scan::Scanned,
    trial::{Subject, TrialConfig, Tried, child, try_out},
};

/// Makes this test binary a trial's child.
const CHILD: &str = "LINESIDE_TEST_TRIAL";

/// Enough for a child on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const GIB: u64 = 1 << 30;

/// Not a test of its own: the process that the others start.
#[test]
fn the_other_side() {
    if std::env::var_os(CHILD).is_some() {
        child(io::stdin(), io::stdout()).unwrap();
    }
}

/// A real child.
fn real(time_max: Duration, memory_max: u64) -> TrialConfig {
    let this = std::env::current_exe().unwrap().into_os_string();
    let name = "tests::trials::the_other_side";
    let rest = ["--exact", name, "--nocapture", "--test-threads=1"].map(OsString::from);
    let arguments = [OsString::from(format!("{CHILD}=1")), this].into_iter().chain(rest).collect();
    TrialConfig { program: PathBuf::from("/usr/bin/env"), arguments, time_max, memory_max }
}

/// A child that does as the script says.
fn shell(script: &str, time_max: Duration) -> TrialConfig {
    let arguments = ["-c", script].map(OsString::from).to_vec();
    TrialConfig { program: PathBuf::from("/bin/sh"), arguments, time_max, memory_max: GIB }
}

/// A script that takes its order and finds a model good.
fn good(memory_bytes: u64) -> String {
    let tried = serde_json::to_string(&Tried { memory_bytes, ..Tried::default() }).unwrap();
    format!("cat > /dev/null; echo a greeting; echo '{{\"Good\":{tried}}}'")
}

struct Bench {
    home: TempDir,
    files: Files,
    scanned: Scanned,
}

impl Bench {
    fn with(model: &[u8]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.onnx");
        fs::write(&path, model).unwrap();
        let scanned = Scanned { sha256: "5".repeat(64), ..Scanned::default() };
        Self { home, files: Files { model: path, settings: "x.toml".into() }, scanned }
    }

    fn try_out(
        &self,
        config: &TrialConfig,
        library_name: &str,
        kept: Option<&Path>,
    ) -> Result<Tried, String> {
        let library = if config.program.ends_with("env") { library() } else { PathBuf::new() };
        let subject = Subject {
            library: &library,
            library_name,
            repository: self.home.path(),
            files: &self.files,
            scanned: &self.scanned,
            kept,
        };
        try_out(config, &subject)
    }

    fn refused(&self, config: &TrialConfig) -> String {
        self.try_out(config, "lib 1", Some(self.home.path())).expect_err("no finding")
    }
}

#[test]
fn a_finding_is_kept_for_the_next_start_and_for_nothing_else() {
    let bench = Bench::with(b"");
    let kept = Some(bench.home.path());
    let first = bench.try_out(&shell(&good(7), PATIENCE), "lib 1", kept).unwrap();
    assert_eq!(first.memory_bytes, 7);
    let other = shell(&good(8), PATIENCE);
    assert_eq!(bench.try_out(&other, "lib 1", kept).unwrap(), first);
    assert_eq!(bench.try_out(&other, "lib 1", None).unwrap().memory_bytes, 8);
    assert_eq!(bench.try_out(&other, "lib 2", kept).unwrap().memory_bytes, 8);

    // Settings that a trial's finding depends on.
    fs::write(bench.home.path().join("x.toml"), "[batching]\nmode = \"off\"\n").unwrap();
    assert_eq!(bench.try_out(&other, "lib 1", kept).unwrap().memory_bytes, 8);
    fs::write(bench.home.path().join("x.toml"), "[queue]\nmax = 5\n").unwrap();
    assert_eq!(bench.try_out(&other, "lib 1", kept).unwrap(), first);

    let files: Vec<_> = fs::read_dir(bench.home.path().join("trials")).unwrap().collect();
    assert_eq!(files.len(), 3);
    for file in files {
        fs::write(file.unwrap().path(), "damaged").unwrap();
    }
    assert_eq!(bench.try_out(&other, "lib 1", kept).unwrap().memory_bytes, 8);
}

#[test]
fn every_way_to_die_is_told_with_a_remedy_and_not_kept() {
    let bench = Bench::with(b"");
    let abort = "cat > /dev/null; echo 'terminate called' >&2; kill -ABRT $$";
    let told = bench.refused(&shell(abort, PATIENCE));
    assert!(told.contains("(signal 6, SIGABRT): terminate called"), "{told}");
    assert!(told.contains("node.trial = false"), "{told}");
    let memory = bench.refused(&shell("echo 'std::bad_alloc' >&2; kill -ABRT $$", PATIENCE));
    assert!(memory.contains("node.trial_memory_max"), "{memory}");
    let short = Duration::from_millis(100);
    let endless = bench.refused(&shell("sleep 1000", short));
    assert!(
        endless.contains("did not end within 100ms") && endless.contains("node.trial_time_max"),
        "{endless}"
    );
    let code = bench.refused(&shell("echo no such command >&2; exit 2", PATIENCE));
    assert!(code.contains("code 2 and without a finding: no such command"), "{code}");
    let mute = bench.refused(&shell("exit 0", PATIENCE));
    assert!(mute.contains("without a finding"), "{mute}");
    let bad = bench.refused(&shell("cat > /dev/null; echo '{\"Bad\":\"opset 99\"}'", PATIENCE));
    assert_eq!(bad, "opset 99");
    // Without an end, and without a reader that keeps it.
    let chatty = bench.refused(&shell("yes; ", Duration::from_millis(300)));
    assert!(chatty.contains("did not end"), "{chatty}");
    let absent = TrialConfig { program: "/no/such/program".into(), ..shell("", PATIENCE) };
    let absent = bench.refused(&absent);
    assert!(
        absent.contains("/no/such/program cannot be started") && absent.contains("node.trial"),
        "{absent}"
    );
    assert!(!bench.home.path().join("trials").exists());
}

#[test]
fn a_real_child_tries_a_real_model() {
    let add = fs::read(models().join("repository/add/1/model.onnx")).unwrap();
    let bench = Bench::with(&add);
    let tried = bench.try_out(&real(PATIENCE, 8 * GIB), "lib 1", None).unwrap();
    assert!(0 < tried.memory_bytes && tried.memory_bytes < GIB, "{tried:?}");
    // The least that `node.trial_memory_max` may be.
    bench.try_out(&real(PATIENCE, GIB / 4), "lib 1", None).unwrap();
    let broken = Bench::with(b"This is not a model.");
    let told = broken.refused(&real(PATIENCE, 8 * GIB));
    assert!(told.starts_with("not an ONNX model"), "{told}");
}

/// Takes 32 GiB at load: how much is not in the file, but comes out of a multiplication there.
fn hungry() -> Vec<u8> {
    let factor = |name: &str, value: i64| {
        let fields = [number(1, 1), number(2, INT64), text(8, name), message(9, &value.to_le_bytes())];
        message(5, &fields.concat())
    };
    let node = |operator: &str, inputs: &[&str], output: &str| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|input| text(1, input)).collect();
        message(1, &[inputs, text(2, output), text(4, operator)].concat())
    };
    model(&[
        node("Mul", &["a", "b"], "n"),
        node("ConstantOfShape", &["n"], "y"),
        factor("a", 1 << 20),
        factor("b", 1 << 13),
        message(12, &value("y", &Type::Any(FLOAT))),
    ])
}

#[test]
fn a_real_model_kills_a_real_child_and_nobody_else() {
    // Has ONNX Runtime 1.32 abort: a GatherND whose batch_dims is negative.
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/model/aborts.onnx");
    let bench = Bench::with(&fs::read(model).unwrap());
    let told = bench.refused(&real(PATIENCE, 8 * GIB));
    assert!(told.starts_with("the model killed its trial (signal 6, SIGABRT)"), "{told}");
}

#[test]
fn the_limit_on_memory_holds_what_a_warm_up_takes() {
    // Made-up inputs of 64 MiB, the answer, and what comes between.
    let network = Network {
        nodes: &[("Neg", "", &["x"], &["z"]), ("Exp", "", &["z"], &["y"])],
        inputs: &[("x", Type::Dims(FLOAT, &[-1, -1]))],
        outputs: &[("y", Type::Dims(FLOAT, &[-1, -1]))],
        ..Network::default()
    };
    let bench = Bench::with(&network.to_bytes());
    let settings = "[batching]\nmode = \"off\"\n[warmup]\nshape = { x = [16, 1048576] }\n";
    fs::write(bench.home.path().join("x.toml"), settings).unwrap();
    bench.try_out(&real(PATIENCE, GIB), "lib 1", None).unwrap();
    let told = bench.refused(&real(PATIENCE, GIB / 8));
    assert!(told.contains("a trial may take 128 MiB: raise node.trial_memory_max"), "{told}");
}

#[test]
fn a_model_that_takes_all_memory_takes_its_trials_alone() {
    let bench = Bench::with(&hungry());
    let told = bench.refused(&real(PATIENCE, 4 * GIB));
    assert!(told.contains("a trial may take 4096 MiB: raise node.trial_memory_max"), "{told}");
}

/// Counts in a loop to a number that nobody lives to see.
fn endless() -> Vec<u8> {
    let scalar =
        |field: u8, name: &str, element: u64| message(field, &value(name, &Type::Dims(element, &[])));
    let any = |field: u8, name: &str| message(field, &value(name, &Type::Any(FLOAT)));
    let copy = |from: &str, to: &str| message(1, &[text(1, from), text(2, to), text(4, "Identity")].concat());
    let body = [
        text(2, "body"),
        copy("going", "goes_on"),
        copy("seen", "sees"),
        scalar(11, "round", INT64),
        scalar(11, "going", BOOL),
        any(11, "seen"),
        scalar(12, "goes_on", BOOL),
        any(12, "sees"),
    ];
    let body = message(5, &[text(1, "body"), number(20, 5), message(6, &body.concat())].concat());
    let node = [text(1, "rounds"), text(1, ""), text(1, "x"), text(2, "y"), text(4, "Loop"), body];
    let rounds = [number(2, INT64), text(8, "rounds"), message(9, &i64::MAX.to_le_bytes())];
    model(&[
        message(1, &node.concat()),
        message(5, &rounds.concat()),
        message(11, &value("x", &Type::Row(FLOAT))),
        message(12, &value("y", &Type::Any(FLOAT))),
    ])
}

#[test]
fn a_model_that_never_ends_takes_its_trials_time_alone() {
    let bench = Bench::with(&endless());
    let told = bench.refused(&real(Duration::from_secs(2), 8 * GIB));
    assert!(told.contains("did not end within 2s") && told.contains("node.trial_time_max"), "{told}");
}

#[tokio::test]
async fn a_model_that_aborts_at_load_leaves_the_node_serving() {
    let home = tempfile::tempdir().unwrap();
    let copies = Network { nodes: &[("Identity", "", &["x"], &["y"])], ..Network::default() };
    for name in ["good.onnx", "bad.onnx"] {
        fs::write(home.path().join(name), copies.to_bytes()).unwrap();
    }
    let script = format!("case $(cat) in *bad.onnx*) kill -ABRT $$ ;; esac; true | ({})", good(7));
    let trial = Some(shell(&script, PATIENCE));
    let config = NodeConfig { library: library(), trial, ..config(home.path(), 1, 9) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;

    let bad = floor.state("bad", 1);
    assert_eq!(bad.state, ModelState::Unavailable);
    assert!(bad.reason.is_some_and(|reason| reason.contains("killed its trial (signal 6, SIGABRT)")));
    assert_eq!(floor.load("bad").await.unwrap_err().code, FaultCode::ModelRejected);
    let answer = floor.send(Request::of("good").floats("x", &[2], &[1.0, 2.0])).await.unwrap();
    assert_eq!(answer.floats("y"), [1.0, 2.0]);
}
