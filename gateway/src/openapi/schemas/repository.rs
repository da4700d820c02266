//! What models there are.

use serde_json::{Value, json};

use super::{count, list_of, named, text};

pub(super) fn schemas() -> Value {
    json!({
        "TensorSpec": {
            "type": "object",
            "required": ["name", "datatype", "shape"],
            "properties": {
                "name": text("The model's name for it."),
                "datatype": named("Datatype"),
                "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
            },
        },
        "ModelMetadata": {
            "type": "object",
            "required": ["name", "versions", "platform", "inputs", "outputs"],
            "properties": {
                "name": text("The model's name."),
                "versions": {"type": "array", "items": {"type": "string"}},
                "platform": {"const": "onnx_onnxv1"},
                "inputs": list_of("TensorSpec"),
                "outputs": list_of("TensorSpec"),
            },
        },
        "ModelReady": {
            "type": "object",
            "required": ["name", "ready"],
            "properties": {"name": text("The model's name."), "ready": {"const": true}},
        },
        "ModelConfig": {
            "type": "object",
            "description": "Triton's model configuration, as far as it says something here.",
            "required": ["name", "platform", "backend", "max_batch_size", "input", "output"],
            "properties": {
                "name": text("The model's name."),
                "platform": {"type": "string"},
                "backend": {"type": "string"},
                "max_batch_size": {
                    "type": "integer",
                    "description": "Most rows of one run; dims are then those of one row. 0: dims are whole shapes.",
                },
                "input": list_of("ConfigTensor"),
                "output": list_of("ConfigTensor"),
                "dynamic_batching": named("DynamicBatching"),
                "sequence_batching": {"type": "object", "description": "There where a node keeps state for sequences."},
                "response_cache": {"type": "object", "properties": {"enable": {"type": "boolean"}}},
                "parameters": {
                    "type": "object",
                    "description": "sha256, execution_provider, batching (why, or why not) and others, each with a \
                                    string_value.",
                    "additionalProperties": {"type": "object", "properties": {"string_value": {"type": "string"}}},
                },
            },
            "additionalProperties": true,
        },
        "DynamicBatching": {
            "type": "object",
            "description": "There where requests are joined for one run, or wait by priority.",
            "properties": {
                "preferred_batch_size": {"type": "array", "items": {"type": "integer"}},
                "max_queue_delay_microseconds": count("How long a request may wait for others at an idle node."),
                "preserve_ordering": {"const": false},
                "priority_levels": count("Priorities, 1 the highest; 0: all are equal."),
            },
        },
        "ConfigTensor": {
            "type": "object",
            "required": ["name", "data_type", "dims"],
            "properties": {
                "name": text("The model's name for it."),
                "data_type": text("For example TYPE_FP32."),
                "dims": {"type": "array", "items": {"type": "integer", "minimum": -1}},
            },
            "additionalProperties": true,
        },
    })
}
