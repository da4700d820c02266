//! JSON-RPC 2.0: the examples of its specification, with the methods that there are.

use lineside_gateway::{Change, GatewayConfig, ModelControl};
use serde_json::{Value, json};

use crate::{
    caller::Caller,
    gate::{Gate, config},
    line::PRESS,
};

/// What comes back for a body, with errors cut down to their numbers; null when nothing does.
async fn ask(caller: &mut Caller, body: &str) -> Value {
    let reply = caller.post("/rpc", body).await;
    if reply.status == 204 {
        assert!(reply.body.is_empty());
        return Value::Null;
    }
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    let mut answer = reply.json();
    let cut = |response: &mut Value| {
        assert_eq!(response["jsonrpc"], "2.0");
        if let Some(error) = response.get_mut("error") {
            assert!(error["message"].is_string() && error["data"]["name"].is_string());
            *error = error["code"].clone();
        }
    };
    match &mut answer {
        Value::Array(responses) => responses.iter_mut().for_each(cut),
        response => cut(response),
    }
    answer
}

fn error(code: i32, id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "error": code, "id": id})
}

#[tokio::test]
async fn the_examples_of_the_specification_are_answered_as_it_says() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let healthy = |id: Value| json!({"jsonrpc": "2.0", "result": {"live": true, "ready": true}, "id": id});
    let invalid = || error(-32600, &Value::Null);
    let examples = [
        (r#"{"jsonrpc": "2.0", "method": "health", "id": 1}"#, healthy(json!(1))),
        (r#"{"jsonrpc": "2.0", "method": "health", "params": {}, "id": "a"}"#, healthy(json!("a"))),
        (r#"{"jsonrpc": "2.0", "method": "health", "id": null}"#, healthy(Value::Null)),
        (r#"{"jsonrpc": "2.0", "method": "health"}"#, Value::Null),
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, Value::Null),
        (r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#, error(-32601, &json!("1"))),
        (r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#, error(-32700, &Value::Null)),
        (r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, invalid()),
        (
            r#"[{"jsonrpc": "2.0", "method": "health", "id": "1"}, {"jsonrpc": "2.0", "method""#,
            error(-32700, &Value::Null),
        ),
        ("", error(-32700, &Value::Null)),
        ("[]", invalid()),
        ("[1]", json!([invalid()])),
        ("[1,2,3]", json!([invalid(), invalid(), invalid()])),
        (
            r#"[{"jsonrpc": "2.0", "method": "health", "id": "1"},
                {"jsonrpc": "2.0", "method": "health"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "models.get", "params": [1], "id": 9}]"#,
            json!([healthy(json!("1")), invalid(), error(-32601, &json!("5")), error(-32602, &json!(9))]),
        ),
        (r#"[{"jsonrpc": "2.0", "method": "health"}, {"jsonrpc": "2.0", "method": "foobar"}]"#, Value::Null),
    ];
    for (body, expected) in examples {
        assert_eq!(ask(&mut caller, body).await, expected, "{body}");
    }
}

#[tokio::test]
async fn a_model_runs_by_json_rpc_and_the_head_names_its_node() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let number = |name: &str| json!({"name": name, "shape": [1], "datatype": "FP32", "data": [2]});
    let infer = |model: &str, id: i32| {
        let params = json!({"model": model, "version": "1", "inputs": [number("a"), number("b")]});
        json!({"jsonrpc": "2.0", "method": "infer", "params": params, "id": id})
    };
    let reply = caller.post("/rpc", infer("add", 1).to_string()).await;
    let result = &reply.json()["result"];
    assert_eq!((&result["model_version"], &result["outputs"][0]["data"]), (&json!("1"), &json!([4.0])));
    assert_eq!(reply.header("x-lineside-node"), Some(PRESS.to_string().as_str()));
    assert_eq!(reply.header("x-lineside-attempts"), Some("2"));

    let both = caller.post("/rpc", json!([infer("add", 1), infer("paint", 2)]).to_string()).await;
    assert_eq!(both.header("x-lineside-node"), None);
    let answers = both.json();
    assert_eq!(answers[0]["result"]["outputs"][0]["data"], json!([4.0]));
    let unknown = &answers[1]["error"];
    assert_eq!((&unknown["code"], &unknown["data"]["name"]), (&json!(-32002), &json!("MODEL_NOT_FOUND")));
    assert!(unknown["message"].as_str().unwrap().starts_with("Request for unknown model"));

    let busy = caller.post("/rpc", infer("busy", 3).to_string()).await.json();
    // Spread by up to a half, so that those who were sent away together do not come back together.
    let wait = busy["error"]["data"]["retry_after_ms"].as_u64().unwrap();
    assert!((1_200..=1_800).contains(&wait), "{wait}");
    let mut binary = infer("add", 4);
    binary["params"]["parameters"] = json!({"binary_data_output": true});
    assert_eq!(caller.post("/rpc", binary.to_string()).await.json()["error"]["code"], -32602);
    // A notification runs too, and brings nothing back.
    let mut notification = infer("add", 5);
    notification.as_object_mut().unwrap().remove("id");
    let before = gate.line.calls.lock().unwrap().len();
    assert_eq!(caller.post("/rpc", notification.to_string()).await.status, 204);
    assert_eq!(gate.line.calls.lock().unwrap().len(), before + 1);
}

#[tokio::test]
async fn models_members_and_status_can_be_asked_for() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let mut ask = async |method: &str, params: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params},"id":1}}"#);
        caller.post("/rpc", body).await.json()
    };
    assert_eq!(ask("models.list", "{}").await["result"]["models"].as_array().unwrap().len(), 4);
    let newest = ask("models.get", r#"{"model":"add"}"#).await;
    assert_eq!((&newest["result"]["version"], &newest["result"]["state"]), (&json!("2"), &json!("READY")));
    assert_eq!(ask("models.get", r#"{"model":"add","version":"1"}"#).await["result"]["version"], "1");
    assert_eq!(ask("models.get", r#"{"model":"paint"}"#).await["error"]["code"], -32002);
    assert_eq!(ask("models.get", r#"{"model":"../etc"}"#).await["error"]["code"], -32602);
    assert_eq!(ask("cluster.members", "{}").await["result"]["members"][1]["state"], "down");
    assert_eq!(ask("cluster.status", "{}").await["result"]["models_ready"], 3);
    gate.line.is_ready.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ask("health", "{}").await["result"]["reason"], "no node is alive");
}

fn call(method: &str, params: Value, id: i32) -> Value {
    let mut call = json!({"jsonrpc": "2.0", "method": method, "id": id});
    call["params"] = params;
    call
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_with_what_each_node_says() {
    let gate = Gate::with(GatewayConfig { model_control: ModelControl::Open, ..config() });
    let mut caller = gate.caller().await;
    let mut ask = async |method: &str, params: Value| {
        caller.post("/rpc", call(method, params, 1).to_string()).await.json()
    };
    let loaded = ask("models.load", json!({"model": "add"})).await["result"].clone();
    assert_eq!((&loaded["models"][1]["version"], &loaded["nodes"][0]["done"]), (&json!("2"), &json!(true)));
    assert_eq!(
        loaded["nodes"][1],
        json!({"node": "b2".repeat(16), "name": "weld", "done": false, "absent": true})
    );
    let params = json!({"model": "torn", "version": "1", "nodes": [PRESS]});
    let unloaded = ask("models.unload", params).await["result"].clone();
    assert_eq!(unloaded["nodes"][0]["reason"], "the file is damaged");
    let changes: Vec<_> = gate
        .line
        .changes
        .lock()
        .unwrap()
        .iter()
        .map(|(change, params, _)| (*change, params.clone()))
        .collect();
    assert_eq!(changes.iter().map(|(change, _)| *change).collect::<Vec<_>>(), [Change::Load, Change::Unload]);
    assert_eq!((changes[1].1.version.map(|it| it.0), &changes[1].1.nodes[..]), (Some(1), &[PRESS][..]));

    let statistics =
        ask("models.statistics", json!({"model": "add", "version": "2"})).await["result"].clone();
    assert_eq!(statistics["models"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&statistics["models"][0]["name"], &statistics["models"][0]["queue"]["count"]),
        (&json!("add"), &json!(8))
    );
    assert_eq!(ask("models.statistics", json!({})).await["result"]["models"].as_array().unwrap().len(), 3);
    for wrong in [json!({}), json!([]), json!({"model": 7}), json!({"model": "add", "nodes": ["press"]})] {
        assert_eq!(ask("models.load", wrong).await["error"]["code"], -32602);
    }
}

#[tokio::test]
async fn a_change_that_hangs_ends_at_the_time_of_its_request() {
    let gate = Gate::with(GatewayConfig { model_control: ModelControl::Open, ..config() });
    let body = call("models.load", json!({"model": "stuck"}), 1).to_string();
    let headers = [("X-Request-Timeout-Ms", "50")];
    let answer = gate.caller().await.post_with("/rpc", &headers, body).await.json();
    assert_eq!(answer["error"]["data"]["name"], "DEADLINE_EXCEEDED_RUNNING", "{answer}");
}

#[tokio::test]
async fn each_entry_of_a_batch_needs_its_own_permission() {
    let gate = Gate::open();
    let batch = json!([
        call("models.load", json!({"model": "add"}), 1),
        call("models.list", json!({}), 2),
        call("models.unload", json!({"model": "add"}), 3),
        {"jsonrpc": "2.0", "method": "models.unload", "params": {"model": "add"}},
    ]);
    let answers = gate.caller().await.post("/rpc", batch.to_string()).await.json();
    let refused = |at: usize| {
        assert_eq!(answers[at]["error"]["data"]["name"], "PERMISSION_DENIED", "{answers}");
    };
    refused(0);
    refused(2);
    assert!(answers[1]["result"].is_object());
    assert_eq!(answers.as_array().unwrap().len(), 3);
    assert!(gate.line.changes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_results_of_a_batch_are_no_longer_together_than_a_body_may_be() {
    let gate = Gate::with(GatewayConfig { body_bytes_max: 8_000, ..config() });
    let mut caller = gate.caller().await;
    let list = |id: i32| call("models.list", json!({}), id);
    let one = caller.post("/rpc", list(0).to_string()).await.body.len();
    let answers = caller.post("/rpc", Value::from((0..64).map(list).collect::<Vec<_>>()).to_string()).await;
    let answers = answers.json();
    let given = answers.as_array().unwrap().iter().filter(|answer| answer.get("result").is_some()).count();
    assert!(given <= 8_000 / (one - 100) && 8_000 / one <= given, "{given} of {one} bytes");
    let refused = &answers[63]["error"]["data"];
    assert_eq!((&refused["name"], &refused["executed"]), (&json!("LIMIT_EXCEEDED"), &json!("yes")));
}

#[tokio::test]
async fn what_only_the_socket_serves_says_so_over_http() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let answer = caller.post("/rpc", call("cluster.watch", json!({}), 1).to_string()).await.json();
    assert_eq!(answer["error"]["code"], -32601);
    assert!(answer["error"]["message"].as_str().unwrap().contains("/rpc/ws"), "{answer}");
    let answer = caller.post("/rpc", call("$/cancelRequest", json!({"id": 1}), 1).to_string()).await.json();
    assert_eq!(answer["error"]["code"], -32601);
}
