//! What goes in and comes out, as JSON Schema 2020-12. One file for each topic.

mod changes;
mod errors;
mod generate;
mod infer;
mod jsonrpc;
mod openai;
mod predict;
mod repository;
mod server;
mod statistics;

use serde_json::{Map, Value, json};

/// Every schema by name.
pub(super) fn schemas() -> Map<String, Value> {
    let topics = [
        changes::schemas(),
        errors::schemas(),
        generate::schemas(),
        infer::schemas(),
        jsonrpc::schemas(),
        openai::schemas(),
        predict::schemas(),
        repository::schemas(),
        server::schemas(),
        statistics::schemas(),
    ];
    let mut all = Map::new();
    for topic in topics {
        let Value::Object(topic) = topic else { unreachable!("each topic is written as an object") };
        all.extend(topic);
    }
    all
}

/// Another schema, by its name.
pub(super) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// A list of another schema.
fn list_of(name: &str) -> Value {
    json!({"type": "array", "items": named(name)})
}

/// A text, with words about it.
fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

/// A whole number that is not negative, with words about it.
fn count(about: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": about})
}
