//! The engine on the real ONNX Runtime, without a node around it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
};

use lineside_wire::{AlignedBuffer, Datatype, Tensor};
use tempfile::TempDir;

use super::{
    graph::{COMPLEX64, FLOAT, INT64, Network, Type, one_node},
    onnx::{library, models},
};
use crate::{
    engine::{Engine, OnnxRuntime, OpenError, Opened, Options, RunError, Session},
    measure::{self, Measured},
    settings::{Batching, BatchingMode, Execution, Optimization, Warmup},
};

/// A place for models and what is kept of them.
struct Bench {
    home: TempDir,
    runtime: OnnxRuntime,
}

impl Bench {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), runtime: OnnxRuntime::load(&library()).unwrap() }
    }

    fn put(&self, name: &str, model: &[u8]) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, model).unwrap();
        path
    }

    fn open(&self, model: &Path, options: &Options) -> Result<Opened, OpenError> {
        self.runtime.open(model, options)
    }

    fn session(&self, model: &Path) -> Box<dyn Session> {
        self.open(model, &Options::default()).unwrap().sessions.remove(0)
    }

    fn session_of(&self, network: &Network<'_>) -> Box<dyn Session> {
        self.session(&self.put("network.onnx", &network.to_bytes()))
    }

    /// Why a model does not open.
    fn refused(&self, network: &Network<'_>) -> String {
        let model = self.put("refused.onnx", &network.to_bytes());
        self.open(&model, &Options::default()).err().expect("the model is refused").to_string()
    }
}

fn floats(name: &str, dims: &[u64], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(name, Datatype::Fp32, dims.to_vec(), AlignedBuffer::copy_of(&bytes)).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// `y = x + w`, and `x` and `w` as outputs of their own.
const ADD_AND_PASS: Network<'static> = Network {
    nodes: &[("Add", "", &["x", "w"], &["y"])],
    weights: &[("w", &[2048], &[0.5; 2048])],
    elsewhere: &[],
    inputs: &[("x", Type::Dims(FLOAT, &[2048]))],
    outputs: &[
        ("y", Type::Dims(FLOAT, &[2048])),
        ("x", Type::Dims(FLOAT, &[2048])),
        ("w", Type::Dims(FLOAT, &[2048])),
    ],
    opsets: &[("", 17)],
    ir: 8,
};

#[test]
fn outputs_outlive_the_next_run_the_inputs_and_the_session() {
    let bench = Bench::new();
    let model = bench.put("network.onnx", &ADD_AND_PASS.to_bytes());
    // Alone, and with another that shares its weights.
    for sessions in [1, 2] {
        let opened = bench.open(&model, &Options { sessions, ..Options::default() }).unwrap();
        let [session, other] = [opened.sessions, bench.open(&model, &Options::default()).unwrap().sessions]
            .map(|mut sessions| sessions.remove(0));
        outlive(session, other);
    }
}

fn outlive(mut session: Box<dyn Session>, mut other: Box<dyn Session>) {
    let sent = floats("x", &[2048], &[1.0; 2048]);
    let lies_at = sent.bytes.as_ptr_range();
    let first = session.run(std::slice::from_ref(&sent), &[0, 1, 2]).unwrap();
    for output in &first {
        assert!(!lies_at.contains(&output.bytes.as_ptr()), "{} is the caller's memory", output.name);
    }
    drop(sent);
    let parts: Vec<_> = [0..4096, 4096..8192].map(|part| first[0].bytes.slice(part)).into();
    let second = session.run(&[floats("x", &[2048], &[2.0; 2048])], &[0]).unwrap();
    let weights = first[2].clone();
    drop(session);
    // What the engine gave back is taken again.
    let third = other.run(&[floats("x", &[2048], &[7.0; 2048])], &[2, 0]).unwrap();
    assert_eq!(numbers(&first[0]), [1.5; 2048]);
    assert_eq!(numbers(&first[1]), [1.0; 2048]);
    assert_eq!(numbers(&weights), [0.5; 2048]);
    assert_eq!(numbers(&second[0]), [2.5; 2048]);
    assert_eq!((third[0].name.as_str(), numbers(&third[1])), ("w", vec![7.5; 2048]));
    drop(first);
    let part = Tensor::new("y", Datatype::Fp32, vec![1024], parts[1].clone()).unwrap();
    assert_eq!(numbers(&part), [1.5; 1024]);
}

#[test]
fn outputs_are_those_that_are_wanted_in_their_order() {
    let bench = Bench::new();
    let mut session = bench.session_of(&ADD_AND_PASS);
    let run = |session: &mut dyn Session, wanted: &[usize]| {
        let outputs = session.run(&[floats("x", &[2048], &[1.0; 2048])], wanted).unwrap();
        outputs.into_iter().map(|output| output.name).collect::<Vec<_>>()
    };
    assert_eq!(run(session.as_mut(), &[2, 0]), ["w", "y"]);
    assert_eq!(run(session.as_mut(), &[1, 1]), ["x", "x"]);
    assert!(run(session.as_mut(), &[]).is_empty());
    assert!(session.run(&[floats("x", &[2048], &[1.0; 2048])], &[3]).is_err());
    let wrong = session.run(&[floats("x", &[1024], &[1.0; 1024])], &[0]).unwrap_err();
    assert!(matches!(wrong, RunError::Failed(_)), "{wrong}");
}

#[test]
fn an_input_that_has_a_value_in_the_file_need_not_be_sent() {
    let bench = Bench::new();
    let network = Network {
        inputs: &[("x", Type::Dims(FLOAT, &[2])), ("w", Type::Dims(FLOAT, &[2]))],
        outputs: &[("y", Type::Dims(FLOAT, &[2]))],
        nodes: &[("Add", "", &["x", "w"], &["y"])],
        weights: &[("w", &[2], &[10.0, 20.0])],
        ..Network::default()
    };
    let mut session = bench.session_of(&network);
    let names: Vec<_> = session.signature().inputs.iter().map(|spec| spec.name.clone()).collect();
    assert_eq!(names, ["x"]);
    let outputs = session.run(&[floats("x", &[2], &[1.0, 2.0])], &[0]).unwrap();
    assert_eq!(numbers(&outputs[0]), [11.0, 22.0]);
}

/// Rounds for hours.
fn slow(rounds: i64) -> [Tensor; 3] {
    let rounds = AlignedBuffer::copy_of(&rounds.to_le_bytes());
    let rounds = Tensor::new("rounds", Datatype::Int64, vec![1], rounds).unwrap();
    [floats("a", &[1], &[2.0]), floats("b", &[1], &[3.0]), rounds]
}

#[test]
fn a_run_is_stopped_and_the_session_runs_again() {
    let bench = Bench::new();
    let mut session = bench.session(&models().join("test/slow-add/1/model.onnx"));
    let stopper = session.stopper();
    let (begins, begun) = mpsc::sync_channel(1);
    let runs = thread::spawn(move || {
        begins.send(()).unwrap();
        let stopped = session.run(&slow(i64::MAX), &[0]).unwrap_err();
        (session, stopped)
    });
    begun.recv().unwrap();
    stopper.stop();
    let (mut session, stopped) = runs.join().unwrap();
    assert_eq!(stopped, RunError::Stopped);

    assert_eq!(
        session.run(&slow(3), &[0]).unwrap_err(),
        RunError::Stopped,
        "a stop holds until it is taken back"
    );
    stopper.reset();
    assert_eq!(numbers(&session.run(&slow(3), &[0]).unwrap()[0]), [5.0]);
    let failed = session.run(&slow(3)[..2], &[0]).unwrap_err();
    assert!(matches!(failed, RunError::Failed(_)), "{failed}");
}

fn on(providers: &[&str]) -> Options {
    let providers = providers.iter().map(ToString::to_string).collect();
    Options { execution: Execution { providers, ..Execution::default() }, ..Options::default() }
}

#[test]
fn a_provider_that_the_library_lacks_is_told_with_its_remedy_and_the_next_is_used() {
    let bench = Bench::new();
    let model = bench.put("network.onnx", &ADD_AND_PASS.to_bytes());
    let opened = bench.open(&model, &on(&["cuda", "tensorrt", "cpu"])).unwrap();
    assert_eq!((opened.provider.as_str(), opened.warnings.len()), ("cpu", 2));
    let warning = &opened.warnings[0];
    assert!(warning.contains("cuda is not in onnxruntime 1."), "{warning}");
    assert!(warning.contains("which has cpu") && warning.contains("node.onnxruntime"), "{warning}");
    assert!(
        bench.open(&model, &on(&["cpu", "cuda"])).unwrap().warnings.is_empty(),
        "behind the CPU nothing is tried"
    );

    let refused = |providers: &[&str]| bench.open(&model, &on(providers)).err().unwrap().to_string();
    let without = refused(&["cuda"]);
    assert!(without.contains("has cpu and none of") && without.contains("add \"cpu\""), "{without}");
    let unknown = refused(&["cdua", "cpu"]);
    assert!(unknown.contains("no execution provider \"cdua\": did you mean \"cuda\"?"), "{unknown}");
    let mut options = on(&["cpu"]);
    options.execution.options.insert("openvno".to_owned(), Default::default());
    let unknown = bench.open(&model, &options).err().unwrap().to_string();
    assert!(unknown.contains("did you mean \"openvino\"?"), "{unknown}");
}

#[test]
fn the_library_is_named_by_its_version() {
    let name = Bench::new().runtime.library();
    assert!(name.starts_with("onnxruntime 1."), "{name}");
}

/// The files of the directory, with when they were written.
fn kept(directory: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap())).collect()
}

#[test]
fn an_optimised_model_is_kept_and_computes_the_same_and_a_damaged_one_is_made_again() {
    let bench = Bench::new();
    let model = models().join("repository/surface-defects/1/model.onnx");
    let home = bench.home.path().join("kept");
    let mut options = Options { cache: Some(home.clone()), sha256: "5a".repeat(32), ..Options::default() };
    options.sessions = 2;
    let pixels = fs::read(models().join("samples/surface-defects/images.u8")).unwrap();
    let image: Vec<f32> = pixels[..64 * 64].iter().map(|grey| f32::from(*grey) / 255.0).collect();
    let image = floats("image", &[1, 1, 64, 64], &image);
    let judge = |options: &Options| {
        let opened = bench.open(&model, options).unwrap();
        assert_eq!(opened.warnings, Vec::<String>::new());
        let judged = opened
            .sessions
            .into_iter()
            .map(|mut session| session.run(std::slice::from_ref(&image), &[0]).unwrap().remove(0));
        judged.collect::<Vec<_>>()
    };
    let plain = judge(&Options { cache: None, ..options.clone() });
    assert_eq!(judge(&options), plain);
    let first = kept(&home);
    assert_eq!(first.len(), 1);
    let name = first[0].0.file_name().unwrap().to_str().unwrap();
    assert!(name.contains("-cpu-onnxruntime-1."), "{name}");
    assert_eq!(judge(&options), plain);
    assert_eq!(kept(&home), first, "what is kept is used, not made again");

    for file in ["model.onnx", "weights.bin"] {
        let file = first[0].0.join(file);
        let whole = fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 0x10;
        for broken in [&damaged[..], &whole[..whole.len() - 1], b""] {
            fs::write(&file, broken).unwrap();
            assert_eq!(judge(&options), plain);
            assert_eq!(fs::read(&file).unwrap(), whole);
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(judge(&options), plain);
    }
    assert_eq!(kept(&home).len(), 1);

    options.execution.optimization = Optimization::Basic;
    judge(&options);
    assert_eq!(kept(&home).len(), 2, "other settings, another file");

    // A place that cannot be written costs a warning.
    let options = Options { cache: Some(model.join("no-directory")), ..options };
    let opened = bench.open(&model, &options).unwrap();
    assert!(opened.warnings[0].contains("is not kept"), "{:?}", opened.warnings);
}

#[test]
fn a_model_that_does_not_open_says_what_to_do() {
    let bench = Bench::new();
    let identity: &[(&str, &str, &[&str], &[&str])] = &[("Identity", "", &["x"], &["y"])];
    let of = |opsets| Network { nodes: identity, opsets, ..Network::default() };
    let told = bench.refused(&of(&[("", 999)]));
    assert!(told.contains("opset 999 of ai.onnx") && told.contains("export it with opset"), "{told}");
    let told = bench.refused(&Network { nodes: identity, ir: 99, ..Network::default() });
    assert!(told.contains("IR version 99") && told.contains("lineside runtime install"), "{told}");

    let weld: &[(&str, &str, &[&str], &[&str])] = &[("Weld", "acme.ops", &["x"], &["y"])];
    let told =
        bench.refused(&Network { nodes: weld, opsets: &[("", 17), ("acme.ops", 1)], ..Network::default() });
    assert!(told.contains("no operator Weld of acme.ops"), "{told}");
    let told = bench.refused(&Network { nodes: &[("Weld", "", &["x"], &["y"])], ..Network::default() });
    assert!(told.contains("no operator Weld of ONNX itself"), "{told}");

    let add: &[(&str, &str, &[&str], &[&str])] = &[("Add", "", &["x", "w"], &["y"])];
    let far = Network {
        nodes: add,
        elsewhere: &[("w", 4, "weights.bin")],
        inputs: &[("x", Type::Dims(FLOAT, &[4]))],
        outputs: &[("y", Type::Dims(FLOAT, &[4]))],
        ..Network::default()
    };
    let told = bench.refused(&far);
    assert!(told.contains("copy weights.bin beside the model"), "{told}");
    bench.put("weights.bin", b"12");
    let told = bench.refused(&far);
    assert!(told.contains("is cut"), "{told}");

    let complex = [("x", Type::Row(COMPLEX64))];
    let complex = Network {
        nodes: identity,
        inputs: &complex,
        outputs: &[("y", Type::Row(COMPLEX64))],
        ..Network::default()
    };
    let told = bench.refused(&complex);
    assert!(told.contains("cast"), "{told}");

    let model = bench.put("cut.onnx", &of(&[("", 17)]).to_bytes()[..30]);
    assert!(matches!(bench.open(&model, &Options::default()).err(), Some(OpenError::NotAModel(_))));
    let model = bench.put("empty.onnx", b"");
    assert!(matches!(bench.open(&model, &Options::default()).err(), Some(OpenError::NotAModel(_))));
}

#[test]
fn a_run_that_asks_for_more_memory_than_there_is_fails_in_words() {
    let bench = Bench::new();
    let model = one_node("ConstantOfShape", &Type::Row(INT64), &Type::Any(FLOAT), &[]);
    let mut session = bench.session(&bench.put("zeros.onnx", &model));
    let count = AlignedBuffer::copy_of(&(1_i64 << 50).to_le_bytes());
    let count = Tensor::new("x", Datatype::Int64, vec![1], count).unwrap();
    let failed = session.run(&[count], &[0]).unwrap_err().to_string();
    assert!(failed.contains("not enough memory"), "{failed}");
}

/// Says that the test runs in a process of its own, where nobody else makes threads.
const ALONE: &str = "LINESIDE_TEST_ALONE";

/// Runs a test of this file again in a process of its own; `false` in that process.
fn is_repeated_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("tests::engine::{test}"), "--exact", "--nocapture"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("1 passed"), "{told}");
    true
}

#[test]
#[cfg(target_os = "linux")]
fn ten_models_of_two_sessions_make_no_thread() {
    if is_repeated_alone("ten_models_of_two_sessions_make_no_thread") {
        return;
    }
    let bench = Bench::new();
    let model = models().join("repository/surface-defects/1/model.onnx");
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let options = Options { sessions: 2, ..Options::default() };
    let mut models: Vec<_> = (0..10).map(|_| bench.open(&model, &options).unwrap()).collect();
    assert_eq!(models.iter().map(|model| model.sessions.len()).sum::<usize>(), 20);
    let image = floats("image", &[1, 1, 64, 64], &[0.5; 64 * 64]);
    for session in models.iter_mut().flat_map(|model| &mut model.sessions) {
        session.run(std::slice::from_ref(&image), &[0]).unwrap();
    }
    assert_eq!(threads(), before);
    // Whoever asks for more threads gets them.
    let pooled = bench.open(&model, &Options { threads: 3, ..Options::default() }).unwrap();
    assert_eq!(threads(), before + 2);
    drop(pooled);
}

#[test]
#[cfg(target_os = "linux")]
fn ten_sessions_hold_the_weights_once() {
    if is_repeated_alone("ten_sessions_hold_the_weights_once") {
        return;
    }
    const SIDE: usize = 2048;
    let bench = Bench::new();
    let weights: Vec<f32> = (0..SIDE * SIDE).map(|at| (at % 7) as f32).collect();
    let network = Network {
        nodes: &[("MatMul", "", &["x", "w"], &["y"])],
        weights: &[("w", &[SIDE as u64, SIDE as u64], &weights)],
        inputs: &[("x", Type::Dims(FLOAT, &[-1, SIDE as i64]))],
        outputs: &[("y", Type::Dims(FLOAT, &[-1, SIDE as i64]))],
        ..Network::default()
    };
    let model = bench.put("wide.onnx", &network.to_bytes());
    let x = floats("x", &[1, SIDE as u64], &[1.0; SIDE]);
    // The system has a page of a file once, however often it is mapped.
    let mapped = |sessions: usize| {
        let mut opened = bench.open(&model, &Options { sessions, ..Options::default() }).unwrap();
        let run = |session: &mut Box<dyn Session>| session.run(std::slice::from_ref(&x), &[0]).unwrap();
        let outputs: Vec<_> = opened.sessions.iter_mut().map(run).collect();
        assert!(outputs.iter().all(|output| *output == outputs[0]));
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("/weights.bin (deleted)")).count()
    };
    assert_eq!(mapped(1), 0, "one session shares with nobody");
    let ten = mapped(10);
    assert!(10 <= ten, "{ten} of ten sessions map their weights");
    assert_eq!(mapped(1), 0, "and all is given back");
}

fn measured(network: &Network<'_>) -> Measured {
    let bench = Bench::new();
    let mut session = bench.session_of(network);
    measure::measure(session.as_mut(), &Warmup::default(), &Batching::default()).unwrap()
}

#[test]
fn a_matrix_product_gains_by_joining() {
    let weights = vec![0.25; 512 * 512];
    let found = measured(&Network {
        nodes: &[("MatMul", "", &["x", "w"], &["y"])],
        weights: &[("w", &[512, 512], &weights)],
        inputs: &[("x", Type::Dims(FLOAT, &[-1, 512]))],
        outputs: &[("y", Type::Dims(FLOAT, &[-1, 512]))],
        ..Network::default()
    });
    assert_eq!(found.unfit, None);
    assert_eq!(found.timings.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(), [1, 4, 16]);
    let decision = measure::decide(&found, &Batching::default()).unwrap();
    assert!(1 < decision.max_size && decision.finding.starts_with("joined up to"), "{decision:?} {found:?}");
}

#[test]
fn a_model_that_mixes_its_rows_is_found() {
    // Over the last dimension, which is the only one: each row takes its part of the whole.
    let softmax: &[(&str, &str, &[&str], &[&str])] = &[("Softmax", "", &["x"], &["y"])];
    let found = measured(&Network { nodes: softmax, ..Network::default() });
    let reason = found.unfit.unwrap();
    assert!(reason.contains("\"y\" depends on its neighbours"), "{reason}");
    assert!(found.timings.is_empty());

    let sum: &[(&str, &str, &[&str], &[&str])] = &[("ReduceSum", "", &["x"], &["y"])];
    let any = [("y", Type::Any(FLOAT))];
    let found = measured(&Network { nodes: sum, outputs: &any, ..Network::default() });
    assert_eq!(found.unfit.unwrap(), "the first dimension of the output \"y\" is fixed at 1");
}

#[test]
fn a_model_whose_shapes_do_not_allow_it_is_not_joined() {
    let reason = |network: &Network<'_>| measured(network).unfit.unwrap();
    let identity: &[(&str, &str, &[&str], &[&str])] = &[("Identity", "", &["x"], &["y"])];
    let one = [("x", Type::Dims(FLOAT, &[1, 4]))];
    let fixed = Network {
        nodes: identity,
        inputs: &one,
        outputs: &[("y", Type::Dims(FLOAT, &[1, 4]))],
        ..Network::default()
    };
    assert_eq!(reason(&fixed), "the first dimension of the input \"x\" is fixed at 1");
    let silent = [("x", Type::Any(FLOAT))];
    let silent = Network {
        nodes: identity,
        inputs: &silent,
        outputs: &[("y", Type::Any(FLOAT))],
        ..Network::default()
    };
    assert!(reason(&silent).contains("says no dimensions"));
    let none = Network {
        nodes: &[("Identity", "", &["w"], &["y"])],
        weights: &[("w", &[1], &[1.0])],
        inputs: &[],
        ..Network::default()
    };
    assert_eq!(reason(&none), "the model has no inputs");
}

#[test]
fn a_model_that_fails_on_made_up_inputs_is_not_measured() {
    let bench = Bench::new();
    // The rows do not match the weights, whatever their number is.
    let network = Network {
        nodes: &[("MatMul", "", &["x", "w"], &["y"])],
        weights: &[("w", &[3], &[1.0, 2.0, 3.0])],
        inputs: &[("x", Type::Dims(FLOAT, &[-1, -1]))],
        ..Network::default()
    };
    let mut session = bench.session_of(&network);
    let batching = Batching::default();
    assert!(measure::measure(session.as_mut(), &Warmup::default(), &batching).is_err());
    let shape = [("x".to_owned(), vec![1, 3])].into();
    let told = Warmup { shape, ..Warmup::default() };
    assert_eq!(measure::measure(session.as_mut(), &told, &batching).unwrap().unfit, None);
    let off = Batching { mode: BatchingMode::Off, ..Batching::default() };
    assert_eq!(measure::measure(session.as_mut(), &told, &off).unwrap(), Measured::default());
    let stopper: Arc<_> = session.stopper();
    stopper.stop();
    assert_eq!(measure::warm_up(session.as_mut(), &told).unwrap_err(), RunError::Stopped);
}
