//! Text in, text out.

use serde_json::{Value, json};

use super::{named, text};

pub(super) fn schemas() -> Value {
    json!({
        "GenerateRequest": {
            "type": "object",
            "required": ["text_input"],
            "properties": {
                "id": text("Comes back in the answer."),
                "text_input": text("What the model is given."),
                "parameters": named("Parameters"),
            },
            "additionalProperties": true,
        },
        "GenerateResponse": {
            "type": "object",
            "required": ["model_name", "model_version", "text_output"],
            "properties": {
                "id": text("As in the request."),
                "model_name": text("Which model ran."),
                "model_version": text("Which version of it."),
                "text_output": text("What the model gave."),
            },
            "additionalProperties": true,
        },
        "GenerateEvents": {
            "type": "string",
            "description": "Server-sent events; the data of each is a GenerateResponse or an Error.",
        },
    })
}
