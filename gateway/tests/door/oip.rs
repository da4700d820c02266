//! The Open Inference Protocol as its clients speak it.

use serde_json::{Value, json};

use crate::{
    gate::Gate,
    line::{PRESS, WELD},
};

fn input(name: &str, data: &Value) -> Value {
    json!({"name": name, "shape": [1, 2], "datatype": "FP32", "data": data})
}

fn add(data: &Value) -> Value {
    json!({"inputs": [input("a", data), input("b", &json!([10, 20]))]})
}

#[tokio::test]
async fn two_numbers_are_added_in_json_and_the_answer_says_who_did_it() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for data in [json!([1.5, 2]), json!([[1.5, 2]])] {
        let mut request = add(&data);
        request["id"] = json!("part 17");
        let reply = caller.post("/v2/models/add/infer", request.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let expected = json!({
            "model_name": "add", "model_version": "2", "id": "part 17",
            "outputs": [{"name": "sum", "datatype": "FP32", "shape": [1, 2], "data": [11.5, 22.0]}],
        });
        assert_eq!(reply.json(), expected);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.header("x-lineside-node"), Some(PRESS.to_string().as_str()));
        assert_eq!(reply.header("x-lineside-attempts"), Some("2"));
        assert_eq!(reply.header("x-request-id").map(str::len), Some(32));
        assert_eq!(reply.header("inference-header-content-length"), None);
    }
}

#[tokio::test]
async fn a_version_is_passed_on_and_a_slash_at_the_end_changes_nothing() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = add(&json!([1, 2])).to_string();
    for path in ["/v2/models/add/versions/1/infer", "/v2/models/add/versions/1/infer/"] {
        assert_eq!(caller.post(path, &request).await.json()["model_version"], "1");
    }
    assert_eq!(caller.post("/v2/models/%61dd/infer/", &request).await.json()["model_version"], "2");
    assert_eq!(gate.line.last_call().0.params.version, None);
}

#[tokio::test]
async fn binary_tensors_pass_through_as_slices_of_one_buffer_each_at_its_place() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let binary = |name: &str, size: usize| json!({"name": name, "shape": [size], "datatype": "UINT8", "parameters": {"binary_data_size": size}});
    let request = json!({
        "inputs": [binary("x", 100), binary("y", 3), binary("z", 64)],
        "parameters": {"binary_data_output": true},
    });
    let reply = caller.post_binary("/v2/models/echo/infer", &request, &[&[1; 100], &[2; 3], &[3; 64]]).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/octet-stream")));
    let length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let json: Value = serde_json::from_slice(&reply.body[..length]).unwrap();
    let sizes: Vec<_> =
        json["outputs"].as_array().unwrap().iter().map(|o| &o["parameters"]["binary_data_size"]).collect();
    assert_eq!(sizes, [100, 3, 64]);
    assert!(json["outputs"][0].get("data").is_none());
    // Without padding: that is only between members.
    assert_eq!(&reply.body[length..], [&[1; 100][..], &[2; 3], &[3; 64]].concat());

    let (call, chunks) = gate.line.last_call();
    let places: Vec<usize> = chunks
        .iter()
        .scan(0, |at, chunk| {
            let start = *at;
            *at += chunk.len();
            Some(start)
        })
        .collect();
    // Tensor, padding, tensor, padding, tensor.
    assert_eq!(places, [0, 100, 128, 131, 192]);
    assert_eq!(call.params.inputs[1].byte_length, 3);
    // One behind the other in memory: nobody copied them out of the body.
    let range = |at: usize| chunks[at].as_ptr_range();
    assert_eq!((range(0).end, range(2).end), (range(2).start, range(4).start));
}

#[tokio::test]
async fn json_and_binary_mix_in_both_directions() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = json!({
        "inputs": [
            {"name": "x", "shape": [2], "datatype": "INT16", "data": [1, -1]},
            {"name": "y", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
        ],
        "outputs": [{"name": "x", "parameters": {"binary_data": true}}, {"name": "y"}],
    });
    let y = [0.5_f32, 3.0].map(f32::to_le_bytes).concat();
    let reply = caller.post_binary("/v2/models/echo/infer", &request, &[&y]).await;
    let length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let json: Value = serde_json::from_slice(&reply.body[..length]).unwrap();
    assert_eq!(json["outputs"][1]["data"], json!([0.5, 3.0]));
    assert_eq!(reply.body[length..], [1, 0, 255, 255]);
    assert_eq!(gate.line.last_call().0.params.outputs, ["x", "y"]);
}

#[tokio::test]
async fn a_body_that_comes_in_pieces_is_one_body() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let length = 300_000;
    let request = json!({
        "inputs": [{"name": "x", "shape": [length], "datatype": "UINT8",
                    "parameters": {"binary_data_size": length}}],
        "outputs": [{"name": "x", "parameters": {"binary_data": true}}],
    });
    let tensor: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
    let reply = caller.post_binary("/v2/models/echo/infer", &request, &[&tensor]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.body.ends_with(&tensor));

    // The same connection, now without a length before it.
    let json = add(&json!([1, 2])).to_string();
    caller.write("POST /v2/models/add/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in json.as_bytes().chunks(40) {
        caller.write([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).await;
    }
    caller.write("0\r\n\r\n").await;
    assert_eq!(caller.reply().await.json()["outputs"][0]["data"], json!([11.0, 22.0]));
}

#[tokio::test]
async fn whole_numbers_keep_every_digit_and_texts_every_letter() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = r#"{"inputs":[
        {"name":"n","shape":[3],"datatype":"INT64","data":[9007199254740993,-9223372036854775808,9223372036854775807]},
        {"name":"u","shape":[1],"datatype":"UINT64","data":[18446744073709551615]},
        {"name":"t","shape":[2],"datatype":"BYTES","data":["Riß \"tief\"","ü\u00fc"]},
        {"name":"b","shape":[2],"datatype":"BOOL","data":[true,false]}]}"#;
    let reply = caller.post("/v2/models/echo/infer", request).await;
    let text = reply.text();
    assert!(text.contains("[9007199254740993,-9223372036854775808,9223372036854775807]"), "{text}");
    assert!(text.contains("[18446744073709551615]"), "{text}");
    let outputs = &reply.json()["outputs"];
    assert_eq!(outputs[2]["data"], json!(["Riß \"tief\"", "üü"]));
    assert_eq!(outputs[3]["data"], json!([true, false]));
}

#[tokio::test]
async fn a_raw_body_is_the_only_input_of_its_model() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let raw = [("Inference-Header-Content-Length", "0")];
    let tensor = [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
    let reply = caller.post_with("/v2/models/echo/infer", &raw, &tensor).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.body.ends_with(&tensor));
    assert_eq!(gate.line.last_call().0.params.inputs[0].shape, [2, 2]);
    let words = caller.post_with("/v2/models/add/infer", &raw, &tensor).await.error(400);
    assert!(words.contains("2 inputs"), "{words}");
}

#[tokio::test]
async fn what_a_client_says_of_time_trace_and_session_reaches_the_call() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let mut request = add(&json!([1, 2]));
    request["parameters"] = json!({"timeout": 5_000_000, "priority": 1, "sequence_id": 7, "mark": "x"});
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("traceparent", trace), ("X-Request-Timeout-Ms", "2000"), ("X-Request-Id", "shift-7")];
    let before = tokio::time::Instant::now();
    let reply = caller.post_with("/v2/models/add/infer", &headers, request.to_string()).await;
    assert_eq!(reply.header("x-request-id"), Some("shift-7"));
    let (call, _) = gate.line.last_call();
    assert_eq!(call.context.traceparent.as_deref(), Some(trace));
    assert_eq!((call.context.priority, call.context.session.as_deref()), (1, Some("7")));
    assert!(call.params.parameters.contains_key("mark"));
    let left = call.deadline.saturating_duration_since(before).as_secs_f64();
    assert!((1.9..10.0).contains(&left), "the shorter of both limits counts, and {left} s are left");
}

#[tokio::test]
async fn metadata_says_what_the_server_and_its_models_are() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for path in ["/v2", "/v2/"] {
        let server = caller.get(path).await.json();
        assert_eq!(server["name"], "lineside");
        let extensions = [
            "binary_tensor_data",
            "classification",
            "generate",
            "logging",
            "model_configuration",
            "model_repository",
            "model_repository(unload_dependents)",
            "parameters",
            "schedule_policy",
            "sequence",
            "statistics",
        ];
        assert_eq!(server["extensions"], json!(extensions));
    }
    let tensor = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [-1, 2]});
    let model = json!({
        "name": "add", "versions": ["1", "2"], "platform": "onnx_onnxv1",
        "inputs": [tensor("a"), tensor("b")], "outputs": [tensor("sum")],
    });
    for path in
        ["/v2/models/add", "/v2/models/add/", "/v2/models/add/versions/1", "/v2/models/add/versions/2/"]
    {
        assert_eq!(caller.get(path).await.json(), model, "{path}");
    }
    for path in ["/v2/models/add/ready", "/v2/models/add/versions/2/ready/"] {
        let reply = caller.get(path).await;
        assert_eq!((reply.status, reply.json()), (200, json!({"name": "add", "ready": true})), "{path}");
    }
    let words = caller.get("/v2/models/torn/ready").await.error(503);
    assert!(words.contains("UNAVAILABLE: the file is damaged"), "{words}");
}

#[tokio::test]
async fn a_failed_call_becomes_the_status_that_its_client_should_act_on() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = json!({"inputs": []}).to_string();
    let mut ask = async |model: &str| caller.post(&format!("/v2/models/{model}/infer"), &request).await;

    let busy = ask("busy").await;
    assert!(busy.error(503).contains("all 2 nodes"));
    assert_eq!(busy.header("retry-after"), Some("2"));

    let lost = ask("lost").await;
    assert!(lost.error(502).contains("after 3 tries"));
    assert_eq!(lost.json()["executed"], "maybe");
    assert_eq!(lost.header("x-lineside-node"), Some(WELD.to_string().as_str()));
    assert_eq!((lost.header("x-lineside-attempts"), lost.header("retry-after")), (Some("3"), None));

    assert_eq!(ask("late").await.json()["code"], "DEADLINE_EXCEEDED");
    assert!(ask("loading").await.error(503).contains("it is being loaded"));
    let refused = ask("add").await;
    assert!(refused.error(400).contains("add takes the inputs a and b"));
    assert_eq!(refused.header("x-lineside-node"), Some(PRESS.to_string().as_str()));
}

#[tokio::test]
async fn what_json_cannot_hold_is_an_error_that_names_the_way_out() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for (model, problem) in [("nan", "NaN"), ("half", "without a form in JSON")] {
        let path = format!("/v2/models/{model}/infer");
        let reply = caller.post(&path, r#"{"inputs":[]}"#).await;
        let words = reply.error(400);
        assert!(words.contains(problem) && words.contains("binary_data_output"), "{words}");
        assert_eq!(
            (reply.json()["executed"].as_str(), reply.header("x-lineside-attempts")),
            (Some("yes"), Some("2"))
        );
        let binary = r#"{"inputs":[],"parameters":{"binary_data_output":true}}"#;
        assert_eq!(caller.post(&path, binary).await.status, 200);
    }
    let label = caller.post("/v2/models/label/infer", r#"{"inputs":[]}"#).await.json();
    assert_eq!(label["outputs"][0]["data"], json!(["kratzer \"tief\""]));
}

#[tokio::test]
async fn a_content_type_that_is_wrong_or_missing_changes_nothing() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = add(&json!([1, 2])).to_string();
    for media in
        ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "image/png", "?"]
    {
        let reply = caller.post_with("/v2/models/add/infer", &[("Content-Type", media)], &request).await;
        assert_eq!(reply.json()["outputs"][0]["data"], json!([11.0, 22.0]), "{media}");
    }
    let tensor = 1.0_f32.to_le_bytes();
    let binary = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]});
    assert_eq!(caller.post_binary("/v2/models/echo/infer", &binary, &[&tensor]).await.status, 200);
}

#[tokio::test]
async fn a_body_of_one_byte_a_chunk_is_read_like_any_other() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let request = add(&json!([1, 2])).to_string();
    for _ in 0..2 {
        let mut sent =
            b"POST /v2/models/add/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for byte in request.bytes() {
            sent.extend([b"1\r\n".as_slice(), &[byte], b"\r\n"].concat());
        }
        sent.extend(b"0\r\n\r\n");
        caller.write(sent).await;
        assert_eq!(caller.reply().await.json()["outputs"][0]["data"], json!([11.0, 22.0]));
    }
}
