//! The generate extension: a JSON object in, a JSON object out, or one event.

use std::sync::Arc;

use lineside_wire::{Datatype, ModelInfo, ModelState, ModelVersion, Parameter, TensorSpec};
use serde_json::{Value, json};

use crate::{gate::Gate, line::Line};

/// Adds a model that gives back what it is given.
fn further(line: &Arc<Line>, name: &str, inputs: &[(&str, Datatype, &[i64])]) {
    let spec = |(name, datatype, shape): &(&str, Datatype, &[i64])| TensorSpec {
        name: (*name).to_owned(),
        datatype: *datatype,
        shape: shape.to_vec(),
    };
    line.further.lock().unwrap().push(ModelInfo {
        name: name.parse().unwrap(),
        version: ModelVersion(2),
        state: ModelState::Ready,
        reason: None,
        inputs: inputs.iter().map(spec).collect(),
        outputs: vec![],
        slots: 1,
        tasks: vec![],
        engine: None,
    });
}

#[tokio::test]
async fn fields_become_tensors_and_tensors_fields() {
    let gate = Gate::open();
    further(
        &gate.line,
        "talk",
        &[("text_input", Datatype::Bytes, &[-1, 1]), ("seed", Datatype::Int64, &[1])],
    );
    let mut caller = gate.caller().await;
    let request = json!({
        "id": "part 17", "text_input": "Wie viele?", "seed": 9_007_199_254_740_993_i64, "tone": "dry",
        "parameters": {"temperature": 0.5, "priority": 1, "timeout": 5_000_000},
    });
    for path in
        ["/v2/models/talk/generate", "/v2/models/talk/generate/", "/v2/models/talk/versions/2/generate"]
    {
        let reply = caller.post(path, request.to_string()).await;
        let expected = json!({
            "id": "part 17", "model_name": "talk", "model_version": "2",
            "text_input": "Wie viele?", "seed": 9_007_199_254_740_993_i64,
        });
        assert_eq!((reply.status, reply.json()), (200, expected), "{path}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert!(reply.header("x-lineside-node").is_some());
        assert!(reply.text().contains("9007199254740993"));
    }
    let (call, _) = gate.line.last_call();
    assert_eq!((&call.params.inputs[0].shape[..], &call.params.inputs[1].shape[..]), (&[1, 1][..], &[1][..]));
    assert_eq!(call.params.version, Some(ModelVersion(2)));
    assert_eq!(call.params.parameters["temperature"], Parameter::Number(0.5));
    assert_eq!(call.params.parameters["tone"], Parameter::Text("dry".to_owned()));
    assert_eq!((call.context.priority, call.params.parameters.contains_key("timeout")), (1, false));
}

#[tokio::test]
async fn tensors_of_several_elements_are_arrays() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let generate = "/v2/models/add/generate";
    for (a, sum) in [(json!([1, 2]), json!([11.0, 22.0])), (json!([[1, 2]]), json!([11.0, 22.0]))] {
        let reply = caller.post(generate, json!({"a": a, "b": [10, 20]}).to_string()).await;
        assert_eq!(reply.json(), json!({"model_name": "add", "model_version": "2", "sum": sum}));
    }
    let batch = json!({"a": [[1, 2], [3, 4]], "b": [10, 20, 30, 40]}).to_string();
    assert_eq!(caller.post(generate, batch).await.json()["sum"], json!([11.0, 22.0, 33.0, 44.0]));
}

#[tokio::test]
async fn a_stream_is_one_event_and_no_more() {
    let gate = Gate::open();
    further(&gate.line, "talk", &[("text_input", Datatype::Bytes, &[-1])]);
    let mut caller = gate.caller().await;
    for path in ["/v2/models/talk/generate_stream", "/v2/models/talk/versions/2/generate_stream/"] {
        let reply = caller.post(path, r#"{"id":"1","text_input":"zwei\nZeilen","stream":true}"#).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("x-accel-buffering"), Some("no"));
        let text = reply.text();
        let event =
            text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).expect("one event");
        assert!(!event.contains('\n'));
        let event: Value = serde_json::from_str(event).unwrap();
        assert_eq!(
            event,
            json!({"id": "1", "model_name": "talk", "model_version": "2", "text_input": "zwei\nZeilen"})
        );
    }
    // What fails before the first event is an error like any other.
    let reply = caller.post("/v2/models/talk/generate_stream", "{}").await;
    assert!(reply.error(400).contains("\"text_input\" is missing"));
    caller.post("/v2/models/paint/generate_stream", "{}").await.error(404);
}

#[tokio::test]
async fn a_request_that_the_model_does_not_understand_is_told_what_it_takes() {
    let gate = Gate::open();
    further(&gate.line, "half-in", &[("x", Datatype::Fp16, &[1])]);
    let mut caller = gate.caller().await;
    for (model, body, status, expected) in [
        (
            "add",
            r#"{"text_input":"x"}"#,
            400,
            "\"a\" is missing: add takes the inputs a FP32 [-1, 2], b FP32 [-1, 2]",
        ),
        ("add", r#"{"a":[1,2]}"#, 400, "\"b\" is missing"),
        ("add", r#"{"a":[1,2,3],"b":[1,2]}"#, 400, "takes the shape [-1, 2]"),
        ("add", r#"{"a":"x","b":[1,2]}"#, 400, "takes the shape"),
        ("add", r#"{"a":[1,"x"],"b":[1,2]}"#, 400, "element 1 is \"x\""),
        ("add", r#"{"a":[1,2],"b":[1,2],"note":{}}"#, 400, "use text, a number"),
        ("add", "", 400, "no generate request"),
        ("add", "[]", 400, "expected an object"),
        ("half-in", r#"{"x":1}"#, 400, "no form in JSON"),
        ("paint", r#"{"a":[1,2]}"#, 404, "Request for unknown model"),
        ("nan", "{}", 404, "Request for unknown model"),
    ] {
        let reply = caller.post(&format!("/v2/models/{model}/generate"), body).await;
        let words = reply.error(status);
        assert!(words.contains(expected), "{model} {body}: {words}");
    }
    let deep = format!(r#"{{"a":{0}1{1},"b":[1,2]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(caller.post("/v2/models/add/generate", deep).await.error(400).contains("deeper than 8"));
    assert_eq!(caller.get("/livez").await.status, 200);
}
