//! JSON Schemas of params and results. A test at the real door compares them with what comes.

use serde_json::{Value, json};

/// All of them, by the names that the table of methods uses.
pub(super) fn all() -> Value {
    let mut all = values();
    for more in [tensors(), models(), statistics(), cluster()] {
        let (Value::Object(all), Value::Object(more)) = (&mut all, more) else {
            unreachable!("both are objects");
        };
        all.extend(more);
    }
    all
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(name: &str) -> Value {
    json!({"type": "array", "items": schema(name)})
}

/// An object; of its members, those that are always there.
fn object(required: &[&str], members: &Value) -> Value {
    json!({"type": "object", "required": required, "properties": members})
}

fn values() -> Value {
    json!({
        "Text": {"type": "string"},
        "Flag": {"type": "boolean"},
        "Count": {"type": "integer", "minimum": 0},
        "Milliseconds": {"type": "integer", "minimum": 1},
        "Datatype": {"type": "string", "description": "A datatype of the Open Inference Protocol, for example FP32."},
        "ModelName": {"type": "string", "minLength": 1, "maxLength": lineside_wire::ModelName::BYTES_MAX},
        "ModelVersion": {"type": "string", "pattern": "^[0-9]+$"},
        "NodeId": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "NodeIds": list("NodeId"),
        "Address": {"type": "string", "description": "An address and a port, for example 192.168.1.20:7443."},
        "Parameters": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
        "OpenRpc": {"type": "object", "required": ["openrpc", "info", "methods"]},
    })
}

fn tensors() -> Value {
    let shape = json!({"type": "array", "items": {"type": "integer", "minimum": 0}});
    json!({
        "TensorData": {"type": "array", "description": "Flat, or nested as the shape says."},
        "InputTensor": object(&["name", "shape", "datatype", "data"], &json!({
            "name": schema("Text"), "shape": shape, "datatype": schema("Datatype"),
            "parameters": schema("Parameters"), "data": {"description": "An array; or text, where the tensor's encoding says so."},
        })),
        "InputTensors": list("InputTensor"),
        "WantedOutput": object(&["name"], &json!({"name": schema("Text"), "parameters": schema("Parameters")})),
        "WantedOutputs": list("WantedOutput"),
        "OutputTensor": object(&["name", "datatype", "shape"], &json!({
            "name": schema("Text"), "datatype": schema("Datatype"), "shape": shape, "data": schema("TensorData"),
        })),
        "InferResult": object(&["model_name", "model_version", "outputs"], &json!({
            "model_name": schema("ModelName"), "model_version": schema("ModelVersion"), "id": schema("Text"),
            "parameters": schema("Parameters"), "outputs": list("OutputTensor"),
        })),
    })
}

fn models() -> Value {
    json!({
        "ModelState": {"type": "string", "enum": ["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]},
        "TensorSpec": object(&["name", "datatype", "shape"], &json!({
            "name": schema("Text"), "datatype": schema("Datatype"),
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        })),
        "ModelInfo": object(&["name", "version", "state", "inputs", "outputs", "slots"], &json!({
            "name": schema("ModelName"), "version": schema("ModelVersion"), "state": schema("ModelState"),
            "reason": schema("Text"), "inputs": list("TensorSpec"), "outputs": list("TensorSpec"),
            "slots": schema("Count"), "tasks": list("Text"), "engine": schema("EngineInfo"),
        })),
        "BatchingInfo": object(&["max_size", "max_delay_us"], &json!({
            "max_size": schema("Count"), "max_delay_us": schema("Count"),
            "preferred_sizes": {"type": "array", "items": schema("Count")},
        })),
        "VersionPolicy": {"oneOf": [
            {"type": "string", "enum": ["all"]},
            object(&["latest"], &json!({"latest": schema("Count")})),
            object(&["specific"], &json!({"specific": list("ModelVersion")})),
        ]},
        "EngineInfo": object(
            &[
                "sha256", "file_bytes", "memory_bytes", "provider", "threads", "rows_max", "priority_levels",
                "default_priority", "cache_bytes_max", "stateful", "sequence_idle_us", "on_demand",
            ],
            &json!({
                "sha256": schema("Text"), "file_bytes": schema("Count"), "memory_bytes": schema("Count"),
                "provider": schema("Text"), "threads": schema("Count"), "batching": schema("BatchingInfo"),
                "finding": schema("Text"), "versions": schema("VersionPolicy"), "rows_max": schema("Count"),
                "priority_levels": schema("Count"), "default_priority": schema("Count"),
                "cache_bytes_max": schema("Count"), "stateful": schema("Flag"),
                "sequence_idle_us": schema("Count"), "on_demand": schema("Flag"), "warnings": list("Text"),
            }),
        ),
        "ModelsResult": object(&["models"], &json!({"models": list("ModelInfo")})),
        "NodeChange": object(&["node", "name", "done", "absent"], &json!({
            "node": schema("NodeId"), "name": schema("Text"), "done": schema("Flag"), "absent": schema("Flag"),
            "reason": schema("Text"),
        })),
        "ChangeResult": object(&["models", "nodes"], &json!({
            "models": list("ModelInfo"), "nodes": list("NodeChange"),
        })),
    })
}

fn statistics() -> Value {
    let spent = || schema("Spent");
    json!({
        "Spent": object(&["count", "ns"], &json!({"count": schema("Count"), "ns": schema("Count")})),
        "BatchStatistics": object(
            &["batch_size", "compute_input", "compute_infer", "compute_output"],
            &json!({
                "batch_size": schema("Count"), "compute_input": spent(), "compute_infer": spent(),
                "compute_output": spent(),
            }),
        ),
        "ModelStatistics": object(
            &[
                "name", "version", "last_inference_ms", "inference_count", "execution_count", "success", "fail",
                "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss", "cancel",
                "expired", "rejected", "stopped", "memory_bytes",
            ],
            &json!({
                "name": schema("ModelName"), "version": schema("ModelVersion"), "last_inference_ms": schema("Count"),
                "inference_count": schema("Count"), "execution_count": schema("Count"), "success": spent(),
                "fail": spent(), "queue": spent(), "compute_input": spent(), "compute_infer": spent(),
                "compute_output": spent(), "cache_hit": spent(), "cache_miss": spent(),
                "cancel": spent(), "expired": schema("Count"), "rejected": schema("Count"), "stopped": schema("Count"),
                "memory_bytes": schema("Count"), "shed": list("Count"), "batches": list("BatchStatistics"),
            }),
        ),
        "StatisticsResult": object(&["models"], &json!({"models": list("ModelStatistics")})),
    })
}

fn cluster() -> Value {
    json!({
        "MemberRow": object(
            &["node", "name", "address", "state", "seen_ms_ago", "in_flight", "calls", "failures"],
            &json!({
                "node": schema("NodeId"), "name": schema("Text"), "address": schema("Address"),
                "state": {"type": "string", "enum": ["alive", "suspect", "down", "left"]},
                "role": schema("Text"), "seen_ms_ago": schema("Count"), "in_flight": schema("Count"),
                "member": {"type": "object", "description": "What it said of itself last."},
                "p95_us": schema("Count"), "calls": schema("Count"), "failures": schema("Count"),
                "rests": schema("Text"),
                "ejections": {"type": "object", "additionalProperties": schema("Count")},
                "clock_ahead_ms": {"type": "integer"}, "double": schema("Address"),
            }),
        ),
        "MembersResult": object(&["cluster", "answered_by", "members"], &json!({
            "cluster": schema("NodeId"), "answered_by": schema("NodeId"), "members": list("MemberRow"),
        })),
        "ClusterStatus": object(
            &["cluster", "answered_by", "alive", "not_alive", "models_ready", "models", "in_flight", "slots"],
            &json!({
                "cluster": schema("NodeId"), "answered_by": schema("NodeId"), "alive": schema("Count"),
                "not_alive": schema("Count"), "models_ready": schema("Count"), "models": schema("Count"),
                "in_flight": schema("Count"), "slots": schema("Count"),
            }),
        ),
        "Health": object(&["live", "ready"], &json!({
            "live": schema("Flag"), "ready": schema("Flag"), "reason": schema("Text"),
        })),
        "Subscription": object(&["subscription"], &json!({"subscription": schema("Text")})),
    })
}
