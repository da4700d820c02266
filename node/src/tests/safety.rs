//! What a model's file may ask for, and what becomes of one that asks for more.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use lineside_wire::{FaultCode, ModelState};
use proptest::{collection::vec, prelude::*};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use super::{
    floor::{Floor, Request, config},
    graph::{FLOAT, INT64, Network, Type, message, model, number, one_node, text, value},
    onnx::{library, models},
};
use crate::{
    Node, NodeConfig, fuzzing,
    scan::{Rejected, Scanned, scan},
    settings::ModelLimits,
};

/// A model that adds four weights, which lie elsewhere.
fn adds(location: &str) -> Vec<u8> {
    let network = Network {
        nodes: &[("Add", "", &["x", "w"], &["y"])],
        elsewhere: &[("w", 4, location)],
        ..Network::default()
    };
    network.to_bytes()
}

/// Four weights of 1.
fn weights() -> Vec<u8> {
    [1.0_f32; 4].iter().flat_map(|weight| weight.to_le_bytes()).collect()
}

/// A pipe that nobody writes into: who opens it to read waits for ever.
fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// A repository, with something beside it that no model may read.
struct Shop {
    home: TempDir,
}

impl Shop {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        pipe(&home.path().join("secret"));
        fs::create_dir(home.path().join("models")).unwrap();
        Self { home }
    }

    fn repository(&self) -> PathBuf {
        self.home.path().join("models")
    }

    fn secret(&self) -> PathBuf {
        self.home.path().join("secret")
    }

    /// A model with weights at `location`, and what lies in its directory.
    fn put(&self, name: &str, location: &str, beside: impl FnOnce(&Path)) -> PathBuf {
        let directory = self.repository().join(name).join("1");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("model.onnx"), adds(location)).unwrap();
        beside(&directory);
        directory.join("model.onnx")
    }
}

fn scanned(bytes: &[u8]) -> Result<Scanned, Rejected> {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.onnx");
    fs::write(&path, bytes).unwrap();
    scan(&path, &ModelLimits::default())
}

fn refused(bytes: &[u8]) -> String {
    scanned(bytes).expect_err("a rule is broken").to_string()
}

#[tokio::test]
async fn weights_outside_the_models_own_directory_are_refused_and_never_opened() {
    let shop = Shop::new();
    let secret = shop.secret();
    let elsewhere = |_: &Path| {};
    // Every file that a model must not have is a pipe here: opening one would never end.
    shop.put("absolute", secret.to_str().unwrap(), elsewhere);
    shop.put("above", "../../../secret", elsewhere);
    shop.put("around", "weights/../../../../secret", |at| fs::create_dir(at.join("weights")).unwrap());
    shop.put("symlink", "weights.bin", |at| symlink(&secret, at.join("weights.bin")).unwrap());
    shop.put("symlinked-directory", "weights/secret", |at| {
        symlink(shop.home.path(), at.join("weights")).unwrap();
    });
    shop.put("hard-link", "weights.bin", |at| fs::hard_link(&secret, at.join("weights.bin")).unwrap());
    shop.put("hard-linked-file", "weights.bin", |at| {
        fs::write(shop.home.path().join("other"), weights()).unwrap();
        fs::hard_link(shop.home.path().join("other"), at.join("weights.bin")).unwrap();
    });
    shop.put("directory", "weights.bin", |at| fs::create_dir(at.join("weights.bin")).unwrap());
    shop.put("pipe", "weights.bin", |at| pipe(&at.join("weights.bin")));
    shop.put("memory", "*/_ORT_MEM_ADDR_/*", elsewhere);
    shop.put("backslash", "..\\..\\..\\secret", elsewhere);
    shop.put("missing", "weights.bin", elsewhere);
    shop.put("short", "weights.bin", |at| fs::write(at.join("weights.bin"), &weights()[1..]).unwrap());
    shop.put("beside", "weights.bin", |at| fs::write(at.join("weights.bin"), weights()).unwrap());
    shop.put("below", "parts/weights.bin", |at| {
        fs::create_dir(at.join("parts")).unwrap();
        fs::write(at.join("parts/weights.bin"), weights()).unwrap();
    });
    let config = NodeConfig { library: library(), ..config(&shop.repository(), 1, 9) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;

    for (name, words) in [
        ("absolute", "leads elsewhere"),
        ("above", "leads elsewhere"),
        ("around", "leads elsewhere"),
        ("symlink", "symbolic link"),
        ("symlinked-directory", "symbolic link"),
        ("hard-link", "no file"),
        ("hard-linked-file", "hard link"),
        ("directory", "no file"),
        ("pipe", "no file"),
        ("memory", "address in memory"),
        ("backslash", "characters that are not taken"),
        ("missing", "no such file"),
        ("short", "wants 16 bytes from byte 0 of \"weights.bin\", which has 15"),
    ] {
        let fault = floor.load(name).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::ModelRejected, "{name}: {fault}");
        assert!(fault.message.contains(words), "{name}: {fault}");
        assert!(fault.message.contains("the tensor \"w\""), "{name}: {fault}");
        let listed = floor.state(name, 1);
        assert_eq!(listed.state, ModelState::Unavailable);
        assert!(listed.reason.is_some_and(|reason| reason.contains(words)));
    }
    for name in ["beside", "below"] {
        let answer = floor.send(Request::of(name).floats("x", &[4], &[1.0, 2.0, 3.0, 4.0])).await.unwrap();
        assert_eq!(answer.floats("y"), [2.0, 3.0, 4.0, 5.0]);
    }
}

#[test]
fn the_hash_is_of_every_file_that_the_model_reads() {
    let shop = Shop::new();
    let write = |at: &Path, weight: f32| {
        let bytes: Vec<u8> = [weight; 4].iter().flat_map(|weight| weight.to_le_bytes()).collect();
        fs::write(at.join("weights.bin"), bytes).unwrap();
    };
    let one = shop.put("one", "weights.bin", |at| write(at, 1.0));
    let same = shop.put("same", "weights.bin", |at| write(at, 1.0));
    let two = shop.put("two", "weights.bin", |at| write(at, 2.0));
    let [one, same, two] = [one, same, two].map(|model| scan(&model, &ModelLimits::default()).unwrap());
    assert_eq!(one.external, [PathBuf::from("weights.bin")]);
    assert_eq!((one.sha256.as_str(), one.bytes), (same.sha256.as_str(), same.bytes));
    assert_ne!(one.sha256, two.sha256);
    assert_eq!(one.bytes, adds("weights.bin").len() as u64 + 16);

    let plain = scan(&models().join("repository/add/1/model.onnx"), &ModelLimits::default()).unwrap();
    let file = fs::read(models().join("repository/add/1/model.onnx")).unwrap();
    assert_eq!(plain.sha256, crate::digest::Sha256::of(&file));
}

#[test]
fn the_sample_models_are_taken_as_what_they_are() {
    for (directory, name) in [
        ("repository", "add"),
        ("repository", "color"),
        ("repository", "embed"),
        ("repository", "surface-defects"),
        ("repository", "vibration-anomaly"),
        ("test", "echo"),
        ("test", "echo-bf16"),
        ("test", "slow-add"),
    ] {
        let path = models().join(directory).join(name).join("1/model.onnx");
        let scanned = scan(&path, &ModelLimits::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(scanned.domains.iter().any(|(domain, version)| domain == "ai.onnx" && 7 < *version));
        assert!(0 < scanned.ir_version && scanned.weight_bytes < scanned.bytes, "{name}: {scanned:?}");
        assert_eq!((scanned.sha256.len(), scanned.external.len()), (64, 0));
    }
    let broken = models().join("test/broken/1/model.onnx");
    let told = scan(&broken, &ModelLimits::default()).unwrap_err().to_string();
    assert!(told.starts_with("not an ONNX model: "), "{told}");
}

#[test]
fn a_file_that_was_not_fetched_is_told_from_one_that_is_no_model() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    assert!(refused(pointer).contains("git lfs pull"), "{}", refused(pointer));
    assert!(refused(b"\x08\x08").contains("it has no graph"));
}

#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    let tensor = |dims: &[u64], kind: u64, data: &[u8]| {
        let dims: Vec<u8> = dims.iter().flat_map(|dim| number(1, *dim)).collect();
        [dims, number(2, kind), text(8, "w"), data.to_vec()].concat()
    };
    let claims = model(&[message(5, &tensor(&[1 << 40], FLOAT, &[]))]);
    assert!(refused(&claims).contains("brings 0"), "{}", refused(&claims));
    let claims = model(&[message(5, &tensor(&[5], FLOAT, &message(9, &[0; 16])))]);
    assert!(refused(&claims).contains("has 5 elements and brings 4"), "{}", refused(&claims));
    assert!(scanned(&model(&[message(5, &tensor(&[4], FLOAT, &message(9, &[0; 16])))])).is_ok());
    assert!(refused(&model(&[message(5, &tensor(&[u64::MAX], FLOAT, &[]))])).contains("dimension -1"));

    let shape = [1_i64 << 30, 1 << 20].map(i64::to_le_bytes).concat();
    let shape = message(5, &tensor(&[2], INT64, &message(9, &shape)));
    let node = |operator: &str, inputs: &[&str], attribute: &[u8]| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|input| text(1, input)).collect();
        message(1, &[inputs, text(2, "y"), text(4, operator), attribute.to_vec()].concat())
    };
    // The node comes before what it takes, as in most files.
    let fills = model(&[node("ConstantOfShape", &["w"], &[]), shape.clone()]);
    assert!(refused(&fills).contains("ConstantOfShape"), "{}", refused(&fills));
    let expands = model(&[node("Expand", &["x", "w"], &[]), shape]);
    assert!(refused(&expands).contains("Expand"), "{}", refused(&expands));

    // In a branch of an `If`, where no walk over the nodes of the graph alone would come.
    let deep = [text(2, "b"), message(5, &tensor(&[1 << 40], FLOAT, &[]))].concat();
    let deep = message(5, &[text(1, "then_branch"), message(6, &deep)].concat());
    let branches = model(&[node("If", &["p"], &deep)]);
    assert!(refused(&branches).contains("brings 0"), "{}", refused(&branches));

    let values = tensor(&[1], FLOAT, &message(9, &[0; 4]));
    let sparse = model(&[message(15, &[message(1, &values), number(3, 1 << 40)].concat())]);
    assert!(refused(&sparse).contains("sparse"), "{}", refused(&sparse));
}

#[test]
fn nesting_without_an_end_is_an_error_and_no_deep_recursion() {
    let mut graph = text(2, "g");
    for _ in 0..2_000 {
        let attribute = message(5, &[text(1, "body"), message(6, &graph)].concat());
        graph = message(1, &[text(4, "If"), attribute].concat());
    }
    let told = refused(&message(7, &graph));
    assert!(told.contains("100 deep"), "{told}");
}

#[test]
fn operators_of_others_are_named_with_the_setting_that_allows_them() {
    let network = Network { nodes: &[("Weld", "acme", &["x"], &["y"])], ..Network::default() };
    let told = refused(&network.to_bytes());
    assert!(told.contains("\"acme\"") && told.contains("domains = [\"acme\"]"), "{told}");
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model.onnx");
    fs::write(&path, network.to_bytes()).unwrap();
    let limits = ModelLimits { domains: vec!["acme".to_owned()], ..ModelLimits::default() };
    assert!(scan(&path, &limits).is_ok());
    let known = [("Gelu", "com.microsoft"), ("Scaler", "ai.onnx.ml"), ("Add", "ai.onnx")];
    for (operator, domain) in known {
        let nodes: &[_] = &[(operator, domain, &["x"][..], &["y"][..])];
        assert!(scanned(&Network { nodes, ..Network::default() }.to_bytes()).is_ok());
    }
}

#[test]
fn what_a_provider_compiled_lies_beside_the_model_too() {
    let context = |path: &str, embeds: u64| {
        let attributes = [
            message(5, &[text(1, "ep_cache_context"), text(4, path)].concat()),
            message(5, &[text(1, "embed_mode"), number(3, embeds)].concat()),
        ];
        let node = [text(1, "x"), text(2, "y"), text(4, "EPContext"), text(7, "com.microsoft")];
        let node = [node.concat(), attributes.concat()].concat();
        model(&[message(1, &node), message(11, &value("x", &Type::Row(FLOAT)))])
    };
    assert!(refused(&context("../../engine.bin", 0)).contains("leads elsewhere"));
    assert!(refused(&context("engine.bin", 0)).contains("no such file"));
    assert!(scanned(&context("\0\0 not a path", 1)).is_ok());
}

#[test]
fn a_path_that_is_named_twice_or_by_the_caller_of_a_function_is_refused() {
    let attribute = |name: &str, value: Vec<u8>| message(5, &[text(1, name), value].concat());
    let context = |attributes: &[Vec<u8>]| {
        let node = [text(1, "x"), text(2, "y"), text(4, "EPContext"), text(7, "com.microsoft")];
        model(&[message(1, &[node.concat(), attributes.concat()].concat())])
    };
    let (apart, path) =
        (attribute("embed_mode", number(3, 0)), |path| attribute("ep_cache_context", text(4, path)));
    let inside = attribute("embed_mode", number(3, 1));
    for attributes in [
        [path("../../engine.bin"), apart.clone(), inside.clone()],
        [path("../../engine.bin"), inside.clone(), apart.clone()],
    ] {
        assert!(refused(&context(&attributes)).contains("leads elsewhere"));
    }
    let twice = context(&[path("../../engine.bin"), path("engine.bin"), apart.clone()]);
    assert!(refused(&twice).contains("does not name one file"), "{}", refused(&twice));
    // `ref_attr_name`: the value is what the function is called with.
    let refers = attribute("ep_cache_context", message(21, b"path"));
    let refers = context(&[refers, apart]);
    assert!(refused(&refers).contains("from the caller"), "{}", refused(&refers));
}

#[test]
fn a_number_that_protobuf_cuts_hides_nothing() {
    // 2^32 + 1 is read as 1, FLOAT.
    let claims = [number(1, 1 << 40), number(2, (1 << 32) + FLOAT), text(8, "w")].concat();
    let told = refused(&model(&[message(5, &claims)]));
    assert!(told.contains("brings 0"), "{told}");
}

#[test]
fn a_pipe_in_the_place_of_a_model_is_not_waited_for() {
    let home = tempfile::tempdir().unwrap();
    pipe(&home.path().join("model.onnx"));
    let told = scan(&home.path().join("model.onnx"), &ModelLimits::default()).unwrap_err().to_string();
    assert!(told.contains("it is no file"), "{told}");
}

#[tokio::test]
async fn a_shape_beyond_the_configured_maximum_is_refused_at_request_time() {
    let home = tempfile::tempdir().unwrap();
    let any = one_node("Identity", &Type::Row(FLOAT), &Type::Row(FLOAT), &[]);
    fs::write(home.path().join("copy.onnx"), any).unwrap();
    fs::write(home.path().join("copy.toml"), "[limits.max_shape]\nx = [3]\n").unwrap();
    let config = NodeConfig { library: library(), ..config(home.path(), 1, 9) };
    let floor = Floor::around(|id| Node::start(config, id).unwrap());
    floor.ready().await;
    let of = |length: usize| Request::of("copy").floats("x", &[length as u64], &vec![1.0; length]);
    let fault = floor.send(of(4)).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::LimitExceeded);
    assert!(fault.message.contains("may have the shape [3] at most, but [4] was sent"), "{fault}");
    assert_eq!(floor.send(of(3)).await.unwrap().floats("y"), [1.0; 3]);
}

proptest! {
    #[test]
    fn no_bytes_make_the_scanner_panic(bytes in vec(any::<u8>(), 0..512)) {
        fuzzing::model(&bytes);
    }

    #[test]
    fn no_damage_to_a_model_makes_the_scanner_panic(
        at in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = fs::read(models().join("repository/vibration-anomaly/1/model.onnx")).unwrap();
        for (at, byte) in at {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzzing::model(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        fuzzing::model(&bytes);
    }
}
