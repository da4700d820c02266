//! OpenAI's models and embeddings.

use serde_json::{Value, json};

use super::{count, list_of, text};
use crate::openai::ITEMS_MAX;

pub(super) fn schemas() -> Value {
    json!({
        "OpenAiModel": {
            "type": "object",
            "required": ["id", "object", "created", "owned_by"],
            "properties": {
                "id": text("The model's name."),
                "object": {"const": "model"},
                "created": count("Seconds since 1970; when this door began to tell of models."),
                "owned_by": {"const": "lineside"},
            },
        },
        "OpenAiModels": {
            "type": "object",
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": list_of("OpenAiModel")},
        },
        "EmbeddingsRequest": embeddings_request(),
        "EmbeddingsResponse": embeddings_response(),
    })
}

fn embeddings_request() -> Value {
    let tokens = json!({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1});
    json!({
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": text("Which model."),
            "input": {
                "description": "A text, texts, tokens of one text, or tokens of texts. None may be empty.",
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {
                        "type": "array",
                        "items": {"type": "string", "minLength": 1},
                        "minItems": 1,
                        "maxItems": ITEMS_MAX,
                    },
                    tokens,
                    {"type": "array", "items": tokens, "minItems": 1, "maxItems": ITEMS_MAX},
                ],
            },
            "encoding_format": {
                "enum": ["float", "base64"],
                "default": "float",
                "description": "base64 is that of the vector's bytes: 32-bit floats, little-endian.",
            },
            "dimensions": {"type": "integer", "minimum": 1, "description": "How long vectors shall be."},
            "user": text("Passed over."),
        },
        "examples": [{"model": "embed", "input": ["the left bearing is warm", "scratch on the lid"]}],
    })
}

fn embeddings_response() -> Value {
    json!({
        "type": "object",
        "required": ["object", "data", "model", "usage"],
        "properties": {
            "object": {"const": "list"},
            "data": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["object", "index", "embedding"],
                    "properties": {
                        "object": {"const": "embedding"},
                        "index": count("Which item of the input."),
                        "embedding": {
                            "oneOf": [
                                {"type": "array", "items": {"type": "number"}},
                                {"type": "string", "contentEncoding": "base64"},
                            ],
                        },
                    },
                },
            },
            "model": text("As in the request."),
            "usage": {
                "type": "object",
                "required": ["prompt_tokens", "total_tokens"],
                "properties": {
                    "prompt_tokens": count("Tokens of all items."),
                    "total_tokens": count("The same."),
                },
            },
        },
    })
}
