//! Bodies that come and go compressed.

use std::io::{Read, Write};

use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use lineside_gateway::GatewayConfig;
use serde_json::{Value, json};

use crate::gate::{Gate, config};

const ADD: &str = "/v2/models/add/infer";
const ECHO: &str = "/v2/models/echo/infer";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sum() -> String {
    let tensor =
        |name: &str, data: [f32; 2]| json!({"name": name, "shape": [2], "datatype": "FP32", "data": data});
    json!({"inputs": [tensor("a", [1.0, 2.0]), tensor("b", [3.0, 4.0])]}).to_string()
}

/// A binary tensor of so many bytes, its JSON, and that JSON's length.
fn echo(length: usize, wants_binary: bool) -> (String, Vec<u8>) {
    let tensor = json!({"name": "x", "shape": [length], "datatype": "UINT8",
        "parameters": {"binary_data_size": length}});
    let json = json!({"inputs": [tensor], "parameters": {"binary_data_output": wants_binary}});
    (json.to_string(), (0..length).map(|i| (i / 100) as u8).collect())
}

#[tokio::test]
async fn a_packed_request_is_as_good_as_one_that_is_not() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let plain = sum();
    for (encoding, body) in [
        ("identity", plain.clone().into_bytes()),
        ("gzip", gzip(plain.as_bytes())),
        ("x-gzip", gzip(plain.as_bytes())),
        ("deflate", zlib(plain.as_bytes())),
        ("deflate", raw_deflate(plain.as_bytes())),
    ] {
        let reply = caller.post_with(ADD, &[("Content-Encoding", encoding)], body).await;
        assert_eq!(reply.status, 200, "{encoding}: {}", reply.text());
        assert_eq!(reply.json()["outputs"][0]["data"], json!([4.0, 6.0]), "{encoding}");
    }
}

#[tokio::test]
async fn the_length_of_the_json_counts_what_is_unpacked() {
    let gate = Gate::open();
    let (json, tensor) = echo(600_000, true);
    let length = json.len().to_string();
    let body = [json.as_bytes(), &tensor].concat();
    for (encoding, packed) in [("gzip", gzip(&body)), ("deflate", zlib(&body))] {
        let headers = [("Content-Encoding", encoding), ("Inference-Header-Content-Length", length.as_str())];
        let reply = gate.caller().await.post_with(ECHO, &headers, packed).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let json_length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
        assert!(reply.body[json_length..] == tensor);
    }
}

#[tokio::test]
async fn what_cannot_be_unpacked_is_refused_in_words() {
    let gate = Gate::open();
    let plain = sum();
    let whole = gzip(plain.as_bytes());
    for (encoding, body, status, words) in [
        ("gzip", plain.clone().into_bytes(), 400, "damaged"),
        ("deflate", plain.clone().into_bytes(), 400, "damaged"),
        ("gzip", whole[..whole.len() - 3].to_vec(), 400, "ends before its end"),
        ("gzip", [&whole[..], b"rest"].concat(), 400, "body of the request"),
        ("deflate", [&zlib(plain.as_bytes())[..], b"rest"].concat(), 400, "comes after the end"),
        ("br", whole.clone(), 415, "gzip or deflate"),
        ("gzip, gzip", gzip(&whole), 415, "more than once"),
    ] {
        let reply = gate.caller().await.post_with(ADD, &[("Content-Encoding", encoding)], body).await;
        assert!(reply.error(status).contains(words), "{encoding}: {}", reply.text());
    }
    assert!(gate.line.calls.lock().unwrap().is_empty());
    assert_eq!(gate.caller().await.post(ADD, plain).await.status, 200);
}

#[tokio::test]
async fn a_bomb_is_stopped_at_the_limit_and_takes_no_more_room_than_that() {
    // Room for one body of the largest size, and no more.
    let max = 1 << 20;
    let gate = Gate::with(GatewayConfig { body_bytes_max: max, bodies_bytes_max: 2 * max, ..config() });
    let bomb = vec![b' '; 64 << 20];
    for (encoding, packed) in
        [("gzip", gzip(&bomb)), ("deflate", zlib(&bomb)), ("deflate", raw_deflate(&bomb))]
    {
        assert!(packed.len() < 80 << 10, "{}", packed.len());
        let reply = gate.caller().await.post_with(ADD, &[("Content-Encoding", encoding)], packed).await;
        assert!(reply.error(413).contains("body_bytes_max"), "{}", reply.text());
    }
    // All of the room is free again.
    let padded = format!("{}{}", sum(), " ".repeat(max - 10_000));
    let reply =
        gate.caller().await.post_with(ADD, &[("Content-Encoding", "gzip")], gzip(padded.as_bytes())).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn a_long_answer_is_packed_for_a_client_that_asks_for_it() {
    let gate = Gate::open();
    let (json, tensor) = echo(100_000, false);
    let length = json.len().to_string();
    let body = [json.as_bytes(), &tensor].concat();
    let mut caller = gate.caller().await;
    for (accepts, encoding) in [
        ("gzip", Some("gzip")),
        ("deflate", Some("deflate")),
        ("gzip, deflate, br", Some("gzip")),
        ("gzip;q=0, deflate", Some("deflate")),
        ("br", None),
        ("identity", None),
    ] {
        let headers = [("Accept-Encoding", accepts), ("Inference-Header-Content-Length", length.as_str())];
        let reply = caller.post_with(ECHO, &headers, &body).await;
        assert_eq!((reply.status, reply.header("content-encoding")), (200, encoding), "{accepts}");
        assert_eq!(reply.header("vary"), Some("accept-encoding"));
        assert_eq!(reply.header("content-length").is_some(), encoding.is_none());
        let mut text = String::new();
        match encoding {
            Some("gzip") => drop(GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap()),
            Some(_) => drop(ZlibDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap()),
            None => text = reply.text(),
        }
        let answer: Value = serde_json::from_str(&text).unwrap();
        let data: Vec<u8> = serde_json::from_value(answer["outputs"][0]["data"].clone()).unwrap();
        assert!(data == tensor);
    }
}

#[tokio::test]
async fn short_answers_and_all_but_inferences_stay_as_they_are() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let gzip = [("Accept-Encoding", "gzip")];
    let reply = caller.post_with(ADD, &gzip, sum()).await;
    assert_eq!((reply.status, reply.header("content-encoding"), reply.header("vary")), (200, None, None));
    for path in ["/v2/models/add", "/metrics", "/v2"] {
        caller.write(format!("GET {path} HTTP/1.1\r\nHost: line\r\nAccept-Encoding: gzip\r\n\r\n")).await;
        let reply = caller.reply().await;
        assert_eq!((reply.status, reply.header("content-encoding")), (200, None), "{path}");
    }
    let off = Gate::with(GatewayConfig { compression: false, ..config() });
    let (json, tensor) = echo(100_000, false);
    let length = json.len().to_string();
    let headers = [gzip[0], ("Inference-Header-Content-Length", length.as_str())];
    let reply = off.caller().await.post_with(ECHO, &headers, [json.as_bytes(), &tensor].concat()).await;
    assert_eq!((reply.status, reply.header("content-encoding")), (200, None));
}
