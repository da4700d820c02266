//! Inputs and outputs as fields.

use serde_json::{Value, json};

use super::{named, text};

pub(super) fn schemas() -> Value {
    json!({
        "GenerateRequest": {
            "type": "object",
            "description": "A field that is named like an input of the model is that input; every other one is a parameter.",
            "properties": {
                "id": text("Comes back in the answer."),
                "text_input": text("An input, if the model has one of this name."),
                "parameters": named("Parameters"),
            },
            "additionalProperties": true,
            "examples": [{"a": [1.5, 2], "b": [10, 20]}],
        },
        "GenerateResponse": {
            "type": "object",
            "description": "Each output is a field of its name.",
            "required": ["model_name", "model_version"],
            "properties": {
                "id": text("As in the request."),
                "model_name": text("Which model ran."),
                "model_version": text("Which version of it."),
                "text_output": text("An output, if the model has one of this name."),
            },
            "additionalProperties": true,
        },
        "GenerateEvents": {
            "type": "string",
            "description": "Server-sent events; the data of each is a GenerateResponse or an Error.",
        },
    })
}
