//! Every datatype through the door and back, in every form that it has.

use lineside_wire::{Datatype, bytes_tensor};
use serde_json::{Value, json};

use crate::gate::Gate;

const ECHO: &str = "/v2/models/echo/infer";

/// Two elements at the borders of each type: as JSON where that has a form, and as bytes.
fn samples() -> Vec<(Datatype, Option<Value>, Vec<u8>)> {
    let all = Datatype::ALL.into_iter().map(|datatype| {
        let (json, bytes) = match datatype {
            Datatype::Bool => (Some(json!([true, false])), vec![1, 0]),
            Datatype::Uint8 => (Some(json!([0, 255])), vec![0, 255]),
            Datatype::Uint16 => (Some(json!([0, u16::MAX])), [0, u16::MAX].map(u16::to_le_bytes).concat()),
            Datatype::Uint32 => (Some(json!([0, u32::MAX])), [0, u32::MAX].map(u32::to_le_bytes).concat()),
            Datatype::Uint64 => (Some(json!([0, u64::MAX])), [0, u64::MAX].map(u64::to_le_bytes).concat()),
            Datatype::Int8 => (Some(json!([-128, 127])), vec![128, 127]),
            Datatype::Int16 => {
                (Some(json!([i16::MIN, i16::MAX])), [i16::MIN, i16::MAX].map(i16::to_le_bytes).concat())
            }
            Datatype::Int32 => {
                (Some(json!([i32::MIN, i32::MAX])), [i32::MIN, i32::MAX].map(i32::to_le_bytes).concat())
            }
            Datatype::Int64 => {
                let values = [(1_i64 << 53) + 1, i64::MIN];
                (Some(json!(values)), values.map(i64::to_le_bytes).concat())
            }
            Datatype::Fp16 => (None, vec![0, 0x3c, 0, 0x7e]),
            Datatype::Bf16 => (None, vec![0x80, 0x3f, 0xc0, 0x7f]),
            Datatype::Fp32 => {
                (Some(json!([0.1, 1.1754944e-38])), [0.1, f32::MIN_POSITIVE].map(f32::to_le_bytes).concat())
            }
            Datatype::Fp64 => (Some(json!([0.1, f64::MAX])), [0.1, f64::MAX].map(f64::to_le_bytes).concat()),
            Datatype::Bytes => {
                let texts = ["Riß \"tief\"", ""];
                (Some(json!(texts)), bytes_tensor(texts.map(str::as_bytes)).unwrap())
            }
        };
        (datatype, json, bytes)
    });
    all.collect()
}

/// The bytes as base64, written here on its own.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[number >> (18 - 6 * place) & 63];
            text.push(if place <= three.len() { letter.into() } else { '=' });
        }
    }
    text
}

#[tokio::test]
async fn every_datatype_comes_back_in_each_form_that_was_asked_for() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for (datatype, as_json, bytes) in samples() {
        let input = |more: Value| {
            let mut input = json!({"name": "x", "shape": [2], "datatype": datatype.as_str()});
            input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            input
        };
        let given: Vec<(Value, &[u8])> = [
            as_json.clone().map(|data| (input(json!({"data": data})), &[][..])),
            as_json.clone().map(|data| (input(json!({"data": [data]})), &[][..])),
            Some((input(json!({"parameters": {"binary_data_size": bytes.len()}})), &bytes[..])),
            Some((input(json!({"encoding": "base64", "data": base64(&bytes)})), &[][..])),
        ]
        .into_iter()
        .flatten()
        .collect();
        for (input, binary) in given {
            // Binary, for all and for this one.
            for request in [
                json!({"inputs": [input], "parameters": {"binary_data_output": true}}),
                json!({"inputs": [input], "outputs": [{"name": "x", "parameters": {"binary_data": true}}]}),
            ] {
                let reply = caller.post_binary(ECHO, &request, &[binary]).await;
                assert_eq!(reply.status, 200, "{datatype}: {}", reply.text());
                let length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
                assert_eq!(reply.body[length..], bytes, "{request}");
            }
            // Base64, likewise.
            for request in [
                json!({"inputs": [input], "encoding": "base64"}),
                json!({"inputs": [input], "outputs": [{"name": "x", "encoding": "base64"}]}),
            ] {
                let reply = caller.post_binary(ECHO, &request, &[binary]).await;
                assert_eq!(reply.header("content-type"), Some("application/json"));
                let output = &reply.json()["outputs"][0];
                assert_eq!(
                    (&output["encoding"], &output["data"]),
                    (&json!("base64"), &json!(base64(&bytes)))
                );
            }
            // JSON, where there is such a form.
            let reply = caller.post_binary(ECHO, &json!({"inputs": [input]}), &[binary]).await;
            match &as_json {
                Some(data) => {
                    let output = reply.json()["outputs"][0].clone();
                    assert_eq!((output.get("encoding"), &output["shape"]), (None, &json!([2])));
                    assert_eq!(output["data"].to_string(), data.to_string(), "{datatype}");
                }
                None => {
                    let words = reply.error(400);
                    assert!(words.contains("binary_data_output"), "{words}");
                }
            }
        }
    }
}

#[tokio::test]
async fn half_floats_in_json_are_refused_with_the_way_out() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for datatype in ["FP16", "BF16"] {
        let request =
            json!({"inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": [1.0]}]}).to_string();
        let words = caller.post(ECHO, request).await.error(400);
        assert!(words.contains("binary_data_size") && words.contains("base64"), "{words}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_need_a_form_that_holds_them() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let tensor = bytes_tensor([&b"\xff\0"[..]]).unwrap();
    let input = json!({"name": "x", "shape": [1], "datatype": "BYTES", "encoding": "base64", "data": base64(&tensor)});
    let words = caller.post(ECHO, json!({"inputs": [input]}).to_string()).await.error(400);
    assert!(words.contains("holds bytes that are no text") && words.contains("base64"), "{words}");
    let reply = caller.post(ECHO, json!({"inputs": [input], "encoding": "base64"}).to_string()).await;
    assert_eq!(reply.json()["outputs"][0]["data"], base64(&tensor));
}

#[tokio::test]
async fn a_classification_is_left_to_the_node() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = json!({
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}],
        "outputs": [{"name": "x", "parameters": {"classification": 3}}, {"name": "y", "parameters": {"classification": 0}}],
    });
    assert_eq!(caller.post(ECHO, request.to_string()).await.status, 200);
    let classification = gate.line.last_call().0.params.classification;
    assert_eq!(classification.into_iter().collect::<Vec<_>>(), [("x".to_owned(), 3)]);
}
