//! Wrong requests: each is told what is wrong, and the door goes on.

use std::time::Duration;

use lineside_gateway::GatewayConfig;
use serde_json::json;

use crate::gate::{Gate, config};

const INFER: &str = "/v2/models/add/infer";

#[tokio::test]
async fn an_unknown_model_is_told_in_the_words_that_clients_look_for() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for path in [
        "/v2/models/paint/infer",
        "/v2/models/add/versions/9/infer",
        "/v2/models/add/versions/latest/infer",
        "/v2/models/..%2f..%2fetc/infer",
        "/v2/models/%ff/infer",
    ] {
        // Whatever is wrong with the body beside it.
        for request in [r#"{"inputs":[]}"#, "{}", ""] {
            let reply = caller.post(path, request).await;
            assert!(reply.error(404).starts_with("Request for unknown model"), "{path}: {}", reply.text());
            assert_eq!(reply.json()["code"], "MODEL_NOT_FOUND");
        }
    }
    for path in [
        "/v2/models/paint",
        "/v2/models/paint/ready",
        "/v2/models/add/versions/9",
        "/v2/models/add/versions/01/ready",
    ] {
        assert!(caller.get(path).await.error(404).starts_with("Request for unknown model"), "{path}");
    }
    let text = caller.get("/metrics").await.text();
    assert!(!text.contains("paint"), "an unknown name became a label");
}

#[tokio::test]
async fn each_wrong_input_is_named_with_what_it_should_be() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"a",{rest}}}]}}"#);
    let data =
        |datatype: &str, data: &str| input(&format!(r#""shape":[1],"datatype":"{datatype}","data":{data}"#));
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let one = r#"{"name":"a","shape":[1],"datatype":"INT8","data":[1]}"#;
    let wrong = [
        (String::new(), "EOF"),
        ("{\"inputs\":".to_owned(), "EOF"),
        ("[1,2]".to_owned(), "no inference request"),
        ("\"inputs\"".to_owned(), "no inference request"),
        ("null".to_owned(), "no inference request"),
        ("{}".to_owned(), "missing field `inputs`"),
        ("{\"inputs\":null}".to_owned(), "expected an array"),
        ("{\"inputs\":[]}}".to_owned(), "trailing"),
        ("{\"inputs\":[]}\0".to_owned(), "trailing"),
        ("\u{feff}{\"inputs\":[]}".to_owned(), "byte order mark"),
        ("{'inputs':[]}".to_owned(), "a name in quotes"),
        ("[".repeat(100_000), "no inference request"),
        (deep.clone(), "no inference request"),
        (format!(r#"{{"inputs":{deep}}}"#), "expected an object"),
        (format!(r#"{{"inputs":[],"id":{deep}}}"#), "expected a string"),
        (format!(r#"{{"inputs":[],"parameters":{{"x":{deep}}}}}"#), "use text, a number"),
        (data("FP32", &deep), "deeper than 8"),
        (input(&format!(r#""shape":{deep}"#)), "expected i64"),
        (input(r#""shape":[2],"datatype":"FP32","data":[1]"#), "needs 2 elements, but data has 1"),
        (input(r#""shape":[1],"datatype":"FP32","data":[1,2]"#), "data has more"),
        (input(r#""shape":[1],"datatype":"FLOAT32","data":[1]"#), "unknown datatype"),
        (input(r#""shape":[1],"datatype":"fp32","data":[1]"#), "unknown datatype"),
        (input(r#""shape":[-1],"datatype":"FP32","data":[1]"#), "negative dimension"),
        (input(r#""shape":[1.0],"datatype":"FP32","data":[1]"#), "floating point"),
        (input(r#""shape":[9223372036854775808],"datatype":"FP32","data":[1]"#), "expected i64"),
        (input(r#""shape":1,"datatype":"FP32","data":[1]"#), "expected an array"),
        (
            input(r#""shape":[4294967296,4294967296],"datatype":"INT8","data":[1]"#),
            "more elements than can be counted",
        ),
        (input(r#""shape":[0,9223372036854775807,3],"datatype":"INT8","data":[]"#), "more elements"),
        (input(r#""shape":[1,1,1,1,1,1,1,1,1],"datatype":"INT8","data":[1]"#), "more than 8 dimensions"),
        (data("FP32", "[NaN]"), "element 0 is NaN"),
        (data("FP32", "[Infinity]"), "element 0 is Infinity"),
        (data("FP64", "[-Infinity]"), "need binary tensor data"),
        (data("FP32", "[null]"), "element 0 is null"),
        (data("FP32", "null"), "neither data nor"),
        (data("FP32", "{}"), "an object"),
        (data("FP32", "[1e39]"), "within its range"),
        (data("INT8", "[128]"), "from -128 to 127"),
        (data("UINT8", "[-1]"), "from 0 to 255"),
        (data("INT32", "[1.5]"), "whole numbers"),
        (data("INT32", "[1.0]"), "without a point"),
        (data("INT64", "[9223372036854775808]"), "from -9223372036854775808 to 9223372036854775807"),
        (data("UINT64", "[18446744073709551616]"), "to 18446744073709551615"),
        (data("INT64", "[true]"), "element 0 is true"),
        (data("BOOL", "[1]"), "true and false"),
        (data("BYTES", "[1]"), "takes strings"),
        (data("BYTES", "[\"\\ud800\"]"), "takes strings"),
        (data("FP16", "[1]"), "binary"),
        (data("BF16", "[1]"), "binary"),
        (data("FP32", "[\"1\"]"), "element 0 is \"1\""),
        (data("FP32", "[1,]"), "has more"),
        (data("FP32", "[01]"), "element 0 is 01"),
        (format!(r#"{{"inputs":[{one},{one}]}}"#), "\"a\" is there twice"),
        (format!(r#"{{"inputs":[{one}],"outputs":[{{"name":"x"}},{{"name":"x"}}]}}"#), "asked for twice"),
        (format!(r#"{{"inputs":[{one}],"inputs":[{one}]}}"#), "duplicate field"),
        (input(r#""name":"b","shape":[1],"datatype":"INT8","data":[1]"#), "duplicate field"),
        (r#"{"inputs":[{"shape":[1],"datatype":"INT8","data":[1]}]}"#.to_owned(), "missing field `name`"),
        (r#"{"inputs":[{"name":"","shape":[1],"datatype":"INT8","data":[1]}]}"#.to_owned(), "use 1 to 256"),
        (r#"{"inputs":[],"id":7}"#.to_owned(), "expected a string"),
        (r#"{"inputs":[],"parameters":{"timeout":-1}}"#.to_owned(), "whole number"),
        (r#"{"inputs":[],"parameters":{"priority":0.5}}"#.to_owned(), "whole number"),
        (r#"{"inputs":[],"parameters":{"sequence_end":"yes"}}"#.to_owned(), "true or false"),
        (
            input(r#""shape":[1],"datatype":"INT8","parameters":{"shared_memory_region":"r"}"#),
            "shared memory is not supported",
        ),
        (input(r#""shape":[1],"datatype":"INT8","encoding":"base64","data":"*""#), "no base64"),
        (input(r#""shape":[2],"datatype":"INT8","encoding":"base64","data":"AA==""#), "needs 2 bytes"),
    ];
    for (body, expected) in wrong {
        let words = caller.post(INFER, &body).await.error(400);
        assert!(words.contains(expected), "{}: {words}", &body[..body.len().min(120)]);
        assert!(words.len() < 1_000, "{} bytes of words", words.len());
    }
    // Bytes that no text is made of.
    for body in [
        &b"{\"inputs\":[],\"id\":\"\xff\"}"[..],
        b"{\"inputs\":[{\"name\":\"a\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"\xc3\x28\"]}]}",
        b"\xff\xfe{\0",
    ] {
        caller.post(INFER, body).await.error(400);
    }
    assert!(gate.line.calls.lock().unwrap().is_empty(), "a wrong request reached the cluster");
}

#[tokio::test]
async fn lists_far_beyond_their_limits_are_refused_and_take_no_memory_for_it() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let list = |entry: &dyn Fn(usize) -> String| (0..100_000).map(entry).collect::<Vec<_>>().join(",");
    let input = |at: usize| format!(r#"{{"name":"{at}","shape":[1],"datatype":"INT8","data":[1]}}"#);
    let shape = list(&|_| "1".to_owned());
    for (body, expected) in [
        (format!(r#"{{"inputs":[{}]}}"#, list(&input)), "more than 256 inputs"),
        (
            format!(r#"{{"inputs":[],"outputs":[{}]}}"#, list(&|at| format!(r#"{{"name":"{at}"}}"#))),
            "more than 256 outputs",
        ),
        (
            format!(r#"{{"inputs":[],"parameters":{{{}}}}}"#, list(&|at| format!(r#""{at}":1"#))),
            "more than 64 parameters",
        ),
        (
            format!(r#"{{"inputs":[{{"name":"a","shape":[{shape}],"datatype":"INT8","data":[1]}}]}}"#),
            "more than 8 dimensions",
        ),
        (
            format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"INT8","data":[{shape}]}}]}}"#),
            "data has more",
        ),
        (format!(r#"{{{}}}"#, list(&|at| format!(r#""{at}":1"#))), "missing field `inputs`"),
    ] {
        let since = tokio::time::Instant::now();
        let words = caller.post(INFER, &body).await.error(400);
        assert!(words.contains(expected), "{body:.100}: {words}");
        // A second is promised for the real thing; this one is not optimised, and shares its machine.
        assert!(since.elapsed() < Duration::from_secs(10), "{body:.100}: {:?}", since.elapsed());
    }
    assert_eq!(caller.get("/livez").await.status, 200);
}

#[tokio::test]
async fn binary_sizes_must_add_up() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = |shape: i64, size: i64| json!({"inputs": [{"name": "a", "shape": [shape], "datatype": "FP32", "parameters": {"binary_data_size": size}}]});
    for (shape, size, sent, expected) in [
        (2, 8, 4_usize, "4 bytes are left"),
        (2, 8, 12, "4 bytes follow"),
        (2, 4, 4, "needs 8 bytes"),
        (1, -4, 4, "invalid value"),
        (1, i64::MAX, 4, "4 bytes are left"),
    ] {
        let words = caller.post_binary(INFER, &request(shape, size), &[&vec![0; sent]]).await.error(400);
        assert!(words.contains(expected), "{shape} {size} {sent}: {words}");
    }
    for (length, expected) in [
        ("9999", "but the body has"),
        ("99999999999999999999", "whole number"),
        ("-1", "whole number"),
        ("1e1", "whole number"),
        ("0x5", "whole number"),
        ("", "whole number"),
        ("5", "EOF"),
    ] {
        let headers = [("Inference-Header-Content-Length", length)];
        let words = caller.post_with(INFER, &headers, "{\"inputs\":[]}").await.error(400);
        assert!(words.contains(expected), "{length}: {words}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_its_sender_can_read_why() {
    let gate = Gate::with(GatewayConfig { body_bytes_max: 1 << 20, ..config() });
    // 5 MB that nobody will read are on their way when the answer comes.
    let mut caller = gate.caller().await;
    let reply = caller.post(INFER, vec![b' '; 5 << 20]).await;
    assert!(reply.error(413).contains("1048576 bytes"));
    assert_eq!(
        (reply.json()["code"].as_str(), reply.header("connection")),
        (Some("LIMIT_EXCEEDED"), Some("close"))
    );
    // Without a length before it, the limit shows only on the way.
    let mut caller = gate.caller().await;
    caller.write(format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..20 {
        caller.write([b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat()).await;
    }
    caller.reply().await.error(413);
    // Shapes cannot ask for more memory than a body may bring.
    let huge = r#"{"inputs":[{"name":"a","shape":[100000000],"datatype":"FP64","data":[1]}]}"#;
    gate.caller().await.post(INFER, huge).await.error(413);
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_told_what_is() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    assert!(caller.get("/v3").await.error(404).contains("GET /docs"));
    let reply = caller.get(INFER).await;
    reply.error(405);
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = caller.post("/v2", "{}").await;
    reply.error(405);
    assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    let compressed = caller.post_with(INFER, &[("Content-Encoding", "br")], "\x1f\x08").await;
    assert!(compressed.error(415).contains("without Content-Encoding"));
    for wrong in ["0", "60001", "soon"] {
        let reply = caller.post_with(INFER, &[("X-Request-Timeout-Ms", wrong)], "{}").await;
        assert!(reply.error(400).contains("1 to 60000"));
    }
    // All of it over one connection.
    assert_eq!(caller.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_client_has_no_more_time_than_the_door_gives() {
    let most = Duration::from_secs(5);
    let gate = Gate::with(GatewayConfig { deadline_default: most / 5, deadline_max: most, ..config() });
    let mut caller = gate.caller().await;
    let reply = caller.post_with(INFER, &[("X-Request-Timeout-Ms", "5001")], "{}").await;
    assert!(reply.error(400).contains("from 1 to 5000"));
    let patient = r#"{"inputs":[],"parameters":{"timeout":3600000000}}"#;
    let before = tokio::time::Instant::now();
    caller.post(INFER, patient).await.error(400);
    let deadline = gate.line.last_call().0.deadline;
    assert!(before + most / 5 < deadline && deadline <= tokio::time::Instant::now() + most);
}
