//! What is sent in every request of a case.

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::PATH;

/// Numbers of each of the two vectors of the large request: 602 KB together, a picture of 224 x 224 in FP32.
const LARGE_NUMBERS: usize = 75_264;

/// A request's body.
pub(crate) struct Body {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Where it is sent.
    pub(crate) path: String,
    /// Bytes of JSON before binary tensors.
    json_length: Option<usize>,
}

impl Body {
    /// Two vectors of four numbers, in JSON.
    pub(crate) fn small() -> Self {
        let json = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[4],"data":[1,2,3,4]},{"name":"b","datatype":"FP32","shape":[4],"data":[5,6,7,8]}]}"#;
        Self { name: "add", bytes: json.into(), path: PATH.to_owned(), json_length: None }
    }

    /// Two vectors as binary tensors, 602 KB together; the answer is half of it, binary too.
    pub(crate) fn large() -> Self {
        let size = LARGE_NUMBERS * 4;
        let input = |name: &str| {
            format!(
                r#"{{"name":"{name}","datatype":"FP32","shape":[{LARGE_NUMBERS}],"parameters":{{"binary_data_size":{size}}}}}"#
            )
        };
        let json = format!(
            r#"{{"inputs":[{},{}],"parameters":{{"binary_data_output":true}}}}"#,
            input("a"),
            input("b")
        );
        let mut bytes = json.clone().into_bytes();
        // Exact in FP32, so that sums are too.
        (0..2 * LARGE_NUMBERS as u32).for_each(|n| bytes.extend((n as f32).to_le_bytes()));
        Self { name: "add, 602 KB", bytes, path: PATH.to_owned(), json_length: Some(json.len()) }
    }

    /// One FP32 tensor of small numbers, in binary, and a binary answer.
    pub(crate) fn floats(name: &'static str, model: &str, input: &str, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        let json = format!(
            r#"{{"inputs":[{{"name":"{input}","datatype":"FP32","shape":{shape:?},"parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
            4 * count
        );
        let mut bytes = json.clone().into_bytes();
        bytes.extend(numbers(count).into_iter().flat_map(f32::to_le_bytes));
        Self { name, bytes, path: format!("/v2/models/{model}/infer"), json_length: Some(json.len()) }
    }

    /// The same as a JSON document with base64, which LitServe's server decodes.
    pub(crate) fn base64(name: &'static str, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        let raw: Vec<u8> = numbers(count).into_iter().flat_map(f32::to_le_bytes).collect();
        let json = format!(r#"{{"shape":{shape:?},"data":"{}"}}"#, BASE64_STANDARD.encode(&raw));
        Self { name, bytes: json.into_bytes(), path: "/predict".to_owned(), json_length: None }
    }

    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        match self.json_length {
            None => vec![("Content-Type", "application/json".to_owned())],
            Some(length) => vec![
                ("Content-Type", "application/octet-stream".to_owned()),
                ("Inference-Header-Content-Length", length.to_string()),
            ],
        }
    }
}

/// Numbers between -1 and 1 that no shortcut of a processor likes better than others.
pub(crate) fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|n| (n as f32 * 0.7).sin()).collect()
}
