//! What OpenAI's clients find here.

use lineside_gateway::GatewayConfig;
use lineside_wire::{Parameter, Task};
use serde_json::{Value, json};

use crate::{caller::Reply, gate::config, tasks};

/// Checks that this is an error as those clients read it, and gives its code and words.
fn error(reply: &Reply, status: u16) -> (String, String) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.header("x-request-id").is_some());
    let body = reply.json();
    let error = body["error"].as_object().unwrap();
    assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "param", "type"]);
    let text = |name: &str| error[name].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

#[tokio::test]
async fn each_model_is_there_once_whatever_versions_it_has() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let list = caller.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let rows = list["data"].as_array().unwrap();
    let ids: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().filter(|id| **id == "add").count(), 1);
    assert!(ids.is_sorted() && ids.contains(&"texts"));
    let one = caller.get("/v1/models/add").await.json();
    assert!(one["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        one,
        json!({"id": "add", "object": "model", "created": one["created"], "owned_by": "lineside"})
    );
    assert!(rows.contains(&one), "the same in both places, and at both times");
}

#[tokio::test]
async fn texts_become_vectors_in_their_order() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let request = json!({"model": "texts", "input": ["ab", "Riß"], "user": "line 7", "unheard_of": [1]});
    let reply = caller.post("/v1/embeddings", request.to_string()).await;
    let vector =
        |index: usize, vector: Value| json!({"object": "embedding", "index": index, "embedding": vector});
    let expected = json!({
        "object": "list", "data": [vector(0, json!([2.0, 0.1])), vector(1, json!([4.0, 0.1]))], "model": "texts",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    });
    assert_eq!((reply.status, reply.json()), (200, expected));
    // The shortest text that gives the same 32 bits.
    assert!(reply.text().contains("[2.0,0.1]"), "{}", reply.text());
    assert!(reply.header("x-lineside-node").is_some());
    let (call, chunks) = gate.line.last_call();
    assert_eq!((call.params.task, call.params.inputs[0].name.as_str()), (Some(Task::Embed), "text"));
    assert_eq!(chunks.concat(), b"\x02\0\0\0ab\x04\0\0\0Ri\xc3\x9f");
}

#[tokio::test]
async fn vectors_come_as_base64_and_as_long_as_they_are_wanted() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let request = json!({"model": "texts", "input": [[1, 2]], "encoding_format": "base64", "dimensions": 3});
    let reply = caller.post("/v1/embeddings", request.to_string()).await;
    assert_eq!(reply.json()["data"][0]["embedding"], "AAAAQc3MzD3NzMw9");
    let (call, chunks) = gate.line.last_call();
    assert_eq!(call.params.parameters.get("dimensions"), Some(&Parameter::Integer(3)));
    assert_eq!(call.params.inputs[0].name, "tokens");
    assert_eq!(chunks.concat(), b"\x08\0\0\0\x01\0\0\0\x02\0\0\0");
    let wild = |format: &str| json!({"model": "wild", "input": "a", "encoding_format": format}).to_string();
    let reply = caller.post("/v1/embeddings", wild("float")).await;
    assert!(error(&reply, 400).1.contains("base64"));
    assert_eq!(caller.post("/v1/embeddings", wild("base64")).await.status, 200);
}

#[tokio::test]
async fn a_wrong_request_is_told_what_is_wrong_in_the_form_of_that_api() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let wrong = [
        ("{}", "model"),
        ("[]", "embeddings request"),
        (r#"{"model":"texts"}"#, "input"),
        (r#"{"model":"texts","input":[]}"#, "empty"),
        (r#"{"model":"texts","input":{"a":1}}"#, "input must be"),
        (r#"{"model":"texts","input":"a","encoding_format":"int8"}"#, "encoding_format"),
        (r#"{"model":"texts","input":"a","dimensions":0}"#, "dimensions"),
        (r#"{"model":"surface","input":"a"}"#, "[embed]"),
    ];
    for (body, problem) in wrong {
        let (_, words) = error(&caller.post("/v1/embeddings", body).await, 400);
        assert!(words.contains(problem), "{body}: {words}");
    }
    let deep = format!(r#"{{"model":"texts","input":{}"#, "[".repeat(100_000));
    error(&caller.post("/v1/embeddings", deep).await, 400);
    let unknown = caller.post("/v1/embeddings", r#"{"model":"weld","input":"a"}"#).await;
    assert_eq!(error(&unknown, 404).0, "model_not_found");
    assert_eq!(error(&caller.get("/v1/models/weld").await, 404).0, "model_not_found");
    let dumb = caller.post("/v1/embeddings", r#"{"model":"dumb","input":"a"}"#).await;
    assert!(error(&dumb, 500).1.contains("embedding"));
    assert_eq!(caller.get("/v1/models").await.status, 200, "the next request is fine");
}

#[tokio::test]
async fn what_the_door_itself_refuses_has_that_form_too() {
    let gate = tasks::gate_with(GatewayConfig { body_bytes_max: 100, ..config() });
    let mut caller = gate.caller().await;
    assert_eq!(error(&caller.get("/v1/chat/completions").await, 404).0, "not_found");
    let reply = caller.get("/v1/embeddings").await;
    assert_eq!(error(&reply, 405).0, "method_not_allowed");
    assert_eq!(reply.header("allow"), Some("POST"));
    let long = json!({"model": "texts", "input": "a".repeat(200)}).to_string();
    assert_eq!(error(&caller.post("/v1/embeddings", long).await, 413).0, "limit_exceeded");
    // Elsewhere errors are as ever.
    let mut caller = gate.caller().await;
    caller.get("/v2/models/weld").await.error(404);
}

#[tokio::test]
async fn each_text_is_charged_as_a_call() {
    let gate =
        tasks::gate_with(GatewayConfig { rate: 1.try_into().ok(), burst: 3.try_into().ok(), ..config() });
    let mut caller = gate.caller().await;
    let request = |texts: usize| json!({"model": "texts", "input": vec!["a"; texts]}).to_string();
    let reply = caller.post("/v1/embeddings", request(4)).await;
    assert_eq!(error(&reply, 429).0, "rate_limit_exceeded");
    assert!(reply.header("retry-after").is_some());
    assert!(gate.line.calls.lock().unwrap().is_empty());
}
