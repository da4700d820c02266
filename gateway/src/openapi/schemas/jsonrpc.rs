//! JSON-RPC 2.0.

use serde_json::{Value, json};

use super::{named, text};

pub(super) fn schemas() -> Value {
    let id = json!({"type": ["string", "number", "null"], "description": "Without it nothing is answered."});
    json!({
        "RpcRequest": {
            "oneOf": [named("RpcCall"), {"type": "array", "items": named("RpcCall"), "minItems": 1}],
            "examples": [{"jsonrpc": "2.0", "id": 1, "method": "models.list"}],
        },
        "RpcCall": {
            "type": "object",
            "required": ["jsonrpc", "method"],
            "properties": {
                "jsonrpc": {"const": "2.0"},
                "id": id,
                "method": text("For example infer, models.list, cluster.members; rpc.discover tells all."),
                "params": {"type": "object"},
            },
        },
        "RpcResponse": {
            "oneOf": [named("RpcAnswer"), {"type": "array", "items": named("RpcAnswer")}],
        },
        "RpcAnswer": {
            "type": "object",
            "required": ["jsonrpc", "id"],
            "properties": {
                "jsonrpc": {"const": "2.0"},
                "id": {"type": ["string", "number", "null"]},
                "result": {},
                "error": {
                    "type": "object",
                    "required": ["code", "message"],
                    "properties": {
                        "code": {"type": "integer"},
                        "message": {"type": "string"},
                        "data": {},
                    },
                },
            },
            "oneOf": [{"required": ["result"]}, {"required": ["error"]}],
        },
    })
}
