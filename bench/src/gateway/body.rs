//! What is sent in every request of a case.

/// Numbers of each of the two vectors of the large request: 602 KB together, a picture of 224 x 224 in FP32.
const LARGE_NUMBERS: usize = 75_264;

/// A request's body.
pub(crate) struct Body {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// Bytes of JSON before binary tensors.
    json_length: Option<usize>,
}

impl Body {
    /// Two vectors of four numbers, in JSON.
    pub(crate) fn small() -> Self {
        let json = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[4],"data":[1,2,3,4]},{"name":"b","datatype":"FP32","shape":[4],"data":[5,6,7,8]}]}"#;
        Self { name: "add", bytes: json.into(), json_length: None }
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
        Self { name: "add, 602 KB", bytes, json_length: Some(json.len()) }
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
