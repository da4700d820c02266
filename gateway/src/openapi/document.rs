//! The table and the schemas as an OpenAPI 3.1 document.

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    operations::{Content, Operation, TAGS, operations},
    schemas::{named, schemas},
};
use crate::openai;

const ABOUT: &str = "Lineside serves ONNX models on the machines that stand beside the line. Each door answers for the \
    whole cluster. HEAD is taken wherever GET is. The same port serves gRPC: the Open Inference Protocol's service \
    `inference.GRPCInferenceService`, `grpc.health.v1` and reflection.";

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (row, operation) in operations().enumerate() {
        for (index, path) in operation.paths.iter().enumerate() {
            let item = paths.entry(*path).or_insert_with(|| json!({}));
            item[operation.verb.as_str()] = one(operation, path, (row, index));
        }
    }
    let tags = TAGS.map(|(name, description)| json!({"name": name, "description": description}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Lineside",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "parameters": parameters(),
            "headers": headers(),
            "responses": responses(),
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    })
}

/// An operation at one of its paths: which one of which row.
fn one(operation: &Operation, path: &str, (row, index): (usize, usize)) -> Value {
    let id = match index {
        0 => operation.id.to_owned(),
        _ => format!("{}{}", operation.id, index + 1),
    };
    let of_path = in_braces(path).map(|name| format!("#/components/parameters/{}", component_of(name)));
    let further = operation.all_parameters().map(|name| format!("#/components/parameters/{name}"));
    let parameters: Vec<Value> = of_path.chain(further).map(|reference| json!({"$ref": reference})).collect();
    let mut value = json!({
        "operationId": id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": words(operation, path, index),
        "parameters": parameters,
        // Under which name the metrics count it.
        "x-route": operation.label,
        // The names of an object have no order; the page wants that of the table.
        "x-order": [row, index],
        "responses": answers(operation, path),
        // The empty one: a key is needed only where the setting says so.
        "security": if operation.is_public { json!([]) } else { json!([{}, {"ApiKey": []}, {"Bearer": []}]) },
    });
    if !operation.takes.is_empty() {
        value["requestBody"] = json!({
            "required": !operation.body_optional,
            "content": content(operation.takes),
        });
    }
    value
}

/// What is to be known of it, in sentences.
fn words(operation: &Operation, path: &str, index: usize) -> String {
    let mut words = vec![operation.text.to_owned()];
    if 0 < index && in_braces(path).count() == in_braces(operation.paths[0]).count() {
        words.push(format!("Another path of {}.", operation.paths[0]));
    }
    if let Some(permission) = operation.permission {
        let methods = permission.methods().join("` or `");
        words.push(format!("A key that is scoped needs the method `{methods}`."));
    }
    if operation.is_free {
        words.push("Open to everybody; no limit holds it back.".to_owned());
    }
    words.retain(|sentence| !sentence.is_empty());
    words.join(" ")
}

fn answers(operation: &Operation, path: &str) -> Value {
    let mut answers = Map::new();
    if !operation.gives.is_empty() {
        let mut names = vec!["X-Request-Id"];
        if operation.works {
            names.extend(["X-Lineside-Node", "X-Lineside-Attempts", "X-Lineside-Flight"]);
        }
        if !operation.is_free {
            names.extend(["RateLimit", "RateLimit-Policy"]);
        }
        let good = json!({
            "description": "It is done.",
            "headers": headers_named(&names),
            "content": content(operation.gives),
        });
        answers.insert("200".to_owned(), good);
    }
    for (status, description) in operation.also {
        answers.insert(status.to_string(), json!({"description": description}));
    }
    for status in operation.all_refusals() {
        let reference = format!("#/components/responses/{}", response_name(status, openai::is_ours(path)));
        answers.insert(status.to_string(), json!({"$ref": reference}));
    }
    Value::Object(answers)
}

fn content(content: &[Content]) -> Value {
    let content = content.iter().map(|(media, name)| ((*media).to_owned(), json!({"schema": named(name)})));
    Value::Object(content.collect())
}

/// The names in braces of a template.
pub(super) fn in_braces(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn component_of(parameter: &str) -> &'static str {
    match parameter {
        "model" => "Model",
        "version" => "Version",
        "repository" => "Repository",
        _ => unreachable!("the table's paths have no other parameter, as a test makes sure"),
    }
}

fn parameters() -> Value {
    let parameter = |place: &str, name: &str, schema: Value, about: &str| json!({"name": name, "in": place, "required": place == "path", "schema": schema, "description": about});
    let text = || json!({"type": "string"});
    json!({
        "Model": parameter("path", "model", text(), "The model's name."),
        "Version": parameter("path", "version", text(), "A version of it; without, the latest that serves is meant."),
        "Repository": parameter("path", "repository", text(), "Any name: there is one repository."),
        "TopK": parameter("query", "top_k", json!({"type": "integer", "minimum": 1, "maximum": 1000}), "How many labels, or boxes, at most."),
        "Threshold": parameter("query", "threshold", json!({"type": "number"}), "Leave out what scores less."),
        "Verdict": parameter("query", "verdict", json!({"type": "string", "enum": ["", "1", "0"]}),
            "Give the verdict alone, as text."),
        "Verbose": parameter("query", "verbose", json!({"type": "string", "enum": ["", "1", "0"]}),
            "Tell check by check, as text: `[+]name ok`, `[-]name failed: reason`."),
        "Exclude": parameter("query", "exclude", text(), "Leave the check of this name out; may be given several times."),
        "Explain": parameter("query", "explain", json!({"type": "string", "enum": ["", "1", "0"]}),
            "Tell in X-Lineside-Flight which node worked, how often it was tried, how long it took. X-Explain: 1 does \
             the same."),
        "RequestId": parameter("header", "X-Request-Id", json!({"type": "string", "maxLength": 128}),
            "The client's own id for the request; without, one is made."),
        "RequestTimeoutMs": parameter("header", "X-Request-Timeout-Ms", json!({"type": "integer", "minimum": 1}),
            "How long the answer is waited for, in milliseconds."),
        "Traceparent": parameter("header", "traceparent", text(), "W3C Trace Context."),
        "Affinity": parameter("header", "X-Lineside-Affinity", json!({"type": "string", "maxLength": 128}),
            "Requests with the same key go to the same node while it has room."),
        "InferenceHeaderContentLength": parameter("header", "Inference-Header-Content-Length",
            json!({"type": "integer", "minimum": 0}), "How many bytes of the body are JSON; without, all are."),
    })
}

fn headers() -> Value {
    let header = |schema: &str, about: &str| json!({"schema": {"type": schema}, "description": about});
    json!({
        "X-Request-Id": header("string", "The request's id, in the log too."),
        "X-Lineside-Node": header("string", "The node that worked."),
        "X-Lineside-Attempts": header("integer", "How many nodes were tried."),
        "X-Lineside-Flight": header("string", "The flight record as JSON, where it was asked for."),
        "RateLimit": header("string", "What is left of the limits, where there are any."),
        "RateLimit-Policy": header("string", "The limits themselves."),
        "Retry-After": header("integer", "Seconds after which another try can help."),
    })
}

fn headers_named(names: &[&str]) -> Value {
    let reference =
        |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
    Value::Object(names.iter().map(reference).collect())
}

/// The statuses of errors, and what each means.
const REFUSALS: [(u16, &str); 13] = [
    (400, "The request is wrong; the words say where."),
    (401, "A key is needed, or the one that was sent is not valid."),
    (403, "The key does not allow this."),
    (404, "The cluster does not have this model or version."),
    (408, "The body stopped coming."),
    (413, "The body is longer than this door takes."),
    (415, "The body has a form that is not taken here."),
    (429, "Over this caller's own limit."),
    (500, "A defect, or the model failed on this input."),
    (501, "This door does not offer it."),
    (502, "The node was lost while it worked: the model may have run."),
    (503, "No room, no node, or the model does not serve now."),
    (504, "The time ran out."),
];

fn response_name(status: u16, as_openai: bool) -> String {
    let status = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let words: String = status.unwrap_or_default().split([' ', '-']).collect();
    if as_openai { format!("OpenAi{words}") } else { words }
}

fn responses() -> Value {
    let mut all = Map::new();
    for (status, description) in REFUSALS {
        let mut names = vec!["X-Request-Id"];
        if matches!(status, 429 | 503) {
            names.push("Retry-After");
        }
        for (as_openai, schema) in [(false, "Error"), (true, "OpenAiError")] {
            let response = json!({
                "description": description,
                "headers": headers_named(&names),
                "content": content(&[("application/json", schema)]),
            });
            all.insert(response_name(status, as_openai), response);
        }
    }
    Value::Object(all)
}
