//! `rpc.discover`: the document says what there is, and what there is is as the document says.

use serde_json::{Value, json};

use crate::{
    gate::Gate,
    socket::{Socket, Words},
};

/// A call of each method that brings a result.
pub(crate) fn calls() -> Vec<(&'static str, Value)> {
    let number = |name: &str| json!({"name": name, "shape": [1], "datatype": "FP32", "data": [2]});
    vec![
        ("infer", json!({"model": "add", "inputs": [number("a"), number("b")], "id": "part"})),
        ("models.list", json!({})),
        ("models.get", json!({"model": "add"})),
        ("models.load", json!({"model": "add"})),
        ("models.unload", json!({"model": "add", "version": "1"})),
        ("models.statistics", json!({})),
        ("cluster.members", json!({})),
        ("cluster.status", json!({})),
        ("cluster.watch", json!({})),
        ("health", json!({})),
        ("rpc.discover", json!({})),
    ]
}

/// A schema of the document, as far as the document's own schemas go: type, required, properties, items, enum, limits.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(target) = schema["$ref"].as_str() {
        let target = document.pointer(target.strip_prefix('#').unwrap()).unwrap();
        return check(document, target, value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if let Some(expected) = schema["type"].as_str() {
        assert!(expected == kind || (expected, kind) == ("number", "integer"), "{at} is {value}");
    }
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at} is {value}");
    }
    if let Some(minimum) = schema["minimum"].as_i64() {
        assert!(value.as_i64().is_none_or(|number| minimum <= number), "{at} is {value}");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{at} lacks {name}: {value}");
    }
    if let (Some(properties), Some(members)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, member) in members {
            let schema =
                properties.get(name).unwrap_or_else(|| panic!("{at} has {name}, of which nothing is said"));
            check(document, schema, member, &format!("{at}.{name}"));
        }
    }
    for (number, entry) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], entry, &format!("{at}[{number}]"));
    }
}

#[tokio::test]
async fn every_method_of_the_document_is_served_and_takes_and_gives_what_it_says() {
    let gate = Gate::with(lineside_gateway::GatewayConfig {
        model_control: lineside_gateway::ModelControl::Open,
        ..crate::gate::config()
    });
    let mut socket = Socket::open(&gate).await;
    let document = socket.call("rpc.discover", &json!({})).await["result"].clone();
    let methods = document["methods"].as_array().unwrap();
    let names: Vec<_> = methods.iter().map(|method| method["name"].as_str().unwrap()).collect();
    assert_eq!(names, calls().iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for ((name, params), method) in calls().into_iter().zip(methods) {
        for param in method["params"].as_array().unwrap() {
            match params.get(param["name"].as_str().unwrap()) {
                Some(value) => check(&document, &param["schema"], value, name),
                None => assert_ne!(param["required"], true, "{name} needs {}", param["name"]),
            }
        }
        let answer = socket.call(name, &params).await;
        assert!(answer.get("result").is_some(), "{name}: {answer}");
        check(&document, &method["result"]["schema"], &answer["result"], name);
        if name == "cluster.watch" {
            let Words::Text(news) = socket.hear().await else { panic!("no news") };
            assert_eq!(news["method"], "$/subscription");
        }
    }
}

#[tokio::test]
async fn the_document_is_the_same_over_http_and_its_errors_are_those_that_come() {
    let gate = Gate::open();
    let mut caller = gate.caller().await;
    let mut ask = async |method: &str, params: Value| {
        let body = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).to_string();
        caller.post("/rpc", body).await.json()
    };
    let document = ask("rpc.discover", json!({})).await["result"].clone();
    assert!(document["openrpc"].as_str().unwrap().starts_with("1.3."), "{}", document["openrpc"]);
    for method in document["methods"].as_array().unwrap() {
        // Without params each is either answered or wrong in its params; those of another wire say so.
        let answer = ask(method["name"].as_str().unwrap(), json!({})).await;
        let elsewhere = method["servers"].is_array();
        assert_eq!(answer["error"]["code"] == -32601, elsewhere, "{answer}");
    }
    let error = ask("models.get", json!({"model": "paint"})).await["error"].clone();
    let told = &document["components"]["errors"]["MODEL_NOT_FOUND"];
    assert_eq!((&error["code"], &error["data"]["name"]), (&told["code"], &told["data"]["name"]));
}
