//! Which key draws a request to one node.

use lineside_gateway::GatewayConfig;
use serde_json::{Value, json};

use crate::{
    gate::{Gate, config},
    tasks,
};

fn add() -> Value {
    let input = |name: &str| json!({"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1, 2]});
    json!({"inputs": [input("a"), input("b")]})
}

fn key(gate: &Gate) -> Option<String> {
    gate.line.last_call().0.context.affinity
}

#[tokio::test]
async fn a_request_says_in_its_head_or_its_body_with_whom_it_belongs() {
    let gate = tasks::gate();
    let mut caller = gate.caller().await;
    let belt = [("X-Lineside-Affinity", "belt 4")];
    let infer = "/v2/models/add/infer";
    assert_eq!(caller.post(infer, add().to_string()).await.status, 200);
    assert_eq!(key(&gate), None);
    assert_eq!(caller.post_with(infer, &belt, add().to_string()).await.status, 200);
    assert_eq!(key(&gate).as_deref(), Some("belt 4"));
    // The body knows more than the head, and the node is not told twice.
    let mut request = add();
    request["parameters"] = json!({"affinity": "part 7"});
    assert_eq!(caller.post_with(infer, &belt, request.to_string()).await.status, 200);
    assert_eq!(key(&gate).as_deref(), Some("part 7"));
    assert!(!gate.line.last_call().0.params.parameters.contains_key("affinity"));

    let texts = json!({"model": "texts", "input": "ab"}).to_string();
    assert_eq!(caller.post_with("/v1/embeddings", &belt, texts).await.status, 200);
    assert_eq!(key(&gate).as_deref(), Some("belt 4"));

    request["model"] = json!("add");
    for (params, wanted) in
        [(request, "part 7"), (json!({"model": "add", "inputs": add()["inputs"]}), "belt 4")]
    {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "infer", "params": params});
        let reply = caller.post_with("/rpc", &belt, call.to_string()).await.json();
        assert!(reply["result"].is_object(), "{reply}");
        assert_eq!(key(&gate).as_deref(), Some(wanted));
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let long = "x".repeat(129);
    let words = caller
        .post_with("/v2/models/add/infer", &[("X-Lineside-Affinity", &long)], add().to_string())
        .await
        .error(400);
    assert!(words.contains("X-Lineside-Affinity"), "{words}");
    for wrong in [json!(long), json!(7)] {
        let mut request = add();
        request["parameters"] = json!({"affinity": wrong});
        let words = caller.post("/v2/models/add/infer", request.to_string()).await.error(400);
        assert!(words.contains("affinity"), "{words}");
    }
}

#[tokio::test]
async fn where_it_is_set_a_client_without_a_key_is_its_own() {
    let gate = Gate::with(GatewayConfig { affinity_by_client: true, ..config() });
    let mut caller = gate.caller().await;
    let infer = "/v2/models/add/infer";
    assert_eq!(caller.post(infer, add().to_string()).await.status, 200);
    assert_eq!(key(&gate).as_deref(), Some("127.0.0.1"));
    let belt = [("X-Lineside-Affinity", "belt 4")];
    assert_eq!(caller.post_with(infer, &belt, add().to_string()).await.status, 200);
    assert_eq!(key(&gate).as_deref(), Some("belt 4"));
}
