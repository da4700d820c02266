//! Inference.

use lineside_wire::{Datatype, RANK_MAX, TENSORS_MAX};
use serde_json::{Value, json};

use super::{count, list_of, named, text};

pub(super) fn schemas() -> Value {
    json!({
        "Datatype": {"enum": Datatype::ALL.map(Datatype::as_str)},
        "Shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0},
            "maxItems": RANK_MAX,
        },
        "Parameters": {
            "type": "object",
            "description": "Reserved: priority, timeout (microseconds), sequence_id, sequence_start, sequence_end, \
                            sequence_state, binary_data_output, affinity (as X-Lineside-Affinity). Others reach the \
                            node.",
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
        "Data": {
            "type": "array",
            "description": "The elements row by row, flat or nested as the shape is. Whole numbers are exact.",
            "items": {},
        },
        "Binary": {"type": "string", "contentMediaType": "application/octet-stream"},
        "Text": {"type": "string"},
        "InferRequest": infer_request(),
        "RequestInput": request_input(),
        "RequestOutput": request_output(),
        "InferResponse": infer_response(),
        "ResponseOutput": {
            "type": "object",
            "required": ["name", "datatype", "shape"],
            "properties": {
                "name": text("The model's name for it."),
                "datatype": named("Datatype"),
                "shape": named("Shape"),
                "data": named("Data"),
                "parameters": {
                    "type": "object",
                    "properties": {"binary_data_size": count("Bytes of it behind the JSON.")},
                },
            },
        },
    })
}

fn infer_request() -> Value {
    json!({
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": text("Comes back in the answer."),
            "parameters": named("Parameters"),
            "inputs": {"type": "array", "items": named("RequestInput"), "maxItems": TENSORS_MAX},
            "outputs": {
                "type": "array",
                "items": named("RequestOutput"),
                "maxItems": TENSORS_MAX,
                "description": "Those that are wanted; all where it is left out.",
            },
        },
        "examples": [{
            "inputs": [
                {"name": "a", "shape": [2], "datatype": "FP32", "data": [1.5, 2]},
                {"name": "b", "shape": [2], "datatype": "FP32", "data": [10, 20]},
            ],
        }],
    })
}

fn request_input() -> Value {
    json!({
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": text("The model's name for it."),
            "shape": named("Shape"),
            "datatype": named("Datatype"),
            "data": named("Data"),
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data_size": count("Bytes of this tensor behind the JSON; there is no `data` then."),
                },
            },
        },
    })
}

fn request_output() -> Value {
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": text("The model's name for it."),
            "parameters": {
                "type": "object",
                "properties": {
                    "binary_data": {"type": "boolean", "description": "Whether it comes as bytes behind the JSON."},
                    "classification": count("Give this many of its largest elements, as texts value:index[:label]."),
                },
            },
        },
    })
}

fn infer_response() -> Value {
    json!({
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": text("Which model ran."),
            "model_version": text("Which version of it."),
            "id": text("As in the request."),
            "parameters": named("Parameters"),
            "outputs": list_of("ResponseOutput"),
        },
    })
}
