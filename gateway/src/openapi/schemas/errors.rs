//! What comes in the place of an answer.

use serde_json::{Value, json};

use super::text;

pub(super) fn schemas() -> Value {
    json!({
        "Error": {
            "type": "object",
            "description": "Why there is no answer. `error` is the Open Inference Protocol's, the rest is for programs.",
            "required": ["error", "code", "request_id"],
            "properties": {
                "error": text("What happened, why, and what to do, for a person."),
                "code": text("The stable name of the cause, for example BUSY or MODEL_NOT_FOUND."),
                "request_id": text("The id under which the log knows the request; X-Request-Id of the answer."),
                "executed": {
                    "enum": ["no", "maybe", "yes"],
                    "description": "Whether the model ran. After `no` the request can be sent again without harm.",
                },
                "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
                "retry_after_ms": {
                    "type": "integer", "minimum": 0,
                    "description": "When to come again, where that is known: Retry-After to the millisecond.",
                },
            },
            "examples": [{
                "error": "all 2 nodes that serve add are busy",
                "code": "BUSY",
                "request_id": "0f8fad5bd9cb469fa16570867728950e",
                "executed": "no",
                "retryable": true,
            }],
        },
        "OpenAiError": {
            "type": "object",
            "description": "Why there is no answer, in OpenAI's form: at every path that begins with /v1/.",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": text("What happened, why, and what to do, for a person."),
                        "type": {
                            "enum": [
                                "invalid_request_error", "authentication_error", "permission_error",
                                "rate_limit_error", "server_error",
                            ],
                        },
                        "param": {"type": ["string", "null"]},
                        "code": {"type": ["string", "null"], "description": "For example model_not_found."},
                    },
                },
            },
        },
    })
}
