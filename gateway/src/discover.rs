//! What the door says of its methods: an OpenRPC document, made out of the table of methods and the table of faults.

mod schemas;

use std::sync::LazyLock;

use lineside_wire::FaultCode;
use serde_json::{Map, Value, json};

use crate::rpc::table::{Param, Row, TABLE, Wire};

/// The version of OpenRPC that the document is written in.
const OPENRPC: &str = "1.3.2";

/// The document, as it is sent.
pub(crate) fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| made().to_string());
    &DOCUMENT
}

fn made() -> Value {
    let methods: Vec<_> = TABLE.iter().map(method).collect();
    let errors: Map<_, _> =
        FaultCode::ALL.iter().map(|code| (code.name().to_owned(), error(*code))).collect();
    json!({
        "openrpc": OPENRPC,
        "info": {
            "title": "Lineside",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The methods of a Lineside door, by JSON-RPC 2.0 over HTTP (POST /rpc) and WebSocket (/rpc/ws). \
                Over WebSocket there are also $/cancelRequest {\"id\"}, which takes a running call back, and \
                $/unsubscribe {\"subscription\"}.",
            "license": {"name": "Apache-2.0"},
        },
        "servers": [server(Wire::Http), server(Wire::Socket)],
        "methods": methods,
        "components": {"schemas": schemas::all(), "errors": errors},
    })
}

fn server(wire: Wire) -> Value {
    match wire {
        Wire::Http => json!({"name": "http", "url": "/rpc"}),
        Wire::Socket => json!({"name": "websocket", "url": "/rpc/ws"}),
        Wire::Quic => json!({"name": "quic", "url": "lineside/1"}),
    }
}

fn method(row: &Row) -> Value {
    let mut method = json!({
        "name": row.name,
        "summary": row.summary,
        "paramStructure": "by-name",
        "params": row.takes.iter().map(param).collect::<Vec<_>>(),
        "result": {"name": "result", "schema": reference(row.gives)},
        "errors": FaultCode::ALL
            .iter()
            .map(|code| json!({"$ref": format!("#/components/errors/{}", code.name())}))
            .collect::<Vec<_>>(),
    });
    if !row.wires.contains(&Wire::Http) {
        let servers = row.wires.iter().filter(|wire| **wire != Wire::Quic);
        method["servers"] = servers.map(|wire| server(*wire)).collect();
    }
    method
}

fn param(param: &Param) -> Value {
    json!({
        "name": param.name,
        "required": param.required,
        "summary": param.summary,
        "schema": reference(param.schema),
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// What the error object of a fault says when nothing else is known; `data` may also say `retry_after_ms`.
fn error(code: FaultCode) -> Value {
    json!({
        "code": code.number(),
        "message": code.name(),
        "data": {"name": code.name(), "executed": code.executed(), "retryable": code.retryable()},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every schema that a value refers to.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| match value.as_str() {
                Some(target) if name == "$ref" => drop(found.insert(target.to_owned())),
                _ => references(value, found),
            }),
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_has_every_method_and_fault_and_refers_to_nothing_that_is_not_there() {
        let document = made();
        let names: Vec<_> = document["methods"].as_array().expect("methods").iter().collect();
        let names: Vec<_> = names.iter().map(|method| method["name"].as_str().expect("a name")).collect();
        assert_eq!(names, TABLE.iter().map(|row| row.name).collect::<Vec<_>>());

        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let mut there = BTreeSet::new();
        for part in ["schemas", "errors"] {
            let parts = document["components"][part].as_object().expect("an object");
            there.extend(parts.keys().map(|name| format!("#/components/{part}/{name}")));
        }
        assert_eq!(found, there, "each is there, and each is used");
        for (name, error) in document["components"]["errors"].as_object().expect("errors") {
            let code = FaultCode::ALL.iter().find(|code| code.name() == name).expect("a fault");
            assert_eq!(error["code"], code.number());
        }
    }

    #[test]
    fn the_document_is_what_is_sent() {
        assert_eq!(serde_json::from_str::<Value>(document()).expect("JSON"), made());
    }
}
