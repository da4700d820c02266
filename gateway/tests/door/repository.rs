//! The repository, configuration and logging extensions.

use std::{sync::Arc, time::Duration};

use lineside_gateway::{Change, GatewayConfig, ModelControl};
use serde_json::json;

use crate::{
    gate::{Gate, config},
    line::Log,
};

/// A door where everybody may change models.
fn open() -> Gate {
    Gate::with(GatewayConfig { model_control: ModelControl::Open, ..config() })
}

#[tokio::test]
async fn the_index_has_a_row_for_each_version_with_its_state() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let row =
        |name: &str, version: &str| json!({"name": name, "version": version, "state": "READY", "reason": ""});
    let ready = [row("add", "1"), row("add", "2"), row("echo", "1")];
    let torn =
        json!({"name": "torn", "version": "1", "state": "UNAVAILABLE", "reason": "the file is damaged"});
    let all = [&ready[..], &[torn]].concat();
    for (body, rows) in [
        ("", &all[..]),
        ("{}", &all),
        ("\r\n", &all),
        (r#"{"ready":false}"#, &all),
        (r#"{"ready":null,"more":1}"#, &all),
        (r#"{"ready":true}"#, &ready),
    ] {
        let reply = caller.post("/v2/repository/index", body).await;
        assert_eq!((reply.status, reply.json()), (200, json!(rows)), "{body}");
    }
    // Whatever a client calls the one repository that there is.
    assert_eq!(caller.post("/v2/repository/main/index/", "").await.json(), json!(all));
    for (body, expected) in
        [("[]", "expected an object"), (r#"{"ready":1}"#, "expected a boolean"), ("{", "EOF")]
    {
        let words = caller.post("/v2/repository/index", body).await.error(400);
        assert!(words.contains(expected), "{body}: {words}");
    }
    caller.get("/v2/repository/index").await.error(405);
}

#[tokio::test]
async fn a_load_reaches_every_node_and_tells_what_each_did() {
    let gate = open();
    let mut caller = gate.caller().await;
    let load = "/v2/repository/models/add/load";
    let reply = caller.post(load, "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let nodes = reply.json()["nodes"].clone();
    assert_eq!((&nodes[0]["name"], &nodes[0]["done"]), (&json!("press"), &json!(true)));
    assert_eq!((&nodes[1]["name"], &nodes[1]["absent"]), (&json!("weld"), &json!(true)));
    for (path, body) in [
        (load, "{}"),
        (load, r#"{"parameters":{}}"#),
        (load, r#"{"parameters":null}"#),
        ("/v2/repository/main/models/add/load/", ""),
        ("/v2/repository/models/add/unload", ""),
        ("/v2/repository/models/add/unload", r#"{"parameters":{"unload_dependents":true}}"#),
    ] {
        let reply = caller.post(path, body).await;
        assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
    }
    let changes = gate.line.changes.lock().unwrap().clone();
    let kinds: Vec<_> = changes.iter().map(|(change, ..)| *change).collect();
    assert_eq!(kinds, [[Change::Load; 5].as_slice(), &[Change::Unload; 2]].concat());
    assert!(changes.iter().all(|(_, params, _)| params.model.as_str() == "add" && params.nodes.is_empty()));
    // Loading takes long: it has all the time that there is, unless the client says less.
    let now = tokio::time::Instant::now();
    assert!(now + Duration::from_secs(50) < changes[0].2);
    caller.post_with(load, &[("X-Request-Timeout-Ms", "5000")], "").await;
    let deadline = gate.line.changes.lock().unwrap().last().unwrap().2;
    assert!(deadline < now + Duration::from_secs(10));
}

#[tokio::test]
async fn a_load_that_failed_on_a_node_is_an_error_that_names_it() {
    let gate = open();
    let mut caller = gate.caller().await;
    let reply = caller.post("/v2/repository/models/torn/load", "").await;
    let words = reply.error(400);
    assert_eq!(words, "failed to load 'torn' on 1 of 2 nodes: press: the file is damaged");
    let body = reply.json();
    assert_eq!(
        (body["code"].as_str(), body["nodes"].as_array().map(Vec::len)),
        (Some("CHANGE_FAILED"), Some(2))
    );
    for path in ["paint", "..%2f..%2fetc", "%ff"] {
        let words = caller.post(&format!("/v2/repository/models/{path}/unload"), "").await.error(404);
        assert!(words.starts_with("Request for unknown model"), "{path}: {words}");
    }
    assert_eq!(caller.get("/livez").await.status, 200);
}

#[tokio::test]
async fn what_a_load_cannot_do_is_refused_before_any_node_is_asked() {
    let gate = open();
    let mut caller = gate.caller().await;
    for (action, body, expected) in [
        ("load", r#"{"parameters":{"config":"{}"}}"#, "model.toml"),
        ("load", r#"{"parameters":{"config":"{}","file:1/model.onnx":"AAAA"}}"#, "model.toml"),
        ("load", r#"{"parameters":{"file:1/model.onnx":"AAAA"}}"#, "models folder"),
        ("load", r#"{"parameters":{"unload_dependents":true}}"#, "not known"),
        ("load", r#"{"parameters":[]}"#, "expected an object"),
        ("load", r#"{"parameters":{"x":1,"x":1}}"#, "twice"),
        ("load", "[[]]", "expected an object"),
        ("load", "x", "expected value"),
        ("unload", r#"{"parameters":{"unload_dependents":1}}"#, "true or false"),
        ("unload", r#"{"parameters":{"config":"{}"}}"#, "not known"),
    ] {
        let words = caller.post(&format!("/v2/repository/models/add/{action}"), body).await.error(400);
        assert!(words.contains(expected), "{action} {body}: {words}");
    }
    assert!(gate.line.changes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_configuration_says_what_the_model_takes() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    for path in ["/v2/models/add/config", "/v2/models/add/versions/1/config/"] {
        let config = caller.get(path).await.json();
        assert_eq!(
            (config["name"].as_str(), config["max_batch_size"].as_u64()),
            (Some("add"), Some(0)),
            "{path}"
        );
        assert_eq!(
            (&config["platform"], &config["backend"]),
            (&json!("onnxruntime_onnx"), &json!("onnxruntime"))
        );
        assert_eq!(config["input"][0]["data_type"], "TYPE_FP32");
        assert_eq!(config["input"][1]["dims"], json!([-1, 2]));
        assert_eq!(config["output"][0]["name"], "sum");
        assert_eq!(config["instance_group"][0]["kind"], "KIND_CPU");
    }
    let config = caller.get("/v2/models/echo/config").await.json();
    assert_eq!((&config["max_batch_size"], &config["input"][0]["dims"]), (&json!(16), &json!([2])));
    assert_eq!(config["dynamic_batching"]["max_queue_delay_microseconds"], 250);
    assert_eq!(config["response_cache"], json!({"enable": true}));
    assert_eq!(config["parameters"]["batching"], json!({"string_value": "model.toml says so"}));
    assert!(caller.get("/v2/models/paint/config").await.error(404).starts_with("Request for unknown model"));
    caller.get("/v2/models/add/versions/9/config").await.error(404);
}

#[tokio::test]
async fn the_log_is_shown_and_changed_in_triton_s_settings() {
    let gate = open();
    let mut caller = gate.caller().await;
    for reply in [caller.get("/v2/logging").await, caller.post("/v2/logging", "").await] {
        assert!(reply.error(501).contains("log.level"));
    }
    let log = Arc::new(Log("info,lineside_mesh=warn".to_owned().into()));
    *gate.line.log.lock().unwrap() = Some(Arc::clone(&log));
    let settings = |info, verbose| {
        json!({"log_file": "", "log_info": info, "log_warning": true, "log_error": true,
            "log_verbose_level": verbose, "log_format": "default"})
    };
    assert_eq!(caller.get("/v2/logging").await.json(), settings(true, 0));
    assert_eq!(caller.post("/v2/logging", "").await.json(), settings(true, 0));
    let changed = caller.post("/v2/logging/", r#"{"log_verbose_level":1}"#).await;
    assert_eq!((changed.status, changed.json()), (200, settings(true, 1)));
    assert_eq!(*log.0.lock().unwrap(), "debug,lineside_mesh=warn");
    assert_eq!(caller.post("/v2/logging", r#"{"log_info":false}"#).await.json(), settings(false, 0));
    for (body, expected) in [
        (r#"{"log_level":"debug"}"#, "unknown field"),
        (r#"{"log_file":"/tmp/log"}"#, "log_file cannot be set"),
        (r#"{"log_format":"json"}"#, "log.format"),
        (r#"{"log_info":true,"log_warning":false}"#, "contradict"),
        ("[]", "expected an object"),
        ("{", "EOF"),
    ] {
        let words = caller.post("/v2/logging", body).await.error(400);
        assert!(words.contains(expected), "{body}: {words}");
    }
    *log.0.lock().unwrap() = "info,broken=1".to_owned();
    assert!(caller.post("/v2/logging", r#"{"log_info":true}"#).await.error(400).contains("no directive"));
}
