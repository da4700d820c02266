//! The demo's samples as requests over HTTP, Open Inference Protocol.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;

use super::{
    samples::{Answer, Sample},
    tally::Reply,
};
use crate::local::{Body, HttpCaller, headers};

/// Calls a model. The deadline is told to the door; holding it is the caller's business.
pub(super) async fn infer(
    caller: &mut HttpCaller,
    sample: &Sample,
    body: &Body,
    deadline: Duration,
) -> anyhow::Result<Reply> {
    let mut request = caller.post(&format!("/v2/models/{}/infer", sample.model), body)?;
    let milliseconds = HeaderValue::from_str(&deadline.as_millis().to_string())?;
    request.headers_mut().insert(headers::TIMEOUT, milliseconds);
    let response = caller.send(request).await?;
    if response.status() != StatusCode::OK {
        bail!("{}: {}", response.status(), String::from_utf8_lossy(response.body()));
    }
    let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let node =
        text(headers::NODE).with_context(|| format!("the answer has no {}", headers::NODE))?.to_owned();
    let attempts = text(headers::ATTEMPTS).and_then(|attempts| attempts.parse().ok()).unwrap_or(1);
    Ok(Reply { answer: answer(sample, response.body())?, node, attempts })
}

/// A sample as JSON alone, as `curl` would send it.
pub(super) fn json(sample: &Sample) -> Body {
    let data: Vec<f32> = sample.values().collect();
    let input = serde_json::json!({
        "name": sample.input, "datatype": "FP32", "shape": sample.shape, "data": data,
    });
    Body { bytes: serde_json::json!({"inputs": [input]}).to_string().into(), json_length: None }
}

/// A sample with the binary tensor extension: a quarter of the bytes, and no numbers to parse.
pub(super) fn binary(sample: &Sample) -> Body {
    let input = serde_json::json!({
        "name": sample.input, "datatype": "FP32", "shape": sample.shape,
        "parameters": {"binary_data_size": sample.bytes.len()},
    });
    let mut bytes = serde_json::json!({"inputs": [input]}).to_string().into_bytes();
    let json_length = Some(bytes.len());
    bytes.extend_from_slice(&sample.bytes);
    Body { bytes: bytes.into(), json_length }
}

/// The deciding output of an answer in JSON.
fn answer(sample: &Sample, body: &[u8]) -> anyhow::Result<Answer> {
    #[derive(Deserialize)]
    struct Answered {
        outputs: Vec<Output>,
    }
    #[derive(Deserialize)]
    struct Output {
        name: String,
        data: serde_json::Value,
    }
    let Answered { outputs } = serde_json::from_slice(body).context("the answer is not what was agreed")?;
    let output = outputs.into_iter().find(|output| output.name == sample.output);
    let data = output.with_context(|| format!("the answer has no {}", sample.output))?.data;
    match sample.expected {
        Answer::Class(_) => {
            let probabilities: Vec<f32> = serde_json::from_value(data).context("probabilities")?;
            Ok(Answer::Class(largest(&probabilities).context("no probabilities")?))
        }
        Answer::Anomalous(_) => match data.as_array().and_then(|data| data.first()?.as_bool()) {
            Some(anomalous) => Ok(Answer::Anomalous(anomalous)),
            None => bail!("{} is no flag: {data}", sample.output),
        },
    }
}

/// The index of the largest value.
pub(super) fn largest(values: &[f32]) -> Option<usize> {
    values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn one_of(model: &str) -> Sample {
        samples::samples().into_iter().find(|sample| sample.model == model).expect("a sample")
    }

    #[test]
    fn a_binary_body_is_json_and_then_the_tensor() {
        let sample = one_of(samples::SURFACE);
        let body = binary(&sample);
        let (head, tensor) = body.bytes.split_at(body.json_length.unwrap());
        let head: serde_json::Value = serde_json::from_slice(head).unwrap();
        assert_eq!(head["inputs"][0]["parameters"]["binary_data_size"], tensor.len());
        assert_eq!(tensor, sample.bytes);
    }

    #[test]
    fn the_deciding_output_is_found_whatever_else_there_is() {
        let picture = one_of(samples::SURFACE);
        let body = br#"{"model_name":"m","outputs":[{"name":"x","data":[9]},{"name":"probabilities","datatype":"FP32","shape":[1,5],"data":[0.1,0.2,0.6,0.05,0.05]}]}"#;
        assert_eq!(answer(&picture, body).unwrap(), Answer::Class(2));
        let row = one_of(samples::VIBRATION);
        let body = br#"{"outputs":[{"name":"score","data":[0.9]},{"name":"anomalous","data":[true]}]}"#;
        assert_eq!(answer(&row, body).unwrap(), Answer::Anomalous(true));
        for wrong in [&b"{}"[..], br#"{"outputs":[]}"#, br#"{"outputs":[{"name":"anomalous","data":[1]}]}"#] {
            assert!(answer(&row, wrong).is_err());
        }
    }
}
