//! What models have done, in Triton's form.

use serde_json::{Value, json};

use super::{count, list_of, named, text};

pub(super) fn schemas() -> Value {
    let spent = |members: &[&str]| {
        let members = members.iter().map(|name| ((*name).to_owned(), named("Spent")));
        json!({"type": "object", "properties": members.collect::<serde_json::Map<_, _>>()})
    };
    json!({
        "Spent": {
            "type": "object",
            "required": ["count", "ns"],
            "properties": {"count": count("How often."), "ns": count("Nanoseconds together.")},
        },
        "Statistics": {
            "type": "object",
            "required": ["model_stats"],
            "properties": {"model_stats": list_of("ModelStatistics")},
        },
        "ModelStatistics": {
            "type": "object",
            "required": ["name", "version"],
            "properties": {
                "name": text("The model's name."),
                "version": text("Its version."),
                "last_inference": count("When the last one came, in milliseconds since 1970; 0 is never."),
                "inference_count": count("Rows that were answered: a batch of eight counts eight."),
                "execution_count": count("Runs of the model."),
                "inference_stats": spent(&[
                    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit",
                    "cache_miss",
                ]),
                "batch_stats": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["batch_size"],
                        "properties": {
                            "batch_size": count("Rows of one run."),
                            "compute_input": named("Spent"),
                            "compute_infer": named("Spent"),
                            "compute_output": named("Spent"),
                        },
                    },
                },
                "response_stats": {
                    "type": "object",
                    "description": "By a response's place among those to its request: there is \"0\" alone.",
                    "additionalProperties": spent(&[
                        "compute_infer", "compute_output", "success", "fail", "empty_response", "cancel",
                    ]),
                },
                "memory_usage": {
                    "type": "array",
                    "description": "What it holds on all nodes together; empty where nobody measured it.",
                    "items": {
                        "type": "object",
                        "required": ["type", "id", "byte_size"],
                        "properties": {
                            "type": text("CPU."),
                            "id": {"type": "integer"},
                            "byte_size": count("Bytes."),
                        },
                    },
                },
            },
            "additionalProperties": true,
        },
    })
}
