//! Images in, labels out.

use serde_json::{Value, json};

use super::{count, list_of, text};

pub(super) fn schemas() -> Value {
    let score = json!({"type": "number", "description": "How sure the model is."});
    json!({
        "PredictForm": {
            "type": "object",
            "required": ["image"],
            "properties": {
                "image": {
                    "type": "string",
                    "contentMediaType": "image/jpeg",
                    "description": "The file. The name `file` does as well, or any other of the only file.",
                },
                "top_k": {"type": "integer", "minimum": 1, "maximum": 1000},
                "threshold": {"type": "number"},
            },
        },
        "Prediction": prediction(),
        "Label": {
            "type": "object",
            "required": ["index", "score"],
            "properties": {
                "label": text("The name of the class, where the model has names."),
                "index": count("The number of the class."),
                "score": score,
            },
        },
        "Box": {
            "type": "object",
            "required": ["index", "score", "box"],
            "properties": {
                "label": text("The name of the class, where the model has names."),
                "index": count("The number of the class."),
                "score": score,
                "box": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "Left, top, right, bottom, in pixels of the image as it was sent.",
                },
            },
        },
        "VerdictWord": {"type": "string", "description": "One word and the end of the line.", "examples": ["NOK\n"]},
    })
}

fn prediction() -> Value {
    json!({
        "type": "object",
        "description": "Members that the model does not define are left out.",
        "required": ["model_name", "model_version"],
        "properties": {
            "model_name": text("Which model ran."),
            "model_version": text("Which version of it."),
            "labels": list_of("Label"),
            "boxes": list_of("Box"),
            "verdict": text("One word, for example OK or NOK."),
        },
        "examples": [{
            "model_name": "surface",
            "model_version": "1",
            "labels": [{"label": "scratch", "index": 3, "score": 0.91}],
            "verdict": "NOK",
        }],
    })
}
