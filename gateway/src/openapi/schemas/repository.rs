//! What models there are.

use serde_json::{Value, json};

use super::{list_of, named, text};

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
                "max_batch_size": {"type": "integer"},
                "input": list_of("ConfigTensor"),
                "output": list_of("ConfigTensor"),
            },
            "additionalProperties": true,
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
