//! The door itself.

use serde_json::{Value, json};

use super::text;

pub(super) fn schemas() -> Value {
    json!({
        "Live": {
            "type": "object",
            "required": ["live"],
            "properties": {"live": {"const": true}},
        },
        "Ready": {
            "type": "object",
            "required": ["ready"],
            "properties": {"ready": {"type": "boolean"}},
        },
        "Health": {
            "type": "object",
            "required": ["live", "ready"],
            "properties": {
                "live": {"const": true},
                "ready": {"type": "boolean"},
                "reason": text("Why it is not ready."),
                "checks": {
                    "type": "array",
                    "description": "What readiness is made of.",
                    "items": {
                        "type": "object",
                        "required": ["name", "ok"],
                        "properties": {
                            "name": text("The check, for `?exclude=` of `/readyz`."),
                            "ok": {"type": "boolean"},
                            "reason": text("Why it failed."),
                        },
                    },
                },
            },
        },
        "ServerMetadata": {
            "type": "object",
            "required": ["name", "version", "extensions"],
            "properties": {
                "name": {"const": "lineside"},
                "version": text("Of the software."),
                "extensions": {"type": "array", "items": {"type": "string"}},
            },
        },
        "LogSettings": {
            "type": "object",
            "description": "Triton's settings. One level says here from which kind of message on is logged, so that \
                            each kind brings those before it: error, warning, info, verbose.",
            "properties": {
                "log_file": {"const": "", "description": "Cannot be set."},
                "log_error": {"type": "boolean"},
                "log_warning": {"type": "boolean"},
                "log_info": {"type": "boolean"},
                "log_verbose_level": {"type": "integer", "minimum": 0, "description": "1 is debug, 2 is trace."},
                "log_format": {"const": "default", "description": "Cannot be set."},
            },
            "additionalProperties": false,
            "examples": [{"log_verbose_level": 1}],
        },
        "Document": {"type": "object", "description": "An OpenAPI 3.1 document."},
    })
}
