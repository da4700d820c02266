//! The repository: what is in it, and changes of what is served.

use serde_json::{Value, json};

use super::{list_of, text};

pub(super) fn schemas() -> Value {
    json!({
        "IndexRequest": {
            "type": "object",
            "properties": {"ready": {"type": "boolean", "description": "Only those that serve."}},
        },
        "Index": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": text("The model's name."),
                    "version": text("Its version."),
                    "state": {"enum": ["READY", "UNAVAILABLE", "LOADING", "UNLOADING", "UNKNOWN"]},
                    "reason": text("Why it does not serve."),
                },
            },
        },
        "ChangeRequest": {
            "type": "object",
            "properties": {
                "parameters": {
                    "type": "object",
                    "properties": {"unload_dependents": {"type": "boolean", "description": "Only to unload."}},
                },
            },
        },
        "Change": {
            "type": "object",
            "description": "What became of it on each node. Where one failed the status is 400, and the error has this \
                            member too.",
            "required": ["nodes"],
            "properties": {"nodes": list_of("NodeChange")},
        },
        "NodeChange": {
            "type": "object",
            "required": ["node", "name", "done", "absent"],
            "properties": {
                "node": text("The node's id."),
                "name": text("Its name for people."),
                "done": {"type": "boolean"},
                "absent": {"type": "boolean", "description": "It does not have the model at all."},
                "reason": text("Why it did not."),
            },
        },
    })
}
