//! Every path and every method with a key that does not allow it: whatever is added is refused here, or named as open.

use std::sync::{Arc, Mutex};

use lineside_certs::ApiKeyOrder;
use lineside_gateway::{GatewayConfig, KeysMode};
use serde_json::{Value, json};

use crate::{
    caller::{Caller, Reply},
    discover::calls,
    gate::{Gate, config},
    keys::Office,
    line::Log,
    socket::Socket,
};

/// What is answered to whoever asks, with a key or without.
const FOR_EVERYBODY: [&str; 8] =
    ["live", "v2/health", "ready", "health", "metrics", "openapi.json", "docs", ""];

/// What is answered to every key: the name and version of this software, and how much is logged. The last two say for
/// each call whether it is allowed, see below.
const FOR_EVERY_KEY: [(&str, &str); 4] =
    [("get", "v2"), ("get", "v2/logging"), ("post", "rpc"), ("get", "rpc/ws")];

fn is_for_everybody(path: &str) -> bool {
    let path = path.trim_start_matches('/');
    let short = path.strip_suffix('z').unwrap_or(path);
    path.starts_with("v2/health/") || FOR_EVERYBODY.contains(&short)
}

/// Every path of the document, with its verb. That these are all routes, a test beside the document says.
async fn operations(gate: &Gate) -> Vec<(String, String)> {
    let document = gate.caller().await.get("/openapi.json").await.json();
    let mut all = Vec::new();
    for (template, verbs) in document["paths"].as_object().unwrap() {
        let path =
            template.replace("{model}", "add").replace("{version}", "1").replace("{repository}", "main");
        for verb in verbs.as_object().unwrap().keys().filter(|key| ["get", "post"].contains(&key.as_str())) {
            all.push((verb.clone(), path.clone()));
        }
    }
    all
}

async fn ask(gate: &Gate, verb: &str, path: &str, key: Option<&str>) -> Reply {
    let body = match path {
        "/v1/embeddings" => json!({"model": "add", "input": "x"}),
        _ => json!({}),
    };
    let body = if verb == "get" { String::new() } else { body.to_string() };
    let shown = key.map(|key| format!("X-Api-Key: {key}\r\n")).unwrap_or_default();
    let (verb, length) = (verb.to_uppercase(), body.len());
    let mut caller: Caller = gate.caller().await;
    caller
        .write(format!(
            "{verb} {path} HTTP/1.1\r\nHost: line\r\nContent-Length: {length}\r\n{shown}\r\n{body}"
        ))
        .await;
    caller.reply().await
}

/// A key that allows this method alone.
fn only(office: &Office, method: &str) -> String {
    office.key(&ApiKeyOrder { methods: vec![method.to_owned()], ..Office::order(method) })
}

#[tokio::test]
async fn no_path_is_open_to_a_key_that_does_not_allow_it() {
    let (gate, office) = (Gate::open(), Office::new());
    let (logging, infer) = (only(&office, "logging"), only(&office, "infer"));
    office.tell(&gate);
    *gate.line.log.lock().unwrap() = Some(Arc::new(Log(Mutex::new("info".to_owned()))));
    let mut refused = 0;
    for (verb, path) in operations(&gate).await {
        let named = path.trim_start_matches('/');
        if is_for_everybody(&path) || FOR_EVERY_KEY.contains(&(verb.as_str(), named)) {
            continue;
        }
        let key = if named == "v2/logging" { &infer } else { &logging };
        let reply = ask(&gate, &verb, &path, Some(key)).await;
        assert_eq!(reply.status, 403, "{verb} {path}: {}", reply.text());
        let code = reply.json()["code"].as_str().map(str::to_owned);
        // OpenAI's clients read another form.
        assert!(code.is_none_or(|code| code == "PERMISSION_DENIED"), "{verb} {path}: {}", reply.text());
        refused += 1;
    }
    assert!(15 <= refused, "{refused} paths were tried");
    assert!(gate.line.changes.lock().unwrap().is_empty() && gate.line.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn where_keys_are_required_nothing_is_told_without_one_but_health_and_how_to_ask() {
    let gate = Gate::with(GatewayConfig { keys: KeysMode::Required, ..config() });
    let mut open = 0;
    for (verb, path) in operations(&gate).await {
        let reply = ask(&gate, &verb, &path, None).await;
        match is_for_everybody(&path) {
            true => assert_eq!(reply.status, 200, "{verb} {path}: {}", reply.text()),
            false => assert_eq!(reply.status, 401, "{verb} {path}: {}", reply.text()),
        }
        open += usize::from(is_for_everybody(&path));
    }
    assert!(8 <= open, "{open} paths were open");
    // Nor is a key looked at there: a wrong one is in nobody's way.
    assert_eq!(ask(&gate, "get", "/docs", Some("lsk_")).await.status, 200);
}

/// Whether an answer is the refusal of a caller that may not.
fn is_denied(answer: &Value) -> bool {
    answer["error"]["data"]["name"] == "PERMISSION_DENIED"
}

#[tokio::test]
async fn no_method_is_open_to_a_key_that_does_not_allow_it_however_it_comes() {
    let (gate, office) = (Gate::open(), Office::new());
    let key = only(&office, "logging");
    office.tell(&gate);
    let mut caller = gate.caller().await;
    let mut socket = Socket::open_with_key(&gate, &key).await;
    let call = |(at, (method, params)): (usize, &(&str, Value))| json!({"jsonrpc": "2.0", "method": method, "params": params, "id": at});
    let calls = calls();
    // One by one, in one batch, and over a WebSocket.
    let batch: Vec<_> = calls.iter().enumerate().map(call).collect();
    let header = [("X-Api-Key", key.as_str())];
    let together = caller.post_with("/rpc", &header, json!(batch).to_string()).await.json();
    for (at, (method, params)) in calls.iter().enumerate() {
        let for_everybody = ["health", "rpc.discover"].contains(method);
        let alone = call((at, &(*method, params.clone())));
        let alone = caller.post_with("/rpc", &header, alone.to_string()).await.json();
        let in_batch = together.as_array().unwrap().iter().find(|answer| answer["id"] == at).unwrap();
        let over_socket = socket.call(method, params).await;
        // Only a connection that stays can be told of changes.
        let is_elsewhere = *method == "cluster.watch";
        assert_eq!(is_denied(&alone), !for_everybody && !is_elsewhere, "{method}: {alone}");
        assert_eq!(is_denied(in_batch), !for_everybody && !is_elsewhere, "{method}: {in_batch}");
        assert_eq!(is_denied(&over_socket), !for_everybody, "{method}: {over_socket}");
    }
}

#[tokio::test]
async fn lists_have_no_model_that_the_key_may_not_use() {
    let (gate, office) = (Gate::open(), Office::new());
    let methods = ["models.list", "models.statistics"].map(str::to_owned).to_vec();
    let key =
        office.key(&ApiKeyOrder { models: vec!["ec*".to_owned()], methods, ..Office::order("press-7") });
    office.tell(&gate);
    let mut caller = gate.caller().await;
    for method in ["models.list", "models.statistics"] {
        let call = json!({"jsonrpc": "2.0", "method": method, "id": 1}).to_string();
        let names = |reply: Reply| -> Vec<String> {
            let models = reply.json()["result"]["models"].as_array().unwrap().clone();
            models.iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
        };
        let seen = names(caller.post_with("/rpc", &[("X-Api-Key", &key)], &call).await);
        assert_eq!(seen, ["echo"], "{method}");
        assert!(1 < names(caller.post("/rpc", &call).await).len(), "{method}");
    }
    for (verb, path) in [("get", "/v1/models"), ("post", "/v2/repository/index"), ("get", "/v2/models/stats")]
    {
        let text = ask(&gate, verb, path, Some(&key)).await.text();
        assert!(text.contains("\"echo\"") && !text.contains("\"add\""), "{path}: {text}");
    }
}
