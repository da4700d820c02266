//! The sample models on the real ONNX Runtime.

use std::{fs, path::PathBuf, sync::OnceLock};

use bytes::Bytes;
use half::{bf16, f16};
use lineside_wire::{
    AlignedBuffer, Datatype, Executed, FaultCode, ModelState, NodeId, Tensor, TensorSpec, bytes_tensor,
};
use serde_json::Value;

use super::{
    floor::{Floor, Request, config},
    graph::{BFLOAT16, FLOAT, INT64, STRING, Type, one_node},
};
use crate::{
    Node, NodeConfig, NodeError,
    engine::{Engine, OnnxRuntime, Options},
    runtime,
};

/// The library: the one that this machine has, else the pinned one.
pub(super) fn library() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || runtime::ensure(None, &mut |line| println!("{line}")).map(|found| found.path);
    LIBRARY
        .get_or_init(|| find().unwrap_or_else(|error| panic!("these tests need ONNX Runtime: {error}")))
        .clone()
}

pub(super) fn models() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models")
}

pub(super) fn samples(path: &str) -> Value {
    serde_json::from_slice(&fs::read(models().join("samples").join(path)).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

async fn floor(directory: &str) -> Floor {
    let config = NodeConfig { library: library(), ..config(&models().join(directory), 2, 64) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;
    floor
}

fn add(a: &[f32], b: &[f32]) -> Request {
    Request::of("add").floats("a", &[a.len() as u64], a).floats("b", &[b.len() as u64], b)
}

#[tokio::test]
async fn add_adds() {
    let floor = floor("repository").await;
    for case in samples("add.json")["cases"].as_array().unwrap() {
        let answer = floor.send(add(&floats(&case["a"]), &floats(&case["b"]))).await.unwrap();
        assert_eq!(answer.floats("sum"), floats(&case["sum"]));
        assert_eq!((answer.report.load.running, answer.report.load.slots, answer.report.attempts), (0, 2, 1));
    }
    let info = floor.state("add", 1);
    let spec = |name: &str| TensorSpec { name: name.to_owned(), datatype: Datatype::Fp32, shape: vec![-1] };
    assert_eq!((info.state, info.slots), (ModelState::Ready, 2));
    assert_eq!((info.inputs, info.outputs), (vec![spec("a"), spec("b")], vec![spec("sum")]));
}

#[tokio::test]
async fn the_sample_parts_are_judged_as_their_model_judged_them() {
    let floor = floor("repository").await;
    let labels = samples("surface-defects/labels.json");
    let pixels = fs::read(models().join("samples/surface-defects/images.u8")).unwrap();
    let image: Vec<f32> = pixels.iter().map(|grey| f32::from(*grey) / 255.0).collect();
    let expected: Vec<_> =
        labels["images"].as_array().unwrap().iter().map(|image| &image["expected"]).collect();
    let classes = labels["classes"].as_array().unwrap();
    let judge = |row: &[f32]| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        classes[best].clone()
    };
    let request = Request::of("surface-defects").floats("image", &[100, 1, 64, 64], &image);
    let answer = floor.send(request).await.unwrap();
    let batch: Vec<_> = answer.floats("probabilities").chunks(5).map(judge).collect();
    assert!(batch.iter().eq(expected.iter().copied()), "{batch:?}");
    for (one, expected) in image.chunks(64 * 64).zip(&expected) {
        let request = Request::of("surface-defects").floats("image", &[1, 1, 64, 64], one);
        let answer = floor.send(request).await.unwrap();
        assert_eq!(judge(&answer.floats("probabilities")), **expected);
    }
}

#[tokio::test]
async fn the_sample_bearings_are_judged_as_their_model_judged_them() {
    let floor = floor("repository").await;
    let rows = samples("vibration-anomaly/rows.json");
    for row in rows["rows"].as_array().unwrap() {
        let request =
            Request::of("vibration-anomaly").floats("features", &[1, 16], &floats(&row["features"]));
        let answer = floor.send(request.output("anomalous")).await.unwrap();
        assert_eq!(answer.outputs.len(), 1, "only what was asked for comes");
        assert_eq!(answer.outputs["anomalous"].bytes[0] == 1, row["expected"]);
    }
}

/// Two elements of every datatype of the model `echo`, with the values that a wrong width or sign would lose.
fn echoed() -> Vec<(&'static str, Datatype, Vec<u8>)> {
    let texts = bytes_tensor(["Läger 7 \u{1f527}".as_bytes(), b""]).unwrap();
    vec![
        ("bool", Datatype::Bool, vec![1, 0]),
        ("uint8", Datatype::Uint8, vec![0, u8::MAX]),
        ("uint16", Datatype::Uint16, [1, u16::MAX].map(u16::to_le_bytes).concat()),
        ("uint32", Datatype::Uint32, [1, u32::MAX].map(u32::to_le_bytes).concat()),
        ("uint64", Datatype::Uint64, [1, u64::MAX].map(u64::to_le_bytes).concat()),
        ("int8", Datatype::Int8, [i8::MIN, 1].map(i8::to_le_bytes).concat()),
        ("int16", Datatype::Int16, [i16::MIN, 1].map(i16::to_le_bytes).concat()),
        ("int32", Datatype::Int32, [i32::MIN, 1].map(i32::to_le_bytes).concat()),
        ("int64", Datatype::Int64, [i64::MIN, 1].map(i64::to_le_bytes).concat()),
        ("fp16", Datatype::Fp16, [f16::MIN, f16::EPSILON].map(f16::to_le_bytes).concat()),
        ("fp32", Datatype::Fp32, [f32::MIN, f32::NAN].map(f32::to_le_bytes).concat()),
        ("fp64", Datatype::Fp64, [f64::MIN, f64::INFINITY].map(f64::to_le_bytes).concat()),
        ("bytes", Datatype::Bytes, texts),
    ]
}

#[tokio::test]
async fn every_datatype_comes_back_as_it_went() {
    let floor = floor("test").await;
    let request = echoed().into_iter().fold(Request::of("echo"), |request, (name, datatype, bytes)| {
        request.input(&format!("in_{name}"), datatype, &[2], bytes)
    });
    let answer = floor.send(request).await.unwrap();
    for (name, datatype, bytes) in echoed() {
        let output = &answer.outputs[&format!("out_{name}")];
        assert_eq!((output.datatype, output.shape.dims()), (datatype, &[2_u64][..]), "{name}");
        assert_eq!(output.bytes, bytes, "{name}");
    }
    let empty = echoed().into_iter().fold(Request::of("echo"), |request, (name, datatype, _)| {
        request.input(&format!("in_{name}"), datatype, &[0], Bytes::new())
    });
    let answer = floor.send(empty).await.unwrap();
    assert!(answer.outputs.len() == 13 && answer.outputs.values().all(|output| output.bytes.is_empty()));
}

#[tokio::test]
async fn tensors_that_lie_askew_are_copied_and_run_all_the_same() {
    let engine = OnnxRuntime::load(&library()).unwrap();
    let opened = engine.open(&models().join("test/echo/1/model.onnx"), &Options::default()).unwrap();
    let mut session = opened.sessions.into_iter().next().unwrap();
    let wanted: Vec<usize> = (0..13).collect();
    let inputs = |askew: usize| -> Vec<Tensor> {
        let inputs = session_order(session.signature().inputs.as_slice());
        let place = |(name, datatype, bytes): (String, Datatype, Vec<u8>)| {
            let aligned = AlignedBuffer::copy_of(&[vec![0; askew], bytes].concat());
            Tensor::new(name, datatype, vec![2], aligned.slice(askew..)).unwrap()
        };
        inputs.into_iter().map(place).collect()
    };
    let (straight, askew) = (inputs(0), inputs(1));
    assert_ne!(askew[5].bytes.as_ptr().align_offset(8), 0);
    let straight = session.run(&straight, &wanted).unwrap();
    assert_eq!(straight, session.run(&askew, &wanted).unwrap());

    // A payload without a byte lies nowhere at all.
    let names = session_order(session.signature().inputs.as_slice()).into_iter();
    let nothing = |(name, datatype, _): (String, Datatype, Vec<u8>)| {
        Tensor::new(name, datatype, vec![0], Default::default()).unwrap()
    };
    let nothing: Vec<_> = names.map(nothing).collect();
    assert!(session.run(&nothing, &wanted).unwrap().iter().all(|output| output.bytes.is_empty()));
}

fn session_order(specs: &[TensorSpec]) -> Vec<(String, Datatype, Vec<u8>)> {
    let of = |spec: &TensorSpec| {
        let (_, datatype, bytes) =
            echoed().into_iter().find(|(name, ..)| spec.name == format!("in_{name}")).unwrap();
        (spec.name.clone(), datatype, bytes)
    };
    specs.iter().map(of).collect()
}

#[tokio::test]
async fn what_does_not_fit_the_model_is_refused_before_it_runs_and_the_node_serves_on() {
    let floor = floor("repository").await;
    let one = [1.0_f32];
    let wrong = [
        (add(&one, &one).floats("c", &[1], &one), "no input \"c\""),
        (Request::of("add").floats("a", &[1], &one), "\"b\" of add is missing"),
        (
            Request::of("add").floats("a", &[1], &one).input("b", Datatype::Int32, &[1], vec![0; 4]),
            "\"b\" of add is FP32, but INT32 was sent",
        ),
        (Request::of("add").floats("a", &[1, 1], &one).floats("b", &[1], &one), "has the shape [-1]"),
        (add(&one, &one).output("product"), "no output \"product\""),
    ];
    for (request, words) in wrong {
        let fault = floor.send(request).await.unwrap_err();
        assert_eq!((fault.code, fault.executed), (FaultCode::InvalidParams, Executed::No));
        assert!(fault.message.contains(words), "{fault}");
    }
    // The file does not say that both have one length: only the run can find that.
    let fault = floor.send(add(&[1.0, 2.0], &[1.0, 2.0, 3.0])).await.unwrap_err();
    assert_eq!((fault.code, fault.executed), (FaultCode::InferenceFailed, Executed::Yes));
    assert!(fault.message.contains("add failed on this input"), "{fault}");
    assert_eq!(floor.send(add(&one, &one)).await.unwrap().floats("sum"), [2.0]);
}

#[tokio::test]
async fn a_file_that_is_no_model_is_listed_and_leaves_the_node_serving() {
    let floor = floor("test").await;
    let broken = floor.state("broken", 1);
    assert_eq!(broken.state, ModelState::Unavailable);
    let reason = broken.reason.unwrap();
    assert!(reason.starts_with("not an ONNX model: "), "{reason}");
    let fault = floor.send(Request::of("broken")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::ModelUnavailable);
    assert_eq!(floor.load("broken").await.unwrap_err().code, FaultCode::ModelRejected);

    let slow = Request::of("slow-add").floats("a", &[1], &[2.0]).floats("b", &[1], &[3.0]);
    let slow = slow.input("rounds", Datatype::Int64, &[1], 20_i64.to_le_bytes().to_vec());
    assert_eq!(floor.send(slow.clone()).await.unwrap().floats("sum"), [5.0]);
    floor.unload("slow-add").await.unwrap();
    assert_eq!(floor.send(slow.clone()).await.unwrap_err().code, FaultCode::ModelUnavailable);
    floor.load("slow-add").await.unwrap();
    assert_eq!(floor.send(slow).await.unwrap().floats("sum"), [5.0]);
}

#[tokio::test]
async fn models_that_no_sample_shows_are_served_or_say_why_not() {
    let home = tempfile::tempdir().unwrap();
    let put = |name: &str, model: Vec<u8>| fs::write(home.path().join(name), model).unwrap();
    let row = Type::Row;
    put("brain.onnx", one_node("Identity", &row(BFLOAT16), &row(BFLOAT16), &[]));
    put("any.onnx", one_node("Identity", &Type::Any(FLOAT), &Type::Any(FLOAT), &[]));
    put("bag.onnx", one_node("SequenceConstruct", &row(FLOAT), &Type::Sequence(FLOAT), &[]));
    put("strange.onnx", one_node("Weld", &row(FLOAT), &row(FLOAT), &[]));
    let upper = [("case_change_action", "UPPER"), ("locale", "xx_XX.UTF-8")];
    put("upper.onnx", one_node("StringNormalizer", &row(STRING), &row(STRING), &upper));
    put("cut.onnx", one_node("Identity", &row(FLOAT), &row(FLOAT), &[])[..40].to_vec());
    let config = NodeConfig { library: library(), ..config(home.path(), 1, 9) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;

    let halves = [bf16::MIN, bf16::EPSILON, bf16::NAN].map(bf16::to_le_bytes).concat();
    let request = Request::of("brain").input("x", Datatype::Bf16, &[3], halves.clone());
    assert_eq!(floor.send(request).await.unwrap().outputs["y"].bytes, halves);
    let square = Request::of("any").floats("x", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(floor.send(square).await.unwrap().outputs["y"].shape.dims(), [2, 2]);

    let reason = |name: &str| floor.state(name, 1).reason.unwrap_or_default();
    assert!(reason("bag").contains("only tensors are served"), "{}", reason("bag"));
    assert!(reason("strange").contains("has no operator Weld of ONNX itself"), "{}", reason("strange"));
    assert!(reason("upper").contains("localedef -i xx_XX -f UTF-8 xx_XX.UTF-8"), "{}", reason("upper"));
    assert!(reason("cut").starts_with("not an ONNX model"), "{}", reason("cut"));
}

#[tokio::test]
async fn an_output_that_is_too_large_is_told_and_the_node_serves_on() {
    let home = tempfile::tempdir().unwrap();
    let zeros = one_node("ConstantOfShape", &Type::Row(INT64), &Type::Any(FLOAT), &[]);
    fs::write(home.path().join("zeros.onnx"), zeros).unwrap();
    let any = one_node("Identity", &Type::Any(FLOAT), &Type::Any(FLOAT), &[]);
    fs::write(home.path().join("any.onnx"), any).unwrap();
    let config = NodeConfig { library: library(), ..config(home.path(), 1, 9) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;
    let zeros = |count: i64| {
        Request::of("zeros").input("x", Datatype::Int64, &[1], count.to_le_bytes().to_vec()).output("y")
    };
    let fault = floor.send(zeros(20_000_000)).await.unwrap_err();
    assert_eq!((fault.code, fault.executed), (FaultCode::LimitExceeded, Executed::Yes));
    assert!(fault.message.contains("80000000 bytes"), "{fault}");
    assert_eq!(floor.send(zeros(3)).await.unwrap().floats("y"), [0.0; 3]);

    // No bytes at all, and yet a sum over the second dimension would be four terabytes.
    let fault = floor.send(Request::of("any").floats("x", &[1 << 40, 0], &[])).await.unwrap_err();
    assert_eq!((fault.code, fault.executed), (FaultCode::InvalidParams, Executed::No));
    let nothing = floor.send(Request::of("any").floats("x", &[7, 0], &[])).await.unwrap();
    assert_eq!(nothing.outputs["y"].shape.dims(), [7, 0]);
}

#[test]
fn a_file_that_is_no_library_is_refused_with_advice() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("libonnxruntime.so");
    fs::write(&library, "no library").unwrap();
    let config = NodeConfig { library, ..config(&models().join("repository"), 1, 1) };
    let refused = Node::start(config, NodeId::from_bytes([1; 16])).err().unwrap();
    assert!(matches!(refused, NodeError::Library { .. }));
    assert!(refused.to_string().contains("lineside runtime install"), "{refused}");
}
