//! Images, texts, classes and statistics, on the real ONNX Runtime.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use image::{ExtendedColorType, ImageEncoder as _, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};
use lineside_wire::{
    Datatype, Executed, Fault, FaultCode, ModelState, ModelVersion, Parameter, Spent, Task, Tensor,
    TensorSpec, VersionPolicy, bytes_tensor,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    floor::{Answer, Floor, Request, config},
    graph::{FLOAT, INT64, Type, look_up, one_node},
    onnx::{library, models, samples},
    workshop::NoBrake,
    workshop::Workshop,
};
use crate::{
    Node, NodeConfig,
    engine::{RunError, Session, Signature, Stopper},
    settings::{Embed, Folder, Settings},
    task::{Failure, Tasks, Turn},
};

async fn floor(models: &Path) -> Floor {
    let config = NodeConfig { library: library(), ..config(models, 2, 64) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;
    floor
}

/// A model that gives the mean of each channel, in a repository of its own, with these settings.
fn lamp(settings: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let (image, means) = (Type::Dims(FLOAT, &[1, 3, 8, 8]), Type::Dims(FLOAT, &[1, 3, 1, 1]));
    put(&home, "lamp/1/model.onnx", &one_node("GlobalAveragePool", &image, &means, &[]));
    put(&home, "lamp/model.toml", settings.as_bytes());
    home
}

fn put(home: &TempDir, path: &str, bytes: &[u8]) {
    let path = home.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

const LAMP: &str =
    "[predict]\nlabels = [\"red\", \"green\", \"blue\"]\n\n[predict.verdict]\nok = [\"green\"]\n";

fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let mut file = Vec::new();
    let pixels = colour.repeat((width * height) as usize);
    PngEncoder::new(&mut file).write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
    file
}

fn jpeg(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let mut file = Vec::new();
    let pixels = colour.repeat((width * height) as usize);
    let encoder = JpegEncoder::new_with_quality(&mut file, 95);
    encoder.write_image(&pixels, width, height, ExtendedColorType::Rgb8).unwrap();
    file
}

fn prediction(answer: &Answer) -> Value {
    serde_json::from_str(&answer.texts(Task::PREDICTION)[0]).unwrap()
}

fn reason(floor: &Floor, model: &str) -> String {
    let info = floor.state(model, 1);
    assert_eq!(info.state, ModelState::Unavailable, "{info:?}");
    info.reason.unwrap()
}

fn refused(fault: &Fault, words: &str) {
    assert_eq!((fault.code, fault.executed), (FaultCode::InvalidParams, Executed::No), "{fault}");
    assert!(fault.message.contains(words), "{fault}");
}

#[tokio::test]
async fn an_image_gets_labels_and_a_word() {
    let home = lamp(LAMP);
    let floor = floor(home.path()).await;
    assert_eq!(floor.state("lamp", 1).tasks, [Task::Predict]);
    let send = |file: Vec<u8>| floor.send(Request::of("lamp").image(&file));

    let green = prediction(&send(png(8, 8, [51, 255, 0])).await.unwrap());
    let labels = json!([
        {"label": "green", "index": 1, "score": 1.0},
        {"label": "red", "index": 0, "score": 0.2},
        {"label": "blue", "index": 2, "score": 0.0},
    ]);
    assert_eq!(green["verdict"], "OK");
    for (label, expected) in green["labels"].as_array().unwrap().iter().zip(labels.as_array().unwrap()) {
        assert_eq!((&label["label"], &label["index"]), (&expected["label"], &expected["index"]));
        let off = label["score"].as_f64().unwrap() - expected["score"].as_f64().unwrap();
        assert!(off.abs() < 1e-5, "{label}");
    }
    assert!(green.get("boxes").is_none());
    let red = prediction(&send(jpeg(123, 45, [250, 20, 20])).await.unwrap());
    assert_eq!((&red["labels"][0]["label"], &red["verdict"]), (&json!("red"), &json!("NOK")));

    let ask = Request::of("lamp").image(&png(8, 8, [51, 255, 0]));
    let two = ask.clone().parameter("top_k", Parameter::Integer(2));
    assert_eq!(prediction(&floor.send(two).await.unwrap())["labels"].as_array().unwrap().len(), 2);
    let high = ask.parameter("threshold", Parameter::Number(0.5));
    let high = prediction(&floor.send(high).await.unwrap());
    assert_eq!((high["labels"].as_array().unwrap().len(), &high["verdict"]), (1, &json!("OK")));
}

#[tokio::test]
async fn the_sample_models_judge_their_sample_pictures() {
    let floor = floor(&models().join("repository")).await;
    assert_eq!(floor.state("color", 1).tasks, [Task::Predict]);
    assert_eq!(floor.state("embed", 1).tasks, [Task::Embed]);
    assert_eq!(floor.state("add", 1).tasks, []);
    for image in samples("color/labels.json")["images"].as_array().unwrap() {
        let file = fs::read(models().join("samples/color").join(image["file"].as_str().unwrap())).unwrap();
        let told = prediction(&floor.send(Request::of("color").image(&file)).await.unwrap());
        assert_eq!((&told["labels"][0]["label"], &told["verdict"]), (&image["label"], &image["verdict"]));
        let off = told["labels"][0]["score"].as_f64().unwrap() - image["score"].as_f64().unwrap();
        assert!(off.abs() < 1e-3, "{told}");
    }
    let sheet = samples("surface-defects/labels.json");
    for image in sheet["images"].as_array().unwrap().iter().step_by(9) {
        let file = models().join("samples/surface-defects").join(image["file"].as_str().unwrap());
        let request = Request::of("surface-defects").image(&fs::read(file).unwrap());
        let told = prediction(&floor.send(request).await.unwrap());
        assert_eq!(told["labels"][0]["label"], image["expected"]);
        assert_eq!(told["verdict"], if image["expected"] == "ok" { "OK" } else { "NOK" });
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_the_node_serves_on() {
    let home = lamp(LAMP);
    let floor = floor(home.path()).await;
    let green = png(8, 8, [0, 200, 0]);
    let mut huge = green.clone();
    huge[16..24].fill(0x7f);
    let wrong = [
        (b"a text".to_vec(), "not a JPEG or PNG: it begins with \"a text\""),
        (huge, "2139062143 x 2139062143 pixels: at most 50000000"),
        (green[..green.len() - 20].to_vec(), "the PNG file is broken"),
        (Vec::new(), "it is empty"),
    ];
    for (file, words) in wrong {
        refused(&floor.send(Request::of("lamp").image(&file)).await.unwrap_err(), words);
    }
    let two = bytes_tensor([&green[..], &green[..]]).unwrap();
    let two = Request::of("lamp").task(Task::Predict).input(Task::IMAGE, Datatype::Bytes, &[2], two);
    refused(&floor.send(two).await.unwrap_err(), "takes one image a call");
    let other = Request::of("lamp").task(Task::Predict).floats("x", &[1], &[1.0]);
    refused(&floor.send(other).await.unwrap_err(), "lamp takes one input of BYTES for predict: image");
    let image = Request::of("lamp").image(&green);
    let many = image.clone().parameter("top_k", Parameter::Integer(0));
    refused(&floor.send(many).await.unwrap_err(), "top_k is a whole number of 1 to 1000");
    let text = image.clone().parameter("threshold", Parameter::Text("high".to_owned()));
    refused(&floor.send(text).await.unwrap_err(), "threshold is a number");
    refused(&floor.send(image.clone().output("label")).await.unwrap_err(), "gives prediction for predict");
    refused(
        &floor.send(image.clone().classes("y", 1)).await.unwrap_err(),
        "classes are taken of a model's own",
    );
    assert!(floor.send(image).await.is_ok());
    let done = &floor.statistics(Some("lamp")).await.unwrap()[0];
    assert_eq!((done.success.count, done.fail.count, done.execution_count), (1, 4, 1));
}

#[tokio::test]
async fn a_model_without_the_section_says_what_it_can() {
    let home = lamp("");
    put(&home, "plain.onnx", &one_node("Identity", &Type::Row(FLOAT), &Type::Row(FLOAT), &[]));
    let floor = floor(home.path()).await;
    let fault = floor.send(Request::of("plain").image(&png(1, 1, [0; 3]))).await.unwrap_err();
    refused(&fault, "plain takes no image: it takes its own tensors alone (x)");
    assert!(fault.message.contains("a section [predict] in its model.toml"), "{fault}");
    refused(&floor.send(Request::of("plain").texts(&["weld"])).await.unwrap_err(), "section [embed]");

    // The short form has its settings beside it, read when it is loaded.
    put(&home, "plain.toml", b"[predict]\n");
    let told = floor.load("plain").await.unwrap_err();
    assert!(told.message.contains("plain.toml line 1, predict.input: x has the shape [-1]"), "{told}");
    assert!(told.message.contains("what was loaded before serves on"), "{told}");
    assert_eq!(floor.state("plain", 1).state, ModelState::Ready);
}

#[tokio::test]
async fn wrong_settings_keep_a_model_from_serving_and_say_where() {
    let cases = [
        (
            "[predict]\nreszie = \"fit\"\n",
            "lamp/model.toml line 2: there is no key \"reszie\" here; did you mean \"resize\"?",
        ),
        ("[predict]\nsize = [9, 8]\n", "line 2, predict.size: the model's width is 8, not 9"),
        (
            "[predict]\nlabels = [\"a\"]\n",
            "line 2, predict.labels: there are 1 labels, but the output \"y\" has 3",
        ),
        ("[predict]\noutput = \"z\"\n", "line 2, predict.output: the model has no output \"z\""),
        ("[predict]\nchannels = \"gray\"\n", "line 2, predict.channels: Gray has 1, but the input's shape"),
        ("[predict]\nstd = [1.0, 0.0, 1.0]\n", "line 2, predict.std: is 0"),
        ("[predict]\nmean = [nan]\n", "line 2, predict.mean: holds what is no number"),
        ("[predict]\nmean = [1.0, 2.0]\n", "line 2, predict.mean: has 2 numbers for 3 channels"),
        ("[predict]\npad = [0, 0, 256]\n", "line 2, pad: invalid value"),
        ("[predict]\ntop_k = 0\n", "line 2, predict.top_k: 0 is not 1 to 1000"),
        ("[predict]\nnms = 0.5\n", "line 2, predict.nms: is read only with boxes"),
        ("[predict]\nboxes = \"xyxy\"\n", "line 1, predict.boxes_output: is missing"),
        (
            "[predict]\nlabels_file = \"../../etc/passwd\"\n",
            "line 2, predict.labels_file: \"../../etc/passwd\" leads out",
        ),
        ("[predict]\nlabels_file = \"none.txt\"\n", "there is no file none.txt"),
        ("[predict.verdict]\nok = [\"green\"]\n", "line 2, predict.verdict.ok: there is no label \"green\""),
        ("[predict.verdict]\n", "line 1, predict.verdict.ok: names no label"),
        ("[embed]\n", "line 1, embed: the model has an input \"x\": texts fill input_ids"),
        ("[predict\n", "lamp/model.toml line 1"),
    ];
    let home = lamp("");
    let floor = floor(home.path()).await;
    floor.unload("lamp").await.unwrap();
    for (settings, words) in cases {
        put(&home, "lamp/model.toml", settings.as_bytes());
        assert_eq!(floor.load("lamp").await.unwrap_err().code, FaultCode::ModelRejected);
        let told = reason(&floor, "lamp");
        assert!(told.contains(words), "{settings}{told}");
    }
    put(&home, "lamp/model.toml", &vec![b'#'; (64 << 10) + 1]);
    floor.load("lamp").await.unwrap_err();
    assert!(reason(&floor, "lamp").contains("is larger than 65536 bytes"));
    put(&home, "lamp/model.toml", b"\xff");
    floor.load("lamp").await.unwrap_err();
    assert!(reason(&floor, "lamp").contains("is not UTF-8"));
    put(&home, "lamp/labels.txt", b"red\r\ngreen\nblue\n");
    put(&home, "lamp/model.toml", b"[predict]\nlabels_file = \"labels.txt\"\n");
    floor.load("lamp").await.unwrap();
    let told = floor.send(Request::of("lamp").image(&png(8, 8, [0, 0, 99]))).await.unwrap();
    assert_eq!(prediction(&told)["labels"][0]["label"], "blue");
}

#[tokio::test]
async fn boxes_are_told_in_pixels_of_the_image_that_was_sent() {
    let home = tempfile::tempdir().unwrap();
    // What comes out is what comes in: each row of five pixels is a box, centre, width and height in shares of the
    // input, and the score of the one label.
    let (image, rows) = (Type::Dims(FLOAT, &[1, 3, 5, 1]), Type::Dims(FLOAT, &[3, 5]));
    put(&home, "find/1/model.onnx", &one_node("Squeeze", &image, &rows, &[]));
    let settings = "[predict]\nlayout = \"nhwc\"\nfilter = \"nearest\"\nboxes = \"yolo\"\n\
                    coordinates = \"relative\"\nlabels = [\"pore\"]\n[predict.verdict]\n";
    put(&home, "find/model.toml", settings.as_bytes());
    let floor = floor(home.path()).await;
    let found = async |rows: [[u8; 5]; 3], threshold: Option<f64>| {
        // Each pixel twice, in both directions.
        let twice = |row: [u8; 5]| {
            [row.map(|value| [value; 2]).concat(), row.map(|value| [value; 2]).concat()].concat()
        };
        let mut file = Vec::new();
        let pixels = rows.map(twice).concat();
        PngEncoder::new(&mut file).write_image(&pixels, 10, 6, ExtendedColorType::L8).unwrap();
        let request = Request::of("find").image(&file);
        let request = match threshold {
            Some(threshold) => request.parameter("threshold", Parameter::Number(threshold)),
            None => request,
        };
        prediction(&floor.send(request).await.unwrap())
    };
    let pore = [51, 51, 51, 102, 204];
    // The same pore once more and less surely, and what is hardly one.
    let told = found([pore, [51, 51, 51, 102, 153], [204, 204, 51, 51, 5]], None).await;
    let label = json!({"label": "pore", "index": 0, "score": 0.8, "box": [1.0, 0.0, 3.0, 2.4]});
    let shown = told["boxes"].as_array().unwrap();
    assert_eq!((shown.len(), &shown[0]["label"], &shown[0]["index"]), (1, &label["label"], &label["index"]));
    for (corner, expected) in shown[0]["box"].as_array().unwrap().iter().zip(label["box"].as_array().unwrap())
    {
        assert!((corner.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 0.011, "{told}");
    }
    assert_eq!((&told["verdict"], told.get("labels")), (&json!("NOK"), None));
    // Who asks to see none does not make the part good.
    let blind = found([pore, pore, pore], Some(0.99)).await;
    assert_eq!((blind["boxes"].as_array().unwrap().len(), &blind["verdict"]), (0, &json!("NOK")));
    let all = found([pore, pore, [204, 204, 51, 51, 5]], Some(0.0)).await;
    assert_eq!(all["boxes"].as_array().unwrap().len(), 2);
    let clean = found([[0; 5]; 3], None).await;
    assert_eq!(clean, json!({"boxes": [], "verdict": "OK"}));
}

/// A tokenizer of whole words, as the library writes it.
fn words(words: &[&str]) -> Vec<u8> {
    let vocabulary: serde_json::Map<_, _> =
        words.iter().enumerate().map(|(at, word)| ((*word).to_owned(), json!(at))).collect();
    let document = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    serde_json::to_vec(&document).unwrap()
}

/// A model of five words and two dimensions.
fn lexicon(settings: &str, masked: bool) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let table = [0.0, 0.0, 1.0, 1.0, 3.0, 4.0, 6.0, 8.0, 0.0, -2.0];
    put(&home, "lexicon/1/model.onnx", &look_up(&table, 2, masked));
    put(&home, "lexicon/model.toml", settings.as_bytes());
    put(&home, "lexicon/tokenizer.json", &words(&["[PAD]", "[UNK]", "weld", "seam", "pore"]));
    home
}

#[tokio::test]
async fn texts_become_vectors() {
    for masked in [true, false] {
        let home = lexicon("[embed]\nnormalize = false\n", masked);
        let floor = floor(home.path()).await;
        assert_eq!(floor.state("lexicon", 1).tasks, [Task::Embed]);
        let texts = ["weld", "weld seam pore", "glue", "pore pore"];
        let answer = floor.send(Request::of("lexicon").texts(&texts)).await.unwrap();
        assert_eq!(answer.outputs[Task::EMBEDDING].shape.dims(), [4, 2]);
        let expected = [3.0, 4.0, 3.0, 10.0 / 3.0, 1.0, 1.0, 0.0, -2.0];
        assert_eq!(answer.floats(Task::EMBEDDING), expected);
        let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&answer.outputs[Task::TOKEN_COUNT].bytes);
        assert_eq!(counts, [1, 3, 1, 2]);
        // Without a mask only texts of one length run together.
        let done = &floor.statistics(None).await.unwrap()[0];
        assert_eq!((done.inference_count, done.execution_count), (4, if masked { 1 } else { 3 }));
        assert_eq!((done.success.count, done.compute_infer.count), (1, 1));
    }
}

#[tokio::test]
async fn vectors_are_as_the_settings_and_the_request_say() {
    let home = lexicon("[embed]\npooling = \"max\"\nmax_tokens = 2\nprefix = \"weld \"\n", true);
    let floor = floor(home.path()).await;
    let ask = |texts: &[&str]| Request::of("lexicon").texts(texts);
    // Of "weld seam pore pore", two tokens are left.
    let answer = floor.send(ask(&["seam pore pore"])).await.unwrap();
    assert_eq!(answer.floats(Task::EMBEDDING), [0.6, 0.8]);
    let cut = ask(&["pore"]).parameter("dimensions", Parameter::Unsigned(1)).output(Task::EMBEDDING);
    let cut = floor.send(cut).await.unwrap();
    assert_eq!((cut.floats(Task::EMBEDDING), cut.outputs.len()), (vec![1.0], 1));
    let long = ask(&["pore"]).parameter("dimensions", Parameter::Integer(3));
    let fault = floor.send(long).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidParams);
    assert!(fault.message.contains("3 dimensions are asked for, of 2"), "{fault}");

    let ids = [[3_u32, 4].map(u32::to_le_bytes).concat(), 2_u32.to_le_bytes().to_vec()];
    let tokens = |ids: &[Vec<u8>]| {
        let bytes = bytes_tensor(ids.iter().map(Vec::as_slice)).unwrap();
        let request = Request::of("lexicon").task(Task::Embed);
        request.input(Task::TOKENS, Datatype::Bytes, &[ids.len() as u64], bytes)
    };
    let answer = floor.send(tokens(&ids)).await.unwrap();
    assert_eq!(answer.floats(Task::EMBEDDING), [0.6, 0.8, 0.6, 0.8]);
    refused(
        &floor.send(tokens(&[vec![9, 0, 0, 0]])).await.unwrap_err(),
        "text 0: it holds the token 9, of a vocabulary of 5",
    );
    refused(&floor.send(tokens(&[vec![9, 0]])).await.unwrap_err(), "not four bytes each");
    refused(&floor.send(tokens(&[vec![]])).await.unwrap_err(), "it has no tokens");
}

#[tokio::test]
async fn texts_have_limits() {
    let home = lexicon("[embed]\n", true);
    let floor = floor(home.path()).await;
    let ask = |texts: &[&str]| floor.send(Request::of("lexicon").texts(texts));
    assert_eq!(ask(&["weld"; 2048]).await.unwrap().outputs[Task::EMBEDDING].shape.dims(), [2048, 2]);
    let many = ask(&["weld"; 2049]).await.unwrap_err();
    assert_eq!(many.code, FaultCode::LimitExceeded);
    assert!(many.message.contains("at most 2048"), "{many}");
    refused(&ask(&[]).await.unwrap_err(), "there is no text");
    refused(&ask(&["weld", ""]).await.unwrap_err(), "text 1: it has no tokens");
    refused(&ask(&["weld", &"weld ".repeat(60_000)]).await.unwrap_err(), "text 1: it has 300000 bytes");
    let broken = bytes_tensor([&b"\xff"[..]]).unwrap();
    let broken = Request::of("lexicon").task(Task::Embed).input(Task::TEXT, Datatype::Bytes, &[1], broken);
    refused(&floor.send(broken).await.unwrap_err(), "text 0: it is not UTF-8");
    let done = &floor.statistics(Some("lexicon")).await.unwrap()[0];
    assert_eq!((done.inference_count, done.execution_count), (2048, 64));
    assert_eq!(done.batches.len(), 1);
    assert_eq!(done.batches[0].batch_size, 32);
}

#[tokio::test]
async fn the_sample_texts_get_their_vectors() {
    let floor = floor(&models().join("repository")).await;
    let sheet = samples("embed.json");
    let rows = sheet["texts"].as_array().unwrap();
    let texts: Vec<&str> = rows.iter().map(|row| row["text"].as_str().unwrap()).collect();
    let answer = floor.send(Request::of("embed").texts(&texts)).await.unwrap();
    let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&answer.outputs[Task::TOKEN_COUNT].bytes);
    let vectors = answer.floats(Task::EMBEDDING);
    for ((row, count), vector) in rows.iter().zip(counts).zip(vectors.chunks(16)) {
        assert_eq!(row["tokens"], count);
        let expected: Vec<f32> = serde_json::from_value(row["embedding"].clone()).unwrap();
        assert!(expected.iter().zip(vector).all(|(a, b)| (a - b).abs() < 1e-4), "{row} {vector:?}");
    }
}

#[tokio::test]
async fn a_tokenizer_that_is_wrong_keeps_its_model_from_serving() {
    let home = lexicon("[embed]\n", true);
    put(&home, "lexicon/tokenizer.json", b"{\"model\": 7}");
    let floor = floor(home.path()).await;
    assert!(reason(&floor, "lexicon").starts_with("lexicon/model.toml line 1, embed.tokenizer: "));
    fs::remove_file(home.path().join("lexicon/tokenizer.json")).unwrap();
    floor.load("lexicon").await.unwrap_err();
    assert!(reason(&floor, "lexicon").contains("there is no file tokenizer.json"));
    // Its own version's comes first.
    put(&home, "lexicon/1/tokenizer.json", &words(&["[UNK]", "seam"]));
    floor.load("lexicon").await.unwrap();
    let answer = floor.send(Request::of("lexicon").texts(&["seam"])).await.unwrap();
    let half = 0.5_f32.sqrt();
    assert!(answer.floats(Task::EMBEDDING).iter().all(|value| (value - half).abs() < 1e-6));
}

#[tokio::test]
async fn outputs_come_as_their_classes_where_that_is_asked_for() {
    let home = lamp(LAMP);
    let row = Type::Dims(FLOAT, &[-1, 4]);
    put(&home, "plain.onnx", &one_node("Identity", &row, &row, &[]));
    put(&home, "count.onnx", &one_node("Identity", &Type::Row(INT64), &Type::Row(INT64), &[]));
    let floor = floor(home.path()).await;
    let plain = Request::of("plain").floats("x", &[2, 4], &[0.1, 0.7, 0.2, 0.0, 9.0, -1.0, 3.5, 3.5]);
    let answer = floor.send(plain.clone().classes("y", 2)).await.unwrap();
    assert_eq!(answer.outputs["y"].shape.dims(), [2, 2]);
    assert_eq!(answer.texts("y"), ["0.700000:1", "0.200000:2", "9.000000:0", "3.500000:2"]);
    let all = floor.send(plain.clone().classes("y", 99)).await.unwrap();
    assert_eq!(all.outputs["y"].shape.dims(), [2, 4]);
    let count =
        Request::of("count").input("x", Datatype::Int64, &[2], [7_i64, 8].map(i64::to_le_bytes).concat());
    assert_eq!(floor.send(count.classes("y", 1)).await.unwrap().texts("y"), ["8:1"]);

    // With labels, where the settings have some for this output.
    let pixels: Vec<f32> = [[0.25; 64], [0.75; 64], [0.5; 64]].concat();
    let lamp = Request::of("lamp").floats("x", &[1, 3, 8, 8], &pixels).classes("y", 2);
    assert_eq!(floor.send(lamp).await.unwrap().texts("y"), ["0.750000:1:green", "0.500000:2:blue"]);

    refused(&floor.send(plain.clone().classes("y", 0)).await.unwrap_err(), "ask for at least 1");
    refused(
        &floor.send(plain.clone().classes("z", 1)).await.unwrap_err(),
        "\"z\" are asked for, which is no output",
    );
    assert_eq!(floor.send(plain).await.unwrap().floats("y")[1], 0.7);
}

#[tokio::test]
async fn a_model_from_triton_keeps_its_rows_and_its_labels() {
    const CONFIG: &str = "max_batch_size: 2\ninput { name: \"x\" data_type: TYPE_FP32 dims: -1 }\n\
                          output { name: \"y\" data_type: TYPE_FP32 dims: 4 label_filename: \"seams.txt\" }\n\
                          version_policy { specific { versions: 1 } }";
    let home = lamp(LAMP);
    let row = Type::Dims(FLOAT, &[-1, 4]);
    put(&home, "gauge/1/model.onnx", &one_node("Identity", &row, &row, &[]));
    put(&home, "gauge/config.pbtxt", CONFIG.as_bytes());
    let floor = floor(home.path()).await;
    let missing = floor.state("gauge", 1).reason.unwrap();
    assert!(missing.contains("\"y\" (line 3): there is no file seams.txt"), "{missing}");

    put(&home, "gauge/seams.txt", b"whole\nporous\n\nopen\n");
    floor.load("gauge").await.unwrap();
    let gauge =
        |rows: u64| Request::of("gauge").floats("x", &[rows, 4], &[0.1, 0.7, 0.2, 0.6].repeat(rows as usize));
    let answer = floor.send(gauge(2).classes("y", 3)).await.unwrap();
    // An empty line names nothing.
    let one = ["0.700000:1:porous", "0.600000:3:open", "0.200000:2"];
    assert_eq!(answer.texts("y"), [one, one].concat());

    let many = floor.send(gauge(3)).await.unwrap_err();
    assert_eq!(many.code, FaultCode::LimitExceeded);
    assert!(many.message.contains("2 rows at most (max_batch_size), but 3 were sent"), "{many}");
    let engine = floor.state("gauge", 1).engine.unwrap();
    assert_eq!((engine.rows_max, engine.versions), (2, Some(VersionPolicy::Specific(vec![ModelVersion(1)]))));
}

#[tokio::test]
async fn a_node_counts_what_its_models_do_until_they_are_unloaded() {
    let workshop =
        Workshop::with(&[("press.onnx", "echo"), ("jam.onnx", "panic"), ("broken.onnx", "nothing")]);
    let floor = Floor::with_engine(config(&workshop.models(), 1, 9), workshop.engine());
    floor.ready().await;
    let x = |model: &str, rows: u64| Request::of(model).floats("x", &[rows], &vec![1.0; rows as usize]);
    let of = async |model: &str| floor.statistics(Some(model)).await.unwrap().remove(0);
    assert_eq!(of("press").await.last_inference_ms, 0);
    floor.send(x("press", 8)).await.unwrap();
    floor.send(x("press", 8)).await.unwrap();
    floor.send(x("press", 1)).await.unwrap();
    floor.send(Request::of("press").floats("y", &[1], &[1.0])).await.unwrap_err();
    let press = of("press").await;
    assert_eq!((press.inference_count, press.execution_count, press.success.count), (17, 3, 3));
    assert_eq!(
        (press.fail, press.queue.count),
        (Spent::default(), 3),
        "what does not fit was never accepted"
    );
    assert!(press.compute_infer.ns + press.queue.ns <= press.success.ns, "{press:?}");
    assert!(1_700_000_000_000 < press.last_inference_ms);
    let sizes: Vec<_> =
        press.batches.iter().map(|batch| (batch.batch_size, batch.compute_infer.count)).collect();
    assert_eq!(sizes, [(1, 1), (8, 2)]);

    floor.send(x("jam", 1)).await.unwrap_err();
    let jam = of("jam").await;
    assert_eq!((jam.fail.count, jam.success.count, jam.execution_count), (1, 0, 0));
    let names: Vec<_> =
        floor.statistics(None).await.unwrap().iter().map(|model| model.name.to_string()).collect();
    assert_eq!(names, ["jam", "press"], "what does not serve has done nothing");
    assert_eq!(floor.statistics(Some("broken")).await.unwrap(), []);
    assert_eq!(floor.statistics(Some("weld")).await.unwrap_err().code, FaultCode::ModelNotFound);

    floor.load("press").await.unwrap();
    assert_eq!(of("press").await.success.count, 3, "a version that is loaded anew goes on counting");
    floor.unload("press").await.unwrap();
    floor.load("press").await.unwrap();
    assert_eq!(of("press").await.success.count, 0);
    assert!(floor.node.finished(Duration::from_secs(20)).await);
}

/// A session of a model of texts that counts its runs.
struct Counting {
    signature: Signature,
    runs: Arc<AtomicUsize>,
}

impl Session for Counting {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn stopper(&self) -> Arc<dyn Stopper> {
        Arc::new(NoBrake)
    }

    fn run(&mut self, inputs: &[Tensor], _wanted: &[usize]) -> Result<Vec<Tensor>, RunError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let dims = inputs[0].shape.dims();
        let shape = vec![dims[0], dims[1], 1];
        let bytes = 1.0_f32.to_le_bytes().repeat((dims[0] * dims[1]) as usize);
        Ok(vec![Tensor::new("y", Datatype::Fp32, shape, bytes.into())?])
    }
}

#[test]
fn a_call_of_many_runs_ends_between_two_of_them_when_nobody_waits() {
    let home = lexicon("", true);
    let spec =
        |name: &str, datatype, rank| TensorSpec { name: name.to_owned(), datatype, shape: vec![-1; rank] };
    let signature = Signature {
        inputs: vec![spec("input_ids", Datatype::Int64, 2), spec("attention_mask", Datatype::Int64, 2)],
        outputs: vec![spec("y", Datatype::Fp32, 3)],
    };
    let settings = Settings { embed: Some(Embed::default()), ..Settings::default() };
    let model = fs::canonicalize(home.path()).unwrap().join("lexicon/1/model.onnx");
    let folder = Folder::new(home.path(), &model, Path::new("lexicon/model.toml")).unwrap();
    let tasks = Tasks::new(&settings, &signature, &folder).unwrap();
    let params = Request::of("lexicon").task(Task::Embed).outbound().params;
    let texts = bytes_tensor(std::iter::repeat_n(&b"weld"[..], 320)).unwrap();
    let texts = Tensor::new(Task::TEXT, Datatype::Bytes, vec![320], texts.into()).unwrap();
    let request = tasks.fit(&"lexicon".parse().unwrap(), &signature, &params, vec![texts]).unwrap();

    let runs = Arc::new(AtomicUsize::new(0));
    let mut session = Counting { signature, runs: Arc::clone(&runs) };
    let wanted = || match runs.load(Ordering::Relaxed) < 3 {
        true => Ok(()),
        false => Err(Fault::new(FaultCode::Cancelled, "gone")),
    };
    let mut turn = Turn::new(&mut session, &wanted);
    assert!(matches!(tasks.run(&request, &mut turn), Err(Failure::Stopped(_))));
    assert_eq!((runs.load(Ordering::Relaxed), turn.into_runs().len()), (3, 3));
    let mut turn = Turn::new(&mut session, &|| Ok(()));
    assert_eq!(tasks.run(&request, &mut turn).unwrap()[0].shape.dims(), [320, 1]);
    assert_eq!(turn.into_runs().iter().map(|run| run.rows).sum::<u64>(), 320);
}
